"""The one decoded form of a request's path that routes are compared in.

Two programs that decode a path differently can be played against each other,
so whatever has more than one reading is refused instead of being repaired:
encoded slashes and NULs, backslashes, dot segments, broken escapes, bytes that
are not UTF-8. Percent escapes are decoded once (RFC 3986, section 2.4). The raw
path still goes to the function as the client sent it.
"""

# ruff: noqa: N818 - the names say what happened; a suffix would add nothing

import re
from typing import Final
from urllib.parse import unquote_to_bytes

MAX_SEGMENTS: Final = 256

_PLAIN: Final = re.compile(r"/[A-Za-z0-9_~!$&'()*+,;=:@/-]*\Z")
"""Nothing to decode and nothing to refuse: almost every path."""
_BAD_ESCAPE: Final = re.compile(r"%(?![0-9A-Fa-f]{2})")
_FORBIDDEN: Final = re.compile(r"%2[fF]|%5[cC]|\\")


class BadPath(ValueError):
    """A path that could be read in more than one way. The message is for the client."""


def decode_path(raw: str) -> str:
    """Return the decoded form of `raw`, the path of a request target without its query.

    Raises:
        BadPath: it has no single meaning.
    """
    if raw.count("/") > MAX_SEGMENTS:
        raise BadPath(f"the path has more than {MAX_SEGMENTS} segments")
    if _PLAIN.match(raw):
        return raw
    if not raw.startswith("/"):
        raise BadPath("the path does not begin with a slash")
    if _FORBIDDEN.search(raw):
        raise BadPath("the path holds a backslash, or a slash or backslash in encoded form")
    if _BAD_ESCAPE.search(raw):
        raise BadPath("the path holds a percent sign that begins no escape")
    try:
        path = unquote_to_bytes(raw).decode("utf-8")
    except UnicodeDecodeError:
        raise BadPath("the path is not UTF-8 once decoded") from None
    if any(ord(c) < 0x20 or c == "\x7f" for c in path):
        raise BadPath("the path holds a control character")
    if any(segment in (".", "..") for segment in path.split("/")):
        raise BadPath("the path holds a `.` or `..` segment; send it resolved")
    return path


def host_name(header: str) -> str:
    """Return the Host header's name in lower case, without port and final dot."""
    if header.startswith("["):
        return header.partition("]")[0].lower() + "]"
    return header.partition(":")[0].rstrip(".").lower()
