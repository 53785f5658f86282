"""The version of vitc, which pyproject.toml reads from here; and how any version is compared."""

import re

__version__ = "0.1.0"

VERSION_FORM = re.compile(r"[0-9]{1,9}(\.[0-9]{1,9}){0,7}")
"""What a version begins with: bounded, so that no text takes long to read."""


def version_numbers(version: str) -> tuple[int, ...]:
    """The leading numbers of a version: "10.3.0.26" -> (10, 3, 0, 26), "11.4.1rc1" -> (11, 4, 1); () without any."""
    match = VERSION_FORM.match(version)
    return tuple(int(part) for part in match.group().split(".")) if match else ()
