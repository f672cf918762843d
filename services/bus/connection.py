"""One connection to NATS per process, which heals by itself and says what it lacks.

nats-py reports most trouble only to a callback: a permission that is missing
looks like a timeout to the caller, and a client that gave up looks like one
that is still trying. `Bus` keeps the connection together with that knowledge.
"""

import asyncio
import contextlib
import logging
import random
import re
import ssl
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Annotated, Any, Final, Literal, NoReturn
from urllib.parse import urlsplit

import msgspec
import nats.errors
from nats.aio.client import Client
from nats.js import JetStreamContext

from services.bus.errors import BusRefused, BusUnavailable

log = logging.getLogger(__name__)

_CONNECT_TIMEOUT_S: Final = 2
_PING_INTERVAL_S: Final = 5
"""A server that vanished without a FIN is noticed after two missed pings."""
_RECONNECT_WAIT_S: Final = (0.15, 0.35)
"""Each process draws its own pause, so that they do not all come back at once."""
_DENIED: Final = re.compile(r"permissions violation for \w+ to \"?([^\"\s]+)", re.IGNORECASE)
_MAX_DENIALS: Final = 64
_SEED: Final = re.compile(rb"\bSU[A-Z2-7]{56}\b")
"""Of a user's nkey: 36 bytes in base 32."""
_CREDS: Final = re.compile(
    rb"-BEGIN NATS USER JWT-+\s+\S+\s+-+END.+-BEGIN USER NKEY SEED-+\s+" + _SEED.pattern, re.DOTALL
)


class BusSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where NATS is and how to be let in. Secrets are files, never values."""

    nats_url: str = "nats://127.0.0.1:4222"
    """One or more server addresses, separated by commas."""
    nats_token_file: str = ""
    nats_creds_file: str = ""
    """A user's JWT and the seed of its nkey, as `nsc` writes them."""
    nats_nkey_file: str = ""
    """The seed of a user's nkey, which signs what the server asks: it is never sent."""
    nats_ca_file: str = ""
    """Who signs the server's certificate (PEM); with it, only TLS will do."""
    nats_cert_file: str = ""
    """Our own certificate, for a server that asks for one (PEM)."""
    nats_cert_key_file: str = ""
    """The private key of our certificate."""
    nats_user: str = ""
    nats_password_file: str = ""
    """The password of `nats_user`, read again at each connection."""
    nats_inbox_prefix: str = "_INBOX"
    """Answers come to subjects below it: one of its own lets a user read no other's answers."""
    nats_wait_s: float = 10.0
    """How long to wait at start for a server that is not there yet."""
    nats_streams: Literal["make", "await"] = "make"
    """Make the streams that are missing, or wait until who is permitted to has made them."""
    nats_replicas: Annotated[int, msgspec.Meta(ge=0, le=5)] = 0
    """On how many servers streams are kept; 0 leaves that as found."""


class _Client(Client):
    """nats-py, but where TLS is asked for it is spoken.

    It goes on without, and sends its password, when a server or someone in between says that
    it needs no TLS.
    """

    def _connect_command(self) -> bytes:
        """Return what is sent first of all."""
        if self.options.get("tls") and not self._server_info.get("tls_required"):
            raise nats.errors.Error("nats: the server does not speak TLS, and nats_ca_file asks it")
        command: bytes = super()._connect_command()
        return command


