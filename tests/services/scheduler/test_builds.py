"""What becomes of builds between scheduler and builder, with both of them real."""

from tests.services.scheduler.stack import Stack


async def test_a_module_that_was_collected_is_built_again_when_a_spec_names_it(
    bare: Stack,
) -> None:
    bare.kill("builder")
    bare.start("builder", collect_every_s=0.1, collect_after_s=0)
    bare.start("scheduler", keeper_linger_s=0.5)
    await bare.until(lambda: bare.events("leader-elected"))
    await bare.deploy("f")
    await bare.delete("function", "f")
    await bare.until(lambda: bare.events("collected"))
    built = [event for event in bare.events("ready") if event.kind == "build"]

    await bare.deploy("f")

    assert await bare.met("f")
    again = [event for event in bare.events("ready") if event.kind == "build"]
    assert len(again) > len(built), "the scheduler goes by a record that is gone"
