"""What is kept of an asynchronous invocation: the request, its attempts, and how it ended.

An invocation is accepted when INVOCATIONS has stored it. From then on it is in
exactly one of three places: in the queue, ended in RESULTS (done, or cancelled), or
in DEAD, where it stays for its time, or until somebody says otherwise. Its id is its
name in all three, so writing it twice is writing it once.
"""

import hashlib
from datetime import datetime
from typing import Final, Literal

import msgspec

RESERVED_PATH: Final = "/.wasmfn/"
"""Below it on the data port nothing is a user's: no route can be made there."""
LOCATION_PATH: Final = RESERVED_PATH + "invocations"
"""An invocation is at `<LOCATION_PATH>/<namespace>/<function>/<id>`."""
MAX_HOPS: Final = 8
"""How often an outcome may call a next function: two that call each other come to an end."""

Origin = Literal["http", "timer", "subscription", "destination"]
Fields = tuple[tuple[str, str], ...]
"""HTTP headers in order; names in lower case, values in latin-1."""


def location(namespace: str, function: str, invocation: str) -> str:
    """Return the path at which a router tells of an invocation."""
    return f"{LOCATION_PATH}/{namespace}/{function}/{invocation}"


def invocation_id(namespace: str, function: str, kind: str, key: bytes | str) -> str:
    """Return the id of the invocation that `key` stands for: 32 hexadecimal digits.

    Args:
        namespace: of the function.
        function: its name; the same key for another function is another invocation.
        kind: what sort of key it is, so that a timer's and a client's never meet.
        key: what makes the invocation the same one if it comes again.
    """
    raw = key.encode() if isinstance(key, str) else key
    text = b"\0".join((namespace.encode(), function.encode(), kind.encode(), raw))
    return hashlib.sha256(text).hexdigest()[:32]


class Invocation(msgspec.Struct, frozen=True, kw_only=True):
    """One accepted call of a function, as it waits in the queue."""

    namespace: str
    function: str
    id: str
    """32 hexadecimal digits. Who knows it may read the result."""
    run: int = 1
    """Grows when a dead letter is sent back to the queue: what is known of earlier runs is past."""
    accepted_at: datetime
    origin: Origin
    origin_name: str = ""
    """The route, timer or subscription that it came by, or the function whose outcome it is."""
    correlation: str
    """The request id, also in events."""
    traceparent: str
    """The client's, or empty."""
    method: str = "POST"
    target: str = "/"
    host: str = ""
    headers: Fields = ()
    """Without credentials, which are checked when it is accepted and not kept."""
    parameters: Fields = ()
    """The values of the route's path parameters, as the function gets them."""
    client: str = "unknown"
    """The address of whoever sent it, and how it was sent: for `X-Forwarded-*`."""
    scheme: str = "http"
    trusted: bool = False
    body: bytes = b""
    digest: str = ""
    """SHA-256 over method, target and body: an idempotency key stands for one request only."""
    repeatable: bool = False
    """It has a key, so it may come again after it was done: look before running it."""
    reply: str = ""
    """A NATS subject that its output goes to, besides what the function's spec says."""
    hops: int = 0


class Attempt(msgspec.Struct, frozen=True):
    """One try to run it. `lost`: its router ended in the middle, so nobody knows what came of it.

    `status` is that of HTTP, or 0 without an answer; a run of the interface
    `args` that failed counts as 500, whatever its answer says.
    """

    number: int
    outcome: Literal["done", "failed", "lost"]
    status: int = 0
    error: str = ""
    began_at: datetime | None = None
    duration_ms: float = 0.0


class Answer(msgspec.Struct, frozen=True):
    """What the function answered. `body` is the beginning of it if `truncated`."""

    status: int
    headers: Fields
    body: bytes
    size_bytes: int
    truncated: bool = False


State = Literal["accepted", "running", "retrying", "done", "dead", "cancelled"]
FINAL: Final = frozenset({"done", "dead", "cancelled"})


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """How far an invocation is, kept for the function's `result_ttl_s`."""

    namespace: str
    function: str
    id: str
    run: int
    state: State
    accepted_at: datetime
    changed_at: datetime
    origin: Origin
    origin_name: str = ""
    correlation: str
    digest: str = ""
    attempts: tuple[Attempt, ...] = ()
    next_attempt_at: datetime | None = None
    message: str = ""
    answer: Answer | None = None
    unwanted: bool = False
    """Somebody has cancelled it while an attempt was under way: there will be no other one."""


Reason = Literal["attempts-spent", "final-status", "unreadable"]


class DeadLetter(msgspec.Struct, frozen=True, kw_only=True):
    """An invocation that will not be tried again by itself."""

    namespace: str
    function: str
    id: str
    time: datetime
    reason: Reason
    message: str
    attempts: tuple[Attempt, ...] = ()
    invocation: Invocation | None
    """None if it could not be read; then `unreadable` is the beginning of what was stored."""
    unreadable: bytes = b""


class DeadRequest(msgspec.Struct, frozen=True):
    """A person says what is to become of a dead letter: back to the queue, or away.

    To prune is to throw away all of the function that are older than `older_than_s`,
    whatever their ids.
    """

    id: str
    action: Literal["redrive", "discard", "prune"]
    older_than_s: float = 0.0


class DeadReply(msgspec.Struct, frozen=True):
    """Whether it was done. `message` says so, or why not, in one sentence."""

    done: bool
    message: str
    location: str = ""
    pruned: int = 0
    more: bool = False
    """There are more to prune: ask again."""


class CancelRequest(msgspec.Struct, frozen=True):
    """A person does not want an invocation any more."""

    id: str


class Interrupt(msgspec.Struct, frozen=True):
    """An attempt is not wanted any more. Of which invocation it is, the subject says."""

    run: int


class CancelReply(msgspec.Struct, frozen=True):
    """What became of it. `message` says so in one sentence.

    `cancelled`: no attempt will be made. `unwanted`: one is under way and is being
    ended; there will be no other. `ended`: it was over before. `missing`:
    there is none. `unknown`: it could not be found out, or not be written; ask again.
    """

    outcome: Literal["cancelled", "unwanted", "ended", "missing", "unknown"]
    message: str
