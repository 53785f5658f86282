"""A compiled model on disk: everything a device needs, and nothing that has to be trusted.

A bundle is a folder, or one `.vitc` file (a stored zip of that folder): `manifest.json`, the ONNX model
with its external data, the calibration table, golden inputs and outputs, the plugin's sources and a build
script. It needs numpy alone to be read. docs/bundle.md describes the format.

contents   what a caller hands over to be written
write      writes it: whole or not at all
limits     what a bundle may hold at most
records    the records of a manifest
manifest   manifest.json, strict in both directions
paths      paths inside a bundle: plain, and below its root
files      copies with a hash, in pieces
onnx_refs  which external files an ONNX model names
structure  the structure of the model's outputs as JSON
read       reads it: nothing is used before all of it is checked
signing    who made it: minisign's signatures
build.sh   what the device runs to build its plugin and its engine
"""

from __future__ import annotations

from vitc.bundle.contents import BundleContents, Golden
from vitc.bundle.manifest import SCHEMA
from vitc.bundle.read import Bundle, is_bundle, read_bundle
from vitc.bundle.records import Dim, FileRecord, GoldenFiles, Manifest, TensorInfo, Tolerance, VersionRange
from vitc.bundle.signing import sign, verify
from vitc.bundle.structure import leaf_names, rebuild
from vitc.bundle.write import check_destination, write_bundle
from vitc.task import Classification, Detection, Task

__all__ = [
    "SCHEMA",
    "Bundle",
    "BundleContents",
    "Classification",
    "Detection",
    "Dim",
    "FileRecord",
    "Golden",
    "GoldenFiles",
    "Manifest",
    "Task",
    "TensorInfo",
    "Tolerance",
    "VersionRange",
    "check_destination",
    "is_bundle",
    "leaf_names",
    "read_bundle",
    "rebuild",
    "sign",
    "verify",
    "write_bundle",
]
