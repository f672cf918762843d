import asyncio
import os
import socket
import subprocess
import sys

from wasmfn.notify import NotifySocket, read_notification

SEND = (
    "import os, socket; a = os.environ['NOTIFY_SOCKET'];"
    "socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM).sendto(b'READY=1\\nX=y', '\\0' + a[1:])"
)


async def test_what_a_child_says_is_heard_with_its_pid():
    heard: asyncio.Queue[tuple[int, dict[str, str]]] = asyncio.Queue()
    notify = NotifySocket(lambda pid, said: heard.put_nowait((pid, said)))
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-c", SEND, env={"NOTIFY_SOCKET": notify.address}
    )
    async with asyncio.timeout(10):
        assert await heard.get() == (child.pid, {"READY": "1", "X": "y"})
    await child.wait()
    notify.close()


async def test_the_kernel_says_who_speaks_whatever_the_message_says():
    heard: asyncio.Queue[tuple[int, dict[str, str]]] = asyncio.Queue()
    notify = NotifySocket(lambda pid, said: heard.put_nowait((pid, said)))
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
        sender.sendto(b"READY=1\nMAINPID=1", "\0" + notify.address[1:])
    async with asyncio.timeout(10):
        assert (await heard.get())[0] == os.getpid()
    notify.close()


def test_garbage_says_nothing():
    assert read_notification(b"\xff\xfe\n\nREADY\n=\nREADY=1=2") == {"": "", "READY": "1=2"}


def test_the_socket_is_gone_when_closed():
    async def use() -> str:
        notify = NotifySocket(lambda *_: None)
        notify.close()
        return notify.address

    address = asyncio.run(use())
    listed = subprocess.run(["cat", "/proc/net/unix"], capture_output=True, text=True, check=True)
    assert address not in listed.stdout
