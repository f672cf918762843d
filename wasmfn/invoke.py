"""Call a function over HTTP, as anyone would, and say what came back.

The standard library's client is enough for one call, and imports in a quarter
of the time.
"""

import http.client
import time
from collections.abc import Mapping, Sequence
from typing import Final
from urllib.parse import quote, urlsplit

import msgspec

from schemas.access import ApiKeys, Jwt
from schemas.names import new_correlation_id
from schemas.specs import FunctionSpec, Limits, RouteSpec
from wasmfn.errors import MissingError, RejectedError, UnreachableError
from wasmfn.objects import Key, Object, routes_to

_MAX_ANSWER_BYTES: Final = 512 * 1024 * 1024
_MARGIN_S: Final = 120.0
"""What the platform may take besides the run itself: a place, an image, a new pod. Well above the
30 s that a router parks a request for, since an operator may have it park longer."""


class Answer(msgspec.Struct, frozen=True):
    """What came back of one call."""

    status: int
    """Of HTTP."""
    content_type: str
    body: bytes
    milliseconds: float
    """From the first byte sent to the last one received."""
    request_id: str
    """Stands in the event log as the correlation of what the call caused."""
    location: str = ""
    """Where an accepted call that is not waited for tells of itself: a path at the router."""


class Outcome(msgspec.Struct, frozen=True):
    """The keeper's JSON for the interface `args`."""

    status: int
    output: list[str] = []
    error: str = ""
    stderr: str = ""
    exit_code: int | None = None


class _Problem(msgspec.Struct, frozen=True):
    title: str = ""
    detail: str = ""


def call(
    http_url: str,
    route: RouteSpec,
    body: bytes,
    content_type: str,
    *,
    method: str = "POST",
    timeout_s: float = 120.0,
    more: Mapping[str, str] | None = None,
) -> Answer:
    """Send one request to the router at `http_url`, with `more` headers.

    Raises:
        UnreachableError: the router does not answer.
    """
    parts = urlsplit(http_url)
    request_id = new_correlation_id()
    headers: Mapping[str, str] = {
        "content-type": content_type,
        "x-request-id": request_id,
        # Names the trace too, so that the event log and a tracing system agree.
        "traceparent": f"00-{request_id}-{request_id[:16]}-01",
        **({"host": route.host} if route.host else {}),
        **(more or {}),
    }
    link = (http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection)(
        parts.netloc, timeout=timeout_s
    )
    path = parts.path.rstrip("/") + quote(
        str(route.path if route.path is not None else route.prefix)
    )
    begin = time.monotonic()
    try:
        link.request(method, path, body if method != "GET" else None, dict(headers))
        response = link.getresponse()
        answer = response.read(_MAX_ANSWER_BYTES)
    except (OSError, http.client.HTTPException) as error:
        raise UnreachableError(
            f"no answer from the router at {http_url} ({error or type(error).__name__}); "
            "`wasmfn doctor` looks for the reason"
        ) from error
    finally:
        link.close()
    return Answer(
        status=response.status,
        content_type=response.headers.get_content_type(),
        body=answer,
        milliseconds=(time.monotonic() - begin) * 1000,
        request_id=response.headers.get("x-request-id", request_id),
        location=response.headers.get("location", ""),
    )


def patience_s(function: Object) -> float:
    """Return how long a call of `function` is waited for: longer than it may take."""
    limits = function.spec.limits if isinstance(function.spec, FunctionSpec) else Limits()
    return limits.timeout_s + _MARGIN_S


def credentials(route: RouteSpec, environ: Mapping[str, str]) -> dict[str, str]:
    """Return the headers that say who calls, if the environment has what `route` asks for.

    From WASMFN_API_KEY or WASMFN_TOKEN: a command line can be read by everybody.

    Raises:
        RejectedError: what is there cannot be sent.
    """
    match route.authentication:
        case ApiKeys(header=header) if key := _secret("WASMFN_API_KEY", environ):
            return {header: key}
        case Jwt() if token := _secret("WASMFN_TOKEN", environ):
            return {"authorization": f"Bearer {token}"}
    return {}


def _secret(variable: str, environ: Mapping[str, str]) -> str:
    """Return a secret of the environment that fits into a header; it is shown in no error."""
    value = environ.get(variable, "").strip()
    if not (value.isascii() and value.isprintable()):
        raise RejectedError(
            f"{variable} holds a line break or another character that is not printable ASCII, and"
            " such a thing is no key or token; set it to that alone"
        )
    return value


def callable_route(function: Key, routes: Sequence[Object]) -> tuple[RouteSpec, str]:
    """Return a route to call `function` by, and its method: POST if one takes it.

    Raises:
        MissingError: it has none, or none without parameters.
    """
    specs = [r.spec for r in routes_to(function, routes) if isinstance(r.spec, RouteSpec)]
    if not specs:
        raise MissingError(
            f"{function} has no route to call it by; make one: "
            f"wasmfn route create --url /{function.name} --function {function.name}"
        )
    fixed = [spec for spec in specs if spec.path is None or "{" not in spec.path]
    if not fixed:
        raise MissingError(
            f"every route of {function} has parameters in its path; call one with curl"
        )
    best = min(fixed, key=lambda spec: ("POST" not in spec.methods, spec.host or ""))
    return best, "POST" if "POST" in best.methods else best.methods[0]


def outcome_of(answer: Answer) -> Outcome:
    """Return the keeper's JSON of an `args` call that ran.

    Raises:
        RejectedError: it did not run; says why, in the words of the platform.
    """
    if answer.status in (200, 504, 400) and answer.content_type == "application/json":
        try:
            return msgspec.json.decode(answer.body, type=Outcome)
        except msgspec.DecodeError:
            pass
    raise RejectedError(problem_of(answer))


def problem_of(answer: Answer) -> str:
    """Return what an answer that is no success says, with its request id."""
    try:
        problem = msgspec.json.decode(answer.body, type=_Problem)
        said = problem.detail or problem.title
    except msgspec.DecodeError:
        said = answer.body[:200].decode("utf-8", "replace")
    return f"HTTP {answer.status}: {said or 'no reason was given'} (request {answer.request_id})"
