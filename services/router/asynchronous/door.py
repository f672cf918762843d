"""Tell of invocations at their locations: `GET /.wasmfn/invocations/<ns>/<function>/<id>`.

The document says how far it is and what each attempt came to. With `/result`
behind it, the location answers what the function answered, byte for byte.
`DELETE` of the location cancels the invocation.
"""

from collections.abc import Awaitable, Callable
from typing import Final

import msgspec

from schemas.invocations import (
    FINAL,
    LOCATION_PATH,
    Answer,
    Attempt,
    CancelReply,
    Invocation,
    Result,
)
from services.bus.errors import BusError
from services.router.asynchronous.identity import is_name
from services.router.asynchronous.outlet import TRUNCATED_HEADER
from services.router.asynchronous.store import Name, Store
from services.router.problems import Problem

Reply = tuple[int, list[tuple[bytes, bytes]], bytes]
"""Status, headers and body of an answer."""

_NO_STORE: Final = (b"cache-control", b"no-store")
_POLL_S: Final = b"1"
_UNSAFE: Final = frozenset({"set-cookie", "content-length", "x-request-id"})
"""Headers of the stored answer that were meant for its own exchange."""


class Refusal(Exception):  # noqa: N818 - said by its name
    """It is not accepted, or nothing can be told."""

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        super().__init__(problem.detail)


class _Told(msgspec.Struct, frozen=True):
    """What a client is told. `result` is None until the function has answered."""

    id: str
    namespace: str
    function: str
    state: str
    accepted_at: str
    changed_at: str
    attempts: tuple[Attempt, ...]
    next_attempt_at: str | None
    message: str
    result: "_Answered | None"


class _Answered(msgspec.Struct, frozen=True, omit_defaults=True):
    """An answer in JSON: as text, or in base64 if it is none."""

    status: int = msgspec.field()
    content_type: str = msgspec.field()
    size_bytes: int = msgspec.field()
    body: str | None = None
    body_base64: bytes | None = None
    truncated: bool = False


Cancel = Callable[[Name], Awaitable[CancelReply]]


async def show(store: Store, cancel: Cancel, method: str, path: str) -> Reply:
    """Return the answer to a request for `path`, which is below the reserved one.

    Raises:
        Refusal: there is nothing there, or it cannot be said.
    """
    words = path.removeprefix(LOCATION_PATH + "/").split("/")
    if (
        not path.startswith(LOCATION_PATH + "/")
        or len(words) not in (3, 4)
        or not all(words)
        or not is_name(words[2])
    ):
        raise Refusal(Problem(404, "nothing is served here; check the URL"))
    name = (words[0], words[1], words[2])
    allowed = ("GET", "HEAD", "DELETE") if len(words) == 3 else ("GET", "HEAD")
    if method not in allowed:
        raise Refusal(Problem(405, "an invocation is read, or cancelled", allow=allowed))
    cancelled = await _cancelled(cancel, name) if method == "DELETE" else 200
    try:
        known = await store.known(name)
    except (BusError, ValueError):
        detail = "the results cannot be read now; ask again"
        raise Refusal(Problem(503, detail, retry_after_s=1.0)) from None
    if known is None:
        detail = "there is no such invocation, or its result has expired"
        raise Refusal(Problem(404, detail))
    if len(words) == 3:
        return _document(known, cancelled)
    if words[3] != "result":
        raise Refusal(Problem(404, "nothing is served here; check the URL"))
    if not isinstance(known, Result) or known.answer is None:
        raise Refusal(Problem(404, "it has no answer yet; ask again", retry_after_s=1.0))
    return _answer(known.answer)


async def _cancelled(cancel: Cancel, name: Name) -> int:
    """Cancel, and return the status of the answer. Raises Refusal."""
    reply = await cancel(name)
    match reply.outcome:
        case "cancelled":
            return 200
        case "unwanted":
            # Noted, and not done yet.
            return 202
        case "ended":
            raise Refusal(Problem(409, reply.message))
        case "missing":
            raise Refusal(Problem(404, reply.message))
        case "unknown":
            raise Refusal(Problem(503, f"{reply.message}; send it again", retry_after_s=1.0))


def _document(known: Invocation | Result, status: int) -> Reply:
    if isinstance(known, Invocation):
        accepted = known.accepted_at.isoformat()
        told = _Told(
            known.id, known.namespace, known.function, "accepted", accepted, accepted,
            (), None, "it waits for its turn", None,
        )  # fmt: skip
    else:
        again = known.next_attempt_at
        told = _Told(
            known.id, known.namespace, known.function, known.state,
            known.accepted_at.isoformat(), known.changed_at.isoformat(), known.attempts,
            again.isoformat() if again else None, known.message,
            _answered(known.answer) if known.answer else None,
        )  # fmt: skip
    headers = [(b"content-type", b"application/json"), _NO_STORE]
    if told.state not in FINAL:
        headers.append((b"retry-after", _POLL_S))
    return status, headers, msgspec.json.encode(told)


def _answered(answer: Answer) -> _Answered:
    content_type = dict(answer.headers).get("content-type", "application/octet-stream")
    try:
        text = answer.body.decode()
    except UnicodeDecodeError:
        return _Answered(
            answer.status, content_type, answer.size_bytes,
            body_base64=answer.body, truncated=answer.truncated,
        )  # fmt: skip
    return _Answered(
        answer.status, content_type, answer.size_bytes, body=text, truncated=answer.truncated
    )


def _answer(answer: Answer) -> Reply:
    headers = [
        (name.encode("latin-1"), value.encode("latin-1"))
        for name, value in answer.headers
        if name not in _UNSAFE
    ]
    if answer.truncated:
        headers.append((TRUNCATED_HEADER.encode(), b"%d" % answer.size_bytes))
    return answer.status, [*headers, _NO_STORE], answer.body
