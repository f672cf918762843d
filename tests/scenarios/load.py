"""Constant load on a function, with every answer kept: what fails under it is seen."""

import asyncio
from types import TracebackType
from typing import Self

import httpx

from tests.scenarios.platforms.protocol import Platform
from tests.scenarios.story import DEADLINE_S


class Load:
    """So many clients, each of which asks again as soon as it is answered, while inside."""

    def __init__(self, platform: Platform, path: str, clients: int, **body: object) -> None:
        self.answers: list[httpx.Response] = []
        self._url = platform.http + path
        self._clients = clients
        self._body = body
        self._answered = asyncio.Condition()
        self._over = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Self:
        self._tasks = [asyncio.create_task(self._ask()) for _ in range(self._clients)]
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._over.set()
        await asyncio.gather(*self._tasks)

    async def more(self, answers: int) -> None:
        """Return when so many more have been answered."""
        enough = len(self.answers) + answers
        async with asyncio.timeout(DEADLINE_S), self._answered:
            await self._answered.wait_for(lambda: len(self.answers) >= enough)

    @property
    def statuses(self) -> set[int]:
        return {answer.status_code for answer in self.answers}

    @property
    def failed(self) -> list[tuple[int, str]]:
        """Status and text of each answer that is not 200."""
        return [(one.status_code, one.text) for one in self.answers if one.status_code != 200]

    async def _ask(self) -> None:
        async with httpx.AsyncClient(timeout=90) as http:
            while not self._over.is_set():
                answer = await http.post(self._url, json=self._body)
                async with self._answered:
                    self.answers.append(answer)
                    self._answered.notify_all()
