"""Exit codes of `vitc` and of `python -m vitc.runtime`: one table for both."""

from __future__ import annotations

#: Done.
OK = 0
#: What was asked cannot be done; the message on stderr says what to do.
USER_ERROR = 1
#: The command line itself is wrong: an unknown option, a missing argument.
USAGE = 2
#: It was done, and the answer is no: a self-check, a proof or a lint failed.
CHECK_FAILED = 3
