"""What reading somebody else's JSON may raise.

msgspec says `DecodeError` of most documents that it cannot read, but not of all: bytes that are
no UTF-8, and nesting too deep to follow, come as the errors of Python that they are. Whoever
reads what others wrote catches all three, or is ended by one bad document.
"""

from typing import Final

import msgspec

UNREADABLE: Final = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
"""For `except`. A document of the wrong shape is among them: ValidationError is a DecodeError."""
