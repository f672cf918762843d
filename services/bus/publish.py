"""Store a message: return only when JetStream has it, or say why not.

A lost answer is not a lost message. Every publish therefore carries a message
id, and is repeated under the same id until an answer or the deadline: the
server de-duplicates, so the message is stored once.
"""

import asyncio
import contextlib
import random
from collections.abc import Mapping
from typing import Final

import nats.errors
from nats.js import errors as js_errors

from schemas.names import new_correlation_id
from schemas.streams import TERM_HEADER, Stream
from services.bus.connection import Bus
from services.bus.errors import BusError, BusRefused, BusUnavailable, Conflict, Fenced
from services.bus.fence import Fence

DEADLINE_S: Final = 5.0
TOMBSTONE_S: Final = 60.0
"""How long a tombstone stays for followers to see; later they see that nothing is there."""

_ATTEMPT_S: Final = 1.0
_PAUSE_S: Final = (0.02, 0.1)
_UNDER_WAY: Final = 10164
"""Server error code, of replicated streams: a message with the same expectation is under way."""
_WRONG_SEQUENCE: Final = (10071, _UNDER_WAY)
"""Server error codes: wrong last sequence."""
_NOT_STORED: Final = 10077
"""Server error code: the stream is full, or its disk is."""


async def publish(
    bus: Bus,
    subject: str,
    payload: bytes,
    *,
    expected: int | None = None,
    fence: Fence | None = None,
    message_id: str = "",
    ttl_s: float | None = None,
    headers: Mapping[str, str] | None = None,
    deadline_s: float = DEADLINE_S,
) -> int:
    """Store `payload` on `subject` and return its stream sequence.

    Args:
        bus: the connection.
        subject: from `schemas.subjects`.
        payload: an empty one is read as a deletion: see `tombstone`.
        expected: the sequence that must be the last on the subject; 0 means none yet.
        fence: of the term that this is written in; instead of `expected`.
        message_id: publishing twice under one id, within the stream's duplicate
            window, stores once and returns the first sequence.
        ttl_s: let the message expire; whole seconds, at least 1.
        headers: further NATS headers.
        deadline_s: how long to keep trying while NATS is away.

    Raises:
        Conflict: `expected` does not hold.
        Fenced: a later term writes the stream.
        BusRefused: not permitted, too large, or the stream is full.
        BusUnavailable: no answer by the deadline; the message may be stored yet.
    """
    message_id = message_id or new_correlation_id()
    sent = {**(headers or {}), "Nats-Msg-Id": message_id, **_conditions(expected, fence, ttl_s)}
    uncertain = False
    reason = ""
    try:
        async with asyncio.timeout(deadline_s):
            while True:
                try:
                    async with fence.turn() if fence is not None else contextlib.nullcontext():
                        return await _attempt(bus, subject, payload, sent)
                except _Again as again:
                    reason = again.reason
                    uncertain = uncertain or again.uncertain
                except js_errors.APIError as error:
                    reason = error.description or str(error)
                    if fence is not None and error.err_code == _UNDER_WAY:
                        fence.crowded = True
                    # It may be our own message, of an attempt whose answer was lost.
                    elif uncertain and expected is not None and error.err_code in _WRONG_SEQUENCE:
                        if found := await _stored_as(bus, subject, message_id):
                            return found
                        raise Conflict(subject, expected) from None
                    else:
                        raise _refusal(subject, error, expected, fence) from None
                await asyncio.sleep(random.uniform(*_PAUSE_S))  # noqa: S311 - jitter
    except TimeoutError:
        reason = reason or bus.last_error
        raise BusUnavailable(f"publishing on {subject}", deadline_s, reason) from None


async def tombstone(
    bus: Bus,
    subject: str,
    *,
    expected: int | None = None,
    fence: Fence | None = None,
    keep_s: float | None = TOMBSTONE_S,
    deadline_s: float = DEADLINE_S,
) -> int:
    """Delete what `subject` holds, all revisions of it, and return the deletion's sequence.

    The empty message replaces everything older on the subject (`Nats-Rollup: sub`)
    and expires after `keep_s`, if any, so no older revision ever comes back.
    Arguments and errors are those of `publish`.
    """
    return await publish(
        bus,
        subject,
        b"",
        expected=expected,
        fence=fence,
        ttl_s=keep_s,
        headers={"Nats-Rollup": "sub"},
        deadline_s=deadline_s,
    )


