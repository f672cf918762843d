"""The account at the end: what runs is what the specs say, no more and no less."""

import asyncio
import contextlib
import json
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from nats.js.errors import NotFoundError

from schemas import subjects
from schemas.invocations import FINAL
from schemas.streams import STREAMS, TERM_HEADER
from services.bus.feed import open_feed
from tests.faults.load import Load, Router
from tests.faults.rig import Rig

SETTLED_S = 60.0
_BEGINNING = datetime(2000, 1, 1, tzinfo=UTC)
_LOOK_S = 0.1
_SPARES = 8
"""Children of a keeper that wait for a function."""


async def settled(rig: Rig) -> None:
    """Return once specs, what is in force, endpoints, keepers and processes agree.

    Raises:
        AssertionError: they do not within `SETTLED_S`; it says how they differ.
    """
    differences = ["never looked"]
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(SETTLED_S):
            while differences:
                differences = await _differences(rig)
                if differences:
                    # Processes tell nobody that they have come or gone.
                    await asyncio.sleep(_LOOK_S)
    assert not differences, "\n".join([*differences, rig.logs()])
    await _terms_rise(rig)


async def _terms_rise(rig: Rig) -> None:
    """Make sure that in no stream of leaders anything stands behind the fence of a later term."""
    for stream in STREAMS:
        if stream.fenced:
            async with open_feed(rig.bus, stream.name, [], since=_BEGINNING) as feed:
                terms = [int(entry.headers[TERM_HEADER]) async for entry in feed.snapshot()]
            assert terms == sorted(terms), f"{stream.name} has {terms}"


async def accounted(rig: Rig, load: Load) -> None:
    """Return once every invocation of `load` that was accepted is done, or a dead letter.

    Raises:
        AssertionError: one is neither within `SETTLED_S`, or done with a wrong answer.
    """
    router = rig.routers[0]
    try:
        async with asyncio.timeout(SETTLED_S):
            for one in load.accepted:
                while (  # noqa: ASYNC110
                    told := await _told(router, one.location)
                )["state"] not in FINAL:
                    # Nobody tells a client: it has to ask.
                    await asyncio.sleep(_LOOK_S)
                if told["state"] == "done":
                    answer = json.loads(told["result"]["body"])
                    assert answer["output"] == [one.expected], told
    except TimeoutError:
        raise AssertionError(f"{one.location} is neither done nor dead: {told}") from None
    finally:
        router.close()


async def _told(router: Router, location: str) -> dict[str, Any]:
    status, _, body = await router.request("GET", location)
    assert status == 200, f"{location} was accepted and is not known: {body!r}"
    told: dict[str, Any] = json.loads(body)
    return told


async def _differences(rig: Rig) -> list[str]:
    specs = await _published(rig)
    found = []
    wanted = {f"wasmfn.active.{name}" for name in specs}
    if wanted != set(rig.seen.active):
        found.append(f"in force is {sorted(rig.seen.active)}, published {sorted(wanted)}")
    keepers = rig.running_keepers()
    forked = {uid: children(pid) for uid, pid in keepers.items()}
    told: dict[str, int] = {}
    for endpoint in rig.seen.endpoints.values():
        told[endpoint.pod] = told.get(endpoint.pod, 0) + 1
        if f"function.{endpoint.namespace}.{endpoint.function}" not in specs:
            found.append(f"endpoint {endpoint.instance} serves {endpoint.function}, which is gone")
    found += [
        f"{told[uid]} endpoints are in keeper {uid}, which does not run"
        for uid in told.keys() - keepers.keys()
    ]
    for uid, processes in forked.items():
        # A spare child may wait for the next function.
        spare = len(processes) - told.get(uid, 0)
        if spare not in range(_SPARES + 1):
            found.append(
                f"keeper {uid} has {len(processes)} processes, {told.get(uid, 0)} endpoints"
            )
    strangers = _unknown(rig, keepers)
    return found + [f"process {pid} is a keeper that no pod.json knows" for pid in strangers]


async def _published(rig: Rig) -> set[str]:
    """`kind.namespace.name` of every spec that stands."""
    names = set()
    info = await rig.bus.js.stream_info("SPECS", subjects_filter="wasmfn.specs.>")
    for subject in info.state.subjects or {}:
        try:
            last = await rig.bus.js.get_last_msg("SPECS", subject)
        except NotFoundError:
            continue  # A deletion that has expired meanwhile.
        if last.data:
            tokens = subjects.SPECS.parse(subject)
            assert tokens is not None
            names.add(f"{tokens['kind']}.{tokens['namespace']}.{tokens['name']}")
    return names


def children(pid: int) -> list[int]:
    """Return the functions' processes that a keeper has, whose zygote has forked them."""
    return [child for zygote in forked(pid) for child in forked(zygote)]


def forked(pid: int) -> list[int]:
    """Return the processes that a process has forked."""
    try:
        text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    except FileNotFoundError:
        return []
    return [int(child) for child in text.split()]


def _unknown(rig: Rig, keepers: dict[str, int]) -> list[int]:
    """Keepers of this platform, known by their directory, that run without a pod of theirs."""
    strangers = []
    parents = {*keepers.values(), *(zygote for pid in keepers.values() for zygote in forked(pid))}
    for entry in os.scandir("/proc"):
        if not entry.name.isdigit() or int(entry.name) in keepers.values():
            continue
        with contextlib.suppress(OSError):
            command = Path(entry.path, "cmdline").read_bytes().split(b"\0")
            parent = int(Path(entry.path, "stat").read_text().rpartition(")")[2].split()[1])
            ours = any(str(rig.directory).encode() in word for word in command)
            if b"keeper" in command and ours and parent not in parents:
                strangers.append(int(entry.name))
    return strangers
