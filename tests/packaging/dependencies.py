"""Prints the site-packages folder of this environment: the content of a .pth file that lends another its
dependencies."""

from __future__ import annotations

import sysconfig

print(sysconfig.get_path("purelib"))
