"""Users who prove themselves by nkey have the rights that are generated for them, and no others.

What they can do is in `test_nats`, whose tests of that run for nkeys too. Here is
what they can not: told to the server itself, past our own client, with a witness
beside it that hears everything.
"""

import contextlib
import re
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import nats
import nkeys
import pytest
from nats.aio.client import Client
from nats.aio.msg import Msg

from schemas.streams import CHANNELS, STREAMS, Stream
from schemas.subjects import Template
from services.bus.connection import BusSettings, connect
from services.bus.errors import BusRefused
from services.bus.permissions import SERVICES, USERS, inbox_prefix
from services.bus.streams import BUCKETS, ensure_buckets, ensure_streams
from tests.manifests.servers import WITNESS, Servers

_DENIED = re.compile(r"permissions violation for (\w+) to \"([^\"]+)\"", re.IGNORECASE)


@pytest.fixture
def servers(tmp_path: Path, free_port_pairs: list[tuple[int, int]]) -> Iterator[Servers]:
    servers = Servers(tmp_path, free_port_pairs[:1], by_nkey=True)
    servers.start()
    yield servers
    servers.stop()


class Plain:
    """A client that is nobody's, with a user's nkey."""

    def __init__(self) -> None:
        self.nc = Client()
        self.denied: dict[str, set[str]] = {"publish": set(), "subscription": set()}

    async def settle(self) -> None:
        # The answer to the second ping comes behind whatever the first ones set off.
        for _ in range(2):
            await self.nc.flush()

    async def _on_error(self, error: Exception) -> None:
        if found := _DENIED.search(str(error)):
            self.denied[found[1].lower()].add(found[2].lower())

    @classmethod
    @contextlib.asynccontextmanager
    async def of(cls, settings: BusSettings) -> AsyncIterator["Plain"]:
        plain = cls()
        proof = (
            {"nkeys_seed": settings.nats_nkey_file}
            if settings.nats_nkey_file
            else {"user": settings.nats_user, "password": f"p9{settings.nats_user}"}
        )
        plain.nc = await nats.connect(
            settings.nats_url, allow_reconnect=False, error_cb=plain._on_error,
            inbox_prefix=settings.nats_inbox_prefix.encode(), **proof,
        )  # fmt: skip
        try:
            yield plain
        finally:
            await plain.nc.close()


def example(template: Template, service: str = "x") -> str:
    tokens = dict.fromkeys(template.tokens, "x")
    return template.subject(**(tokens | ({"service": service} if "service" in tokens else {})))


def writers(stream: Stream) -> set[str]:
    theirs = {"anyone": "people", "each service its own": ""}.get(stream.writer, stream.writer)
    return {theirs, *stream.producers}


def not_to_publish(user: str) -> set[str]:
    """Return what is another's, or nobody's, by the table of who writes what."""
    names = [stream.name for stream in STREAMS] + [f"OBJ_{bucket.name}" for bucket in BUCKETS]
    outside = {
        "outside",
        "wasmfn",
        "wasmfn.new.x",
        "$SYS.REQ.SERVER.PING",
        "$JS.API.ACCOUNT.PURGE.x",
    }
    outside |= {f"{inbox_prefix(other)}.x" for other in USERS if other != user}
    outside -= {f"{inbox_prefix('app')}.x"} if user == "router" else set()
    outside |= {f"$JS.API.STREAM.{verb}.{name}" for verb in ("DELETE", "RESTORE") for name in names}
    outside |= {f"$JS.API.STREAM.{verb}.NEW" for verb in ("CREATE", "UPDATE", "DELETE", "INFO")}
    if user != "scheduler":
        verbs = ("CREATE", "UPDATE")
        outside |= {f"$JS.API.STREAM.{verb}.{name}" for verb in verbs for name in names}
    for stream in STREAMS:
        if user not in writers(stream):
            others = next(service for service in SERVICES if service != user)
            outside.add(example(stream.template, others))
            outside.add(f"$JS.API.STREAM.MSG.DELETE.{stream.name}")
            outside |= {stream.fence} if stream.fenced else set()
        # Streams are never emptied; what is in buckets is, by who writes there.
        outside.add(f"$JS.API.STREAM.PURGE.{stream.name}")
    outside |= {example(channel.template) for channel in CHANNELS if channel.writer != user}
    for bucket in BUCKETS:
        if ("people" if bucket.writer == "anyone" else bucket.writer) != user:
            outside |= {f"$O.{bucket.name}.{part}.x" for part in "CM"}
            outside.add(f"$JS.API.STREAM.PURGE.OBJ_{bucket.name}")
    if user not in ("router", "app"):
        outside.add("app.x")
    return outside


def not_to_subscribe(user: str) -> set[str]:
    """Return what tells of more than is for `user`."""
    outside = {">", "wasmfn.>", "*.>", "$JS.>", "$SYS.>", "outside"}
    outside |= {f"{inbox_prefix(other)}.>" for other in USERS if other != user}
    outside |= {stream.template.wildcard for stream in STREAMS}
    outside |= {channel.template.wildcard for channel in CHANNELS if user not in channel.readers}
    if user not in ("router", "app"):
        outside.add("app.>")
    return outside


@pytest.mark.parametrize("user", USERS)
async def test_what_is_not_a_users_by_the_table_the_server_refuses_it(
    servers: Servers, user: str
) -> None:
    async with servers.user("scheduler") as (bus, _):
        await ensure_streams(bus.js)
        await ensure_buckets(bus.js)
    heard: set[str] = set()

    async def hear(msg: Msg) -> None:
        heard.add(msg.subject)

    async with Plain.of(servers.settings(WITNESS)) as witness:
        await witness.nc.subscribe(">", cb=hear)
        await witness.settle()
        async with Plain.of(servers.settings(user)) as plain:
            outside = not_to_publish(user)
            for subject in outside:
                await plain.nc.publish(subject, b"{}")
            await plain.settle()
            assert plain.denied["publish"] == {subject.lower() for subject in outside}
            wide = not_to_subscribe(user)
            for subject in wide:
                await plain.nc.subscribe(subject, cb=hear)
            await plain.settle()
            assert plain.denied["subscription"] == {subject.lower() for subject in wide}
        await witness.nc.publish("outside.last", b"")
        await witness.settle()
        assert "outside.last" in heard, "the witness hears"
        assert not heard & not_to_publish(user)
        state = {s.name: (await witness.nc.jetstream().stream_info(s.name)).state for s in STREAMS}
        assert {name for name, each in state.items() if each.last_seq} == set()


@pytest.mark.parametrize("user", SERVICES)
async def test_who_has_not_the_users_nkey_is_not_the_user(
    servers: Servers, user: str, tmp_path: Path
) -> None:
    stranger = tmp_path / "stranger.nk"
    stranger.write_bytes(nkeys.encode_seed(b"s" * 32, nkeys.PREFIX_BYTE_USER))
    password = tmp_path / "password"
    password.write_text(f"p9{user}")
    for proof in (
        {"nats_nkey_file": str(stranger)},
        {"nats_user": user, "nats_password_file": str(password)},
        {},
    ):
        settings = BusSettings(nats_url=servers.url, nats_wait_s=1.0, **proof)
        with pytest.raises(BusRefused, match=r"(?i)authorization"):
            async with connect(settings, user):
                pass
