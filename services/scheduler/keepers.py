"""Talk to keepers: signed calls, and the watch stream, over their control port.

Each call is one HTTP/1.1 exchange on a connection of its own, because a keeper
hands the connection of a load call to the process it forks for it. Everything is
bounded: time, size of an answer, length of a line. What a keeper refuses is a
`ControlError` with its problem; what does not come to an answer is a
`UnreachableError`.
"""

import asyncio
import contextlib
import hashlib
import itertools
from collections import defaultdict
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final, TypeVar

import httptools
import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from schemas.control import (
    KeeperProblem,
    LoadReply,
    LoadRequest,
    Problem,
    UnloadReply,
    UnloadRequest,
    WatchLine,
    encode_load,
)
from schemas.pods import PodFact
from schemas.signing import SIGNATURE_HEADER, SIGNED_HEADER, Claims, control_text
from schemas.unreadable import UNREADABLE

LOAD_S: Final = 10.0
UNLOAD_S: Final = 5.0
SILENCE_S: Final = 3.0
"""A watch stream ticks each second; after this much silence it is given up."""

_CONNECT_S: Final = 1.0
_MAX_ANSWER: Final = 64 * 1024
_MAX_LINE: Final = 4 * 1024 * 1024
_READ: Final = 64 * 1024
_OK: Final = 200
_RAW_KEY: Final = 32

R = TypeVar("R")


class ControlError(Exception):
    """A keeper refused a call."""

    def __init__(self, problem: KeeperProblem, message: str) -> None:
        self.problem = problem
        super().__init__(message)


class UnreachableError(Exception):
    """A keeper did not answer. Whether it did what was asked is not known."""


class KeeperClient:
    """Calls keepers in the name of one leader's term."""

    def __init__(self, key: Ed25519PrivateKey, term: int) -> None:
        self._key = key
        self._term = term
        # One row of numbers for each keeper process: its window is of limited width.
        self._counters: defaultdict[tuple[str, str], itertools.count[int]] = defaultdict(
            itertools.count
        )

    async def load(
        self, keeper: PodFact, request: LoadRequest, artifact: bytes = b"", *, within_s: float
    ) -> LoadReply:
        """Have a process of a function loaded. Without `artifact` the keeper uses its cache.

        Raises:
            ControlError, UnreachableError: see the module.
        """
        body = encode_load(request, artifact)
        # A hash of tens of MiB would hold up the loop.
        digest = await asyncio.to_thread(_sha256, body) if len(body) > 1 << 20 else _sha256(body)
        within_s = min(within_s, LOAD_S)
        return await self._call(keeper, "POST", "/load", body, digest, LoadReply, within_s)

    async def unload(self, keeper: PodFact, request: UnloadRequest) -> UnloadReply:
        """End an instance, or ask whether it is idle. Errors are those of `load`."""
        body = msgspec.json.encode(request)
        return await self._call(
            keeper, "POST", "/unload", body, _sha256(body), UnloadReply, UNLOAD_S
        )

    async def watch(self, keeper: PodFact) -> AsyncIterator[WatchLine]:
        """Yield the lines of a keeper's watch stream, a snapshot first.

        Ends when the keeper ends the stream. Errors are those of `load`.
        """
        decode = msgspec.json.Decoder(WatchLine).decode
        head = self._head(keeper, "GET", "/watch", 0, _sha256(b""))
        rest = b""
        async with _exchange(keeper, head, b"") as answer:
            while chunk := await answer.read(SILENCE_S):
                if answer.status != _OK:
                    raise _refusal(answer.status, chunk)
                *lines, rest = (rest + chunk).split(b"\n")
                if len(rest) > _MAX_LINE:
                    raise UnreachableError(f"the keeper {keeper.uid} sends lines without end")
                for line in lines:
                    try:
                        yield decode(line)
                    except UNREADABLE as error:
                        raise UnreachableError(
                            f"the keeper {keeper.uid} sends what is no watch line: {error}"
                        ) from error

    async def _call(
        self,
        keeper: PodFact,
        method: str,
        path: str,
        body: bytes,
        digest: str,
        reply: type[R],
        within_s: float,
    ) -> R:
        head = self._head(keeper, method, path, len(body), digest)
        content = b""
        try:
            async with asyncio.timeout(within_s), _exchange(keeper, head, body) as answer:
                while chunk := await answer.read(within_s):
                    content += chunk
                    if len(content) > _MAX_ANSWER:
                        raise UnreachableError(f"the keeper {keeper.uid} answers without end")
        except TimeoutError:
            raise UnreachableError(
                f"the keeper {keeper.uid} did not answer {path} within {within_s:g} s"
            ) from None
        try:
            # A busy instance answers 409 with its reply, and a keeper 409 with a problem.
            return msgspec.json.decode(content, type=reply)
        except UNREADABLE:
            raise _refusal(answer.status, content) from None

    def _head(self, keeper: PodFact, method: str, path: str, length: int, digest: str) -> bytes:
        claims = Claims(
            keeper=keeper.uid,
            boot=keeper.boot,
            term=self._term,
            counter=next(self._counters[keeper.uid, keeper.boot]),
            body_sha256=digest,
        )
        signature = self._key.sign(control_text(method, path, claims)).hex()
        return (
            f"{method} {path} HTTP/1.1\r\nhost: {keeper.ip}:{keeper.port}\r\n"
            f"content-length: {length}\r\n"
            f"{SIGNED_HEADER}: {msgspec.json.encode(claims).decode()}\r\n"
            f"{SIGNATURE_HEADER}: {signature}\r\n\r\n"
        ).encode("latin-1")


