"""A hundred thousand invocations in one keeper: its memory and open files, before and after."""

import http.client
import time

from benchmarks import contestants
from benchmarks.harness import wrk
from benchmarks.harness.processes import HOST, only_child, open_files, rss_kib
from benchmarks.harness.result import Figure, Options, Result, Target, WrongAnswerError
from benchmarks.topics.keeper import BODY, sorted_right

WARM = 1_000
CONNECTIONS = 16


def measure(options: Options) -> Result:
    """Invoke, look, invoke a hundred times as often, look again."""
    wanted = 2 * WARM if options.tiny else 100_000
    request = wrk.Request(contestants.PATH, BODY)
    memory, files, times = [], [], []
    with contestants.keeper() as serving:
        done = _few(serving.port, WARM)
        while True:
            # Between two runs of wrk, when all its connections are closed.
            _until_disconnected(serving.pid)
            child = only_child(serving.pid)
            memory.append(rss_kib(child) / 1024)
            files.append(float(open_files(child)))
            times.append(float(done))
            if done >= WARM + wanted:
                break
            done += wrk.run(serving.port, request, connections=CONNECTIONS, seconds=3).requests
    size = Figure("resident memory", "MiB", {"first": memory[:1], "last": memory[-1:]})
    held = Figure("open files", "", {"first": files[:1], "last": files[-1:]})
    return Result(
        topic="endurance",
        title=f"{times[-1]:,.0f} invocations in one keeper process",
        figures=(size, held),
        targets=(
            Target("memory, last / first", size.ratio("last"), "<=", 1.02),
            Target("open files, last - first", files[-1] - files[0], "<=", 0),
        ),
        notes=(f"Looked at after {times[0]:,.0f} and after {times[-1]:,.0f} invocations.",),
    )


def _few(port: int, count: int) -> int:
    connection = http.client.HTTPConnection(HOST, port, timeout=30)
    for _ in range(count):
        connection.request("POST", contestants.PATH, BODY)
        answer = connection.getresponse().read()
        if not sorted_right(answer):
            raise WrongAnswerError(f"the keeper answered {answer[:300]!r}")
    connection.close()
    return count


def _until_disconnected(root: int) -> None:
    child = only_child(root)
    before = -1
    while (now := open_files(child)) != before:
        before = now
        time.sleep(0.2)
