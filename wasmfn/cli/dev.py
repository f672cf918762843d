"""`wasmfn dev`: deploy again whenever the file changes, and show what happens."""

import asyncio
import contextlib
from collections.abc import Coroutine
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import click

from schemas.specs import FunctionSpec, Module
from wasmfn.cli.deploy import default_name, lines, wishes
from wasmfn.cli.flags import function_options, with_flags
from wasmfn.cli.output import write
from wasmfn.cli.parameters import NAME, ROUTE, Route
from wasmfn.cli.session import Session, with_session
from wasmfn.cli.verb import Verb
from wasmfn.client import Client
from wasmfn.deploy import deploy
from wasmfn.errors import UnreachableError, WasmfnError
from wasmfn.history import About
from wasmfn.render import Span, event, log_line, printable


@click.command(cls=Verb)
@click.argument(
    "file", type=click.Path(exists=True, dir_okay=False, resolve_path=True, path_type=Path)
)
@click.option("--name", type=NAME, help="Name of the function.  [default: that of the file]")
@click.option(
    "--route", "routes", type=ROUTE, multiple=True, metavar="[METHODS:]/PATH",
    help="Where it answers. Repeatable.  [default: GET,POST:/NAME]",
)  # fmt: skip
@click.option(
    "--watch/--no-watch", default=True, show_default=True, help="Deploy again at each change."
)
@function_options
@with_session
async def dev(
    session: Session,
    file: Path,
    name: str | None,
    routes: tuple[Route, ...],
    *,
    watch: bool,
    **flags: Any,
) -> None:
    """Deploy a module again whenever its file changes.

    Its log and events are shown as they come. A module that does not build is
    told, and the last good one goes on answering. Ctrl-C ends the watching; the
    function stays.

    Examples:
      wasmfn dev build/sort.wasm
      wasmfn dev page.wasm --interface wagi --route GET:/
    """
    name = name or default_name(file)

    def spec_of(before: FunctionSpec | None, module: Module | None) -> FunctionSpec:
        return with_flags(before, flags, module=module)

    async def deploy_now(client: Client) -> None:
        try:
            deployed = await deploy(
                client,
                file,
                name=name,
                namespace=session.namespace,
                spec_of=spec_of,
                wishes=wishes(routes),
            )
        except UnreachableError:
            raise
        except (WasmfnError, OSError) as error:
            write((Span("error ", "bold red"), Span(printable(str(error)))))
        else:
            write(*lines(deployed, session.platform()))

    async with session.connect() as client:
        changed = asyncio.Event()
        changed.set()

        async def redeploy() -> None:
            while True:
                await changed.wait()
                changed.clear()
                await deploy_now(client)

        works = [
            redeploy(),
            _events(client, session.namespace, name),
            _logs(client, session.namespace, name),
        ]
        if watch:
            # First, so that it watches before the first deployment reads the file.
            works.insert(0, _watch(file, changed))
        await _together(works)


async def _watch(file: Path, changed: asyncio.Event) -> None:
    """Set `changed` each time that `file` was written, however its writer does it.

    The folder is watched and not the file: compilers replace it by a new one.
    """
    from watchfiles import Change, awatch  # noqa: PLC0415 - only for this verb

    async for news in awatch(file.parent, debounce=50, step=20, recursive=False):
        if any(path == str(file) and kind != Change.deleted for kind, path in news):
            changed.set()


async def _events(client: Client, namespace: str, name: str) -> None:
    about = About(namespace, name)
    async for entry in client.events(follow=True):
        if about.takes(entry):
            write(event(entry))


async def _logs(client: Client, namespace: str, name: str) -> None:
    since = datetime.now(UTC) - timedelta(seconds=1)
    async for entry in client.logs(namespace, name, since, follow=True):
        write((Span("log  ", "green"), *log_line(entry)))


async def _together(works: list[Coroutine[Any, Any, None]]) -> None:
    """Run all of them until one fails, and raise what it failed with."""
    tasks = [asyncio.create_task(work) for work in works]
    try:
        for done in asyncio.as_completed(tasks):
            await done
    finally:
        for task in tasks:
            task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.gather(*tasks, return_exceptions=True)
