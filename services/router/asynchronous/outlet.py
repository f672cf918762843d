"""Where an outcome goes besides its result: to a function, a subject, or whoever asked. Pure."""

from datetime import datetime
from typing import Any, Final

import msgspec

from schemas.invocations import MAX_HOPS, Answer, Attempt, Invocation
from schemas.specs import Asynchronous, Destination
from services.router.asynchronous import identity

HEADER: Final = "x-invocation"
"""On what goes to a subject: the id of the invocation whose outcome it is."""


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
    content_type = dict(answer.headers).get("content-type", "application/octet-stream")
    outlets: list[Invocation | Message] = []
    if invocation.reply:
        outlets.append(_message(invocation, invocation.reply, answer.body, content_type, "reply"))
    if rules.on_success is not None:
        outlets += _sent(
            invocation, rules.on_success, answer.body, content_type, now, kind="success"
        )
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
    return _sent(invocation, rules.on_failure, body, "application/json", now, kind="failure")


def _sent(
    invocation: Invocation,
    to: Destination,
    body: bytes,
    content_type: str,
    now: datetime,
    kind: str,
) -> list[Invocation | Message]:
    if to.subject is not None:
        return [_message(invocation, to.subject, body, content_type, kind)]
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
            headers=(("content-type", content_type),),
            body=body,
            repeatable=True,
            hops=invocation.hops + 1,
        )
    ]


def _message(
    invocation: Invocation, subject: str, body: bytes, content_type: str, kind: str
) -> Message:
    return Message(
        subject,
        body,
        {"content-type": content_type, HEADER: invocation.id},
        f"{invocation.id}.{invocation.run}.{kind}",
    )
