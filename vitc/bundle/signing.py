"""Who made a bundle: signatures in minisign's format (Ed25519), over the manifest, which states all other hashes.

A signature lies beside its bundle, as `<bundle>.minisig`, and is the same for a folder and for a file of the same
contents. minisign itself checks it too: `minisign -Vm b/manifest.json -x b.minisig -p maker.pub`.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from vitc.bundle.read import Bundle, read_bundle
from vitc.errors import BundleError, InputError, missing
from vitc.files.plain import read_plain
from vitc.files.saving import write_file

SUFFIX = ".minisig"
# A key or a signature has some hundred bytes.
_MAX_BYTES = 1 << 14
# A public key itself, in base64: 'Ed', eight bytes of number, 32 of key.
_KEY = re.compile(r"RW[A-Za-z0-9+/]{54}")


def sign(path: Path | str, key: Path | str, password: Callable[[], str] | None = None) -> Path:
    """Signs the bundle at `path` with the secret key in the file `key`. Returns the signature's path.

    `password`: asked where the key is encrypted. Raises BundleError where the bundle is none, InputError for a key that
    can't be read or a wrong password, MissingDependencyError without py-minisign.
    """
    minisign = _minisign()
    bundle = read_bundle(path)
    secret = _parsed(minisign.SecretKey, key, "secret key")
    try:
        if secret.is_encrypted():
            if password is None:
                raise InputError(f"the secret key {key} has a password, and none was given")
            secret.decrypt(password())
        signature = secret.sign(bundle.head, trusted_comment=f"vitc {bundle.manifest.vitc}")
    except ValueError as error:
        raise InputError(f"the secret key {key} does not sign: {error}") from error
    finally:
        secret.wipe()
    place = _place(bundle)
    try:
        write_file(place, bytes(signature) + b"\n")
    except OSError as error:
        raise BundleError(f"the signature cannot be saved at {place}: {error}") from error
    return place


def verify(bundle: Bundle, key: Path | str) -> str:
    """The signature's trusted comment, where the bundle is signed with `key`: a public key's file, or the key itself.

    Raises BundleError where the bundle is not signed, or not with this key, InputError for a key that is none,
    MissingDependencyError without py-minisign.
    """
    minisign = _minisign()
    public = _public(minisign, key)
    place = _place(bundle)
    try:
        signature = minisign.Signature.from_bytes(read_plain(place, _MAX_BYTES))
    except FileNotFoundError:
        raise BundleError(f"the bundle {bundle.path} is not signed: there is no {place.name} beside it") from None
    except (OSError, ValueError) as error:
        raise BundleError(f"{place} is no signature of minisign: {error}") from error
    try:
        public.verify(bundle.head, signature)
    except ValueError as error:
        raise BundleError(f"the bundle {bundle.path} is not signed with the key {key}: {error}") from error
    return str(signature.trusted_comment)


def _place(bundle: Bundle) -> Path:
    return bundle.path.with_name(bundle.path.name + SUFFIX)


def _minisign() -> Any:
    try:
        import minisign
    except ImportError as error:
        raise missing("py-minisign", "a bundle's signature", "sign") from error
    return minisign


def _public(minisign: Any, key: Path | str) -> Any:
    if isinstance(key, str) and _KEY.fullmatch(key):
        try:
            return minisign.PublicKey.from_base64(key)
        except ValueError as error:
            raise InputError(f"{key!r} is no public key of minisign: {error}") from error
    return _parsed(minisign.PublicKey, key, "public key")


def _parsed(kind: Any, path: Path | str, what: str) -> Any:
    try:
        return kind.from_bytes(read_plain(path, _MAX_BYTES))
    except (OSError, ValueError) as error:
        raise InputError(f"{str(path)!r} is no {what} of minisign: {error}") from error
