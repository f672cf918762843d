"""A constant rate of calls, each begun on time whatever became of the others, each one checked.

Open loop: a platform that stalls is met by as many calls as one that does not,
so a stall is counted in full. A call that fails is not repeated: what a client
library would hide is what is counted here.
"""

import asyncio
import contextlib
import json
import random
from collections.abc import AsyncIterator

import msgspec

CALL_S = 40.0
"""Longer than a router parks a call: its own answer is what is wanted."""


class Call(msgspec.Struct, frozen=True):
    """What became of one call."""

    router: str
    at: float
    """When it was due, by the loop's clock."""
    ms: float
    status: int
    """0 if there was no answer."""
    wrong: str = ""
    """What is wrong with the answer; empty if it is the right one."""

    @property
    def failed(self) -> bool:
        return self.status != 200 or self.wrong != ""


class Router:
    """Connections to one router, kept and used again as a client library does."""

    def __init__(self, name: str, host: str, port: int) -> None:
        self.name = name
        self._address = (host, port)
        self._idle: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []

    async def call(self, path: str, body: bytes) -> tuple[int, bytes]:
        """Return status and body of the answer. OSError, EOFError, ValueError without one."""
        reader, writer = await self._connection()
        try:
            head = (
                f"POST {path} HTTP/1.1\r\nhost: f\r\ncontent-type: application/json\r\n"
                f"content-length: {len(body)}\r\n\r\n"
            )
            writer.write(head.encode() + body)
            status, headers = _head(await reader.readuntil(b"\r\n\r\n"))
            answer = await reader.readexactly(int(headers[b"content-length"]))
        except BaseException:
            writer.transport.abort()
            raise
        if headers.get(b"connection") == b"close" or reader.at_eof():
            writer.close()
        else:
            self._idle.append((reader, writer))
        return status, answer

    async def _connection(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        while self._idle:
            reader, writer = self._idle.pop()
            if not reader.at_eof() and not writer.is_closing():
                return reader, writer
            writer.close()
        return await asyncio.open_connection(*self._address)

    def close(self) -> None:
        for _, writer in self._idle:
            writer.transport.abort()
        self._idle.clear()


def _head(raw: bytes) -> tuple[int, dict[bytes, bytes]]:
    lines = raw.split(b"\r\n")
    headers = (line.partition(b":") for line in lines[1:] if line)
    return int(lines[0].split()[1]), {n.lower(): v.strip().lower() for n, _, v in headers}


class Load:
    """Calls of one function through the routers in turn."""

    def __init__(self, routers: list[Router], function: str, per_s: float) -> None:
        self.routers = routers
        """Whom clients are sent to. Take one out as a load balancer would, before it is stopped."""
        self.calls: list[Call] = []
        self._path = f"/{function}"
        self._pause_s = 1.0 / per_s
        self._random = random.Random(1)  # noqa: S311 - numbers to sort
        self._pending: set[asyncio.Task[None]] = set()
        self._changed = asyncio.Condition()

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator["Load"]:
        """Call on and on while inside; wait for the last answers when left."""
        calling = asyncio.create_task(self._run())
        everyone = list(self.routers)
        try:
            yield self
        finally:
            calling.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await calling
            if self._pending:
                await asyncio.wait(self._pending)
            for router in everyone:
                router.close()

    async def answered(self, count: int) -> None:
        """Return once `count` more calls have got their answer."""
        target = len(self.calls) + count
        async with asyncio.timeout(60), self._changed:
            await self._changed.wait_for(lambda: len(self.calls) >= target)

    def failed(self, since: float = 0.0) -> list[Call]:
        """The calls that were due after `since` and did not get the right answer."""
        return [call for call in self.calls if call.failed and call.at >= since]

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        due = loop.time()
        turn = 0
        while True:
            await asyncio.sleep(due - loop.time())
            turn += 1
            if self.routers:
                router = self.routers[turn % len(self.routers)]
                task = loop.create_task(self._call(router, due))
                self._pending.add(task)
                task.add_done_callback(self._pending.discard)
            due += self._pause_s

    async def _call(self, router: Router, due: float) -> None:
        numbers = [self._random.randrange(10_000) for _ in range(8)]
        body = json.dumps({"args": [str(n) for n in numbers]}).encode()
        status, wrong = 0, ""
        try:
            async with asyncio.timeout(CALL_S):
                status, answer = await router.call(self._path, body)
            if status == 200:
                expected = " ".join(str(n) for n in sorted(numbers))
                if json.loads(answer)["output"] != [expected]:
                    wrong = f"{answer!r} for {numbers}"
            else:
                wrong = answer.decode(errors="replace")
        except (OSError, EOFError, ValueError, TimeoutError) as error:
            wrong = repr(error)
        now = asyncio.get_running_loop().time()
        self.calls.append(Call(router.name, due, (now - due) * 1000, status, wrong))
        async with self._changed:
            self._changed.notify_all()
