"""What is gone through before it matters: a request of nobody, answered over a socket pair.

Twice, and each time for what the one before it leaves to the next:

- The zygote *practises* with a module that calls nothing and has no WASI, so
  that no thread starts and nothing random is drawn. Python writes where it
  runs: the caches in its instructions, of attributes and of types. Once that is
  done, children write to 0.2 MiB less.
- A child that has time *rehearses* with a module that writes. Most of a child's
  start is the kernel copying pages as they are first touched, and the first run
  of WASI starts a thread of tokio's.
"""

import contextlib
import os
import socket
from typing import Final

from keeper.answer import Program
from keeper.budget import Budget
from keeper.engine import precompile
from keeper.function import Function, Host
from keeper.loop import Loop
from keeper.runner import Runner
from keeper.sandbox import IDLE_SANDBOX
from keeper.scoreboard import Scoreboards
from keeper.server import Connection
from keeper.service import Service, Serving
from keeper.slot import Slot
from keeper.ticker import Still

ROUNDS: Final = 8
"""After as many calls Python 3.11 has fitted a function's instructions to what they do."""
_EMPTY_COMMAND: Final = bytes.fromhex(
    "0061736d01000000 010401600000 03020100 070a01065f73746172740000 0a040102000b"
)
"""`(module (func (export "_start")))`"""
_TOKEN: Final = b"rehearsal"
_BODY: Final = b'{"args": ["1"]}'
_REQUEST: Final = (
    b"POST / HTTP/1.1\r\nhost: localhost\r\nx-wasmfn-instance: %b\r\ncontent-length: %d\r\n\r\n%b"
    % (_TOKEN, len(_BODY), _BODY)
)


def practise(host: Host) -> None:
    """Answer requests without WASI and in one thread; stdout and stderr are as before then."""
    function = Function(host, precompile(host.engine, _EMPTY_COMMAND), IDLE_SANDBOX, {}, 0)
    function.ticker = Still(host.engine)
    function.has_wasi = False
    standard = os.dup(1), os.dup(2)
    for _ in range(ROUNDS):
        loop = Loop()
        _answer_one(function, loop)
        loop.close()
    function.close()
    for number, descriptor in enumerate(standard, 1):
        os.dup2(descriptor, number)
        os.close(descriptor)
    Slot.installed = None


def rehearse(host: Host, loop: Loop) -> None:
    """Answer one request as a function's process does."""
    _answer_one(host.flusher, loop)


def _answer_one(function: Function, loop: Loop) -> None:
    scoreboard = Scoreboards(1).at(0)
    share = Budget(0, 1).share(0, 1)
    service = Service(
        Serving(Program("args", [b"rehearsal"], {}), _TOKEN, 1, len(_BODY)),
        Runner(function, scoreboard, share, loop, lambda: None),
        scoreboard,
        share,
        loop,
        lambda *_: None,
    )
    ours, theirs = socket.socketpair()
    connection = Connection(service)
    loop.adopt(theirs, connection)
    with ours:
        ours.sendall(_REQUEST)
        ours.settimeout(0)
        answer = b""
        while not answer:
            loop.turn()
            with contextlib.suppress(BlockingIOError):
                answer = ours.recv(4096)
    while connection in service.connections:
        loop.turn()
