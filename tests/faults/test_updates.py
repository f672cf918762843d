"""Functions change under load."""

from tests.faults.rig import FUNCTION, SPEC, Rig


async def test_updates_of_a_function_fail_no_request(rig: Rig) -> None:
    async with rig.load().running() as load:
        await load.answered(25)
        for n in range(5):
            await rig.deploy(FUNCTION, variables={"TURN": str(n)}, **SPEC)
            await load.answered(25)
    assert load.failed() == []


async def test_a_bad_revision_changes_nothing(rig: Rig) -> None:
    before = rig.active()
    async with rig.load().running() as load:
        await load.answered(25)
        revision = await rig.apply("function", "sort", {"module": {"sha256": "0" * 64}})
        await rig.status("sort", "rejected", revision)
        await load.answered(25)
    assert load.failed() == []
    assert rig.active() == before
    await rig.deploy(FUNCTION, **SPEC)
