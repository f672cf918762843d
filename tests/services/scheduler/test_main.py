"""The scheduler as a whole: what is published runs, and what runs is what was published."""

import asyncio
import os
import signal

import pytest

from schemas.control import DemandMet, DemandRefused
from schemas.endpoints import Endpoint
from schemas.subjects import ACTIVE, STATUS
from tests.conftest import NatsServer
from tests.services.scheduler.stack import Stack, begun, call, listens, process_of
from wasmfn.client import Client

ONCE_IDLE = {"scaling": {"idle_timeout_s": 0.5}}


async def test_a_published_function_is_built_loaded_put_in_force_and_answers(stack: Stack) -> None:
    revision = await stack.deploy("sort")
    [endpoint] = stack.endpoints("sort")
    assert endpoint.revision == revision
    answer = await call(endpoint, "3", "1", "2")
    assert answer.json()["output"] == ["1 2 3"]
    assert await stack.met("sort") == [endpoint]
    story = [event.what for event in stack.seen.events if event.name == "sort"]
    for earlier, later in (
        ("spec-published", "build-requested"),
        ("build-requested", "instance-loaded"),
        ("instance-loaded", "active"),
    ):
        assert story.index(earlier) < story.index(later), story
    told = {e.correlation for e in stack.seen.events if e.name == "sort" and e.kind == "function"}
    assert len(told) == 1, "every step of one revision has one correlation id"


async def test_an_endpoint_is_published_before_its_revision_is_in_force(stack: Stack) -> None:
    await stack.deploy("sort")
    [endpoint] = stack.endpoints("sort")
    # Two streams have no order between them as they are seen; by their time they have.
    active = await stack.bus.js.get_last_msg(
        "ACTIVE", ACTIVE.subject(kind="function", namespace="default", name="sort")
    )
    assert active.time is not None
    assert endpoint.time <= active.time


async def test_a_bad_spec_is_rejected_with_its_field_and_the_last_good_one_stands(
    stack: Stack,
) -> None:
    good = await stack.deploy("sort")
    bad = await stack.apply("function", "sort", {"module": {"sha256": "zz"}})
    status = await stack.status("sort", "rejected", bad)
    assert status.field == "$.module.sha256"
    assert status.active_revision == good
    assert (await call(stack.endpoints("sort")[0], "2", "1")).json()["output"] == ["1 2"]
    await stack.until(lambda: stack.events("spec-rejected"))


async def test_a_module_that_is_none_fails_and_the_last_good_one_stands(stack: Stack) -> None:
    good = await stack.deploy("sort")
    digest = "0" * 64
    bad = await stack.apply("function", "sort", {"module": {"sha256": digest}})
    status = await stack.status("sort", "failed", bad)
    assert status.active_revision == good
    assert (await call(stack.endpoints("sort")[0], "2", "1")).status_code == 200


async def test_a_function_without_instances_is_started_by_demand(stack: Stack) -> None:
    await stack.deploy("sort", **ONCE_IDLE)
    await stack.until(lambda: not stack.endpoints("sort"))
    await stack.until(lambda: stack.events("scaled-to-zero"))
    replies = await asyncio.gather(*(stack.demand("sort") for _ in range(20)))
    met = [reply for reply in replies if isinstance(reply, DemandMet)]
    assert len(met) == 20
    instances = {endpoint.instance for reply in met for endpoint in reply.endpoints}
    assert len(instances) == 1, "however many ask, it is loaded once"
    assert (await call(met[0].endpoints[0], "2", "1")).json()["output"] == ["1 2"]
    assert any("keeper." in step for reply in met for step in reply.steps_ms)
    await stack.until(lambda: stack.endpoints("sort"))


async def test_a_demand_for_what_is_not_there_or_makes_no_sense_is_refused(stack: Stack) -> None:
    assert isinstance(await stack.demand("nothing"), DemandRefused)
    for body in (b"", b"{", b"[]", b'{"router":1}', b"\xff"):
        answer = await stack.bus.nc.request("wasmfn.demand.default.sort", body, timeout=2)
        assert b"refused" in answer.data
    answer = await stack.bus.nc.request("wasmfn.demand.default.=2", b"{}", timeout=2)
    assert b"refused" in answer.data


async def test_a_report_that_is_none_and_a_demand_without_an_inbox_end_nothing(
    stack: Stack,
) -> None:
    for body in (b"", b"{", b"[]", b'{"router":1}', b"\xff"):
        await stack.bus.nc.publish("wasmfn.activity.test", body)
        await stack.bus.nc.publish("wasmfn.demand.default.nothing", body)
    assert isinstance(await stack.demand("nothing"), DemandRefused)
    await stack.deploy("sort")
    assert isinstance(await stack.demand("sort"), DemandMet)


