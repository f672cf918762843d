"""What an HTTP request means to a function, and what its outcome means to the client.

The function's interface alone decides; the method is the route's business, so
any method may call. Platform headers (`x-wasmfn-…` except path parameters)
never reach the function.

`args` (upstream's contract): the body is empty or JSON `{"args": ["…"],
"stdin": "…"}`, both optional; unknown keys, wrong types, NUL in an argument
and more than 4096 arguments are refused. The answer is JSON:

    {"status": 0, "output": ["line", …], "exit_code": 0, "stderr": ""}
    {"status": 1, "error": "…", "output": […], "exit_code": 3, "stderr": "…"}

`output` is stdout split at newlines, the last newline dropped, `[]` if
nothing was written. `exit_code` is null if the function did not end by itself
(trap, time, output limit); then `output` holds what came before. Bytes that
are not UTF-8 become U+FFFD in `output`, and `output_base64` has the exact
bytes; it is there only then. With `Accept: text/plain` or
`application/octet-stream` (and not JSON) a success is answered with the raw
stdout. HTTP status: 200 for whatever ran, 504 if its time was over, 400 if
the request was wrong; a client that asked for raw output gets 500 instead of
200 for a failure, since it cannot see the difference otherwise.

`stdin`: the body is stdin, the answer is stdout as `application/octet-stream`.

`wagi`: the body is stdin, the environment has the CGI variables (RFC 3875)
below the function's own, and stdout begins with CGI headers, an empty line,
then the body.

For `stdin` and `wagi` a failure is answered with the JSON above and status
500 or 504.
"""

import base64
import functools
from typing import Final
from urllib.parse import unquote_to_bytes

import msgspec

from keeper.call import Outcome
from schemas.control import PARAMETER_HEADER_PREFIX
from schemas.specs import Interface
from schemas.unreadable import UNREADABLE

MAX_ARGUMENTS: Final = 4096

Header = tuple[bytes, bytes]
Headers = list[Header]
"""Names in lower case, in the order they came."""


class BadRequestError(Exception):
    """The request cannot be turned into a call. The message tells the client why."""


class Program(msgspec.Struct, frozen=True):
    """The part of a call that is the same for every request."""

    interface: Interface
    argv: list[bytes]
    """File name and the spec's own arguments."""
    variables: dict[bytes, bytes]


class Request(msgspec.Struct, gc=False):
    """A request that has arrived whole."""

    method: str
    target: bytes
    headers: Headers
    body: bytes
    peer: str = ""
    """The client's address as far as this process knows it."""


class Invocation(msgspec.Struct, frozen=True, gc=False):
    """The arguments of `Function.call`."""

    argv: list[bytes]
    stdin: bytes = b""
    variables: dict[bytes, bytes] | None = None
    """None: the function's own."""


class Answer(msgspec.Struct, frozen=True, gc=False):
    """A response without what the connection adds (length, connection)."""

    status: int
    headers: Headers
    body: bytes


