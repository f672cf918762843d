"""What `wasmfn doctor` looks at: each check is one fact, and what to do if it is bad."""

import asyncio
import http.client
import shutil
import socket
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, Literal
from urllib.parse import urlsplit

import msgspec
import nats.errors

from schemas.builds import MODULES_BUCKET, UPLOADS_BUCKET
from schemas.leases import Lease
from schemas.pods import LABEL_ROLE, PodFact
from schemas.specs import MIB
from schemas.streams import DEAD, LEASES, PODS, RESULTS, SPECS, STREAMS
from services.bus.feed import FeedLost, open_feed
from wasmfn.client import Client, connect
from wasmfn.discovery import NoPlatformError, find_platform
from wasmfn.errors import UnreachableError

_LOW_DISK_BYTES: Final = 1024 * MIB
_FULL_DISK_BYTES: Final = 32 * MIB
"""Less than one large module with its artifact and image takes."""
_SKEW_S: Final = 2.0
_PROBE_S: Final = 2.0
_NEARLY_FULL: Final = 0.9


class Check(msgspec.Struct, frozen=True):
    """One finding. `advice` says what to do unless it is good."""

    name: str
    state: Literal["good", "warning", "bad"]
    detail: str
    advice: str = ""


async def checks(nats_url: str | None) -> AsyncIterator[Check]:
    """Yield the findings, most basic first; end where going on makes no sense."""
    try:
        platform = find_platform(nats_url)
    except NoPlatformError as error:
        yield Check("platform", "bad", "none was found", str(error))
        return
    where = f" in {platform.data_dir}" if platform.data_dir else ""
    yield Check("platform", "good", f"{platform.nats_url}{where}")
    if platform.data_dir is not None:
        yield disk(platform.data_dir, shutil.disk_usage(platform.data_dir).free)
    for name, url in platform.admin_urls.items():
        yield await asyncio.to_thread(service, name, url)
    if platform.http_url is not None:
        yield await asyncio.to_thread(router, platform.http_url)
    try:
        async with connect(platform) as client:
            async for check in on_the_bus(client):
                yield check
    except UnreachableError as error:
        yield Check("nats", "bad", "it does not answer", str(error))


async def on_the_bus(client: Client) -> AsyncIterator[Check]:
    """Yield what NATS itself and what is stored in it say."""
    begin = time.monotonic()
    await client.bus.nc.flush(timeout=5)
    took_ms = (time.monotonic() - begin) * 1000
    yield Check("nats", "good", f"answers in {took_ms:.1f} ms")
    try:
        message = await client.bus.nc.request(
            f"$JS.API.STREAM.INFO.{SPECS.name}", b"", timeout=_PROBE_S
        )
        yield clock(msgspec.json.decode(message.data), datetime.now(UTC))
    except nats.errors.Error:
        yield Check(
            "jetstream", "bad", "it does not answer", "start nats-server with JetStream (-js)"
        )
        return
    names = [stream.name for stream in STREAMS]
    names += [f"OBJ_{UPLOADS_BUCKET}", f"OBJ_{MODULES_BUCKET}"]
    yield await streams(client, names)
    for name, told in (("leader", leader), ("keepers", keepers)):
        stream = LEASES if name == "leader" else PODS
        try:
            async with open_feed(client.bus, stream.name, []) as feed:
                yield told([entry.payload async for entry in feed.snapshot() if entry.payload])
        except (FeedLost, TimeoutError, nats.errors.Error):
            yield Check(name, "bad", "it cannot be read", "see the check of the streams")


