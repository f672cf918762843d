"""`python -P -m keeper`: a keeper in a pod, a standalone server, or a compiler.

    python -m keeper --keeper-id ID --control-key FILE …   a pod's keeper
    python -m keeper --mod-path sort.wasm                  serve one module, no token
    python -m keeper compile IN OUT --json                 for the builder
    python -m keeper engine-hash                           which artifacts fit

Exit codes: 0 told to end, 1 it cannot do what it was told (one sentence on
stderr), 2 wrong usage.
"""

import os

# Read by tokio when wasmtime's WASI first needs it, in a child: by default it
# would start a thread per processor in every function's process.
os.environ.setdefault("TOKIO_WORKER_THREADS", "1")

import argparse
import gc
import socket
import sys
from pathlib import Path

import msgspec

from schemas.settings import SettingsError


def main(argv: list[str]) -> int:
    """Run what `argv` says; return the exit code."""
    # What is imported stays: looking for garbage in it takes 13 of 117 ms of a keeper's start.
    # It is put out of the collector's sight before the collector is enabled.
    gc.disable()
    try:
        match argv:
            case ["compile", *rest]:
                return _compile(rest)
            case ["engine-hash"]:
                from keeper.engine import engine_hash, new_engine  # noqa: PLC0415

                print(engine_hash(new_engine()))  # noqa: T201
                return 0
            case _ if any(a.partition("=")[0] == "--mod-path" for a in argv):
                return _standalone(argv)
            case _:
                return _pod(argv)
    except SettingsError as error:
        return _complain(str(error))


def _pod(argv: list[str]) -> int:
    from keeper import settings  # noqa: PLC0415 -- each way of starting pays only for itself
    from keeper.budget import Budget  # noqa: PLC0415
    from keeper.engine import engine_hash  # noqa: PLC0415
    from keeper.function import Host  # noqa: PLC0415
    from keeper.listeners import listen  # noqa: PLC0415
    from keeper.load import Loader, take_load  # noqa: PLC0415
    from keeper.logs import Log  # noqa: PLC0415
    from keeper.port import Control, ControlPort  # noqa: PLC0415
    from keeper.scoreboard import Scoreboards  # noqa: PLC0415
    from keeper.spares import MOST as MOST_SPARES  # noqa: PLC0415
    from keeper.supervisor import Supervisor  # noqa: PLC0415
    from keeper.zygote import ZygoteError, start  # noqa: PLC0415

    parser = argparse.ArgumentParser(
        prog="python -m keeper", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    for field in msgspec.structs.fields(settings.KeeperSettings):
        parser.add_argument("--" + field.name.replace("_", "-"), default=argparse.SUPPRESS)
    read = settings.read(vars(parser.parse_args(argv)), os.environ)
    cache = Path(read.cache_dir)
    try:
        cache.mkdir(mode=0o700, parents=True, exist_ok=True)
        listener = (
            socket.socket(fileno=read.control_fd) if read.control_fd >= 0 else listen(read.control)
        )
    except OSError as error:
        raise SettingsError(f"cannot start: {error}") from error
    verify_control = settings.verifier(read.control_key)
    loader = Loader(cache_dir=str(cache), verify_artifact=settings.verifier(read.artifact_key))
    # OpenSSL makes itself ready at first: 0.4 MiB that children then share.
    loader.verify_artifact(bytes(64), b"")
    host = Host()
    engine = engine_hash(host.engine)
    told = read.memory_budget_mib
    budget_mib = settings.default_budget_mib() if told is None else told
    # Twice the spare ones: some may be ending while others are made.
    most = read.capacity + 2 * MOST_SPARES
    scoreboards, budget = Scoreboards(most), Budget(budget_mib, most)
    zygote = start(
        lambda inherited, warm: take_load(inherited, loader, warm=warm),
        host,
        engine,
        scoreboards,
        budget,
    )
    supervisor = Supervisor(zygote, engine, Log(), read.drain_s, scoreboards, budget)
    control = Control(
        listener=listener,
        keeper=read.keeper_id,
        capacity=read.capacity,
        host=read.host,
        ports=settings.port_range(read.function_ports) if read.function_ports else range(0),
        verify_control=verify_control,
    )
    supervisor.port = ControlPort(supervisor, control)
    supervisor.say(f"keeper {read.keeper_id} is ready for control calls")
    try:
        supervisor.run()
    except ZygoteError as error:
        return _complain(str(error))
    return 0


def _standalone(argv: list[str]) -> int:
    from keeper.listeners import listen  # noqa: PLC0415
    from keeper.standalone import Standalone, serve  # noqa: PLC0415

    parser = argparse.ArgumentParser(prog="python -m keeper")
    parser.add_argument("--mod-path", required=True, help="the module, a WASI command")
    parser.add_argument("--host", default=argparse.SUPPRESS, help="default 0.0.0.0")
    parser.add_argument("--port", default=argparse.SUPPRESS, help="default 10086")
    parser.add_argument("--interface", default=argparse.SUPPRESS, help="args, stdin or wagi")
    parser.add_argument("--concurrency", default=argparse.SUPPRESS, help="default 16")
    parser.add_argument("--timeout", default=argparse.SUPPRESS, help="seconds, default 60")
    parser.add_argument("--memory-mib", default=argparse.SUPPRESS, help="default 128")
    parser.add_argument("--output-bytes", default=argparse.SUPPRESS, help="default 16 MiB")
    parser.add_argument("--body-bytes", default=argparse.SUPPRESS, help="default 16 MiB")
    parser.add_argument("--env", action="append", default=[], metavar="NAME=VALUE")
    values = vars(parser.parse_args(argv))
    values["variables"] = dict(pair.split("=", 1) for pair in values.pop("env") if "=" in pair)
    if "timeout" in values:
        values["timeout_s"] = values.pop("timeout")
    names = ("timeout_s", "memory_mib", "output_bytes", "body_bytes")
    values["limits"] = {name: values.pop(name) for name in names if name in values}
    try:
        flags = msgspec.convert(values, Standalone, strict=False)
    except msgspec.ValidationError as error:
        raise SettingsError(f"wrong flag: {error}") from error
    return serve(flags, listen(f"{flags.host}:{flags.port}"))


def _compile(argv: list[str]) -> int:
    from keeper.compile import compile_file  # noqa: PLC0415

    parser = argparse.ArgumentParser(prog="python -m keeper compile")
    parser.add_argument("source", type=Path, help="the module")
    parser.add_argument("target", type=Path, help="where to write what it compiles to")
    parser.add_argument("--json", action="store_true", help="print the whole report")
    flags = parser.parse_args(argv)
    try:
        report = compile_file(flags.source, flags.target)
    except OSError as error:
        return _complain(f"cannot compile {flags.source}: {error}")
    if flags.json:
        print(msgspec.json.encode(report).decode())  # noqa: T201
    elif report.error is not None:
        return _complain(report.error)
    return 0 if report.ok else 1


def _complain(sentence: str) -> int:
    print(f"keeper: {sentence}", file=sys.stderr)  # noqa: T201
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