async def raise_fence(
    bus: Bus, stream: Stream, term: int, *, deadline_s: float = DEADLINE_S
) -> Fence:
    """Have `stream` store nothing of terms before `term` any more. Harmless to repeat.

    Raises:
        Fenced: there is a fence of a later term.
        BusRefused, BusUnavailable: as `publish`.
    """
    try:
        async with asyncio.timeout(deadline_s):
            while True:
                sequence, found = await _fence(bus, stream)
                if found > term:
                    raise Fenced(stream.fence, term, found)
                if found == term:
                    return Fence(stream.fence, sequence, term)
                with contextlib.suppress(Conflict):
                    sequence = await publish(
                        bus,
                        stream.fence,
                        b"",
                        expected=sequence,
                        headers={TERM_HEADER: str(term)},
                        deadline_s=deadline_s,
                    )
                    return Fence(stream.fence, sequence, term)
                await asyncio.sleep(random.uniform(*_PAUSE_S))  # noqa: S311 - jitter
    except TimeoutError:
        raise BusUnavailable(f"fencing {stream.name}", deadline_s, bus.last_error) from None


async def _fence(bus: Bus, stream: Stream) -> tuple[int, int]:
    """Return sequence and term of the fence of `stream` as it is, or zeros."""
    await bus.wait_connected()
    try:
        async with bus.bounded(_ATTEMPT_S):
            last = await bus.js.get_last_msg(stream.name, stream.fence)
    except js_errors.NotFoundError:
        return 0, 0
    except js_errors.APIError as error:
        raise BusRefused(f"reading {stream.fence}", error.description or str(error)) from error
    return last.seq or 0, int((last.headers or {}).get(TERM_HEADER, "0"))


def _refusal(
    subject: str, error: js_errors.APIError, expected: int | None, fence: Fence | None
) -> BusError:
    """Return what it means that the server has answered no."""
    if error.err_code in _WRONG_SEQUENCE and fence is not None:
        return Fenced(subject, fence.term)
    if error.err_code in _WRONG_SEQUENCE and expected is not None:
        return Conflict(subject, expected)
    return BusRefused(f"publishing on {subject}", error.description or str(error))


def _conditions(expected: int | None, fence: Fence | None, ttl_s: float | None) -> dict[str, str]:
    """Return the headers that say whether and for how long a message is stored."""
    sent = {} if fence is None else fence.headers
    if expected is not None:
        sent["Nats-Expected-Last-Subject-Sequence"] = str(expected)
    if ttl_s is not None:
        sent["Nats-TTL"] = f"{max(1, round(ttl_s))}s"
    return sent


class _Again(Exception):  # noqa: N818 - never leaves this module
    """An attempt failed in a way that may pass; `uncertain` if it may have been stored."""

    def __init__(self, reason: str, *, uncertain: bool = False) -> None:
        self.reason = reason
        self.uncertain = uncertain


async def _attempt(bus: Bus, subject: str, payload: bytes, headers: dict[str, str]) -> int:
    """Publish once and return the sequence; nats-py's errors are sorted out here."""
    await bus.wait_connected()
    try:
        async with bus.bounded(_ATTEMPT_S):
            ack = await bus.js.publish(subject, payload, timeout=2 * _ATTEMPT_S, headers=headers)
    except TimeoutError:
        if denial := bus.denial(subject):
            raise BusRefused(f"publishing on {subject}", denial) from None
        raise _Again("no acknowledgement", uncertain=True) from None
    except js_errors.ServiceUnavailableError as error:
        if error.err_code == _NOT_STORED:
            raise
        raise _Again(error.description or "JetStream is not ready") from error
    except js_errors.NoStreamResponseError as error:
        raise _Again("no stream captures this subject") from error
    except nats.errors.OutboundBufferLimitError as error:
        raise _Again("the connection is down") from error
    except nats.errors.ConnectionClosedError as error:
        raise BusRefused(f"publishing on {subject}", "the connection is closed") from error
    except (nats.errors.MaxPayloadError, nats.errors.BadSubjectError) as error:
        reason = str(error).removeprefix("nats: ")
        raise BusRefused(f"publishing on {subject}", reason) from error
    return ack.seq


async def _stored_as(bus: Bus, subject: str, message_id: str) -> int | None:
    """Return the sequence of the last message on `subject` if it carries `message_id`."""
    try:
        stream = await bus.js.find_stream_name_by_subject(subject)
        last = await bus.js.get_last_msg(stream, subject)
    except js_errors.NotFoundError:
        return None
    return last.seq if (last.headers or {}).get("Nats-Msg-Id") == message_id else None
