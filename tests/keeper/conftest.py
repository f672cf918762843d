"""Real keepers, driven as the scheduler and a router drive them."""

import contextlib
import http.client
import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from queue import Queue
from typing import Any

import msgspec
import pytest
import wasmtime
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from keeper import capi
from keeper.engine import engine_hash
from keeper.module import compile_module, new_compiler
from keeper.slot import Slot
from schemas.builds import Artifact
from schemas.control import (
    INSTANCE_HEADER,
    InstanceState,
    LoadReply,
    LoadRequest,
    Problem,
    UnloadReply,
    UnloadRequest,
    WatchInstance,
    WatchLine,
    WatchSnapshot,
    encode_load,
)
from schemas.names import new_instance_id, new_token, sha256_hex
from schemas.signing import (
    SIGNATURE_HEADER,
    SIGNED_HEADER,
    Claims,
    artifact_text,
    control_text,
)
from schemas.specs import Limits

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"
DEADLINE_S = 60.0


class Compiler:
    """Precompiles modules once per session."""

    def __init__(self) -> None:
        self._engine = new_compiler()
        self.engine_hash = engine_hash(capi.address_of(self._engine))
        self._done: dict[str, tuple[str, bytes]] = {}

    def __call__(self, source: str) -> tuple[str, bytes]:
        """Return digest and precompiled code of an example by name, or of a WAT text."""
        if source not in self._done:
            if source.lstrip().startswith("("):
                wasm = bytes(wasmtime.wat2wasm(source))
            else:
                wasm = (EXAMPLES / source / f"{source}.wasm").read_bytes()
            code = bytes(compile_module(self._engine, wasm).serialize())
            self._done[source] = (sha256_hex(wasm), code)
        return self._done[source]


@pytest.fixture(scope="session")
def compiler() -> Compiler:
    return Compiler()


class Keys:
    """The key pairs of a scheduler and a builder, with the public halves in files."""

    def __init__(self, directory: Path) -> None:
        self.control = Ed25519PrivateKey.generate()
        self.artifact = Ed25519PrivateKey.generate()
        self.control_file = directory / "control.pub"
        self.artifact_file = directory / "artifact.pub"
        for key, file in (
            (self.control, self.control_file),
            (self.artifact, self.artifact_file),
        ):
            file.write_text(key.public_key().public_bytes_raw().hex())


def children(pid: int) -> list[int]:
    """Return the processes that `pid` has forked."""
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


class RefusedError(Exception):
    def __init__(self, status: int, problem: Problem) -> None:
        self.status = status
        self.problem = problem.problem
        super().__init__(f"{status} {problem.problem}: {problem.message}")


def refusal(action: Callable[[], object]) -> tuple[int, str]:
    """Return the status and the problem with which a keeper refuses `action`."""
    with pytest.raises(RefusedError) as caught:
        action()
    return caught.value.status, caught.value.problem


