"""The disk under NATS is full: refusals and no lies, and recovery once there is room."""

import asyncio
import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from schemas import subjects
from schemas.specs import FunctionSpec, RouteSpec
from services.bus.errors import BusError
from services.bus.publish import publish
from tests.conftest import NatsServer
from tests.faults.load import Load, Router
from tests.faults.rig import FUNCTION, SPEC, Rig
from tests.services.scheduler.stack import EXAMPLES, SEARCHED
from wasmfn import client
from wasmfn.client import Key
from wasmfn.discovery import read_platform
from wasmfn.errors import WasmfnError

pytestmark = pytest.mark.skipif(os.getuid() != 0, reason="needs root for a disk of its own")

DISK_MIB = 96


class Disk:
    """A small disk, mounted somewhere."""

    def __init__(self, where: Path) -> None:
        self.where = where
        where.mkdir(exist_ok=True)
        options = f"size={DISK_MIB}m"
        subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", where], check=True)

    def fill(self) -> None:
        with (self.where / "ballast").open("wb", buffering=0) as ballast:
            try:
                while True:
                    ballast.write(bytes(4096))
            except OSError:
                pass

    def clear(self) -> None:
        (self.where / "ballast").unlink()


@pytest.fixture
def disk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Disk]:
    made = Disk(tmp_path_factory.mktemp("disk"))
    yield made
    subprocess.run(["umount", "--lazy", made.where], check=True)


@pytest.fixture
def nats_server(make_nats_server: Callable[..., NatsServer], disk: Disk) -> NatsServer:
    server = make_nats_server(config="jetstream { max_file_store: 1TB }")
    server.kill()
    (server.directory / "js1").symlink_to(disk.where)
    server.lose_data()
    return server


async def test_what_cannot_be_stored_is_refused_and_what_was_stored_is_there_after(
    rig: Rig, nats_server: NatsServer, disk: Disk
) -> None:
    stored: dict[str, int] = {}
    async with rig.load().running() as load:
        await load.answered(25)
        disk.fill()
        refused = 0
        for number in range(500):
            name = f"r{number}"
            subject = subjects.SPECS.subject(kind="route", namespace="default", name=name)
            spec = {"function": FUNCTION, "path": f"/{name}/{'x' * 1000}"}
            try:
                stored[name] = await publish(
                    rig.bus, subject, json.dumps(spec).encode(), deadline_s=2.0
                )
            except BusError as error:
                refused += 1
                if refused == 1:
                    rig.note(f"refused after {len(stored)} more: {error}")
                if refused == 3:
                    break
        assert refused, "the disk is not full"
        since = rig.now()
        await load.answered(100)
        sent = [one for one in load.refused if one.at >= since]
        assert {one.status for one in sent} <= {503, 0}, sent
        disk.clear()
        # Whoever runs it notices and restarts it: `wasmfn up`, or the kubelet.
        nats_server.restart()
        await rig.apply("route", "back", {"function": FUNCTION, "path": "/back"})
        await rig.deploy(FUNCTION, variables={"AFTER": "1"}, **SPEC)
        await load.answered(25)
    assert load.failed() == []
    await rig.until(lambda: stored.keys() <= {active.name for active in rig.seen.active.values()})


async def test_up_restarts_a_nats_whose_disk_was_full_once_there_is_room(disk: Disk) -> None:
    data = disk.where / "data"
    environ = {**SEARCHED, "HOME": str(disk.where)}
    with (disk.where.parent / "up.log").open("wb") as said:
        up = subprocess.Popen(  # noqa: ASYNC220 - once
            [EXECUTABLE, "up", "--http", "127.0.0.1:0", "--data", data],
            env=environ, stdout=subprocess.PIPE, stderr=said,
        )  # fmt: skip
    try:
        assert up.stdout is not None
        line = await asyncio.to_thread(up.stdout.readline)
        assert line.startswith(b"ready http://"), line
        await _deploy(data, FUNCTION)
        host, _, port = line.split()[1].decode().removeprefix("http://").rpartition(":")
        load = Load([Router("up", host, int(port))], FUNCTION, per_s=20)
        async with load.running():
            await load.answered(20)
            disk.fill()
            with contextlib.suppress(WasmfnError):
                await _deploy(data, "refused", within_s=2.0)
            await _said(disk, b"until there is room")
            await load.answered(20)
            disk.clear()
            await _said(disk, b"there is room for NATS again")
            await _deploy(data, "after")
            await load.answered(20)
        assert load.failed() == []
        print(load.figures())  # noqa: T201 - for the record
    finally:
        up.terminate()
        await asyncio.to_thread(up.wait, 60)
        if up.stdout is not None:
            up.stdout.close()
        print((disk.where.parent / "up.log").read_text())  # noqa: T201


EXECUTABLE = Path(sys.executable).with_name("wasmfn")


async def _said(disk: Disk, words: bytes) -> None:
    async with asyncio.timeout(60):
        while words not in (disk.where.parent / "up.log").read_bytes():  # noqa: ASYNC110
            await asyncio.sleep(0.1)


async def _deploy(data: Path, name: str, within_s: float = 30.0) -> None:
    """Deploy a function and its route, as `wasmfn deploy` does."""
    platform = read_platform(data)
    assert platform is not None
    wasm = (EXAMPLES / "sort" / "sort.wasm").read_bytes()
    async with client.connect(platform, wait_s=10) as connected:
        module = await connected.put_module(wasm, "sort.wasm")
        spec = FunctionSpec(module=module)
        function, route = Key("function", "default", name), Key("route", "default", name)
        revisions = {
            function: await connected.publish(function, spec),
            route: await connected.publish(route, RouteSpec(function=name, path=f"/{name}")),
        }
        await connected.wait_active(revisions, timeout_s=within_s)
