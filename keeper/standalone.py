"""Serves one module that is named on the command line, as upstream's keeper did.

The same zygote and the same locked-in child, without control port and token.
The child is forked anew if it dies: a function stuck in a host call must not
end the server.
"""

import socket
from pathlib import Path
from typing import Final

import msgspec

from keeper import child as child_process
from keeper import logs
from keeper.answer import Program
from keeper.artifact import sealed
from keeper.budget import Budget
from keeper.children import Child, State
from keeper.engine import ModuleError, engine_hash
from keeper.function import Host
from keeper.module import compile_module, new_compiler
from keeper.sandbox import Sandbox
from keeper.scoreboard import Scoreboards
from keeper.supervisor import Supervisor
from keeper.zygote import ZygoteError, start
from schemas.settings import SettingsError
from schemas.specs import MIB, Interface, Limits

MIN_AGE_S: Final = 1.0
"""A child that ends earlier would only fail again, for ever."""


class Standalone(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The flags of `python -m keeper --mod-path`."""

    mod_path: str
    host: str = "0.0.0.0"  # noqa: S104 -- as upstream: it stands where its clients are
    port: int = 10086
    interface: Interface = "args"
    concurrency: int = 16
    variables: dict[str, str] = {}
    limits: Limits = Limits()


def serve(flags: Standalone, listener: socket.socket) -> int:
    """Serve until told to end; return the exit code.

    Raises:
        SettingsError: the module cannot be read or cannot run here.
    """
    log = logs.Log()
    host = Host()
    descriptor = _compile(Path(flags.mod_path))
    plan = child_process.Plan(
        origin=logs.Origin(function=Path(flags.mod_path).stem),
        program=Program(
            interface=flags.interface,
            argv=[Path(flags.mod_path).name.encode()],
            variables={n.encode(): v.encode() for n, v in flags.variables.items()},
        ),
        sandbox=Sandbox(
            memory_bytes=flags.limits.memory_mib * MIB,
            output_bytes=flags.limits.output_bytes,
            timeout_s=flags.limits.timeout_s,
        ),
        variables=flags.variables,
        token=b"",
        concurrency=flags.concurrency,
        body_bytes=flags.limits.body_bytes,
    )

    engine = engine_hash(host.engine)
    scoreboards, budget = Scoreboards(1), Budget(0, 1)
    zygote = start(
        lambda inherited, _: child_process.serve_local(inherited, listener, plan, descriptor),
        host,
        engine,
        scoreboards,
        budget,
        keep=frozenset({listener.fileno(), descriptor}),
    )
    supervisor = Supervisor(zygote, engine, log, flags.limits.timeout_s, scoreboards, budget)

    def again(child: Child, state: State) -> None:
        if supervisor.stopping:
            return
        if state == "loading" or child.age_s < MIN_AGE_S:
            supervisor.stop()
        else:
            supervisor.spawn("loading")

    supervisor.on_exit = again
    supervisor.spawn("loading")
    address, port = listener.getsockname()[:2]
    supervisor.say(f"serving {flags.mod_path} at http://{address}:{port}/")
    try:
        return 0 if supervisor.run() else 1
    except ZygoteError as error:
        raise SettingsError(str(error)) from error


def _compile(path: Path) -> int:
    """Return a sealed memory file with the compiled module."""
    try:
        wasm = path.read_bytes()
    except OSError as error:
        raise SettingsError(f"cannot read the module {path}: {error}") from error
    try:
        return sealed(bytes(compile_module(new_compiler(), wasm).serialize()))
    except ModuleError as error:
        raise SettingsError(f"{path}: {error}") from error
