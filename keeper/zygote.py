"""The zygote: a process that forks children when it is told to, buries them, and does nothing else.

A page that either side of a fork writes to is not shared any more. So what
forks the children should stand still: if it was the process that also hears
control calls and watches children, each child had 0.4 MiB more of its own. The
zygote hears two words from the supervisor and nobody else, has one thread, and
runs no user code and no WASI. (Chrome's zygote is split from the browser alike.)

Before the first fork it practises (see `rehearsal`): Python fills its caches in
pages that children then share.

Packets to it: `F` and the new child's index, with the child's end of its
channel as a descriptor; `W` the same, for a child that has time to rehearse;
`B` and the pid of a child that has ended. The answer is a number: the pid, or
how it ended; a negative one is an error number.
"""

import contextlib
import gc
import os
import signal
import socket
import sys
from collections.abc import Callable
from typing import Final, NoReturn

from keeper import child as child_process
from keeper import confine
from keeper.budget import Budget
from keeper.function import Host
from keeper.rehearsal import practise
from keeper.scoreboard import Scoreboards

_FORK: Final = b"F"
_FORK_WARM: Final = b"W"
_BURY: Final = b"B"
_MAX_PACKET: Final = 64
_ANSWER_S: Final = 30.0
"""How long the supervisor waits for an answer: a fork takes a millisecond, and longer on a machine
with too much to do."""

Task = Callable[[child_process.Inherited, bool], NoReturn]
"""The life of a child; the second argument tells whether it has time to rehearse."""


class ZygoteError(Exception):
    """The zygote has ended, and all children with it."""


class Zygote:
    """The supervisor's side of it."""

    def __init__(self, pid: int, channel: socket.socket) -> None:
        self.pid = pid
        channel.settimeout(_ANSWER_S)
        self.channel = channel
        """Can be read without having been asked something when the zygote has ended."""

    def fork(self, channel: socket.socket, index: int, *, warm: bool) -> int:
        """Return the pid of a new child.

        Raises:
            OSError: the system has no room for it.
            ZygoteError: there is no zygote any more.
        """
        word = _FORK_WARM if warm else _FORK
        with contextlib.suppress(ConnectionError):
            socket.send_fds(self.channel, [b"%b%d" % (word, index)], [channel.fileno()])
        return self._answer()

    def bury(self, pid: int) -> int:
        """Return how a child that has ended did so, as `os.wait` does.

        Raises:
            ZygoteError: there is no zygote any more.
        """
        with contextlib.suppress(ConnectionError):
            self.channel.send(b"%b%d" % (_BURY, pid))
        return self._answer()

    def _answer(self) -> int:
        try:
            packet = self.channel.recv(_MAX_PACKET)
        except ConnectionError:
            packet = b""
        except TimeoutError:
            raise ZygoteError(f"the zygote has not answered for {_ANSWER_S:g} s") from None
        if not packet:
            raise ZygoteError("the zygote has ended, and all function processes with it")
        if (answer := int(packet)) < 0:
            raise OSError(-answer, os.strerror(-answer))
        return answer


def start(
    task: Task,
    host: Host,
    engine_hash: str,
    scoreboards: Scoreboards,
    budget: Budget,
    keep: frozenset[int] = frozenset(),
) -> Zygote:
    """Fork the zygote off this process, which must have one thread. They end together.

    `keep`: descriptors that children inherit; all others are closed.
    """
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    filter_program = confine.compile_filter()
    parent = os.getpid()
    if (pid := os.fork()) == 0:
        try:
            _become(parent, keep | {theirs.fileno()})
            _live(
                theirs,
                scoreboards,
                task,
                lambda channel, index: child_process.Inherited(
                    channel=channel,
                    scoreboard=scoreboards.at(index),
                    budget=budget,
                    budget_index=index,
                    host=host,
                    filter_program=filter_program,
                    statm=confine.open_statm(),
                    engine_hash=engine_hash,
                ),
                host,
            )
        finally:
            os._exit(1)
    theirs.close()
    return Zygote(pid, ours)


def _become(parent: int, keep: frozenset[int]) -> None:
    """Turn a fork into a process of its own: signals, descriptors, end with the supervisor."""
    confine.die_with_parent(parent)
    # The supervisor decides how all others end; a Ctrl-C reaches all of them.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    # The log is the supervisor's. What stands at 1 and 2 will be a call's output (see `slot`).
    sys.stdout = sys.stderr = None
    null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    for standard in (0, 1, 2):
        os.dup2(null, standard)
    for name in os.listdir("/proc/self/fd"):  # noqa: PTH208 -- names are enough
        if int(name) not in keep | {0, 1, 2}:
            with contextlib.suppress(OSError):
                os.close(int(name))


def _live(
    channel: socket.socket,
    scoreboards: Scoreboards,
    task: Task,
    inherit: Callable[[socket.socket, int], child_process.Inherited],
    host: Host,
) -> NoReturn:
    scoreboards.keep_from_forks()
    practise(host)
    gc.freeze()  # or each child's first collection would copy every page
    zygote = os.getpid()
    while True:
        packet, descriptors, _, _ = socket.recv_fds(channel, _MAX_PACKET, 1)
        if not packet:
            os._exit(0)
        word, number = packet[:1], int(packet[1:])
        if word == _BURY:
            _, answer = os.waitpid(number, 0)
        else:
            (descriptor,) = descriptors
            scoreboards.give_to_forks(number)
            try:
                answer = os.fork()
            except OSError as error:
                answer = -(error.errno or 1)
            if answer == 0:
                channel.close()
                own = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET, fileno=descriptor)
                try:
                    confine.die_with_parent(zygote)
                    gc.enable()
                    task(inherit(own, number), word == _FORK_WARM)
                except BaseException as error:  # noqa: BLE001 -- nothing may return into the zygote's frames
                    child_process.last_words(own, error)
                os._exit(1)
            scoreboards.keep_from_forks(number)
            os.close(descriptor)
        channel.send(b"%d" % answer)