class _Arguments(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    args: list[str] = []
    stdin: str = ""


class _Result(msgspec.Struct, frozen=True, omit_defaults=True):
    status: int = msgspec.field()
    output: list[str] = msgspec.field()
    exit_code: int | None = msgspec.field()
    stderr: str = msgspec.field()
    error: str | None = None
    output_base64: str | None = None


_decode_arguments = msgspec.json.Decoder(_Arguments).decode
_encode = msgspec.json.Encoder().encode
_JSON: Final[Headers] = [(b"content-type", b"application/json")]
_TEXT: Final[Headers] = [(b"content-type", b"text/plain; charset=utf-8")]
_BYTES: Final[Headers] = [(b"content-type", b"application/octet-stream")]

_HOP_BY_HOP: Final = frozenset(
    {
        b"connection", b"content-length", b"keep-alive", b"proxy-authenticate",
        b"proxy-authorization", b"te", b"trailer", b"transfer-encoding", b"upgrade",
    }
)  # fmt: skip
"""A function decides none of these: they belong to the connection (RFC 9110, 7.6.1)."""

_NOT_FOR_CGI: Final = frozenset({b"content-length", b"content-type", b"connection", b"proxy"})
"""CGI has its own variables for the first two; `Proxy` would become HTTP_PROXY (httpoxy)."""

_TOKEN: Final = frozenset(
    b"!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
)


def invocation_of(program: Program, request: Request) -> Invocation:
    """Return the call that `request` asks for.

    Raises:
        BadRequestError: the body or a header does not fit the interface.
    """
    if program.interface == "args":
        return _from_arguments(program, request.body)
    if program.interface == "stdin":
        return Invocation(program.argv, request.body)
    return Invocation(program.argv, request.body, {**cgi_variables(request), **program.variables})


def _from_arguments(program: Program, body: bytes) -> Invocation:
    if not body:
        return Invocation(program.argv)
    try:
        arguments = _decode_arguments(body)
        argv = program.argv + [a.encode() for a in arguments.args]
        stdin = arguments.stdin.encode()
    except msgspec.ValidationError as error:
        raise BadRequestError(f'the body must be {{"args": ["…"]}}: {error}') from error
    except (UnicodeEncodeError, *UNREADABLE) as error:
        raise BadRequestError(f"the body is not JSON: {error}") from error
    if len(arguments.args) > MAX_ARGUMENTS:
        raise BadRequestError(f"more than {MAX_ARGUMENTS} arguments")
    if "\0" in "".join(arguments.args):
        raise BadRequestError("an argument holds a NUL character")
    return Invocation(argv, stdin)


def cgi_variables(request: Request) -> dict[bytes, bytes]:
    """Return the CGI variables of `request` (RFC 3875, 4.1)."""
    path, _, query = request.target.partition(b"?")
    variables = {
        b"GATEWAY_INTERFACE": b"CGI/1.1",
        b"SERVER_SOFTWARE": b"wasmfn",
        b"SERVER_PROTOCOL": b"HTTP/1.1",
        b"REQUEST_METHOD": request.method.encode(),
        b"SCRIPT_NAME": b"",
        b"PATH_INFO": _printable(unquote_to_bytes(path)),
        b"QUERY_STRING": _printable(query),
        b"CONTENT_LENGTH": b"%d" % len(request.body) if request.body else b"",
        b"CONTENT_TYPE": b"",
        b"REMOTE_ADDR": request.peer.encode(),
    }
    parameter = PARAMETER_HEADER_PREFIX.encode()
    for name, value in request.headers:
        if name == b"content-type":
            variables[b"CONTENT_TYPE"] = _printable(value)
        elif name == b"x-wasmfn-client":
            variables[b"REMOTE_USER"] = _printable(unquote_to_bytes(value))
        elif name == b"host":
            host, _, port = value.rpartition(b":") if value[-1:] != b"]" else (value, b"", b"")
            variables[b"SERVER_NAME"] = _printable(host or value)
            variables[b"SERVER_PORT"] = port if host and port.isdigit() else b"80"
        # `X_Y` and `X-Y` would be the same variable: the dashed one is meant.
        if name in _NOT_FOR_CGI or b"_" in name:
            continue
        if name.startswith(b"x-wasmfn-") and not name.startswith(parameter):
            continue
        variable = b"HTTP_" + name.upper().replace(b"-", b"_")
        text = _printable(value)
        before = variables.get(variable)
        variables[variable] = text if before is None else before + b", " + text
    return variables


def _printable(value: bytes) -> bytes:
    """Return `value` as WASI takes it: UTF-8 without NUL."""
    return value.decode("utf-8", "replace").replace("\0", "\ufffd").encode()


def answer_of(interface: Interface, accept: bytes, outcome: Outcome) -> Answer:
    """Return the response for `outcome`; `accept` is the request's header or empty."""
    if interface == "args":
        raw = _raw_output(accept) if accept else None
        if raw is not None and outcome.error is None:
            return Answer(200, raw, outcome.stdout)
        if outcome.timed_out:
            return Answer(504, _JSON, _result(outcome))
        return Answer(200 if raw is None or outcome.error is None else 500, _JSON, _result(outcome))
    if outcome.error is not None:
        return Answer(504 if outcome.timed_out else 500, _JSON, _result(outcome))
    if interface == "wagi":
        return _from_cgi(outcome)
    return Answer(200, _BYTES, outcome.stdout)


def refusal(status: int, message: str) -> Answer:
    """Return the answer to a request that did not run, in the shape of one that failed."""
    return Answer(status, _JSON, _encode({"status": 1, "error": message, "output": []}))


@functools.lru_cache(maxsize=64)
def _raw_output(accept: bytes) -> Headers | None:
    ranges = {part.partition(b";")[0].strip().lower() for part in accept.split(b",")}
    if ranges & {b"application/json", b"application/*", b"*/*"}:
        return None
    if b"text/plain" in ranges:
        return _TEXT
    return _BYTES if b"application/octet-stream" in ranges else None


def _result(outcome: Outcome) -> bytes:
    failed = outcome.error is not None
    text, exact = outcome.stdout, None
    try:
        output = text.decode()
    except UnicodeDecodeError:
        output = text.decode("utf-8", "replace")
        exact = base64.b64encode(text).decode()
    return _encode(
        _Result(
            status=1 if failed else 0,
            output=output.removesuffix("\n").split("\n") if output else [],
            exit_code=outcome.exit_code,
            stderr=outcome.stderr.decode("utf-8", "replace"),
            error=outcome.error,
            output_base64=exact,
        )
    )


def _from_cgi(outcome: Outcome) -> Answer:
    try:
        status, headers, body = parse_cgi(outcome.stdout)
    except ValueError as error:
        message = f"the function's output does not begin with CGI headers: {error}"
        failed = msgspec.structs.replace(outcome, error=message)
        return Answer(500, _JSON, _result(failed))
    return Answer(status, headers, body)


def parse_cgi(output: bytes) -> tuple[int, Headers, bytes]:
    """Return status, headers and body of a CGI response (RFC 3875, 6).

    Lines end in LF or CRLF. `Status` gives the status (200 without it, 302 if
    there is a `Location`); headers of the connection are dropped.

    Raises:
        ValueError: the header block is not one; the message says why.
    """
    status, headers, position = 0, Headers(), 0
    while True:
        end = output.find(b"\n", position)
        if end < 0:
            raise ValueError("there is no empty line after them")
        line = output[position:end].removesuffix(b"\r")
        position = end + 1
        if not line:
            break
        name, colon, value = line.partition(b":")
        name, value = name.lower(), value.strip(b" \t")
        if not colon or not name or not _TOKEN.issuperset(name):
            raise ValueError(f"{line[:80]!r} is no header")
        if any((c < 0x20 and c != 0x09) or c == 0x7F for c in value):
            raise ValueError(f"header {name.decode()} holds a control character")
        if name == b"status":
            status = _status(value)
        elif name not in _HOP_BY_HOP and not name.startswith(b"x-wasmfn-"):
            headers.append((name, value))
    if not headers and not status:
        raise ValueError("there is none")
    if not status:
        status = 302 if any(name == b"location" for name, _ in headers) else 200
    return status, headers, output[position:]


def _status(value: bytes) -> int:
    digits = value[:3]
    if not digits.isdigit() or not 200 <= int(digits) <= 599 or value[3:4] not in (b"", b" "):
        raise ValueError(f"status {value[:40]!r} is not a number from 200 to 599")
    return int(digits)
