"""Follow revisions that were published until they are in force, or it is known why not.

The scheduler says on the stream STATUS how far each object is; a status counts
only for the revision that it has observed.
"""

import asyncio
import contextlib
from collections.abc import Callable, Mapping
from typing import Final

from schemas import subjects
from schemas.status import Status
from schemas.streams import STATUS
from services.bus.connection import Bus
from services.bus.follow import follow as follow_stream
from services.bus.state import Put, Snapshot
from wasmfn.errors import DeadlineError, RejectedError
from wasmfn.objects import Key, status_of

_FINAL: Final = ("active", "rejected", "failed")


async def follow(
    bus: Bus,
    revisions: Mapping[Key, int],
    timeout_s: float,
    on_status: Callable[[Status], None],
    *,
    or_waiting: bool,
) -> dict[Key, Status]:
    """Return the status in which each revision, or a later one, ends; see `Client.wait`.

    Raises:
        DeadlineError: some are on their way yet.
    """
    ends = (*_FINAL, "waiting") if or_waiting else _FINAL
    final: dict[Key, Status] = {}
    seen: dict[Key, Status] = {}
    if not revisions:
        return final
    filters = [
        subjects.STATUS.subject(kind=key.kind, namespace=key.namespace, name=key.name)
        for key in revisions
    ]
    updates = follow_stream(bus, STATUS.name, filters)
    try:
        async with asyncio.timeout(timeout_s), contextlib.aclosing(updates):
            async for update in updates:
                for status in _statuses(update):
                    key = Key(status.kind, status.namespace, status.name)
                    if status.observed_revision < revisions[key]:
                        continue
                    seen[key] = status
                    on_status(status)
                    if status.phase in ends:
                        final[key] = status
                if final.keys() == revisions.keys():
                    break
    except TimeoutError:
        raise _late(revisions, seen, final, timeout_s) from None
    return final


def must_be_active(statuses: Mapping[Key, Status]) -> None:
    """Raise RejectedError if one was rejected or failed."""
    bad = [s for s in statuses.values() if s.phase in ("rejected", "failed")]
    if bad:
        raise RejectedError(
            "; ".join(
                f"{s.kind} {s.namespace}/{s.name} "
                f"{'was rejected' if s.phase == 'rejected' else 'failed'}: {s.message}"
                + (
                    f" (revision {s.active_revision} stays in force)"
                    if s.active_revision is not None
                    else ""
                )
                for s in bad
            )
        )


def _statuses(update: object) -> list[Status]:
    """Return the statuses that an update of the stream STATUS carries."""
    match update:
        case Snapshot(entries=entries):
            payloads = [entry.payload for entry in entries]
        case Put(entry=entry):
            payloads = [entry.payload]
        case _:
            payloads = []
    return [status for payload in payloads if (status := status_of(payload))]


def _late(
    revisions: Mapping[Key, int],
    seen: Mapping[Key, Status],
    final: Mapping[Key, Status],
    timeout_s: float,
) -> DeadlineError:
    """Return the error that says how far those are that did not arrive."""
    key = min(key for key in revisions if key not in final)
    if key not in seen:
        return DeadlineError(
            f"nobody has looked at {key} within {timeout_s:g} s; `wasmfn doctor` tells whether"
            " the scheduler runs"
        )
    return DeadlineError(
        f"{key} is still {seen[key].phase} after {timeout_s:g} s: {seen[key].message}; it goes on"
        " without us, follow it with `wasmfn events -f`"
    )
