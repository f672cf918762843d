"""The idle connections to instances, and new ones.

Each serves one request at a time. The last used is taken first, so that those
which are not needed grow old and are closed before their instance does it.
"""

# ruff: noqa: N818 - the name says what happened; a suffix would add nothing

import asyncio

from schemas.endpoints import Endpoint
from services.router.answer import AnswerHead
from services.router.heads import Heads
from services.router.retry import Failure
from services.router.upstream import Connection


class ConnectFailed(Exception):
    """No connection to an instance; nothing was sent."""

    def __init__(self, failure: Failure, reason: str) -> None:
        self.failure = failure
        super().__init__(reason)


class Pool:
    """The idle connections to every instance, the last used first."""

    def __init__(self, connect_s: float, idle_s: float) -> None:
        self.loop = asyncio.get_running_loop()
        self.heads: Heads[AnswerHead] = Heads()
        """Those of answers that announced their length and came in one piece."""
        self._connect_s = connect_s
        self._idle_s = idle_s
        self._idle: dict[str, list[Connection]] = {}
        self._round = 0
        """Sweeps there were: a connection's age, without looking at the clock for each request."""
        self._sweeper: asyncio.TimerHandle | None = None

    def take(self, endpoint: Endpoint) -> Connection | None:
        """Return an idle connection to the instance, if there is one."""
        idle = self._idle.get(endpoint.instance)
        while idle:
            connection = idle.pop()
            transport = connection.transport
            if transport is not None and not transport.is_closing():
                return connection
        return None

    async def connect(self, endpoint: Endpoint) -> Connection:
        """Return a new connection to the instance.

        Raises:
            ConnectFailed: there is none to be had; nothing was sent.
        """
        try:
            async with asyncio.timeout(self._connect_s):
                transport, connection = await self.loop.create_connection(
                    lambda: Connection(self, endpoint), endpoint.ip, endpoint.port
                )
        except TimeoutError:
            raise ConnectFailed("unreachable", f"no connection in {self._connect_s} s") from None
        except OSError as error:
            raise ConnectFailed("refused", error.strerror or str(error)) from None
        if transport.get_extra_info("sockname") == transport.get_extra_info("peername"):
            # A port of the ephemeral range with no listener can be connected to itself.
            connection.close()
            raise ConnectFailed("refused", "nothing listens there")
        return connection

    def put(self, connection: Connection) -> None:
        """Keep a connection for the next request to its instance."""
        connection.idle_since = self._round
        instance = connection.endpoint.instance
        idle = self._idle.get(instance)
        if idle is None:
            idle = self._idle[instance] = []
        idle.append(connection)
        if self._sweeper is None:
            self._sweeper = self.loop.call_later(self._idle_s / 2, self._sweep)

    def forget(self, connection: Connection) -> None:
        """Take a connection out that is closed."""
        idle = self._idle.get(connection.endpoint.instance)
        if idle and connection in idle:
            idle.remove(connection)
            if not idle:
                del self._idle[connection.endpoint.instance]

    def drop(self, instance: str) -> None:
        """Close the idle connections to an instance that is gone."""
        for connection in self._idle.pop(instance, ()):
            connection.close()

    def close(self) -> None:
        """Close every idle connection."""
        if self._sweeper is not None:
            self._sweeper.cancel()
        for instance in tuple(self._idle):
            self.drop(instance)

    def idle(self) -> int:
        """Return how many connections are idle."""
        return sum(len(connections) for connections in self._idle.values())

    def _sweep(self) -> None:
        """Close what has been idle too long, before the instance does and a request is lost."""
        self._sweeper = None
        self._round += 1
        for instance, connections in tuple(self._idle.items()):
            # Used from the end, so the longest idle stand first.
            while connections and connections[0].idle_since <= self._round - 3:
                connections.pop(0).close()
            if not connections:
                del self._idle[instance]
        if self._idle:
            self._sweeper = self.loop.call_later(self._idle_s / 2, self._sweep)
