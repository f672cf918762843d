"""A function reaches no port of the platform: not as wasm, and not with its sandbox broken open.

The calls that it would make then are made in the process of a real function, by
its own thread, under the filter that it has. Beside it stand a router with its
admin port, and NATS.
"""

import contextlib
import errno
import ipaddress
import socket
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.hostile.injection import (
    CLOSE,
    CONNECT,
    IO_URING_SETUP,
    SENDTO,
    SOCKET,
    by_injection,
    captured,
)
from tests.keeper.conftest import Keeper, RefusedError
from tests.services.router.clients import request
from tests.services.router.platform import Platform

DENIED = -errno.EPERM
HOSTS = ("127.0.0.1", "127.0.0.2", "0.0.0.0", "::1", "::", "::ffff:127.0.0.1")  # noqa: S104
ELSEWHERE = (("169.254.169.254", 80), ("10.43.0.1", 443), ("192.0.2.1", 53), ("2001:db8::1", 443))
FAMILIES = (socket.AF_INET, socket.AF_INET6, socket.AF_UNIX, socket.AF_NETLINK, socket.AF_PACKET)
KINDS = (socket.SOCK_STREAM, socket.SOCK_DGRAM, socket.SOCK_RAW, socket.SOCK_SEQPACKET)

SOCKETS_OF_OTHERS = """
(module
  (import "wasi_snapshot_preview1" "{name}" (func $f (param i32 i32 i32) (result i32)))
  (memory (export "memory") 1)
  (func (export "_start") (drop (call $f (i32.const 3) (i32.const 0) (i32.const 0)))))
"""


def address(host: str, port: int) -> bytes:
    """Return a `struct sockaddr_in` or `sockaddr_in6`."""
    ip = ipaddress.ip_address(host)
    if ip.version == 4:
        return struct.pack("=H", socket.AF_INET) + struct.pack("!H4s8x", port, ip.packed)
    packed = struct.pack("!HI16s", port, 0, ip.packed)
    return struct.pack("=H", socket.AF_INET6) + packed + struct.pack("=I", 0)


def own_hosts() -> set[str]:
    """Return the machine's addresses besides those that every machine has."""
    with contextlib.suppress(socket.gaierror):
        found = {info[4][0] for info in socket.getaddrinfo(socket.gethostname(), None)}
        return {str(host).partition("%")[0] for host in found}
    return set()


def everywhere(ports: list[int]) -> list[bytes]:
    """Return addresses: of each port on this machine, and of others; of sockets in files, too."""
    at = [address(host, port) for host in {*HOSTS, *own_hosts()} for port in ports]
    at += [address(*place) for place in ELSEWHERE]
    unix = struct.pack("=H", socket.AF_UNIX)
    return [*at, unix + b"\0abstract", unix + b"/run/containerd/containerd.sock\0"]


def sockets(pid: int) -> list[int]:
    links = {int(fd.name): str(fd.readlink()) for fd in Path(f"/proc/{pid}/fd").iterdir()}
    return [fd for fd, link in links.items() if link.startswith("socket:")]


@pytest.fixture
def plain() -> Iterator[int]:
    """A process that nothing holds, which waits."""
    waits = "import select; print(flush=True); select.epoll().poll(600)"
    process = subprocess.Popen([sys.executable, "-c", waits], stdout=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.readline()
    yield process.pid
    process.kill()
    process.wait()
    process.stdout.close()


@by_injection
async def test_a_functions_process_connects_to_no_port_of_the_platform_and_to_nothing_else(
    keeper: Keeper, platform: Platform, plain: int
) -> None:
    router = await platform.router()
    assert (await request(router.admin, "GET", "/healthz")).status == 200
    nats = int(platform.url.rpartition(":")[2])
    loaded = keeper.load("sort")
    assert loaded.run("2", "1")["output"] == ["1 2"]
    services = [router.admin, router.port, nats, keeper.port]
    targets = everywhere([*services, loaded.reply.port])

    # What is tried works where nothing is locked in.
    with captured(plain) as process:
        for port in services:
            opened = process.call(SOCKET, socket.AF_INET, socket.SOCK_STREAM, 0)
            assert opened >= 0
            at = address("127.0.0.1", port)
            assert process.call(CONNECT, opened, at, len(at)) == 0
            assert process.call(CLOSE, opened) == 0

    held = sockets(loaded.reply.pid)
    assert held
    with captured(loaded.reply.pid) as process:
        for family in FAMILIES:
            for kind in KINDS:
                assert process.call(SOCKET, family, kind, 0) == DENIED
        assert process.call(IO_URING_SETUP, 8, bytes(120)) == DENIED
        for descriptor in (*held, 4095):
            for at in targets:
                assert process.call(CONNECT, descriptor, at, len(at)) == DENIED
                fast = socket.MSG_FASTOPEN | socket.MSG_NOSIGNAL
                told = process.call(SENDTO, descriptor, b"x", 1, fast, at, len(at))
                assert told == DENIED
    assert loaded.run("2", "1")["output"] == ["1 2"]


@pytest.mark.parametrize("name", ["sock_connect", "sock_open", "sock_bind"])
def test_a_keeper_loads_no_module_that_would_open_a_socket(keeper: Keeper, name: str) -> None:
    with pytest.raises(RefusedError) as refused:
        keeper.load(SOCKETS_OF_OTHERS.format(name=name))
    assert refused.value.problem == "bad-artifact"
    assert name in str(refused.value)
