"""A bad network in user space: what goes to one address is delayed, lost or cut.

Packets for the address are routed into a TUN device and from there back into the
same machine: late, or not at all. So it needs no kernel module for `tc netem`.
All of it is in a network namespace of the test's own, in which the platform runs.
Needs root.
"""

import contextlib
import ctypes
import fcntl
import heapq
import os
import random
import select
import struct
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

ADDRESS: Final = "10.77.0.2"
"""Where keepers listen. What is sent to it, and what it answers, goes over the link."""
_CLONE_NEWNET: Final = 0x40000000
# linux/if_tun.h
_TUNSETIFF: Final = 0x400454CA
_IFF_TUN: Final = 0x0001
_IFF_NO_PI: Final = 0x1000
_TABLE: Final = "77"
_PACKET: Final = 65536


class Link:
    """The way to `ADDRESS` and back, while its thread runs."""

    def __init__(self, device: int) -> None:
        self._device = device
        self.delay_s = 0.0
        """One way."""
        self.loss = 0.0
        """Share of packets that are lost; 1 cuts the link."""
        self._stopping = threading.Event()

    def run(self) -> None:
        """Carry packets until `stop`."""
        waiting: list[tuple[float, int, bytes]] = []
        dice = random.Random(1)  # noqa: S311 - packets to lose
        number = 0
        while not self._stopping.is_set():
            now = time.monotonic()
            while waiting and waiting[0][0] <= now:
                os.write(self._device, heapq.heappop(waiting)[2])
            pause_s = min(waiting[0][0] - now, 0.05) if waiting else 0.05
            if select.select([self._device], [], [], pause_s)[0]:
                packet = os.read(self._device, _PACKET)
                if dice.random() >= self.loss:
                    number += 1
                    heapq.heappush(waiting, (time.monotonic() + self.delay_s, number, packet))

    def stop(self) -> None:
        """Carry nothing any more."""
        self._stopping.set()


@contextlib.contextmanager
def namespace() -> Iterator[Link]:
    """Have this thread, and what it starts, in a new network with a link to `ADDRESS`.

    Raises:
        OSError: it is not permitted, or the kernel has no TUN devices.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    home = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
    if libc.unshare(_CLONE_NEWNET):
        os.close(home)
        raise OSError(ctypes.get_errno(), "no network namespace can be made")
    try:
        device = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
        try:
            fcntl.ioctl(device, _TUNSETIFF, struct.pack("16sH22x", b"wire", _IFF_TUN | _IFF_NO_PI))
            _route()
            link = Link(device)
            carrying = threading.Thread(target=link.run)
            carrying.start()
            try:
                yield link
            finally:
                link.stop()
                carrying.join()
        finally:
            os.close(device)
    finally:
        libc.setns(home, _CLONE_NEWNET)
        os.close(home)


def _route() -> None:
    """Send what is for `ADDRESS`, and its answers, over the link, though both ends are here."""
    for command in (
        "link set lo up",
        "link set wire up",
        "addr add 10.77.0.1/32 dev lo",
        f"addr add {ADDRESS}/32 dev lo",
        f"route add default dev wire src 10.77.0.1 table {_TABLE}",
        # Before the table of local addresses, and only for what is sent from here.
        f"rule add pref 5 to {ADDRESS} iif lo lookup {_TABLE}",
        f"rule add pref 6 from {ADDRESS} iif lo lookup {_TABLE}",
        "rule add pref 10 lookup local",
        "rule del pref 0",
    ):
        subprocess.run(["ip", *command.split()], check=True)
    for name in ("all", "wire"):
        conf = Path("/proc/sys/net/ipv4/conf") / name
        (conf / "rp_filter").write_text("0")
        (conf / "accept_local").write_text("1")
