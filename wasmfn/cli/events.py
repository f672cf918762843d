"""`wasmfn events`: the event log."""

from datetime import UTC, datetime, timedelta

import click
import msgspec

from wasmfn.cli.output import note, write
from wasmfn.cli.parameters import NAME, SPAN
from wasmfn.cli.session import Session, with_session
from wasmfn.cli.verb import Verb
from wasmfn.history import About
from wasmfn.render import event as event_line


@click.command(cls=Verb)
@click.option("-f", "--follow", is_flag=True, help="Go on with what comes.")
@click.option(
    "--since", type=SPAN, help="How far back.  [default: 10m, and with -f only what comes]"
)
@click.option("--function", type=NAME, help="Only of this function, its builds and instances.")
@click.option("--request", metavar="ID", help="Only with this x-request-id or correlation id.")
@click.option("--relative", is_flag=True, help="Show how long ago instead of the time of day.")
@click.option(
    "-o", "--output", "form", type=click.Choice(["text", "json"]), default="text",
    help="Lines to read, or JSON lines.",
)  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="The same as `-o json`.")
@with_session
async def events(
    session: Session,
    since: float | None,
    function: str | None,
    request: str | None,
    form: str,
    *,
    follow: bool,
    relative: bool,
    as_json: bool,
) -> None:
    """Show the event log, live or from the past.

    Every spec change, build step, pod, endpoint, scale decision and cold start
    is one line: when, who says it, what, about which object, and a sentence.
    --namespace counts only together with --function.

    Examples:
      wasmfn events -f
      wasmfn events --since 1h --function sort
      wasmfn events --since 1d --json | jq -r 'select(.level=="error").message'
      wasmfn events --since 10m --request 4bf92f3577b34da6a3ce929d0e0e4736
    """
    back = since if since is not None else 0.0 if follow else 600.0
    now = datetime.now(UTC)
    about = None if function is None else About(session.namespace, function)
    empty = True
    async with session.connect() as client:
        async for event in client.events(now - timedelta(seconds=back), follow=follow):
            if about is not None and not about.takes(event):
                continue
            if request is not None and event.correlation != request:
                continue
            empty = False
            if as_json or form == "json":
                write(msgspec.json.encode(event).decode())
            else:
                write(event_line(event, now=datetime.now(UTC) if relative else None))
    if empty:
        note("nothing of that is in the log of that time; --since looks further back")
