"""The cluster's own NATS: the committed configuration on real servers, and its users."""

import contextlib
import os
import secrets
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import nkeys

from services.bus.applications import IN_A_CLUSTER, Applications
from services.bus.connection import Bus, BusSettings, connect
from services.bus.permissions import USERS, inbox_prefix, used_by
from services.bus.streams import provide
from tests.manifests.workloads import MANIFESTS
from wasmfn import natsusers

NATS_SERVER = Path(sys.executable).parent / "nats-server"
WITNESS = "witness"
"""One more user, who may do everything: it sees what the others get through."""


def with_nkeys(users: str, keys: dict[str, str]) -> str:
    """Put public keys in the place of names and passwords, and change nothing else."""
    for user, key in keys.items():
        lines = f"    user: {user}\n    password: $NATS_PASSWORD_{user}\n"
        assert users.count(lines) == 1
        users = users.replace(lines, f"    nkey: {key}\n")
    assert "password" not in users
    return users


def with_witness(users: str) -> str:
    """Add one who may do everything."""
    opened = "users: [\n"
    assert users.count(opened) == 1
    return users.replace(opened, f"{opened}  {{ user: {WITNESS}, password: p9{WITNESS} }}\n")


class Servers:
    """One server, or three of a cluster, with the committed configuration and other ports."""

    def __init__(
        self,
        directory: Path,
        ports: list[tuple[int, int]],
        applications: Applications = IN_A_CLUSTER,
        *,
        by_nkey: bool = False,
    ) -> None:
        self.directory = directory
        self._users = natsusers.configuration(applications)
        self._by_nkey = by_nkey
        if by_nkey:
            keys = {user: self._key(user) for user in USERS}
            self._users = with_witness(with_nkeys(self._users, keys))
        self.url = ",".join(f"nats://127.0.0.1:{client}" for client, _ in ports)
        self._environ = dict(os.environ)
        self._environ |= {f"NATS_PASSWORD_{user}": f"p9{user}" for user in (*USERS, "server")}
        for number, (_, route) in enumerate(ports):
            address = f"nats://server:p9server@127.0.0.1:{route}"
            self._environ[f"NATS_ROUTE_{number}"] = address
        self._ports = ports
        self._children: list[subprocess.Popen[bytes]] = []

    def start(self) -> None:
        for number, (client, route) in enumerate(self._ports):
            place = self.directory / str(number)
            place.mkdir()
            for file in (MANIFESTS / "base" / "nats").glob("*.conf"):
                (place / file.name).write_text(file.read_text())
            if len(self._ports) > 1:
                cluster = (MANIFESTS / "overlays" / "ha" / "cluster.conf").read_text()
                cluster = cluster.replace("port: 6222", f'listen: "127.0.0.1:{route}"')
                (place / "cluster.conf").write_text(cluster)
            (place / "users.conf").write_text(self._users)
            config = (place / "nats.conf").read_text()
            config = config.replace("host: 0.0.0.0", 'host: "127.0.0.1"')
            config = config.replace("port: 4222", f"port: {client}")
            config = config.replace("http: 0.0.0.0:8222", 'http: "127.0.0.1:-1"')
            config = config.replace("store_dir: /data", f"store_dir: {place}/data")
            (place / "nats.conf").write_text(config)
            self._children.append(
                subprocess.Popen(
                    [NATS_SERVER, "-c", place / "nats.conf"],
                    env=self._environ | {"POD_NAME": f"nats-{number}"},
                    stderr=subprocess.DEVNULL,
                )
            )

    def stop(self) -> None:
        for child in self._children:
            child.kill()
            child.wait()

    def _key(self, user: str) -> str:
        """Make an nkey, write its seed, and return its public half."""
        seed = nkeys.encode_seed(secrets.token_bytes(32), nkeys.PREFIX_BYTE_USER)
        (self.directory / f"{user}.nk").write_bytes(seed)
        return str(nkeys.from_seed(bytearray(seed)).public_key.decode())

    def settings(self, user: str, replicas: int = 0) -> BusSettings:
        """Return how a user connects."""
        proof = {"nats_nkey_file": str(self.directory / f"{user}.nk")}
        if not self._by_nkey or user == WITNESS:
            password = self.directory / f"{user}.password"
            password.write_text(f"p9{user}\n")
            proof = {"nats_user": user, "nats_password_file": str(password)}
        return BusSettings(
            nats_url=self.url,
            nats_inbox_prefix=inbox_prefix(user),
            nats_streams="make" if user == "scheduler" else "await",
            nats_replicas=replicas,
            **proof,
        )

    @contextlib.asynccontextmanager
    async def user(self, name: str, replicas: int = 0) -> AsyncIterator[tuple[Bus, BusSettings]]:
        settings = self.settings(name, replicas)
        async with connect(settings, name) as bus:
            yield bus, settings

    async def provide(self) -> None:
        """Make the streams, as the scheduler does."""
        async with self.user("scheduler") as (bus, settings):
            await provide(bus, settings, used_by("scheduler"))
