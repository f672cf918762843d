"""A user whose account an operator has signed proves itself with a `.creds` file."""

import base64
import json
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nkeys
import pytest

from services.bus.connection import BusSettings, connect
from services.bus.errors import BusRefused
from services.bus.publish import publish
from services.bus.streams import ensure_streams
from tests.conftest import NatsServer

LIMITS = "subs data payload imports exports conn leaf mem_storage disk_storage streams consumer"
UNLIMITED = dict.fromkeys(LIMITS.split(), -1)


class Key:
    """A pair of keys of NATS; `kind` is what the public one begins with."""

    def __init__(self, kind: int) -> None:
        self.seed = nkeys.encode_seed(secrets.token_bytes(32), kind)
        self._pair = nkeys.from_seed(bytearray(self.seed))
        self.public = self._pair.public_key.decode()

    def token(self, name: str, subject: str, claims: dict[str, Any]) -> str:
        """Return the JWT that says `claims` of `subject`, as `nsc` makes it."""
        said = {
            "jti": secrets.token_hex(16), "iat": 1, "iss": self.public, "name": name,
            "sub": subject, "nats": {**claims, "version": 2},
        }  # fmt: skip
        parts = [
            _base64(json.dumps(part).encode())
            for part in ({"typ": "JWT", "alg": "ed25519-nkey"}, said)
        ]
        signature = self._pair.sign(".".join(parts).encode())
        return ".".join([*parts, _base64(signature)])


def _base64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def creds(token: str, seed: bytes) -> str:
    return (
        f"-----BEGIN NATS USER JWT-----\n{token}\n------END NATS USER JWT------\n\n"
        f"-----BEGIN USER NKEY SEED-----\n{seed.decode()}\n------END USER NKEY SEED------\n"
    )


class Operator:
    """Whose word a server takes for which accounts there are."""

    def __init__(self) -> None:
        self._key = Key(nkeys.PREFIX_BYTE_OPERATOR)
        self.account, self._system = (Key(nkeys.PREFIX_BYTE_ACCOUNT) for _ in range(2))

    @property
    def config(self) -> str:
        operator = self._key.token("o", self._key.public, {"type": "operator"})
        accounts = {
            key.public: self._key.token("a", key.public, {"type": "account", "limits": limits})
            for key, limits in (
                (self.account, UNLIMITED),
                (self._system, {**UNLIMITED, "mem_storage": 0, "disk_storage": 0}),
            )
        }
        known = "\n".join(f"{public}: {token}" for public, token in accounts.items())
        return (
            f"operator: {operator}\nsystem_account: {self._system.public}\n"
            f"resolver: MEMORY\nresolver_preload: {{\n{known}\n}}\n"
        )

    def user(self, signed_by: Key | None = None) -> str:
        """Return the `.creds` file of a new user."""
        user = Key(nkeys.PREFIX_BYTE_USER)
        claims = {"type": "user", "pub": {}, "sub": {}, "subs": -1, "data": -1, "payload": -1}
        return creds(
            (signed_by or self.account).token("router", user.public, claims), bytes(user.seed)
        )


@pytest.fixture
def operator() -> Operator:
    return Operator()


@pytest.fixture
def server(operator: Operator, make_nats_server: Callable[..., NatsServer]) -> NatsServer:
    return make_nats_server(config=operator.config)


async def test_a_user_with_a_creds_file_is_let_in_and_uses_jetstream(
    operator: Operator, server: NatsServer, tmp_path: Path
) -> None:
    file = tmp_path / "router.creds"
    file.write_text(operator.user())
    settings = BusSettings(nats_url=server.url, nats_creds_file=str(file))
    async with connect(settings, "test") as bus:
        await ensure_streams(bus.js)
        assert await publish(bus, "wasmfn.specs.route.default.r", b"{}") == 1
        server.restart()
        assert await publish(bus, "wasmfn.specs.route.default.r", b"{}", deadline_s=30) == 2


async def test_who_has_no_creds_file_or_one_of_another_account_is_refused(
    operator: Operator, server: NatsServer, tmp_path: Path
) -> None:
    stranger = tmp_path / "stranger.creds"
    stranger.write_text(operator.user(signed_by=Key(nkeys.PREFIX_BYTE_ACCOUNT)))
    for file in ("", str(stranger)):
        settings = BusSettings(nats_url=server.url, nats_creds_file=file)
        with pytest.raises(BusRefused, match=r"(?i)authorization"):
            async with connect(settings, "test"):
                pass


async def test_a_creds_file_that_is_not_there_is_named(server: NatsServer, tmp_path: Path) -> None:
    missing = str(tmp_path / "missing.creds")
    with pytest.raises(BusRefused, match=r"there is no file .*missing"):
        async with connect(BusSettings(nats_url=server.url, nats_creds_file=missing), "test"):
            pass


@pytest.mark.parametrize("seed", ["SUAsecret", "SU" + "A" * 56])
async def test_a_creds_file_that_is_none_is_an_error_without_its_content(
    server: NatsServer, tmp_path: Path, seed: str
) -> None:
    file = tmp_path / "broken.creds"
    file.write_text(f"{seed}\n")
    settings = BusSettings(nats_url=server.url, nats_creds_file=str(file))
    with pytest.raises(
        BusRefused, match=r"broken\.creds holds no JWT and seed of a user"
    ) as caught:
        async with connect(settings, "test"):
            pass
    assert seed not in str(caught.value)
