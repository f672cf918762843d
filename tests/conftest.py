"""A real nats-server for every test that asks for one: it is ready in about 15 ms."""

import contextlib
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from services.bus.connection import BusSettings

# Tests run on machines that are busy with other tests: how long an example takes says nothing.
settings.register_profile("wasmfn", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("wasmfn")

# A shell without job control ignores Ctrl-C for what it starts in the background, and nohup the
# end of the terminal; and so would the programs under test, which inherit it.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
    signal.signal(signal.SIGHUP, signal.SIG_DFL)

NATS_SERVER = Path(sys.executable).parent / "nats-server"


class NatsServer:
    """A nats-server with JetStream in `directory`, which can die and come back on its port."""

    def __init__(self, directory: Path, token: str = "", config: str = "") -> None:
        self.directory = directory
        self.token_file = directory / "token"
        self.token_file.write_text(token)
        self.token = token
        self._config = directory / "nats.conf"
        self._config.write_text(config)
        self._port = -1
        self._data = 0
        self._process: subprocess.Popen[str] | None = None

    @property
    def url(self) -> str:
        return f"nats://127.0.0.1:{self._port}"

    @property
    def settings(self) -> BusSettings:
        """How to connect to it."""
        return BusSettings(
            nats_url=self.url, nats_token_file=str(self.token_file) if self.token else ""
        )

    def start(self) -> None:
        command = [str(NATS_SERVER), "-c", str(self._config), "-a", "127.0.0.1"]
        command += ["-p", str(self._port), "-js", "-sd", str(self.directory / f"js{self._data}")]
        if self.token:
            command += ["--auth", self.token]
        self._process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        assert self._process.stderr is not None
        said = []
        for line in self._process.stderr:
            said.append(line)
            if port := re.search(r"Listening for client connections on .*:(\d+)", line):
                self._port = int(port[1])
            if "Server is ready" in line:
                return
        raise AssertionError("nats-server did not start:\n" + "".join(said))

    def kill(self) -> None:
        """End it as a power cut would."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        """End it in order."""
        self._end(signal.SIGTERM)

    def restart(self) -> None:
        """Kill it and start it again on the same port and data."""
        self.kill()
        self.start()

    def lose_data(self) -> None:
        """Kill it and start it on the same port with an empty data directory."""
        self.kill()
        self._data += 1
        self.start()

    @contextlib.contextmanager
    def frozen(self) -> Iterator[None]:
        """Stop it from answering, with every connection left open."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)
        # The signal only asks: its last thread may still answer until this returns.
        os.waitpid(self._process.pid, os.WUNTRACED)
        try:
            yield
        finally:
            self._process.send_signal(signal.SIGCONT)

    def _end(self, how: signal.Signals) -> None:
        if self._process is None:
            return
        self._process.send_signal(how)
        self._process.wait()
        assert self._process.stderr is not None
        self._process.stderr.close()
        self._process = None


@pytest.fixture
def make_nats_server(
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Callable[..., NatsServer]]:
    """Return a function that starts a server, with an optional `token` or `config` text."""
    servers: list[NatsServer] = []

    def make(token: str = "", config: str = "") -> NatsServer:
        server = NatsServer(tmp_path_factory.mktemp("nats"), token, config)
        servers.append(server)
        server.start()
        return server

    yield make
    for server in servers:
        server.kill()


@pytest.fixture
def nats_server(make_nats_server: Callable[..., NatsServer]) -> NatsServer:
    """Return a running server without authentication."""
    return make_nats_server()
