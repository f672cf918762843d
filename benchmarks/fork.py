"""What a cold start cannot go below: a process that has a keeper's code in memory forks.

python -P benchmarks/fork.py COUNT      milliseconds to the child's first byte, a line each
"""

import os
import sys
import time

from keeper.function import Host


def fork_ms() -> float:
    """Fork once; return milliseconds until the child has said something."""
    ours, theirs = os.pipe()
    begin = time.perf_counter()
    pid = os.fork()
    if pid == 0:
        os.write(theirs, b"x")
        os._exit(0)
    os.read(ours, 1)
    took = (time.perf_counter() - begin) * 1e3
    os.waitpid(pid, 0)
    os.close(ours)
    os.close(theirs)
    return took


if __name__ == "__main__":
    host = Host()
    for _ in range(int(sys.argv[1])):
        print(fork_ms())
