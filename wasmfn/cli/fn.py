"""`wasmfn fn`: functions."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import click
import msgspec

from schemas.specs import FunctionSpec
from wasmfn.cli.calling import invoke_and_show
from wasmfn.cli.flags import MODULE_FILE, function_options, with_flags
from wasmfn.cli.output import note, write
from wasmfn.cli.parameters import NAME, SPAN
from wasmfn.cli.publishing import create_object, update_object, upload
from wasmfn.cli.reading import (
    add_delete,
    add_get,
    add_list,
    age_of,
    name_argument,
    the_name,
    trouble,
)
from wasmfn.cli.session import Session, with_session
from wasmfn.cli.verb import VerbGroup
from wasmfn.objects import Key, Object
from wasmfn.render import Span, log_line, phase

_code_option = click.option("--code", type=MODULE_FILE, metavar="FILE.wasm", help="The module.")
_image_option = click.option("--image", metavar="REF", help="An OCI image with the module.")


@click.group(cls=VerbGroup)
def fn() -> None:
    """Functions: create, get, list, update, delete, test, logs.

    Examples:
      wasmfn fn create --name sort --code sort.wasm
      wasmfn route create --url /sort --method POST --function sort
      wasmfn fn test sort 3 1 2
      wasmfn fn logs sort -f
    """


@fn.command()
@name_argument
@_code_option
@_image_option
@function_options
@with_session
async def create(
    session: Session,
    name: str | None,
    named: str | None,
    code: Path | None,
    image: str | None,
    **flags: Any,
) -> None:
    """Create a function from a module's file, an image, or an environment.

    Give it a URL with `wasmfn route create`, or use `wasmfn deploy`, which does
    both.

    Examples:
      wasmfn fn create --name sort --code sort.wasm
      wasmfn fn create --name sort --env sort-wasm --env MODE=fast
      wasmfn fn create sort --image docker.io/you/sort:1 --timeout 5s
    """
    key = Key("function", session.namespace, the_name(name, named))
    _one_source(code, image)
    if code is None and image is None and not any(isinstance(e, str) for e in flags["environment"]):
        raise click.UsageError("say where its code is: --code, --image, or --env ENVIRONMENT")
    async with session.connect() as client:
        spec = with_flags(None, flags, module=await upload(client, code), image=image)
        await create_object(client, key, spec)
    note(f"created {key}")


@fn.command()
@name_argument
@_code_option
@_image_option
@function_options
@with_session
async def update(
    session: Session,
    name: str | None,
    named: str | None,
    code: Path | None,
    image: str | None,
    **flags: Any,
) -> None:
    """Change a function; what is not given stays. The old one answers until the new one does.

    Without any option it rolls out again, which resolves an image's tag again.

    Examples:
      wasmfn fn update sort --code sort.wasm
      wasmfn fn update sort --timeout 5s --env MODE=fast --unset OLD
    """
    key = Key("function", session.namespace, the_name(name, named))
    _one_source(code, image)
    async with session.connect() as client:
        module = await upload(client, code)
        await update_object(
            client,
            key,
            FunctionSpec,
            lambda before: with_flags(before, flags, module=module, image=image),
        )
    note(f"updated {key}")


@fn.command(context_settings={"ignore_unknown_options": True})
@click.argument("name", type=NAME)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
@click.option("--stdin", "from_stdin", is_flag=True, help="Send this command's stdin along.")
@click.option("--raw", is_flag=True, help="Print the answer's body as it came.")
@click.option("--http", envvar="WASMFN_HTTP", metavar="URL", help="The router (WASMFN_HTTP).")
@with_session
async def test(
    session: Session,
    name: str,
    arguments: tuple[str, ...],
    http: str | None,
    *,
    from_stdin: bool,
    raw: bool,
) -> None:
    """Call a function through the router, and show its output and the time it took.

    The output goes to stdout, everything else to stderr. The exit code is 1 if
    the function failed.

    Examples:
      wasmfn fn test sort 3 1 2
      wasmfn fn test sort -- -3 7
      echo hello | wasmfn fn test echo --stdin
    """
    await invoke_and_show(session, name, arguments, http=http, from_stdin=from_stdin, raw=raw)


@fn.command()
@click.argument("name", type=NAME)
@click.option("-f", "--follow", is_flag=True, help="Go on with what comes.")
@click.option("--since", type=SPAN, default=3600.0, help="How far back.  [default: 1h]")
@click.option(
    "-o", "--output", "form", type=click.Choice(["text", "json"]), default="text",
    help="Lines to read, or JSON lines.",
)  # fmt: skip
@with_session
async def logs(session: Session, name: str, since: float, form: str, *, follow: bool) -> None:
    """Show what a function wrote to stderr, and what its keeper says of it.

    Examples:
      wasmfn fn logs sort
      wasmfn fn logs sort -f --since 10m
    """
    begin = datetime.now(UTC) - timedelta(seconds=since)
    key = Key("function", session.namespace, name)
    async with session.connect() as client:
        if not follow:
            await client.get(key)
        elif await client.find(key) is None:
            note(f"there is no {key} yet; its lines will come")
        empty = True
        async for entry in client.logs(session.namespace, name, begin, follow=follow):
            empty = False
            write(msgspec.json.encode(entry).decode() if form == "json" else log_line(entry))
    if empty:
        note("there are no lines in that time; --since looks further back")


def _one_source(code: Path | None, image: str | None) -> None:
    if code is not None and image is not None:
        raise click.UsageError("give --code or --image, not both")


def _row(thing: Object) -> tuple[str | Span, ...]:
    spec = thing.spec
    source = ""
    if isinstance(spec, FunctionSpec):
        source = spec.image or (spec.environment and f"env {spec.environment}") or ""
        if spec.module is not None:
            source = f"{spec.module.file_name} {spec.module.sha256[:12]}"
    revision = thing.in_force or "-"
    return (
        thing.key.name, phase(thing.phase), revision, source, age_of(thing), trouble(thing),
    )  # fmt: skip


add_get(fn, "function")
add_list(fn, "function", ("NAME", "PHASE", "REVISION", "CODE", "AGE", "MESSAGE"), _row)
add_delete(fn, "function")
