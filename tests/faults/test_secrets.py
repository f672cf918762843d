"""A function keeps its secret through the end of its keeper and of NATS, and nobody else has it."""

import contextlib
import os
import secrets
import signal
from pathlib import Path

from tests.conftest import NatsServer
from tests.faults.load import Router
from tests.faults.rig import Rig

SECRET = {"PASSWORD": {"name": "guarded", "key": "password"}}


async def test_a_secret_comes_back_with_its_function_and_is_nowhere_else(
    rig: Rig, nats_server: NatsServer
) -> None:
    value = "s3cret-" + secrets.token_hex(16)
    file = rig.directory / "secrets" / "default" / "guarded" / "password"
    file.parent.mkdir(parents=True)
    file.touch(0o600)
    file.write_text(value)
    await rig.deploy("guarded", "env", secrets=SECRET, scaling={"min_instances": 1})
    route = await rig.apply("route", "guarded", {"function": "guarded", "path": "/guarded"})
    await rig.status("guarded", "active", route, kind="route")
    router = rig.routers[0]
    await _says(router, value)
    for _ in range(2):
        (endpoint,) = rig.endpoints("guarded")
        nats_server.kill()
        os.kill(rig.running_keepers()[endpoint.pod], signal.SIGKILL)
        # Nobody can have it started elsewhere; its process may answer once more before it ends.
        status, _ = await router.call("/guarded", b"{}")
        assert status in (200, 502, 503)
        nats_server.start()
        await rig.until(lambda e=endpoint: [n for n in rig.endpoints("guarded") if n.pod != e.pod])
        await _says(router, value)
    router.close()
    # What a leader that is killed held, the next one reads from the file.
    rig.kill(name := await rig.leader())
    await rig.run(name)
    await rig.deploy("guarded", "env", secrets=SECRET, variables={"TURN": "2"})
    await _says(router, value)
    router.close()
    written = _written(rig, nats_server)
    assert len(written) > 100
    assert [str(path) for path in written if value.encode() in _read(path)] == []


async def _says(router: Router, value: str) -> None:
    status, answer = await router.call("/guarded", b"{}")
    assert (status, f"PASSWORD={value}".encode() in answer) == (200, True), answer


def _written(rig: Rig, nats_server: NatsServer) -> list[Path]:
    """Everything that any part has written or was told at its start, without the secrets."""
    places = [*rig.directory.rglob("*"), *nats_server.directory.rglob("*")]
    told = [*Path("/proc").glob("[0-9]*/cmdline"), *Path("/proc").glob("[0-9]*/environ")]
    kept = [path for path in places if "secrets" not in path.relative_to(path.anchor).parts]
    return [path for path in (*kept, *told) if _is_file(path)]


def _is_file(path: Path) -> bool:
    with contextlib.suppress(OSError):
        return path.is_file()
    return False


def _read(path: Path) -> bytes:
    with contextlib.suppress(OSError):
        return path.read_bytes()
    return b""