class Loaded(msgspec.Struct, frozen=True):
    """A function process and the way to call it."""

    reply: LoadReply
    token: str

    @property
    def instance(self) -> str:
        return self.reply.instance

    def connect(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection(self.reply.ip, self.reply.port, timeout=DEADLINE_S)

    def call(
        self,
        body: bytes | str = b"",
        *,
        method: str = "POST",
        path: str = "/",
        token: str | None = None,
        headers: dict[str, str] | None = None,
    ) -> tuple[int, bytes, http.client.HTTPMessage]:
        with contextlib.closing(self.connect()) as connection:
            connection.request(
                method,
                path,
                body,
                {INSTANCE_HEADER: self.token if token is None else token, **(headers or {})},
            )
            response = connection.getresponse()
            return response.status, response.read(), response.headers

    def run(self, *args: str, stdin: str = "") -> dict[str, Any]:
        """Call through the `args` interface and return upstream's JSON."""
        body = {"args": list(args)} | ({"stdin": stdin} if stdin else {})
        _, answer, _ = self.call(json.dumps(body))
        result: dict[str, Any] = json.loads(answer)
        return result


class Watch:
    """Follows `GET /watch` in a thread."""

    def __init__(self, port: int, headers: dict[str, str]) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), DEADLINE_S)
        lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        self._socket.sendall(f"GET /watch HTTP/1.1\r\nHost: x\r\n{lines}\r\n".encode())
        self._file = self._socket.makefile("rb")
        assert self._file.readline() == b"HTTP/1.1 200 OK\r\n"
        while self._file.readline() != b"\r\n":
            pass
        self._lines: Queue[WatchLine | None] = Queue()
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        with contextlib.suppress(OSError):
            while line := self._file.readline():
                self._lines.put(msgspec.json.decode(line, type=WatchLine))
        self._lines.put(None)

    def next(self) -> WatchLine | None:
        return self._lines.get(timeout=DEADLINE_S)

    def until(self, wanted: Callable[[InstanceState], bool]) -> WatchInstance:
        """Return the first change that is `wanted`."""
        while (line := self.next()) is not None:
            if isinstance(line, WatchInstance) and wanted(line.instance):
                return line
        raise AssertionError("the stream ended")

    def gone(self, instance: str) -> str:
        """Wait until `instance` has ended, and return the reason that is told."""
        return self.until(lambda it: (it.instance, it.state) == (instance, "gone")).reason

    def close(self) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._file.close()
        self._socket.close()


