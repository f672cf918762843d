"""What a child does while it waits for its load call: serve one request of nobody.

Most of a child's start is the kernel copying pages as they are first touched,
and the first run of WASI starts a thread of tokio's. A child that has time goes
through all that before: it answers a request over a socket pair with the host's
own function.
"""

import contextlib
import gc
import socket
from typing import Final

from keeper.answer import Program
from keeper.budget import Budget
from keeper.engine import Host
from keeper.loop import Loop
from keeper.runner import Runner
from keeper.scoreboard import Scoreboard
from keeper.server import Connection
from keeper.service import Service, Serving

_TOKEN: Final = b"rehearsal"
_BODY: Final = b'{"args": ["1"]}'
_REQUEST: Final = (
    b"POST / HTTP/1.1\r\nhost: localhost\r\nx-wasmfn-instance: %b\r\ncontent-length: %d\r\n\r\n%b"
    % (_TOKEN, len(_BODY), _BODY)
)


def rehearse(host: Host, loop: Loop) -> None:
    """Answer one request."""
    scoreboard = Scoreboard()
    share = Budget(0, 1).share(0, 1)
    service = Service(
        Serving(Program("args", [b"rehearsal"], {}), _TOKEN, 1, len(_BODY)),
        Runner(host.flusher, scoreboard, share, loop, lambda: None),
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
    scoreboard.close()
    gc.collect()
