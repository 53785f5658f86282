"""Everything vitc raises on purpose.

`VitcError` and its children are the user's to mend: the message says what was asked, what is available and what to
do. `InternalError` is ours: it says a promise inside vitc was broken, and asks for a report. The two are unrelated
types, so `except VitcError` never hides a bug.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class VitcError(Exception):
    """Base of all errors a user can mend."""


class InternalError(Exception):
    """A promise inside vitc was broken. Please report it with the message and the dumps."""


class CaptureError(VitcError):
    """torch.export could not turn the model into one graph."""


class InputError(VitcError):
    """An input's shape, dtype, structure or values are not what the model or an option takes."""


class PipelineError(VitcError):
    """A pipeline's text, order, names or stages do not fit together."""


class PassError(VitcError):
    """A pass met a graph it must refuse, or broke the graph it was given."""


class StageError(PassError):
    """The graph is not legal at the stage it claims to be in."""


class CalibrationError(VitcError):
    """The calibration stream is empty, of the wrong shape, constant, or not finite."""


class AccuracyError(VitcError):
    """An exact compilation does not give what the model gives."""


class AccuracyWarning(UserWarning):
    """INT8 loses more accuracy than it should."""


class LoweringError(VitcError):
    """A node of the graph has no ONNX or TensorRT form."""


class BuildError(VitcError):
    """An engine could not be built."""


class BundleError(VitcError):
    """A saved bundle is damaged, truncated, newer, or not a vitc bundle."""


class DistillError(VitcError):
    """A distillation cannot begin, go on, or be resumed."""


class TargetError(VitcError):
    """A target is unknown or its file is not valid."""


class MissingDependencyError(VitcError):
    """An optional package is needed for what was asked."""


#: Longer lists of names are cut to the nearest few: a zoo has hundreds.
_MOST_LISTED, _NEAREST = 60, 5


def unknown(kind: str, asked: str, known: Iterable[str], remedy: str = "") -> str:
    """The one sentence for an unknown name: what was asked, what is known, the nearest, what to do.

    >>> unknown("target", "orim", ["orin", "cpu"])
    "unknown target 'orim'; known: cpu, orin; did you mean 'orin'?"
    """
    names = sorted(known)
    asked = asked if len(asked) <= 100 else f"{asked[:100]}…"
    text = f"unknown {kind} {asked!r}; known: {', '.join(names) if names else '(none)'}"
    nearest = difflib.get_close_matches(asked, names, n=1)
    if nearest:
        text += f"; did you mean {nearest[0]!r}?"
    return f"{text} {remedy}".rstrip()


def missing(package: str, needed_for: str, extra: str | None = None) -> MissingDependencyError:
    """The error for an optional package that is not installed."""
    command = f"pip install 'vitc[{extra}]'" if extra else f"pip install {package}"
    return MissingDependencyError(f"{needed_for} needs the package {package!r}, which is not installed: {command}")
