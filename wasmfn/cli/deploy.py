"""`wasmfn deploy`: a module's file becomes a URL that answers."""

import asyncio
from pathlib import Path
from typing import Any

import click
import msgspec

from schemas.specs import FunctionSpec, Module, RouteSpec
from wasmfn.cli.flags import MODULE_FILE, function_options, with_flags
from wasmfn.cli.output import document, note, progress, write
from wasmfn.cli.parameters import NAME, ROUTE, SPAN, Route
from wasmfn.cli.session import Session, with_session
from wasmfn.cli.verb import Verb
from wasmfn.deploy import TIMEOUT_S, Deployed
from wasmfn.deploy import deploy as deploy_file
from wasmfn.discovery import Platform
from wasmfn.objects import name_problem, plain_spec, url_of
from wasmfn.render import Line, Span, duration
from wasmfn.routing import Wish, name_of


@click.command(cls=Verb)
@click.argument("file", type=MODULE_FILE, required=False)
@click.option("--image", metavar="REF", help="An OCI image instead of a file.")
@click.option("--name", type=NAME, help="Name of the function.  [default: that of the file]")
@click.option(
    "--route",
    "routes",
    type=ROUTE,
    multiple=True,
    metavar="[METHODS:]/PATH",
    help="Where it answers. Repeatable.  [default: GET,POST:/NAME]",
)
@function_options
@click.option(
    "--wait", "timeout_s", type=SPAN, default=TIMEOUT_S, help="How long to wait.  [default: 60s]"
)
@click.option(
    "-o", "--output", "form", type=click.Choice(["text", "json"]), default="text",
    help="How to print the result.",
)  # fmt: skip
@with_session
async def deploy(
    session: Session,
    file: Path | None,
    image: str | None,
    name: str | None,
    routes: tuple[Route, ...],
    timeout_s: float,
    form: str,
    **flags: Any,
) -> None:
    """Make a module, or an image, answer HTTP, and wait until it does.

    Uploads the file, publishes a function and a route, and prints the URL once
    the function is live. Deploying again replaces the code and what the options
    say; the old code answers until the new one does.

    Examples:
      wasmfn deploy sort.wasm
      wasmfn deploy sort.wasm --name sorter --route POST:/v1/sort --timeout 5s
      wasmfn deploy page.wasm --interface wagi --route GET:/ --env TITLE=Hello
      wasmfn deploy job.wasm --secret DB_PASSWORD=db/password
      wasmfn deploy --image you/web:1 --name web --executor deployment --port 8080
    """
    if (file is None) == (image is None):
        raise click.UsageError("say what to deploy: a module's FILE, or --image REF --name NAME")
    if file is None and name is None:
        raise click.UsageError("an image needs a --name")
    name = name or default_name(file or Path())

    def spec_of(before: FunctionSpec | None, module: Module | None) -> FunctionSpec:
        return with_flags(before, flags, module=module, image=image)

    publishing = asyncio.Event()
    with progress(f"deploying {name}") as tell:
        try:
            async with session.connect() as client:
                deployed = await deploy_file(
                    client,
                    file,
                    name=name,
                    namespace=session.namespace,
                    spec_of=spec_of,
                    wishes=wishes(routes),
                    timeout_s=timeout_s,
                    on_publish=publishing.set,
                    on_status=lambda status: tell(f"{status.name}: {status.phase}"),
                )
        except asyncio.CancelledError:
            # A Ctrl-C ends the waiting, not what the platform has accepted.
            if publishing.is_set():
                note(
                    f"what was published of {name} goes on; `wasmfn fn get {name}` tells how far"
                    " it is"
                )
            raise
    if form == "json":
        document(as_json(deployed, session.platform()), "json")
    else:
        write(*lines(deployed, session.platform()))


def default_name(file: Path) -> str:
    """Return the name of a function from its file.

    Raises:
        click.UsageError: that is no name.
    """
    name = name_of(file)
    if name_problem(name):
        raise click.UsageError(f"{file.name} gives no name for a function; choose one with --name")
    return name


def wishes(routes: tuple[Route, ...]) -> list[Wish]:
    """Return what `--route` asks for."""
    return [msgspec.convert({"path": r.path, "methods": r.methods}, Wish) for r in routes]


def lines(deployed: Deployed, platform: Platform) -> list[Line]:
    """Return a line for each route: its URL, and how long it took to be live."""
    took = duration(deployed.milliseconds)
    state = f"live in {took}" if deployed.changed else "live already, unchanged"
    shown: list[Line] = []
    for route in deployed.routes:
        url = _url(route, platform)
        methods = ",".join(route.methods)
        shown.append((Span(url, "bold green"), Span(f"  {methods}", "dim"), Span(f"  {state}")))
    return shown


def as_json(deployed: Deployed, platform: Platform) -> dict[str, Any]:
    """Return the result for a program."""
    return {
        "namespace": deployed.function.namespace,
        "function": deployed.function.name,
        "revision": deployed.revision,
        "milliseconds": round(deployed.milliseconds, 1),
        "changed": deployed.changed,
        "routes": [
            {**plain_spec(route), "url": _url(route, platform)} for route in deployed.routes
        ],
    }


def _url(route: RouteSpec, platform: Platform) -> str:
    """Return the URL, or the bare path of a platform whose router is not known."""
    return url_of(route, platform.http_url or "")
