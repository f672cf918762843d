"""The builder dies in the middle of its work."""

import asyncio
import hashlib

import httpx
import msgspec

from schemas import subjects
from schemas.builds import UPLOADS_BUCKET, Build
from tests.faults.rig import Rig
from tests.services.scheduler.stack import EXAMPLES, call

ROUNDS = 4


async def test_a_builder_that_is_killed_in_mid_build_builds_again_and_leaves_no_half(
    rig: Rig,
) -> None:
    building: asyncio.Queue[Build] = asyncio.Queue()

    async def see(message: object) -> None:
        build = msgspec.json.decode(message.data, type=Build)  # type: ignore[attr-defined]
        if build.state == "building":
            building.put_nowait(build)

    watch = await rig.bus.nc.subscribe(subjects.BUILDS.filter(), cb=see)
    async with rig.load().running() as load:
        for number in range(ROUNDS):
            revision = await rig.apply(
                "function", f"new-{number}", {"module": await _new(rig, number)}
            )
            async with asyncio.timeout(60):
                await building.get()
            # At another place of the build in each turn.
            await asyncio.sleep(0.02 * number)
            rig.kill("builder")
            await rig.run("builder")
            await rig.status(f"new-{number}", "active", revision)
            (endpoint,) = rig.endpoints(f"new-{number}")
            answer: httpx.Response = await call(endpoint, "3", "1", "2")
            assert answer.json()["output"] == ["1 2 3"]
        await load.answered(25)
    await watch.unsubscribe()
    assert load.failed() == []
    assert not list((rig.directory / "work").iterdir()), "no half of a build is left"


async def _new(rig: Rig, number: int) -> dict[str, str]:
    """Upload a module that was never built: another custom section is another module."""
    name = f"\x05turn{number}".encode()
    section = bytes([0, len(name)]) + name
    data = (EXAMPLES / "sort" / "sort.wasm").read_bytes() + section
    digest = hashlib.sha256(data).hexdigest()
    await (await rig.bus.js.object_store(UPLOADS_BUCKET)).put(digest, data)
    return {"sha256": digest, "file_name": "sort.wasm"}
