"""The sockets that a keeper listens on: one for control calls, one for each function."""

import socket

from keeper.control import RefusedError
from schemas.settings import SettingsError


def listen(address: str) -> socket.socket:
    """Return a socket that listens at `HOST:PORT`.

    Raises:
        SettingsError: the address cannot be had, and why.
    """
    host, _, port = address.rpartition(":")
    host = host.strip("[]")
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, _port(port)), family=family, backlog=1024)
    except (OSError, ValueError) as error:
        raise SettingsError(f"cannot listen at {address}: {error}") from error


def _port(text: str) -> int:
    number = int(text)
    if not 0 <= number < 65536:
        raise ValueError("a port is a number from 0 to 65535")
    return number


def bind(host: str, ports: range) -> socket.socket:
    """Return a socket bound to `host`, on a free one of `ports`, or any if there are none.

    Raises:
        RefusedError: all of them are taken.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    for port in ports or (0,):
        listener = socket.socket(family, socket.SOCK_STREAM)
        try:
            listener.bind((host, port))
        except OSError as error:
            listener.close()
            reason = error
        else:
            return listener
    raise RefusedError("full", f"no port is free for a function at {host}: {reason}")