class Bus:
    """A connection to NATS, and what happened to it."""

    def __init__(self, name: str, url: str) -> None:
        self.name = name
        self.url = url
        """Without user and password: fit for logs."""
        self.nc: Client = _Client()
        self.js: JetStreamContext = self.nc.jetstream()
        self.last_error = ""
        self._up = asyncio.Event()
        self._over: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._refused = asyncio.Event()
        self._refusal = ""
        self._denials: dict[str, str] = {}
        self._listeners: set[Callable[[], None]] = set()

    @property
    def connected(self) -> bool:
        """Whether NATS can be talked to right now, as far as this process knows."""
        return self._up.is_set() and self.nc.is_connected

    async def wait_connected(self) -> None:
        """Return once connected. Unbounded: put a timeout around it."""
        await self._up.wait()

    async def watch(self) -> NoReturn:
        """Raise BusRefused if the client ever gives up for good. Supervise this.

        A server that is away, or that refuses us after it knew us, is no reason:
        what is served stays, and the token file is read again at each attempt.
        """
        reason = await asyncio.shield(self._over)
        raise BusRefused(f"the connection of {self.name} to {self.url}", reason)

    def denial(self, subject: str) -> str:
        """Return what NATS said when it denied `subject` lately, or an empty string."""
        return self._denials.get(subject, "")

    @contextlib.contextmanager
    def on_break(self, callback: Callable[[], None]) -> Iterator[None]:
        """Call `callback` whenever the connection breaks, while inside."""
        self._listeners.add(callback)
        try:
            yield
        finally:
            self._listeners.discard(callback)

    @contextlib.asynccontextmanager
    async def bounded(self, for_s: float) -> AsyncIterator[None]:
        """Raise TimeoutError after `for_s` seconds, or at once when the connection breaks.

        The answer to a request that was under way then never comes. A cancellation
        is never lost inside: `asyncio.wait_for`, which nats-py waits with, forgets
        one that comes together with the answer (until Python 3.12), and whoever was
        to be ended would go on for ever.
        """
        loop = asyncio.get_running_loop()
        task = asyncio.current_task()
        cancelled = task.cancelling() if task else 0
        async with asyncio.timeout(for_s) as limit:

            def give_up() -> None:
                if not limit.expired():
                    limit.reschedule(loop.time())

            try:
                with self.on_break(give_up):
                    yield
            finally:
                if task and task.cancelling() > cancelled:
                    raise asyncio.CancelledError

    async def open(self, settings: BusSettings, credentials: dict[str, Any]) -> None:
        """Connect, waiting for a server that is not there yet. Errors are those of `connect`."""
        connecting = asyncio.ensure_future(self._connect(settings, credentials))
        refused = asyncio.ensure_future(self._refused.wait())
        ends: set[asyncio.Future[Any]] = {connecting, refused}
        try:
            await asyncio.wait(
                ends, timeout=settings.nats_wait_s, return_when=asyncio.FIRST_COMPLETED
            )
            if refused.done():
                raise BusRefused(f"the connection of {self.name} to {self.url}", self._refusal)
            if not connecting.done():
                doing = f"connecting to {self.url}; start a server there, or set nats_url"
                raise BusUnavailable(doing, settings.nats_wait_s, self.last_error)
            connecting.result()
            self._up.set()
        finally:
            refused.cancel()
            connecting.cancel()
            await asyncio.wait(ends)

    async def close(self) -> None:
        """Send what is still to be sent, and close."""
        if self.connected:
            with contextlib.suppress(nats.errors.Error, OSError):
                await self.nc.flush(timeout=1)
        self._up.clear()  # So that closing is not told as a loss.
        # What it had not sent to a server that has just gone is an error to it.
        with contextlib.suppress(OSError):
            await self.nc.close()

    async def _connect(self, settings: BusSettings, credentials: dict[str, Any]) -> None:
        await self.nc.connect(
            servers=[server.strip() for server in settings.nats_url.split(",")],
            name=self.name,
            error_cb=self._error,
            disconnected_cb=self._disconnected,
            reconnected_cb=self._connected,
            closed_cb=self._gone,
            connect_timeout=_CONNECT_TIMEOUT_S,
            max_reconnect_attempts=-1,
            # The client only sleeps for it; its annotation says int.
            reconnect_time_wait=random.uniform(*_RECONNECT_WAIT_S),  # type: ignore[arg-type]  # noqa: S311 - jitter
            ping_interval=_PING_INTERVAL_S,
            inbox_prefix=settings.nats_inbox_prefix,
            **credentials,
        )

    async def _connected(self) -> None:
        log.info("connected to NATS again", extra={"url": self.url})
        self._denials.clear()
        self._refused.clear()
        self._up.set()

    async def _disconnected(self) -> None:
        if self._up.is_set():
            log.warning(
                "lost the connection to NATS; what is served stays as it is until it is back",
                extra={"url": self.url},
            )
        self._break()

    async def _gone(self) -> None:
        self._break()
        if not self._over.done():
            self._over.set_result(self.last_error or "the client closed it")

    def _break(self) -> None:
        self._up.clear()
        for callback in tuple(self._listeners):
            callback()

    async def _error(self, error: Exception) -> None:
        self.last_error = str(error) or type(error).__name__
        if isinstance(error, nats.errors.SlowConsumerError):
            log.error(
                "a subscription fell behind and lost a message", extra={"subject": error.subject}
            )
        elif denied := _DENIED.search(self.last_error):
            log.error(
                "NATS denied a subject; give this user the permission",
                extra={"subject": denied[1], "reason": self.last_error},
            )
            if len(self._denials) < _MAX_DENIALS:
                self._denials[denied[1]] = self.last_error
        elif "authorization violation" in self.last_error.lower():
            if not self._refused.is_set():
                log.error("NATS does not accept our credentials", extra={"url": self.url})
            # Kept apart: the server closes the connection, which is an error of its own.
            self._refusal = self.last_error
            self._refused.set()
        elif isinstance(error, (OSError, TimeoutError, nats.errors.UnexpectedEOF)):
            # Told once, by _disconnected: each further attempt would repeat it.
            log.debug("NATS is not reachable: %s", self.last_error)
        else:
            log.error("NATS reported an error", extra={"reason": self.last_error})


