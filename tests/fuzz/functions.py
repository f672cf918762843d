"""Targets: what a keeper makes of a request and of what a function wrote."""

# ruff: noqa: PT017 - a target is no test: an error is an answer that has to be right, too

import re

from keeper.answer import (
    MAX_ARGUMENTS,
    BadRequestError,
    Program,
    Request,
    cgi_variables,
    invocation_of,
    parse_cgi,
)
from tests.fuzz.parsers import response
from tests.fuzz.tape import Tape, headers_of


def cgi(data: bytes) -> None:
    """CGI output is refused, or is an answer that reads as one, with its whole body."""
    try:
        status, headers, body = parse_cgi(data)
    except ValueError:
        return
    assert 200 <= status <= 599
    assert data.endswith(body)
    lines = b"".join(b"%b: %b\r\n" % header for header in headers)
    if status not in (204, 304):
        lines += b"content-length: %d\r\n" % len(body)
    raw = b"HTTP/1.1 %d x\r\n%b\r\n%b" % (status, lines, body)
    if any(re.search(rb"[^\t -~\x80-\xff]", value) for _, value in headers):
        raise AssertionError(headers)
    if len(headers) > 100:
        return
    told = response(raw, b"GET", ended=False)
    if status not in (204, 304):
        assert told is not None, raw
        assert (told.status, told.body, told.rest) == (status, body, b""), raw
        assert [name for name, _ in told.headers][:-1] == [name for name, _ in headers]
    assert not any(name.startswith(b"x-wasmfn-") for name, _ in headers)


def variables(data: bytes) -> None:
    """The environment of a CGI program is UTF-8 without NUL, and holds nothing of the platform."""
    tape = Tape(data)
    first, _, rest = tape.text().partition(b"\n")
    request = Request("GET", first, headers_of(rest), b"", "::1")
    for name, value in cgi_variables(request).items():
        assert re.fullmatch(rb"[!-<>-~]+", name), name
        assert b"\0" not in value
        value.decode()
        assert not name.startswith(b"HTTP_X_WASMFN_") or name.startswith(b"HTTP_X_WASMFN_PARAM_")
        assert name != b"HTTP_PROXY"


def arguments(data: bytes) -> None:
    """A body is arguments without NUL, or is refused in words."""
    program = Program("args", [b"f"], {})
    try:
        call = invocation_of(program, Request("POST", b"/", [], data))
    except BadRequestError as error:
        assert str(error)
        return
    assert call.argv[0] == b"f"
    assert len(call.argv) <= MAX_ARGUMENTS + 1
    assert not any(b"\0" in argument for argument in call.argv)
