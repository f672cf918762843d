"""A hundred thousand invocations in one keeper: its memory and open files, before and after."""

import http.client
import time

from benchmarks import contestants
from benchmarks.harness import wrk
from benchmarks.harness.processes import HOST, only_leaf, open_files, open_sockets, rss_kib
from benchmarks.harness.result import Figure, Options, Result, Target, WrongAnswerError
from benchmarks.topics.keeper import BODY, sorted_right

WARM = 1_000
CONNECTIONS = 16
CLOSED_S = 10.0


def measure(options: Options) -> Result:
    """Invoke, look, invoke a hundred times as often, look again."""
    wanted = 2 * WARM if options.tiny else 100_000
    request = wrk.Request(contestants.PATH, BODY)
    memory, files, times = [], [], []
    with contestants.keeper() as serving:
        done = _few(serving.port, 1)  # so the process that answers is there
        child = only_leaf(serving.pid)
        idle, begun_with = open_sockets(child), open_files(child)
        # The first look is after a load like the later ones: what is held for each invocation
        # in flight, a file for its output, is there by then.
        while done < WARM:
            done += wrk.run(serving.port, request, connections=CONNECTIONS, seconds=1).requests
        while True:
            # Between two runs of wrk, when all its connections are closed.
            _until_closed(child, idle)
            memory.append(rss_kib(child) / 1024)
            files.append(float(open_files(child)))
            times.append(float(done))
            if done >= WARM + wanted:
                break
            done += wrk.run(serving.port, request, connections=CONNECTIONS, seconds=3).requests
    looks = {"first": 0, "halfway": len(times) // 2, "last": -1}
    size = Figure("resident memory", "MiB", {name: [memory[at]] for name, at in looks.items()})
    held = Figure("open files", "", {name: [files[at]] for name, at in looks.items()})
    return Result(
        topic="endurance",
        title=f"{times[-1]:,.0f} invocations in one keeper process",
        figures=(size, held),
        targets=(
            Target("memory, last / first", size.ratio("last"), "<=", 1.02),
            Target(
                "open files beyond one for each invocation that was ever in flight at once",
                max(files) - begun_with - CONNECTIONS,
                "<=",
                0,
            ),
        ),
        notes=(f"Looked at after {times[0]:,.0f} and after {times[-1]:,.0f} invocations.",),
    )


def _few(port: int, count: int) -> int:
    connection = http.client.HTTPConnection(HOST, port, timeout=60)
    for _ in range(count):
        connection.request("POST", contestants.PATH, BODY)
        answer = connection.getresponse().read()
        if not sorted_right(answer):
            raise WrongAnswerError(f"the keeper answered {answer[:300]!r}")
    connection.close()
    return count


def _until_closed(child: int, idle: int) -> None:
    """Wait until the keeper has no connection left from a run."""
    deadline = time.monotonic() + CLOSED_S
    while open_sockets(child) > idle and time.monotonic() < deadline:
        time.sleep(0.05)