async def test_an_update_serves_without_a_gap_and_cuts_nothing(stack: Stack) -> None:
    first = await stack.deploy("f", "sleepy")
    [old] = stack.endpoints("f")
    slow = await begun(old)
    second = await stack.apply("function", "f", {"module": await stack.upload("sort")})
    await stack.status("f", "active", second)
    await stack.until(lambda: [e.revision for e in stack.endpoints("f")] == [second])
    assert first < second
    assert b"200 OK" in await slow
    subject = f"wasmfn.endpoints.default.f.{old.instance}"
    gone = stack.seen.story.index(("gone", subject))
    active = [
        index
        for index, (_, changed) in enumerate(stack.seen.story)
        if changed == "wasmfn.active.function.default.f"
    ]
    assert active[-1] < gone, "the old endpoint goes after the new revision is in force"
    await until_gone(old)


async def test_a_deleted_function_is_withdrawn_and_drained(stack: Stack) -> None:
    await stack.deploy("f", "sleepy")
    [endpoint] = stack.endpoints("f")
    slow = await begun(endpoint)
    await stack.delete("function", "f")
    await stack.until(lambda: stack.events("deleted"))
    await stack.until(lambda: not stack.endpoints("f") and not stack.seen.active)
    assert b"200 OK" in await slow
    await until_gone(endpoint)
    assert isinstance(await stack.demand("f"), DemandRefused)
    assert not any("default.f" in subject for subject in stack.seen.status)


async def test_load_scales_up_at_once_and_down_again_one_by_one(stack: Stack) -> None:
    scaling = {"concurrency": 2, "max_instances": 3, "idle_timeout_s": 0.7}
    await stack.deploy("sort", scaling=scaling)
    await stack.report("sort", in_flight=100)
    await stack.until(lambda: len(stack.endpoints("sort")) == 3)
    await stack.until(lambda: stack.events("scaled-up"))
    refused = await stack.demand("sort", "saturated")
    assert isinstance(refused, DemandRefused), "three are the most"
    await stack.until(lambda: not stack.endpoints("sort"))
    await stack.until(lambda: len(stack.events("scaled-down")) == 2)
    await stack.until(lambda: len(stack.events("scaled-to-zero")) == 1)


async def test_the_minimum_runs_and_stays(stack: Stack) -> None:
    await stack.deploy("sort", scaling={"min_instances": 2, "idle_timeout_s": 0.3, "processes": 2})
    endpoints = await stack.until(
        lambda: stack.endpoints("sort") if len(stack.endpoints("sort")) == 4 else None
    )
    assert endpoints
    victim = endpoints[0]
    child = process_of(stack, victim)
    os.kill(child, signal.SIGKILL)
    await stack.until(lambda: victim not in stack.endpoints("sort"))
    await stack.until(lambda: len(stack.endpoints("sort")) == 4)


async def test_a_killed_keeper_is_withdrawn_from_and_replaced(stack: Stack) -> None:
    await stack.deploy("sort", scaling={"min_instances": 1})
    [endpoint] = await stack.until(lambda: stack.endpoints("sort"))
    os.kill(stack.keepers()[endpoint.pod].pid, signal.SIGKILL)
    await stack.until(lambda: endpoint not in stack.endpoints("sort"))
    await stack.until(lambda: stack.events("keeper-died"))
    [replaced] = await stack.until(lambda: stack.endpoints("sort"))
    assert replaced.pod != endpoint.pod
    assert (await call(replaced, "2", "1")).json()["output"] == ["1 2"]


async def test_a_keeper_that_is_frozen_is_worked_around_and_then_replaced(stack: Stack) -> None:
    await stack.deploy("cold", **ONCE_IDLE)
    await stack.deploy("warm", scaling={"min_instances": 1})
    await stack.until(lambda: not stack.endpoints("cold"))
    [warm] = stack.endpoints("warm")
    os.kill(stack.keepers()[warm.pod].pid, signal.SIGSTOP)
    assert (await call(warm, "2", "1")).status_code == 200, "its functions are other processes"
    [cold] = await stack.met("cold", deadline_s=15.0)
    assert cold.pod != warm.pod
    [replaced] = await stack.until(
        lambda: [e for e in stack.endpoints("warm") if e.pod != warm.pod]
    )
    assert (await call(replaced, "2", "1")).status_code == 200
    await stack.until(lambda: stack.endpoints("warm") == [replaced])