class _Answer:
    """An answer that is being read."""

    def __init__(self, keeper: PodFact, reader: asyncio.StreamReader) -> None:
        self.status = 0
        self._keeper = keeper
        self._reader = reader
        self._parser = httptools.HttpResponseParser(self)
        self._body = b""
        self._complete = False

    def on_headers_complete(self) -> None:
        self.status = self._parser.get_status_code()

    def on_body(self, body: bytes) -> None:
        self._body += body

    def on_message_complete(self) -> None:
        self._complete = True

    async def read(self, within_s: float) -> bytes:
        """Return the next part of the body; nothing at its end."""
        while not self._body and not self._complete:
            try:
                async with asyncio.timeout(within_s):
                    data = await self._reader.read(_READ)
                if not data and not self.status:
                    raise UnreachableError(f"the keeper {self._keeper.uid} ended the connection")
                if not data:
                    break
                self._parser.feed_data(data)
            except (OSError, httptools.HttpParserError) as error:
                if isinstance(error, TimeoutError):
                    raise UnreachableError(
                        f"the keeper {self._keeper.uid} has said nothing for {within_s:g} s"
                    ) from None
                raise UnreachableError(
                    f"the answer of the keeper {self._keeper.uid} broke off: {error}"
                ) from error
        body, self._body = self._body, b""
        return body


@contextlib.asynccontextmanager
async def _exchange(keeper: PodFact, head: bytes, body: bytes) -> AsyncIterator[_Answer]:
    try:
        async with asyncio.timeout(_CONNECT_S):
            reader, writer = await asyncio.open_connection(keeper.ip, keeper.port)
    except OSError as error:
        raise UnreachableError(
            f"the keeper {keeper.uid} cannot be reached at {keeper.ip}:{keeper.port}"
        ) from error
    try:
        # A keeper that refuses by the head answers and closes before it has read the body.
        writer.write(head)
        writer.write(body)
        yield _Answer(keeper, reader)
    finally:
        writer.transport.abort()


def _refusal(status: int, body: bytes) -> Exception:
    try:
        problem = msgspec.json.decode(body, type=Problem)
    except UNREADABLE:
        return UnreachableError(f"the keeper answered {status} without saying why")
    return ControlError(problem.problem, problem.message)


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def read_control_key(file: Path) -> Ed25519PrivateKey:
    """Return the private key that control calls are signed with: PEM, hexadecimal or 32 raw bytes.

    Raises:
        ValueError: the file cannot be read or holds no such key. The message holds nothing of it.
    """
    try:
        data = file.read_bytes()
    except OSError as error:
        raise ValueError(f"cannot read {file}: {error.strerror}") from None
    try:
        if data.startswith(b"-----"):
            key = load_pem_private_key(data, None)
            if isinstance(key, Ed25519PrivateKey):
                return key
        raw = data if len(data) == _RAW_KEY else bytes.fromhex(data.decode("ascii").strip())
        return Ed25519PrivateKey.from_private_bytes(raw)
    except (ValueError, TypeError):
        raise ValueError(f"{file} holds no Ed25519 private key") from None
