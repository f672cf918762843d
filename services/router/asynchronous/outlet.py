"""Where an outcome goes besides its result: to a function, a subject, or whoever asked. Pure."""

from datetime import datetime
from typing import Any, Final

import msgspec

from schemas.invocations import MAX_HOPS, Answer, Attempt, Invocation
from schemas.specs import Asynchronous, Destination
from services.router.asynchronous import identity

HEADER: Final = "x-invocation"
"""On what goes to a subject: the id of the invocation whose outcome it is."""


TRUNCATED_HEADER: Final = "x-truncated-from"
"""On what is only the beginning of an answer: how many bytes the whole had."""


class Message(msgspec.Struct, frozen=True):
    """Something to publish on a NATS subject. `id` de-duplicates it where a stream keeps it."""

    subject: str
    body: bytes
    headers: dict[str, str]
    id: str


class _Failure(msgspec.Struct, frozen=True):
    """What a destination gets of an invocation that failed for good: JSON."""

    namespace: str
    function: str
    id: str
    correlation: str
    reason: str
    message: str
    attempts: tuple[Attempt, ...]
    request: dict[str, Any]


def of_success(
    invocation: Invocation, answer: Answer, rules: Asynchronous, now: datetime
) -> list[Invocation | Message]:
    """Return what is to be sent on: the function's answer, as it gave it."""
    about = {"content-type": dict(answer.headers).get("content-type", "application/octet-stream")}
    if answer.truncated:
        about[TRUNCATED_HEADER] = str(answer.size_bytes)
    outlets: list[Invocation | Message] = []
    if invocation.reply:
        outlets.append(_message(invocation, invocation.reply, answer.body, about, "reply"))
    if rules.on_success is not None:
        outlets += _sent(invocation, rules.on_success, answer.body, about, now, kind="success")
    return outlets


def of_failure(
    invocation: Invocation,
    reason: str,
    message: str,
    attempts: tuple[Attempt, ...],
    rules: Asynchronous,
    now: datetime,
) -> list[Invocation | Message]:
    """Return what is to be sent on: a JSON document that says what failed, and the request."""
    if rules.on_failure is None:
        return []
    document = _Failure(
        invocation.namespace,
        invocation.function,
        invocation.id,
        invocation.correlation,
        reason,
        message,
        attempts,
        {
            "method": invocation.method,
            "target": invocation.target,
            "origin": invocation.origin,
            "origin_name": invocation.origin_name,
            "body_bytes": len(invocation.body),
        },
    )
    body = msgspec.json.encode(document)
    about = {"content-type": "application/json"}
    return _sent(invocation, rules.on_failure, body, about, now, kind="failure")


def _sent(
    invocation: Invocation,
    to: Destination,
    body: bytes,
    about: dict[str, str],
    now: datetime,
    kind: str,
) -> list[Invocation | Message]:
    if to.subject is not None:
        return [_message(invocation, to.subject, body, about, kind)]
    if to.function is None or invocation.hops + 1 > MAX_HOPS:
        return []
    key = f"{invocation.id}.{invocation.run}"
    return [
        Invocation(
            namespace=invocation.namespace,
            function=to.function,
            id=identity.name_of(invocation.namespace, to.function, kind, key),
            accepted_at=now,
            origin="destination",
            origin_name=invocation.function,
            correlation=invocation.correlation,
            traceparent=invocation.traceparent,
            headers=tuple(about.items()),
            body=body,
            repeatable=True,
            hops=invocation.hops + 1,
        )
    ]


def _message(
    invocation: Invocation, subject: str, body: bytes, about: dict[str, str], kind: str
) -> Message:
    return Message(
        subject,
        body,
        {**about, HEADER: invocation.id},
        f"{invocation.id}.{invocation.run}.{kind}",
    )