async def test_many_cold_functions_at_once_are_all_met(bare: Stack) -> None:
    bare.start("scheduler", keeper_capacity=8, keeper_linger_s=0.5)
    await bare.until(lambda: bare.events("leader-elected"))
    names = [f"f{number}" for number in range(20)]
    for name in names:
        await bare.deploy(name, scaling={"idle_timeout_s": 3.0})
    await bare.until(lambda: not bare.seen.endpoints)
    replies = await asyncio.gather(*(bare.demand(name) for name in names))
    met = [reply for reply in replies if isinstance(reply, DemandMet)]
    assert len(met) == len(names)
    for reply in met:
        assert (await call(reply.endpoints[0], "1")).status_code == 200


async def test_a_leader_that_is_told_to_stop_does_not_wait_for_what_never_comes(
    bare: Stack,
) -> None:
    bare.start("scheduler", max_keepers=1, keeper_capacity=1)
    await bare.deploy("one", scaling={"min_instances": 1})
    await bare.apply("function", "two", {"module": await bare.upload("hello")})
    await bare.until(lambda: "wasmfn.status.function.default.two" in bare.seen.status)
    demand = asyncio.create_task(bare.demand("one", "saturated", deadline_s=30))
    keepers = set(bare.keepers())
    async with asyncio.timeout(5):
        await asyncio.to_thread(bare.kill, "scheduler", signal.SIGTERM)
    demand.cancel()
    assert set(bare.keepers()) == keepers
    assert (await call(bare.endpoints("one")[0], "1")).status_code == 200


async def test_a_function_waits_for_its_environment_whatever_the_order(stack: Stack) -> None:
    revision = await stack.apply("function", "sort", {"environment": "wasm"})
    status = await stack.status("sort", "waiting", revision)
    assert "wasm" in status.message
    await stack.apply("environment", "wasm", {"module": await stack.upload("sort")})
    await stack.status("sort", "active", revision)
    assert (await call(stack.endpoints("sort")[0], "2", "1")).json()["output"] == ["1 2"]


async def test_a_changed_environment_rolls_out_and_one_in_use_cannot_be_deleted(
    stack: Stack,
) -> None:
    spec = {"module": await stack.upload("env"), "variables": {"COLOUR": "red"}}
    first = await stack.apply("environment", "wasm", spec)
    await stack.status("wasm", "active", first, "environment")
    function = await stack.apply("function", "show", {"environment": "wasm"})
    await stack.status("show", "active", function)
    assert "COLOUR=red" in (await call(stack.endpoints("show")[0])).text
    second = await stack.apply("environment", "wasm", {**spec, "variables": {"COLOUR": "blue"}})
    [blue] = await stack.until(lambda: [e for e in stack.endpoints("show") if e.revision == second])
    assert "COLOUR=blue" in (await call(blue)).text
    await stack.delete("environment", "wasm")
    subject = STATUS.subject(kind="environment", namespace="default", name="wasm")
    await stack.until(lambda: "used by function show" in stack.seen.status[subject].message)
    assert (await call(blue)).status_code == 200
    [listed] = await Client(stack.bus).objects("environment")
    assert (listed.published, listed.active_revision) == (False, second), "it is in force"
    await stack.delete("function", "show")
    await stack.until(lambda: subject not in stack.seen.status)
    await stack.until(lambda: not stack.seen.active)


async def test_of_two_routes_that_collide_the_first_stands_until_it_goes(stack: Stack) -> None:
    first = await stack.apply("route", "one", {"function": "f", "path": "/users/{id}"})
    await stack.status("one", "active", first, "route")
    second = await stack.apply("route", "two", {"function": "f", "path": "/users/{name}"})
    status = await stack.status("two", "rejected", second, "route")
    assert "'one'" in status.message
    assert status.field == "$.path"
    await stack.delete("route", "one")
    await stack.status("two", "active", second, "route")


async def test_a_missing_secret_fails_with_a_sentence_and_heals_when_it_is_there(
    stack: Stack,
) -> None:
    spec = {
        "module": await stack.upload("env"),
        "secrets": {"PASSWORD": {"name": "db", "key": "password"}},
    }
    revision = await stack.apply("function", "show", spec)
    status = await stack.status("show", "failed", revision)
    assert "'db'" in status.message
    file = stack.directory / "secrets" / "default" / "db" / "password"
    file.parent.mkdir(parents=True)
    file.write_text("pa55word")
    await stack.status("show", "active", revision)
    assert "PASSWORD=pa55word" in (await call(stack.endpoints("show")[0])).text
    assert "pa55word" not in stack.logs()
    assert not any("pa55word" in repr(event) for event in stack.seen.events)


