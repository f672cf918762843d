"""Reach the bus of a platform, and tell its failures in words for a user of the platform."""

import contextlib
from collections.abc import AsyncIterator, Iterator
from typing import Final
from urllib.parse import quote, urlsplit

import nats.errors
from nats.js import errors as js_errors

from services.bus.connection import Bus, BusSettings, connect, without_credentials
from services.bus.errors import BusError, BusRefused, BusUnavailable, Conflict
from wasmfn.discovery import NoPlatformError, Platform, find_platform
from wasmfn.errors import ConflictError, RejectedError, UnreachableError

_SCHEMES: Final = ("nats", "tls", "ws", "wss")
_NO_STREAMS: Final = (
    "there is no platform on this NATS: it lacks our streams; run `wasmfn up` on it"
)
_DISK_FULL: Final = (
    "the disk of NATS is full, or was: make room there, then start NATS again (with `wasmfn up`,"
    " stop that and run it again), and repeat the command"
)


@contextlib.asynccontextmanager
async def open_bus(platform: Platform | None, wait_s: float) -> AsyncIterator[Bus]:
    """Connect to the NATS of `platform`, by default of the one that is found.

    Raises:
        UnreachableError: none was found, it does not answer, or it does not let us in.
    """
    if platform is None:
        try:
            platform = find_platform()
        except NoPlatformError as error:
            raise UnreachableError(str(error)) from error
    try:
        shown = ",".join(map(without_credentials, platform.nats_url.split(",")))
        url = _servers(platform.nats_url, platform.token)
    except ValueError as error:
        raise UnreachableError(
            "that is no address of a NATS server; write it as nats://127.0.0.1:4222"
        ) from error
    async with contextlib.AsyncExitStack() as stack:
        try:
            settings = BusSettings(nats_url=url, nats_wait_s=wait_s)
            bus = await stack.enter_async_context(connect(settings, "wasmfn"))
        except (BusUnavailable, BusRefused) as error:
            raise _no_entry(shown, error.reason) from error
        except (ValueError, nats.errors.Error) as error:
            raise _no_entry(shown, str(error)) from error
        yield bus


@contextlib.contextmanager
def translated() -> Iterator[None]:
    """Turn the errors of the bus into those of `wasmfn.errors`."""
    try:
        yield
    except Conflict as error:
        raise ConflictError(
            "somebody changed it at the same time; look again and repeat the command"
        ) from error
    except (BusUnavailable, TimeoutError) as error:
        raise UnreachableError(
            "NATS does not answer any more; `wasmfn doctor` looks for the reason"
        ) from error
    except (js_errors.NotFoundError, js_errors.NoStreamResponseError) as error:
        raise UnreachableError(_NO_STREAMS) from error
    except BusError as error:
        if isinstance(error.__cause__, js_errors.NotFoundError):
            raise UnreachableError(_NO_STREAMS) from error
        # NATS 2.15 gives a stream up whose disk was full, until it is started again.
        full = "no space left" in str(error)
        raise RejectedError(_DISK_FULL if full else str(error)) from error
    except js_errors.APIError as error:
        raise RejectedError(
            f"NATS refused it: {error.description or error}; `wasmfn doctor` looks for the reason"
        ) from error
    except nats.errors.Error as error:
        raise UnreachableError(f"the connection to NATS failed: {error}") from error


def _no_entry(shown: str, reason: str) -> UnreachableError:
    """Return the error that says why the NATS at `shown` cannot be talked to."""
    if "authorization" in reason.lower():
        return UnreachableError(
            f"NATS at {shown} does not let us in; name the file with its token in"
            " WASMFN_NATS_TOKEN_FILE"
        )
    return UnreachableError(
        f"NATS at {shown} does not answer; start the platform with `wasmfn up`,"
        " or name another one with --nats"
    )


def _servers(urls: str, token: str | None) -> str:
    """Return `urls` in full, with the token in each that brings no credentials of its own.

    Raises:
        ValueError: one is no URL of a NATS server.
    """
    servers = []
    for url in urls.split(","):
        parts = urlsplit(url.strip() if "://" in url else f"nats://{url.strip()}")
        if parts.scheme not in _SCHEMES or not parts.hostname or parts.port == 0:
            raise ValueError(url)
        if token is not None and "@" not in parts.netloc:
            parts = parts._replace(netloc=f"{quote(token, safe='')}@{parts.netloc}")
        servers.append(parts.geturl())
    return ",".join(servers)
