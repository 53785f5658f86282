"""From what a user gives as calibration data to a stream."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from vitc.calibration.journal import CalibrationJournal
from vitc.calibration.preprocessing import ImageFolder
from vitc.calibration.stream import CalibrationStream
from vitc.errors import CalibrationError
from vitc.files.npy import read_npy
from vitc.graph.program import Program


def check_source(data: Any) -> None:
    """Raises CalibrationError for a path that is neither a folder nor an .npy file. Nothing is read."""
    if not isinstance(data, (str, Path)):
        return
    path = Path(data)
    if not path.is_dir() and not (path.suffix == ".npy" and path.is_file()):
        raise CalibrationError(
            f"there is no folder of images and no .npy file {str(path)!r}; save one with numpy.save(path, images)"
        )


def calibration_stream(data: Any, program: Program, resume: str | Path | None = None) -> CalibrationStream:
    """What the user gave as calibration data, as a stream for the program's inputs. `resume`: a folder for its journal.

    A path is a folder of images, preprocessed as the model's config says, or an .npy file of preprocessed inputs.
    Raises CalibrationError for a path that is neither, and for images without a known preprocessing.
    """
    if any(p.dtype == torch.float16 for p in program.module.parameters()):
        raise CalibrationError(
            "the model is in float16, and what calibration data tells is computed in float32; call model.float() (on a "
            "GPU target what is not INT8 becomes float16 again)"
        )
    inputs = [n for n in program.graph.nodes if n.op == "placeholder"]
    known: dict[str, Any] = {
        "shapes": tuple(tuple(t.shape[1:]) for t in program.example_inputs),
        "names": tuple(n.name for n in inputs),
        "dtypes": tuple(t.dtype for t in program.example_inputs),
    }
    fixed = None if program.batch is not None else program.example_inputs[0].shape[0]
    journal = None if resume is None else CalibrationJournal(resume)
    if not isinstance(data, (str, Path)):
        return CalibrationStream(data, fixed=fixed, journal=journal, **known)
    check_source(data)
    path = Path(data)
    if not path.is_dir():
        try:
            return CalibrationStream(read_npy(path), fixed=fixed, journal=journal, **known)
        except (OSError, ValueError) as error:
            raise CalibrationError(
                f"{path} is no readable .npy file ({error}); save one with numpy.save(path, images)"
            ) from error
    if program.preprocessing is None:
        raise CalibrationError(
            f"the model's config does not say how the images in {str(path)!r} are to be preprocessed; pass "
            "calibration=vitc.ImageFolder(folder, vitc.Preprocessing(size, mean, std)), or preprocessed arrays"
        )
    return CalibrationStream(ImageFolder(path, program.preprocessing), fixed=fixed, journal=journal, **known)
