"""A zygote that is asked for children as the supervisor asks, and one whose keeper is looked at."""

import contextlib
import os
import select
import signal
import socket
from collections.abc import Callable, Iterator

import pytest

from keeper.budget import Budget
from keeper.child import Inherited
from keeper.engine import engine_hash
from keeper.function import Host
from keeper.scoreboard import Scoreboards
from keeper.zygote import Zygote, ZygoteError, start
from tests.keeper.conftest import Keeper

CHILDREN = 3


@pytest.fixture
def scoreboards() -> Scoreboards:
    return Scoreboards(CHILDREN)


@pytest.fixture
def zygote(scoreboards: Scoreboards) -> Iterator[Zygote]:
    def live(inherited: Inherited, warm: bool) -> None:
        inherited.scoreboard.began()
        inherited.channel.send(b"%d %d %d" % (os.getpid(), inherited.budget_index, warm))
        word = inherited.channel.recv(64)
        if word == b"raise":
            raise OSError(5, "a secret")
        if word == b"descriptors":
            inherited.channel.send(" ".join(sorted(os.listdir("/proc/self/fd"))).encode())  # noqa: PTH208 -- names are enough
        os._exit(int(word) if word.isdigit() else 0)

    host = Host()
    with open(os.devnull, "rb") as unrelated:  # noqa: PTH123 -- a descriptor to be closed
        zygote = start(live, host, engine_hash(host.engine), scoreboards, Budget(0, CHILDREN))
        assert not unrelated.closed
    yield zygote
    zygote.channel.close()
    with contextlib.suppress(ChildProcessError):
        os.waitpid(zygote.pid, 0)


def fork(zygote: Zygote, index: int, *, warm: bool = False) -> tuple[int, socket.socket]:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs:
        try:
            return zygote.fork(theirs, index, warm=warm), ours
        except BaseException:
            ours.close()
            raise


def ended(pid: int) -> None:
    """Wait until `pid`, which is no child of this process, has ended."""
    pidfd = os.pidfd_open(pid)
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    assert poll.poll(30_000)
    os.close(pidfd)


def test_a_child_has_its_own_channel_page_and_index(
    zygote: Zygote, scoreboards: Scoreboards
) -> None:
    first, one = fork(zygote, 0)
    second, two = fork(zygote, 2, warm=True)
    assert one.recv(64) == b"%d 0 0" % first
    assert two.recv(64) == b"%d 2 1" % second
    assert [scoreboards.at(index).in_flight for index in range(CHILDREN)] == [1, 0, 1]
    one.send(b"7")
    ended(first)
    assert os.waitstatus_to_exitcode(zygote.bury(first)) == 7
    os.kill(second, signal.SIGKILL)
    ended(second)
    assert os.waitstatus_to_exitcode(zygote.bury(second)) == -signal.SIGKILL
    one.close()
    two.close()


def test_a_child_begins_with_no_descriptor_of_anyone_else(zygote: Zygote) -> None:
    pid, channel = fork(zygote, 0)
    assert channel.recv(64).startswith(b"%d " % pid)
    channel.send(b"descriptors")
    # The standard three, which are no file; the channel; its own statm; the list itself.
    assert len(channel.recv(64).split()) == 6
    ended(pid)
    zygote.bury(pid)
    channel.close()


def test_what_goes_wrong_in_a_child_is_told_without_values(zygote: Zygote) -> None:
    pid, channel = fork(zygote, 0)
    channel.recv(64)
    channel.send(b"raise")
    words = channel.recv(4096)
    assert b"OSError (errno 5) at test_zygote.py" in words
    assert b"secret" not in words
    ended(pid)
    assert os.waitstatus_to_exitcode(zygote.bury(pid)) == 1
    # It forks on.
    pid, other = fork(zygote, 1)
    other.send(b"0")
    ended(pid)
    assert zygote.bury(pid) == 0
    channel.close()
    other.close()


def test_who_asks_a_zygote_that_has_ended_is_told(zygote: Zygote) -> None:
    pid, channel = fork(zygote, 0)
    os.kill(zygote.pid, signal.SIGKILL)
    os.waitpid(zygote.pid, 0)
    ended(pid)  # with its zygote
    with pytest.raises(ZygoteError, match="has ended"):
        fork(zygote, 1)
    with pytest.raises(ZygoteError, match="has ended"):
        zygote.bury(pid)
    channel.close()


def test_a_keeper_ends_when_its_zygote_has(start_keeper: Callable[..., Keeper]) -> None:
    keeper = start_keeper()
    loaded = keeper.load("hello")
    os.kill(keeper.zygote, signal.SIGKILL)
    assert keeper.process.wait(60) == 1
    assert "the zygote has ended" in keeper.log_file.read_text()
    with contextlib.suppress(ProcessLookupError):  # it has ended already
        ended(loaded.reply.pid)


def test_a_zygote_has_one_thread(start_keeper: Callable[..., Keeper]) -> None:
    keeper = start_keeper()
    keeper.load("hello").run()
    assert os.listdir(f"/proc/{keeper.zygote}/task") == [str(keeper.zygote)]  # noqa: PTH208 -- names are enough
