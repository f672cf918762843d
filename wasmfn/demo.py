"""The README's first command: the whole platform at work, in a place of its own.

It starts `wasmfn up` as anyone would, on a free port and in a temporary
directory, and everything it shows comes from outside: HTTP, the bus, the event
log. Nothing is left behind.
"""

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from collections.abc import Set as AbstractSet
from datetime import UTC, datetime
from importlib.resources import as_file, files
from pathlib import Path
from typing import Final

import msgspec

from schemas.events import Event
from schemas.specs import FunctionSpec, Module, RouteSpec, Scaling
from wasmfn.client import Client, connect
from wasmfn.coldstart import ColdStart, cold_start
from wasmfn.deploy import deploy
from wasmfn.discovery import Platform, find_platform
from wasmfn.errors import UnreachableError, WasmfnError
from wasmfn.invoke import Answer, call, outcome_of
from wasmfn.objects import Key
from wasmfn.render import Line, Span, duration, steps

NUMBERS: Final = ("1111", "2345", "8")
SORTED: Final = "8 1111 2345"
_STOP_S: Final = 20.0
_EVENT_S: Final = 15.0
_IDLE_S: Final = 0.5
"""Long enough for the deployment to end, short enough to watch it scale to zero."""

Show = Callable[..., None]


class Shown(msgspec.Struct, frozen=True):
    """What one run of the demonstration saw."""

    url: str
    cold: Answer
    warm: Answer
    breakdown: ColdStart | None


@contextlib.contextmanager
def running_platform(
    http: str, data: Path, environ: Mapping[str, str] = os.environ
) -> Iterator[tuple[subprocess.Popen[str], Platform]]:
    """Run `wasmfn up` and stop it when left.

    Raises:
        UnreachableError: it did not start; carries what it said.
    """
    # What the user's shell says of another platform must not reach this one.
    clean = {k: v for k, v in environ.items() if not k.startswith("WASMFN_")}
    command = [sys.executable, "-P", "-m", "wasmfn", "up", "--http", http, "--data", str(data)]
    process = subprocess.Popen(  # noqa: S603 - ourselves
        command, env=clean, stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    output = process.stdout
    assert output is not None  # noqa: S101 - it is a pipe: see above
    try:
        said = output.readline()
        if not said.startswith("ready "):
            raise UnreachableError("the platform did not start; its reason is above")
        yield process, find_platform(data=data, environ={})
    finally:
        process.terminate()
        try:
            process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        output.close()


async def demonstrate(platform: Platform, show: Show) -> Shown:
    """Deploy, let it go to zero, invoke it cold and warm, and show each step as lines."""
    http_url = platform.http_url or ""
    key = Key("function", "default", "sort")
    route = RouteSpec(function="sort", path="/sort")
    async with connect(platform) as client:
        since = datetime.now(UTC)
        with as_file(files("wasmfn") / "sort.wasm") as module:
            deployed = await deploy(client, module, spec_of=_short_lived)
        url = f"{http_url}/sort"
        show(_fact("deployed", f"sort.wasm, live in {duration(deployed.milliseconds)}"))
        await _until(client, since, {"endpoint-withdrawn"})
        show(_fact("idle", "scaled to zero: no process of it is left"))
        body = msgspec.json.encode({"args": NUMBERS})
        begin = datetime.now(UTC)
        cold = call(http_url, route, body, "application/json")
        warm = call(http_url, route, body, "application/json")
        for answer in (cold, warm):
            if outcome_of(answer).output != [SORTED]:
                raise WasmfnError(f"the function gave a wrong answer: {answer.body[:500]!r}")
        # Router and scheduler each tell their part, and whose comes first is not said.
        story = await _until(client, begin, {"cold-start", "instance-loaded"})
        # From now on it stays for the two minutes that a function usually has.
        spec = await client.get(key)
        if isinstance(spec.spec, FunctionSpec):
            usual = msgspec.structs.replace(spec.spec, scaling=Scaling())
            await client.wait_active({key: await client.publish(key, usual)}, _EVENT_S)
    return Shown(url=url, cold=cold, warm=warm, breakdown=cold_start(story))


def lines(shown: Shown) -> list[Line]:
    """Return the answer and where its time went."""
    request = msgspec.json.encode({"args": NUMBERS}).decode()
    out = [
        _fact("POST", f"{shown.url}  {request}"),
        _fact("answer", shown.cold.body.decode("utf-8", "replace").strip(), "bold"),
        _fact(
            "took",
            f"{duration(shown.cold.milliseconds)} cold, {duration(shown.warm.milliseconds)} warm",
        ),
    ]
    if shown.breakdown is not None:
        out.append(())
        out.append(
            (
                Span("cold start  ", "bold"),
                Span(f"{duration(shown.breakdown.total_ms)} in the router, from the event log"),
            )
        )
        out += steps(shown.breakdown.steps_ms)
    return out


def invitation(shown: Shown, environment: str) -> list[Line]:
    """Return what to try next."""
    commands = [
        f'curl -d \'{{"args": ["3", "1", "2"]}}\' {shown.url}',
        f"{environment}wasmfn fn test sort 9 8 7",
        f"{environment}wasmfn events -f",
    ]
    return [
        (),
        (Span("play with it", "bold"), Span("  (Ctrl-C ends it and leaves nothing behind)")),
        *[(Span(f"  {command}", "cyan"),) for command in commands],
    ]


def run(http: str, show: Show, *, once: bool) -> None:
    """Do all of it; without `once`, go on until Ctrl-C, SIGTERM or the platform's end."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    environ = dict(os.environ)
    with tempfile.TemporaryDirectory(prefix="wasmfn-demo-") as folder:
        environment = ""
        with contextlib.suppress(Exception):
            find_platform(environ={})
            # Another platform runs: commands shall go on finding that one.
            environ["XDG_STATE_HOME"] = str(Path(folder, "state"))
            environment = f"WASMFN_DATA={folder}/data "
        begin = time.monotonic()
        with running_platform(http, Path(folder, "data"), environ) as (process, platform):
            took = duration((time.monotonic() - begin) * 1000)
            show(_fact("started", f"NATS, router, builder, scheduler, podwatch, keeper in {took}"))
            shown = asyncio.run(demonstrate(platform, show))
            show(*lines(shown))
            if not once:
                show(*invitation(shown, environment))
                with contextlib.suppress(KeyboardInterrupt):
                    process.wait()


def _short_lived(before: FunctionSpec | None, module: Module | None) -> FunctionSpec:
    return FunctionSpec(module=module, scaling=Scaling(idle_timeout_s=_IDLE_S))


async def _until(client: Client, since: datetime, wanted: AbstractSet[str]) -> list[Event]:
    """Return the events since `since`, up to when there is one of sort of each kind wanted."""
    seen: list[Event] = []
    async with asyncio.timeout(_EVENT_S):
        async with contextlib.aclosing(client.events(since, follow=True)) as events:
            async for event in events:
                seen.append(event)
                if wanted <= {each.what for each in seen if each.name == "sort"}:
                    break
    return seen


def _fact(label: str, text: str, style: str = "") -> Line:
    return (Span(f"{label:<10}", "dim"), Span(text, style))