async def test_a_function_isolated_by_pod_has_a_keeper_of_its_own(stack: Stack) -> None:
    await stack.deploy("shared")
    await stack.deploy("alone", isolation="pod", scaling={"idle_timeout_s": 0.3})
    [shared] = await stack.until(lambda: stack.endpoints("shared"))
    [loaded] = await stack.until(
        lambda: [event for event in stack.events("instance-loaded") if event.name == "alone"]
    )
    alone = loaded.fields["keeper"]
    assert alone != shared.pod
    await stack.until(lambda: stack.events("keeper-stopped"))
    assert shared.pod in stack.keepers()
    [endpoint] = await stack.met("alone")
    assert endpoint.pod not in (alone, shared.pod)


async def test_a_namespace_is_given_keepers_of_its_own_while_it_has_functions(
    stack: Stack,
) -> None:
    await stack.deploy("sort")
    await stack.deploy("sort", namespace="other")
    [ours] = stack.endpoints("sort")
    [theirs] = stack.endpoints("sort", "other")
    assert ours.pod != theirs.pod
    await stack.delete("function", "sort", "other")
    await stack.until(lambda: stack.events("keeper-stopped"))
    assert [e.fields["uid"] for e in stack.events("keeper-stopped")] == [theirs.pod]


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
async def test_a_standby_takes_over_and_starts_nothing_twice(
    bare: Stack, how: signal.Signals
) -> None:
    bare.start("scheduler", "first")
    await bare.until(lambda: bare.events("leader-elected"))
    bare.start("scheduler", "second")
    await bare.deploy("sort", scaling={"min_instances": 1})
    endpoints, keepers = bare.endpoints("sort"), set(bare.keepers())
    bare.kill("first", how)
    assert (await call(endpoints[0], "2", "1")).status_code == 200
    await bare.until(lambda: len(bare.events("leader-elected")) == 2, within_s=15.0)
    assert await bare.met("sort") == endpoints
    await bare.deploy("another")
    assert set(bare.keepers()) == keepers
    assert bare.endpoints("sort") == endpoints


async def test_what_happened_while_nobody_led_is_made_good(bare: Stack) -> None:
    bare.start("scheduler", "first")
    await bare.deploy("gone")
    await bare.deploy("kept", scaling={"min_instances": 1})
    [lost] = bare.endpoints("kept")
    bare.kill("first")
    os.kill(bare.keepers()[lost.pod].pid, signal.SIGKILL)
    await bare.delete("function", "gone")
    bare.start("scheduler", "second")
    [found] = await bare.until(lambda: [e for e in bare.endpoints("kept") if e.pod != lost.pod])
    assert (await call(found, "2", "1")).status_code == 200
    await bare.until(lambda: bare.endpoints("kept") == [found] and not bare.endpoints("gone"))


async def test_a_deposed_leader_that_wakes_up_can_do_nothing(bare: Stack) -> None:
    first = bare.start("scheduler", "first")
    await bare.until(lambda: bare.events("leader-elected"))
    await bare.deploy("sort")
    first.send_signal(signal.SIGSTOP)
    bare.start("scheduler", "second")
    await bare.until(lambda: len(bare.events("leader-elected")) == 2)
    await bare.deploy("another")
    keepers, endpoints = set(bare.keepers()), bare.seen.endpoints.copy()
    first.send_signal(signal.SIGCONT)
    await bare.until(lambda: bare.events("leader-lost"))
    assert len(await bare.met("sort")) == 1
    assert (set(bare.keepers()), bare.seen.endpoints) == (keepers, endpoints)


async def test_a_restart_of_nats_changes_nothing_that_runs(
    stack: Stack,
    nats_server: NatsServer,
) -> None:
    await stack.deploy("sort", scaling={"min_instances": 1})
    endpoints, keepers = stack.endpoints("sort"), set(stack.keepers())
    nats_server.kill()
    assert (await call(endpoints[0], "2", "1")).status_code == 200
    nats_server.start()
    await stack.deploy("another")
    assert (stack.endpoints("sort"), set(stack.keepers())) == (endpoints, keepers)


async def until_gone(endpoint: Endpoint) -> None:
    """Return when nothing listens there any more."""
    async with asyncio.timeout(20):
        while listens(endpoint):  # noqa: ASYNC110 - the kernel tells nobody
            await asyncio.sleep(0.01)
