"""Connecting to a real server: waiting, refusal, healing, and what is said about it."""

import asyncio
import socket

import pytest

from services.bus.connection import BusSettings, connect, settle, without_credentials
from services.bus.errors import BusRefused, BusUnavailable
from services.bus.publish import publish


async def test_a_server_that_comes_late_is_waited_for(make_nats_server):
    server = make_nats_server()
    server.kill()
    connecting = asyncio.create_task(use(server.settings))
    await asyncio.sleep(0)
    await asyncio.to_thread(server.start)
    async with asyncio.timeout(30):
        assert await connecting


async def use(settings: BusSettings) -> bool:
    async with connect(settings, "test") as bus:
        await bus.nc.flush()
        return bus.connected


async def test_a_server_that_does_not_come_is_one_clear_sentence():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    settings = BusSettings(nats_url=f"nats://me:hunter2@127.0.0.1:{port}", nats_wait_s=0.2)
    with pytest.raises(BusUnavailable) as caught:
        async with connect(settings, "test"):
            pass
    assert f"connecting to nats://127.0.0.1:{port}; start a server there" in str(caught.value)
    assert "hunter2" not in str(caught.value)


async def test_a_server_that_never_speaks_is_given_up_in_time():
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"nats://127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(BusUnavailable):
            async with connect(BusSettings(nats_url=url, nats_wait_s=0.2), "test"):
                pass


async def test_the_token_of_the_token_file_is_sent(make_nats_server):
    server = make_nats_server(token="t0ken")
    assert await use(server.settings)


async def test_a_wrong_token_is_refused_at_once_and_never_shown(make_nats_server, caplog):
    server = make_nats_server(token="t0ken")
    server.token_file.write_text("hunter2\n")
    with pytest.raises(BusRefused) as caught:
        async with asyncio.timeout(2), connect(server.settings, "test"):
            pass
    assert "authorization" in str(caught.value).lower()
    assert "hunter2" not in str(caught.value) + caplog.text


async def test_a_missing_token_file_is_one_sentence(nats_server):
    settings = BusSettings(nats_url=nats_server.url, nats_token_file="/nowhere/token")
    with pytest.raises(BusRefused, match=r"cannot read nats_token_file: .*/nowhere/token"):
        async with connect(settings, "test"):
            pass


async def test_a_restarted_server_is_found_again(nats_server, caplog):
    async with connect(nats_server.settings, "test") as bus:
        broken = asyncio.Event()
        with bus.on_break(broken.set):
            nats_server.restart()
            await asyncio.wait_for(broken.wait(), 30)
        assert not bus.connected
        await asyncio.wait_for(bus.wait_connected(), 30)
        await bus.nc.flush()
    assert caplog.text.count("lost the connection to NATS") == 1


# nats-py drops the socket of an attempt to reconnect that was refused, unclosed.
@pytest.mark.filterwarnings("ignore:unclosed transport:ResourceWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
async def test_a_token_that_changed_is_read_again_and_until_then_nothing_ends(
    make_nats_server, caplog
):
    server = make_nats_server(token="old")
    async with connect(server.settings, "test") as bus:
        watching = asyncio.create_task(bus.watch())
        server.token = "new"
        server.restart()
        await asyncio.wait_for(bus._refused.wait(), 30)
        assert not bus.connected
        server.token_file.write_text("new")
        await asyncio.wait_for(bus.wait_connected(), 30)
        assert not watching.done()
        watching.cancel()
    assert caplog.text.count("NATS does not accept our credentials") == 1


async def test_a_client_that_gave_up_for_good_is_told(nats_server):
    async with connect(nats_server.settings, "test") as bus:
        await bus.nc.close()
        with pytest.raises(BusRefused, match="the client closed it"):
            await asyncio.wait_for(bus.watch(), 30)


async def test_settle_is_a_barrier_for_subscriptions(nats_server):
    async with (
        connect(nats_server.settings, "hears") as hears,
        connect(nats_server.settings, "speaks") as speaks,
    ):
        for i in range(100):
            heard = asyncio.Event()

            async def hear(_: object, heard: asyncio.Event = heard) -> None:
                heard.set()

            await hears.nc.subscribe(f"s.{i}", cb=hear)
            await settle(hears.nc)
            await speaks.nc.publish(f"s.{i}", b"")
            await asyncio.wait_for(heard.wait(), 30)


DENY = """
authorization { users = [ { user: "u", password: "p", permissions: {
  publish: { deny: ["secret.>"] }, subscribe: ">" } } ] }
"""


async def test_a_denied_subject_is_refused_with_its_reason_and_logged(make_nats_server, caplog):
    server = make_nats_server(config=DENY)
    url = server.url.replace("nats://", "nats://u:p@")
    async with connect(BusSettings(nats_url=url), "test") as bus:
        with pytest.raises(BusRefused, match=r"publishing on secret\.x: .*permissions violation"):
            await publish(bus, "secret.x", b"1")
    assert "NATS denied a subject; give this user the permission" in caplog.text


def test_urls_are_logged_without_credentials():
    assert without_credentials("nats://user:pass@host:1") == "nats://host:1"
    assert without_credentials("nats://token@host:1") == "nats://host:1"
    assert without_credentials("nats://host:1") == "nats://host:1"


async def test_a_cancellation_is_not_lost_when_the_answer_swallows_it(nats_server):
    answer: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def ask(bus) -> None:
        async with bus.bounded(30):
            # As nats-py waits; until Python 3.12 it returns if both come in one turn of the loop.
            await asyncio.wait_for(answer, 30)
        await asyncio.Event().wait()

    async with connect(nats_server.settings, "test") as bus:
        asking = asyncio.create_task(ask(bus))
        await asyncio.sleep(0)
        answer.set_result(None)
        asking.cancel()
        async with asyncio.timeout(30):
            await asyncio.wait({asking})
        assert asking.cancelled()