async def streams(client: Client, names: list[str]) -> Check:
    """Return whether every stream is there and has room."""
    full = []
    for name in names:
        try:
            info = await client.bus.js.stream_info(name)
        except nats.errors.Error:
            return Check(
                "streams",
                "bad",
                f"there is no stream {name}",
                "a service makes it when it starts; run `wasmfn up` on this NATS",
            )
        limit = info.config.max_bytes or 0
        if limit > 0 and info.state.bytes > _NEARLY_FULL * limit:
            full.append(f"{name} ({info.state.bytes // MIB} of {limit // MIB} MiB)")
    # The two logs drop their oldest and are meant to be full.
    full = [each for each in full if not each.startswith(("EVENTS", "LOGS"))]
    if full:
        advice = "delete what is not needed; a full stream takes no new specs"
        if any(each.startswith((DEAD.name, RESULTS.name)) for each in full):
            advice = (
                "no asynchronous calls are accepted until there is room: results expire, and"
                " `wasmfn dead prune --older-than 7d` throws dead letters away"
            )
        return Check("streams", "warning", f"nearly full: {', '.join(full)}", advice)
    return Check("streams", "good", f"all {len(names)} are there")


def disk(directory: Path, free_bytes: int) -> Check:
    """Return whether there is room for the platform's data."""
    detail = f"{free_bytes // MIB} MiB free in {directory}"
    if free_bytes >= _LOW_DISK_BYTES:
        return Check("disk", "good", detail)
    return Check(
        "disk",
        "warning" if free_bytes >= _FULL_DISK_BYTES else "bad",
        detail,
        "make room: when the disk is full, NATS takes no new specs and logs, and has to be"
        " started again afterwards",
    )


def clock(info: dict[str, Any], now: datetime) -> Check:
    """Return whether the server's clock and ours agree; the event log is read by time."""
    server = info.get("ts")
    if not isinstance(server, str):
        return Check("clock", "good", "the server does not say its time")
    skew_s = abs((msgspec.convert(server, datetime) - now).total_seconds())
    if skew_s <= _SKEW_S:
        return Check("clock", "good", f"differs from the server's by {skew_s * 1000:.0f} ms")
    return Check(
        "clock",
        "warning",
        f"differs from the server's by {skew_s:.1f} s",
        "set both by NTP; until then --since is off by as much",
    )


def leader(payloads: list[bytes]) -> Check:
    """Return whether a scheduler leads."""
    for payload in payloads:
        lease = msgspec.json.decode(payload, type=Lease)
        return Check("leader", "good", f"{lease.holder} in term {lease.term}")
    return Check(
        "leader",
        "bad",
        "no scheduler leads",
        "nothing changes until one does; see whether the scheduler runs and reaches NATS",
    )


def keepers(payloads: list[bytes]) -> Check:
    """Return whether keepers are ready to hold functions."""
    facts = [msgspec.json.decode(payload, type=PodFact) for payload in payloads]
    alive = [f for f in facts if f.labels.get(LABEL_ROLE) == "keeper" and f.phase != "dead"]
    ready = [fact for fact in alive if fact.ready]
    detail = f"{len(ready)} of {len(alive)} ready"
    if alive and len(ready) == len(alive):
        return Check("keepers", "good", detail)
    return Check(
        "keepers",
        "warning" if ready else "bad",
        detail,
        "without one no function starts; `wasmfn events --since 1h` tells why they do not come",
    )


def service(name: str, admin_url: str) -> Check:
    """Return whether a service says that it is ready."""
    try:
        status, body = _get(f"{admin_url}/readyz")
    except (OSError, http.client.HTTPException) as error:
        return Check(
            name, "bad", f"it does not answer ({error})", f"see logs/{name}.log in the data folder"
        )
    if status == 200:
        return Check(name, "good", "ready")
    return Check(name, "bad", f"not ready: {body}", f"see logs/{name}.log in the data folder")


def router(http_url: str) -> Check:
    """Return whether somebody listens where functions answer. No request: `/` may be a function."""
    parts = urlsplit(http_url)
    try:
        socket.create_connection((parts.hostname or "", parts.port or 80), _PROBE_S).close()
    except OSError as error:
        return Check("http", "bad", f"{http_url} does not answer ({error})", "see the router's log")
    return Check("http", "good", http_url)


def _get(url: str) -> tuple[int, str]:
    parts = urlsplit(url)
    link = http.client.HTTPConnection(parts.netloc, timeout=_PROBE_S)
    try:
        link.request("GET", parts.path)
        response = link.getresponse()
        return response.status, response.read(500).decode("utf-8", "replace").strip()
    finally:
        link.close()
