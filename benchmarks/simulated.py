"""The clients of a simulated cluster: podwatches and a scheduler that publish, routers that follow.

    python -P -m benchmarks.simulated publish URL NODES PODS
    python -P -m benchmarks.simulated follow URL ROUTERS

Both take orders on stdin, a line each, and answer each with a line of JSON.
Every podwatch and every router is a connection of its own, with the client
library that the services use. A router follows PODS and ENDPOINTS through
ordered consumers and decodes every message, as the real one does.
"""

import asyncio
import itertools
import os
import sys
import time
from datetime import UTC, datetime

import msgspec
import nats
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.js.api import DeliverPolicy

from benchmarks.harness.bus import endpoint_fact
from benchmarks.harness.statistics import percentile
from schemas import subjects
from schemas.endpoints import Endpoint
from schemas.pods import PodFact, PodPhase

_LIFE: tuple[tuple[PodPhase, bool], ...] = (
    ("pending", False),
    ("running", False),
    ("running", True),
    ("dead", False),
)
"""What a podwatch tells of a pod, one fact after the other: phase and readiness."""


class Offer(msgspec.Struct, frozen=True):
    """Order to publish."""

    rate: float
    """Facts a second: half of them of pods, half of endpoints."""
    seconds: float


class Offered(msgspec.Struct, frozen=True):
    """What was published."""

    facts: int
    seconds: float
    late_ms: float
    """How late the last fact left."""
    cpu_s: float


class Heard(msgspec.Struct, frozen=True):
    """What the routers were told since they were asked last."""

    facts: int
    """By all routers together."""
    p50_ms: float
    p99_ms: float
    cpu_s: float


async def publish(url: str, nodes: int, pods: int) -> None:
    """Be the podwatches of `nodes` nodes with `pods` pods each, and a scheduler."""
    watches: list[Client] = []
    for begin in range(0, nodes, 50):
        some = range(begin, min(nodes, begin + 50))
        watches += await asyncio.gather(*(nats.connect(url) for _ in some))
    scheduler = await nats.connect(url)
    born = itertools.count()
    lives = [(node, slot) for slot in range(pods) for node in range(nodes)]
    uids = {life: f"pod-{next(born)}" for life in lives}
    # Steps of one life far apart: a follower is only ever told the last fact of a subject.
    turns = itertools.cycle([(life, phase) for phase in _LIFE for life in lives])
    numbers = itertools.count()
    _say(Offered(0, 0.0, 0.0, 0.0))
    while order := await _order():
        offer = msgspec.json.decode(order, type=Offer)
        count, late = round(offer.rate * offer.seconds), 0.0
        used, begin_s = time.process_time(), time.perf_counter()
        for number in range(count):
            due = begin_s + number / offer.rate
            if (early := due - time.perf_counter()) > 0:
                await asyncio.sleep(early)
            elif number % 64 == 0:
                await asyncio.sleep(0)
            late = max(0.0, time.perf_counter() - due)
            if number % 2:
                born_as = next(numbers)
                name = f"function-{born_as % 1000}"
                subject, endpoint = endpoint_fact(name, 9, instance=f"{name}-{born_as}")
                await scheduler.publish(subject, msgspec.json.encode(endpoint))
                continue
            life, (phase, ready) = next(turns)
            node, _ = life
            now, name = datetime.now(UTC), f"node-{node}"
            fact = PodFact(uids[life], name, "keeper", phase, now, ready=ready, ip="10.0.0.1")
            subject = subjects.PODS.subject(node=fact.node, uid=fact.uid)
            await watches[node].publish(subject, msgspec.json.encode(fact))
            if phase == "dead":
                uids[life] = f"pod-{next(born)}"
        await asyncio.gather(*(client.flush(30) for client in (*watches, scheduler)))
        took = time.perf_counter() - begin_s
        _say(Offered(count, took, late * 1e3, time.process_time() - used))


async def follow(url: str, routers: int) -> None:
    """Be so many routers."""
    latencies: list[float] = []
    decode_pod = msgspec.json.Decoder(PodFact).decode
    decode_endpoint = msgspec.json.Decoder(Endpoint).decode

    async def on_pod(message: Msg) -> None:
        if message.data:
            latencies.append((datetime.now(UTC) - decode_pod(message.data).time).total_seconds())

    async def on_endpoint(message: Msg) -> None:
        if message.data:
            fact = decode_endpoint(message.data)
            latencies.append((datetime.now(UTC) - fact.time).total_seconds())

    for _ in range(routers):
        client = await nats.connect(url, pending_size=64 * 1024 * 1024)
        js = client.jetstream()
        for template, heard in ((subjects.PODS, on_pod), (subjects.ENDPOINTS, on_endpoint)):
            await js.subscribe(
                template.wildcard,
                cb=heard,
                ordered_consumer=True,
                deliver_policy=DeliverPolicy.NEW,
                pending_msgs_limit=-1,
                pending_bytes_limit=-1,
            )
    _say(Heard(0, 0.0, 0.0, 0.0))
    used = time.process_time()
    while await _order():
        seen, now = sorted(latencies), time.process_time()
        latencies.clear()
        p50, p99 = (percentile(seen, p) * 1e3 if seen else 0.0 for p in (50, 99))
        _say(Heard(len(seen), p50, p99, now - used))
        used = now


async def _order() -> str:
    return await asyncio.get_running_loop().run_in_executor(None, sys.stdin.readline)


def _say(message: msgspec.Struct) -> None:
    os.write(1, msgspec.json.encode(message) + b"\n")


if __name__ == "__main__":
    if sys.argv[1] == "publish":
        asyncio.run(publish(sys.argv[2], int(sys.argv[3]), int(sys.argv[4])))
    else:
        asyncio.run(follow(sys.argv[2], int(sys.argv[3])))