@contextlib.asynccontextmanager
async def connect(settings: BusSettings, name: str) -> AsyncIterator[Bus]:
    """Connect to NATS under `name`, and close when left.

    Raises:
        BusUnavailable: no server within `settings.nats_wait_s`.
        BusRefused: the server does not accept the credentials, or they cannot be read.
    """
    url = ",".join(without_credentials(server) for server in settings.nats_url.split(","))
    credentials = _credentials(settings)
    bus = Bus(name, url)
    try:
        await bus.open(settings, credentials)
        yield bus
    finally:
        await bus.close()


async def settle(nc: Client) -> None:
    """Return once the server has every subscription made so far on `nc`.

    One flush is no barrier: nats-py writes its PING ahead of subscriptions that
    still wait to be written. Their PONG is what sends them off, so the answer to
    a second PING is behind them.
    """
    await nc.flush()
    await nc.flush()


def without_credentials(url: str) -> str:
    """Return `url` as it may be logged: without user, password or token."""
    parts = urlsplit(url.strip())
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()


def _credentials(settings: BusSettings) -> dict[str, Any]:
    """Return the client's options for what the settings name."""
    options: dict[str, Any] = {}
    if settings.nats_token_file:
        options["token"] = _secret("nats_token_file", settings.nats_token_file)
    if settings.nats_user:
        options["user"] = settings.nats_user
        options["password"] = _secret("nats_password_file", settings.nats_password_file)
    for option, file, form, what in (
        ("user_credentials", settings.nats_creds_file, _CREDS, "JWT and seed of a user"),
        ("nkeys_seed", settings.nats_nkey_file, _SEED, "seed of a user's nkey"),
    ):
        if file:
            _check(Path(file), form, what)
            options[option] = file
    if settings.nats_ca_file or settings.nats_cert_file:
        options["tls"] = _tls(settings)
    return options


def _check(file: Path, form: re.Pattern[bytes], what: str) -> None:
    """Raise BusRefused unless the file has the form: nats-py fails obscurely without."""
    try:
        found = form.search(file.read_bytes())
    except FileNotFoundError:
        raise BusRefused("to start", f"there is no file {file}") from None
    except OSError as error:
        raise BusRefused("to start", f"cannot read {file}: {error.strerror}") from None
    if found is None:
        raise BusRefused("to start", f"{file} holds no {what}")


def _tls(settings: BusSettings) -> ssl.SSLContext:
    """Return how TLS is spoken: to whom the certificate authority vouches for, by name."""
    try:
        context = ssl.create_default_context(cafile=settings.nats_ca_file or None)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        if settings.nats_cert_file:
            key = settings.nats_cert_key_file or None
            context.load_cert_chain(settings.nats_cert_file, key, password="")
    except (OSError, ValueError) as error:  # an SSLError is an OSError
        raise BusRefused("to start", f"cannot use the certificates of NATS: {error}") from error
    return context


def _secret(setting: str, path: str) -> Callable[[], str]:
    """Return what reads the file's text as it is now: called at every connection."""

    def read() -> str:
        return Path(path).read_text("utf-8").strip()

    try:
        read()
    except (OSError, UnicodeDecodeError) as error:
        raise BusRefused("to start", f"cannot read {setting}: {error}") from error
    return read
