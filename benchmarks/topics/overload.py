"""Four times as many requests as a function can take, offered in an open loop.

The function burns processor time and may have one instance, so its capacity is
that of one core. Its own peak is measured first, in a closed loop with as many
connections as the instance takes at once. Goodput is what is answered with 200
in the middle of the run, when the queue is as long as it gets.
"""

import asyncio

from benchmarks.harness import openloop, wrk
from benchmarks.harness.platform import Caller, Running, connect, publish, running_platform
from benchmarks.harness.processes import ROOT
from benchmarks.harness.result import Figure, Options, Result, Target, WrongAnswerError
from benchmarks.harness.statistics import thinned
from schemas.specs import Limits, Scaling

BURN = (ROOT / "examples" / "burn" / "burn.wasm").read_bytes()
BODY = '{"args": ["1500000"]}'
"""Some four milliseconds of one core."""
CONCURRENCY = 4
FACTOR = 4


def measure(options: Options) -> Result:
    """Find the peak, then offer four times that."""
    seconds = 2.0 if options.tiny else max(10.0, 4 * options.seconds)
    peaks, goodputs, accepted, refused = [], [], [], []
    with running_platform() as running:
        asyncio.run(_deploy(running))
        port = running.address[1]
        request = wrk.Request("/burn", BODY)
        for _ in range(options.runs):
            load = wrk.run(port, request, connections=CONCURRENCY, seconds=options.seconds)
            peaks.append(load.rate)
            answers = openloop.run(port, FACTOR * load.rate, seconds, path="/burn", body=BODY)
            openloop.check(answers, (200, 503))
            good = [a for a in answers if a.status == 200]
            bad = [a for a in answers if a.status == 503]
            if not all(a.retry_after for a in bad):
                raise WrongAnswerError("a refusal does not say when to come back")
            goodputs.append(_goodput(answers, FACTOR * load.rate, seconds))
            accepted += [a.latency_ms for a in good]
            refused += [a.latency_ms for a in bad]
    goodput = Figure("throughput", "requests/s", {"peak, closed loop": peaks, "at 4 x": goodputs})
    refusal = Figure(
        "refused with 503 and Retry-After", "ms", {"platform": thinned(refused)} if refused else {}
    )
    waits = Figure("accepted", "ms", {"platform": thinned(accepted)})
    return Result(
        topic="overload",
        title="Four times the capacity of a function, open loop",
        figures=(goodput, refusal, waits),
        targets=(
            Target("goodput at 4 x / peak", goodput.ratio("at 4 x"), ">=", 0.9),
            Target(
                "refused, p99", refusal.spread("platform").p99 if refused else None, "<=", 50, "ms"
            ),
            Target("accepted, max", waits.spread("platform").max, "<=", 30_000, "ms"),
        ),
        notes=(
            f"{len(refused)} requests were refused and {len(accepted)} accepted.",
            "Accepted requests wait for 512 others (`park_per_function`) or 30 s (`park_s`).",
        ),
    )


def _goodput(answers: list[openloop.Answered], rate: float, seconds: float) -> float:
    """Return the successes a second that ended between a quarter and the end of the offer."""
    begin, end = seconds / 4, seconds
    ends = (
        number / rate + a.latency_ms / 1e3 for number, a in enumerate(answers) if a.status == 200
    )
    return sum(begin <= at < end for at in ends) / (end - begin)


async def _deploy(running: Running) -> None:
    async with connect(running.platform) as client:
        module = await client.put_module(BURN, "burn.wasm")
        revisions = await publish(
            client,
            ["burn"],
            module,
            limits=Limits(timeout_s=30, memory_mib=16),
            scaling=Scaling(min_instances=1, max_instances=1, concurrency=CONCURRENCY),
        )
        await client.wait_active(revisions, 30.0)
    caller = Caller(running)
    caller.call("/burn", BODY.encode())
    caller.close()
