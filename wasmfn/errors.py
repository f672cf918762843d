"""What can go wrong for a user of the platform, one class for each exit code.

Every message is one sentence that says what to do next. The command line
prints it and exits with `exit_code`; a Python program catches the class.
"""

from typing import ClassVar


class WasmfnError(Exception):
    """Something failed. The base of every error that this package raises on purpose."""

    exit_code: ClassVar[int] = 1


class UnreachableError(WasmfnError):
    """No platform was found, or it does not answer."""

    exit_code = 3


class MissingError(WasmfnError):
    """The object that is named does not exist."""

    exit_code = 4


class RejectedError(WasmfnError):
    """The platform does not accept what was asked, or could not make it run."""

    exit_code = 5


class DeadlineError(WasmfnError):
    """It was accepted, but did not happen within the time that was given."""

    exit_code = 6


class ConflictError(WasmfnError):
    """It exists already, is in use, or somebody changed it at the same time."""

    exit_code = 7
