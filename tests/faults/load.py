"""A constant rate of calls, each begun on time whatever became of the others, each one checked.

Open loop: a platform that stalls is met by as many calls as one that does not,
so a stall is counted in full. A call that fails is not repeated: what a client
library would hide is what is counted here.
"""

import asyncio
import contextlib
import json
import random
from collections.abc import AsyncIterator, Coroutine

import msgspec

CALL_S = 40.0
"""Longer than a router parks a call: its own answer is what is wanted."""
ASYNC_EVERY = 10
"""How many calls are waited for, for one that is not."""


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
        status, _, answer = await self.request("POST", path, body)
        return status, answer

    async def request(
        self, method: str, path: str, body: bytes = b"", **headers: str
    ) -> tuple[int, dict[bytes, bytes], bytes]:
        """Return status, headers and body of the answer; errors are those of `call`."""
        lines = [f"{method} {path} HTTP/1.1", "host: f", "content-type: application/json"]
        lines += [f"content-length: {len(body)}"]
        lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
        reader, writer = await self._connection()
        try:
            writer.write("\r\n".join([*lines, "", ""]).encode() + body)
            status, headers = _head(await reader.readuntil(b"\r\n\r\n"))
            answer = await reader.readexactly(int(headers[b"content-length"]))
        except BaseException:
            writer.transport.abort()
            raise
        if headers.get(b"connection", b"").lower() == b"close" or reader.at_eof():
            writer.close()
        else:
            self._idle.append((reader, writer))
        return status, headers, answer

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
    return int(lines[0].split()[1]), {n.lower(): v.strip() for n, _, v in headers}


class Accepted(msgspec.Struct, frozen=True):
    """An invocation that was accepted: in the end it has to be done, or a dead letter."""

    location: str
    expected: str


class Load:
    """Calls of one function through the routers in turn; some that nobody waits for."""

    def __init__(self, routers: list[Router], function: str, per_s: float) -> None:
        self.routers = routers
        """Whom clients are sent to. Take one out as a load balancer would, before it is stopped."""
        self.calls: list[Call] = []
        self.accepted: list[Accepted] = []
        self.refused: list[Call] = []
        """Invocations that were not accepted, or nobody knows. They were told so."""
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

    def figures(self) -> str:
        """Say in one line what became of the calls, for the record."""
        times = sorted(call.ms for call in self.calls if not call.failed)
        quantile = {q: times[int(q * (len(times) - 1))] for q in (0.5, 0.99, 1.0)} if times else {}
        shown = ", ".join(f"p{q * 100:g} {ms:.0f} ms" for q, ms in quantile.items())
        return (
            f"{len(self.calls)} calls, {len(self.failed())} failed, {shown};"
            f" {len(self.accepted)} accepted, {len(self.refused)} refused"
        )

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        due = loop.time()
        turn = 0
        while True:
            await asyncio.sleep(due - loop.time())
            turn += 1
            if self.routers:
                router = self.routers[turn % len(self.routers)]
                self._begin(self._call(router, due))
                if turn % ASYNC_EVERY == 0:
                    self._begin(self._send(router, due))
            due += self._pause_s

    def _begin(self, call: Coroutine[None, None, None]) -> None:
        task = asyncio.get_running_loop().create_task(call)
        self._pending.add(task)
        task.add_done_callback(self._pending.discard)

    def _question(self) -> tuple[bytes, str]:
        """Return a body, and the line that is the right answer."""
        numbers = [self._random.randrange(10_000) for _ in range(8)]
        body = json.dumps({"args": [str(n) for n in numbers]}).encode()
        return body, " ".join(str(n) for n in sorted(numbers))

    async def _send(self, router: Router, due: float) -> None:
        """Have a call accepted that nobody waits for."""
        body, expected = self._question()
        status, wrong = 0, ""
        try:
            async with asyncio.timeout(CALL_S):
                status, headers, answer = await router.request(
                    "POST", self._path, body, prefer="respond-async"
                )
            if status == 202:
                self.accepted.append(Accepted(headers[b"location"].decode(), expected))
                return
            wrong = answer.decode(errors="replace")
        except (OSError, EOFError, ValueError, TimeoutError) as error:
            wrong = repr(error)
        now = asyncio.get_running_loop().time()
        self.refused.append(Call(router.name, due, (now - due) * 1000, status, wrong))

    async def _call(self, router: Router, due: float) -> None:
        body, expected = self._question()
        status, wrong = 0, ""
        try:
            async with asyncio.timeout(CALL_S):
                status, answer = await router.call(self._path, body)
            if status == 200:
                if json.loads(answer)["output"] != [expected]:
                    wrong = f"{answer!r} is not {expected}"
            else:
                wrong = answer.decode(errors="replace")
        except (OSError, EOFError, ValueError, TimeoutError) as error:
            wrong = repr(error)
        now = asyncio.get_running_loop().time()
        self.calls.append(Call(router.name, due, (now - due) * 1000, status, wrong))
        async with self._changed:
            self._changed.notify_all()