class Keeper:
    """A keeper process with a bound control listener, and the scheduler's side of it."""

    def __init__(self, directory: Path, compiler: Compiler, *flags: str) -> None:
        self.id = new_instance_id()
        self.compiler = compiler
        self.keys = Keys(directory)
        self.cache = directory / "cache"
        self.log_file = directory / "log"
        self.term = 1
        self.counter = 0
        with socket.create_server(("127.0.0.1", 0)) as listener, self.log_file.open("wb") as log:
            self.port: int = listener.getsockname()[1]
            os.set_inheritable(listener.fileno(), True)
            command = [sys.executable, "-P", "-m", "keeper", "--keeper-id", self.id]
            command += ["--control-fd", str(listener.fileno()), "--cache-dir", str(self.cache)]
            command += ["--control-key", str(self.keys.control_file)]
            command += ["--artifact-key", str(self.keys.artifact_file), *flags]
            self.process = subprocess.Popen(
                command, stdout=log, stderr=subprocess.STDOUT, pass_fds=[listener.fileno()]
            )
        try:
            status, body = self.http("GET", "/healthz")
            assert status == 200
        except BaseException:
            self.close()
            print(self.log_file.read_text())  # noqa: T201 -- why it did not start
            raise
        self.health = msgspec.json.decode(body)
        self.boot: str = self.health["boot"]

    def http(
        self, method: str, path: str, body: bytes = b"", headers: dict[str, str] | None = None
    ) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=DEADLINE_S)
        with contextlib.closing(connection):
            connection.request(method, path, body, headers or {})
            response = connection.getresponse()
            return response.status, response.read()

    def signature(
        self, method: str, path: str, body: bytes = b"", **changes: Any
    ) -> dict[str, str]:
        """Return the headers of a signed call with a fresh counter."""
        self.counter += 1
        claims = Claims(self.id, self.boot, self.term, self.counter, sha256_hex(body))
        claims = msgspec.structs.replace(claims, **changes)
        signature = self.keys.control.sign(control_text(method, path, claims))
        return {
            SIGNED_HEADER: msgspec.json.encode(claims).decode(),
            SIGNATURE_HEADER: signature.hex(),
        }

    def signed(self, method: str, path: str, body: bytes = b"") -> tuple[int, bytes]:
        return self.http(method, path, body, self.signature(method, path, body))

    def artifact(self, source: str) -> tuple[Artifact, bytes]:
        digest, code = self.compiler(source)
        engine = self.compiler.engine_hash
        text = artifact_text(digest, engine, sha256_hex(code))
        signature = self.keys.artifact.sign(text).hex()
        return Artifact(digest, engine, len(code), sha256_hex(code), signature), code

    def request(self, source: str, **changes: Any) -> tuple[LoadRequest, bytes]:
        artifact, code = self.artifact(source)
        name = source if source.isalnum() else "wat"
        request = LoadRequest(
            instance=new_instance_id(),
            namespace="default",
            function=name,
            revision=1,
            token=new_token(),
            file_name=f"{name}.wasm",
            interface="args",
            arguments=(),
            variables={},
            limits=Limits(timeout_s=5.0),
            concurrency=16,
            artifact=artifact,
        )
        return msgspec.structs.replace(request, **changes), code

    def load(self, source: str, *, send_code: bool = True, **changes: Any) -> Loaded:
        """Load an example (by name) or a WAT text."""
        request, code = self.request(source, **changes)
        return self.load_request(request, code if send_code else b"")

    def load_request(self, request: LoadRequest, code: bytes) -> Loaded:
        status, answer = self.signed("POST", "/load", encode_load(request, code))
        if status != 200:
            raise RefusedError(status, msgspec.json.decode(answer, type=Problem))
        return Loaded(msgspec.json.decode(answer, type=LoadReply), request.token)

    def unload(self, instance: str, mode: Any, **more: Any) -> UnloadReply:
        body = msgspec.json.encode(UnloadRequest(instance, mode, **more))
        status, answer = self.signed("POST", "/unload", body)
        if status not in (200, 409) or b'"problem"' in answer:
            raise RefusedError(status, msgspec.json.decode(answer, type=Problem))
        return msgspec.json.decode(answer, type=UnloadReply)

    def watch(self) -> Watch:
        return Watch(self.port, self.signature("GET", "/watch"))

    def in_flight(self, instance: str) -> int:
        """Return what a fresh snapshot says of `instance`."""
        watch = self.watch()
        snapshot = watch.next()
        watch.close()
        assert isinstance(snapshot, WatchSnapshot)
        return next((i.in_flight for i in snapshot.instances if i.instance == instance), 0)

    def log(self) -> list[dict[str, Any]]:
        lines = self.log_file.read_bytes().split(b"\n")[:-1]
        return [json.loads(line) for line in lines]

    def log_until(self, wanted: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        deadline = time.monotonic() + DEADLINE_S
        while time.monotonic() < deadline:
            for line in self.log():
                if wanted(line):
                    return line
            time.sleep(0.01)  # a file: nothing to wait on
        raise AssertionError(f"no such line in {self.log()}")

    @property
    def zygote(self) -> int:
        """The process that forks."""
        (zygote,) = children(self.process.pid)
        return zygote

    def children(self) -> list[int]:
        """Return the processes of functions, loaded or spare."""
        return children(self.zygote)

    def close(self) -> None:
        self.process.kill()
        self.process.wait()


@pytest.fixture
def start_keeper(tmp_path: Path, compiler: Compiler) -> Iterator[Callable[..., Keeper]]:
    """Start keepers with flags of the test's own."""
    started: list[Keeper] = []

    def start(*flags: str) -> Keeper:
        directory = tmp_path / f"keeper{len(started)}"
        directory.mkdir()
        started.append(Keeper(directory, compiler, *flags))
        return started[-1]

    yield start
    for keeper in started:
        keeper.close()


@pytest.fixture(scope="module")
def keeper(tmp_path_factory: pytest.TempPathFactory, compiler: Compiler) -> Iterator[Keeper]:
    """One keeper for all tests of a module that do it no harm."""
    keeper = Keeper(tmp_path_factory.mktemp("keeper"), compiler)
    yield keeper
    keeper.close()


@pytest.fixture
def standard_streams() -> Iterator[None]:
    """Give stdout and stderr back to a test process that ran calls itself."""
    kept = os.dup(1), os.dup(2)
    yield
    for number, descriptor in enumerate(kept, 1):
        os.dup2(descriptor, number)
        os.close(descriptor)
    Slot.installed = None


@pytest.fixture(scope="session")
def wait_for() -> Callable[[Callable[[], bool]], None]:
    """Wait until something holds that gives no other sign of itself."""

    def wait(condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + DEADLINE_S
        while not condition():
            assert time.monotonic() < deadline, "it never came true"
            time.sleep(0.002)

    return wait
