"""`wasmfn invocations`: what became of invocations that nobody waits for."""

import copy
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import click

from wasmfn.cli.calling import WAIT_S, interface_of, show_result
from wasmfn.cli.dead import prune, redrive
from wasmfn.cli.output import Format, document, note, output_option, plain_of, progress, write
from wasmfn.cli.parameters import NAME, SPAN
from wasmfn.cli.session import Session, with_session
from wasmfn.cli.verb import VerbGroup
from wasmfn.errors import RejectedError
from wasmfn.objects import Key
from wasmfn.render import Line, Span, age, printable, table

if TYPE_CHECKING:
    from schemas.invocations import Result
    from wasmfn.invocations import Queued

_STATES = ("accepted", "running", "retrying", "done", "dead", "cancelled")
_STYLES = {"done": "green", "dead": "bold red"} | dict.fromkeys(
    ("accepted", "running", "retrying"), "yellow"
)
_HEADER = ("FUNCTION", "ID", "STATE", "ATTEMPTS", "AGE", "MESSAGE")


@click.group(cls=VerbGroup)
def invocations() -> None:
    """Invocations that nobody waits for: list, get, wait, cancel, redrive, prune.

    One that was accepted is in the queue (accepted, running, or retrying), and
    in the end done, cancelled, or dead. The dead are kept until somebody decides,
    for 14 days unless the router was told another time: `redrive` sends them back,
    `prune` throws old ones away.

    Examples:
      wasmfn invoke sort 3 1 2 --async
      wasmfn invocations list --state running
      wasmfn invocations get sort 4bf92f3577b34da6a3ce929d0e0e4736
      wasmfn invocations wait sort 4bf92f3577b34da6a3ce929d0e0e4736
      wasmfn invocations cancel sort 4bf92f3577b34da6a3ce929d0e0e4736
    """


@invocations.command("list")
@click.option("--function", type=NAME, help="Only of this function.")
@click.option("--state", type=click.Choice(_STATES), help="Only in this state.")
@output_option
@with_session
async def list_(session: Session, function: str | None, state: str | None, form: Format) -> None:
    """List invocations, as long as their results are kept.

    Examples:
      wasmfn invocations list --function sort
      wasmfn invocations list --state retrying -o name
    """
    from wasmfn.invocations import Invocations  # noqa: PLC0415 - nats-py takes long to import

    async with session.connect() as client:
        found = await Invocations(client).listed(session.namespace, function)
    found = [one for one in found if state in (None, one.state)]
    if form == "name":
        write(*(one.id for one in found))
    elif form != "table":
        document([plain_of(one) for one in found], form)
    elif found:
        write(*table(_HEADER, map(_row, found)))
    else:
        note("there is nothing to list; -n names another namespace")


@invocations.command()
@click.argument("function", type=NAME)
@click.argument("identity", metavar="ID")
@output_option
@with_session
async def get(session: Session, function: str, identity: str, form: Format) -> None:
    """Show one invocation: its state, each attempt, and the answer.

    Examples:
      wasmfn invocations get sort 4bf92f3577b34da6a3ce929d0e0e4736 -o json
      wasmfn invocations show sort 4bf92f3577b34da6a3ce929d0e0e4736
    """
    from wasmfn.invocations import Invocations, Place  # noqa: PLC0415 - see `list`

    async with session.connect() as client:
        found = await Invocations(client).get(Place(session.namespace, function, identity))
    if form == "table":
        write(*_describe(found))
    elif form == "name":
        write(found.id)
    else:
        document(plain_of(found), form)


@invocations.command()
@click.argument("function", type=NAME)
@click.argument("identity", metavar="ID")
@click.option(
    "--timeout",
    "within_s",
    type=SPAN,
    default=WAIT_S,
    metavar="SPAN",
    help="How long to wait. [5m]",
)
@click.option("--raw", is_flag=True, help="Print the answer's body as it came.")
@with_session
async def wait(
    session: Session, function: str, identity: str, within_s: float, *, raw: bool
) -> None:
    """Wait until one has ended, and print what the function answered.

    Exits with 1 if it is a dead letter or was cancelled, and with 6 if it has
    not ended in time; it goes on then.

    Examples:
      wasmfn invocations wait sort 4bf92f3577b34da6a3ce929d0e0e4736
      wasmfn invocations wait sort 4bf92f3577b34da6a3ce929d0e0e4736 --timeout 30s
    """
    await wait_and_show(session, function, identity, within_s, raw=raw)


async def wait_and_show(
    session: Session, function: str, identity: str, within_s: float, *, raw: bool
) -> None:
    """Wait for an invocation, saying how far it is, and print how it ended.

    Raises:
        WasmfnError: it did not end well, or not in time.
    """
    from wasmfn.invocations import Invocations, Place  # noqa: PLC0415 - see `list`

    async with session.connect() as client:
        with progress("waiting") as tell:
            place = Place(session.namespace, function, identity)
            result = await Invocations(client).wait(place, within_s, tell)
        called = await client.find(Key("function", session.namespace, function))
    # Of a function that is gone the answer is shown as it is.
    show_result(result, interface_of(called) if called else "", raw=raw)


@invocations.command()
@click.argument("function", type=NAME)
@click.argument("identities", metavar="ID...", nargs=-1, required=True)
@with_session
async def cancel(session: Session, function: str, identities: tuple[str, ...]) -> None:
    """Cancel what waits to be run, runs, or is between two attempts.

    An attempt that is under way is ended, and is the last. If it succeeds before
    it hears of that, the invocation is done. Exits with 5 if one had ended before.

    Example:
      wasmfn invocations cancel sort 4bf92f3577b34da6a3ce929d0e0e4736
    """
    from wasmfn.invocations import Invocations, Place  # noqa: PLC0415 - see `list`

    late = []
    async with session.connect() as client:
        for identity in identities:
            reply = await Invocations(client).cancel(Place(session.namespace, function, identity))
            if reply.outcome == "ended":
                late.append(f"{identity}: {reply.message}")
            else:
                note(reply.message)
    if late:
        raise RejectedError("; ".join(late))


# The word that some look for first; every other kind of object has `get`.
_show = copy.copy(get)
_show.hidden = True
invocations.add_command(_show, "show")
invocations.add_command(redrive)
invocations.add_command(prune)


def _row(one: "Queued | Result") -> tuple[str | Span, ...]:
    from schemas.invocations import Result  # noqa: PLC0415 - see `list`

    state = Span(one.state, _STYLES.get(one.state, ""))
    if not isinstance(one, Result):
        return (one.function, one.id, state, "", "", "it waits for its turn")
    seconds = (datetime.now(UTC) - one.accepted_at).total_seconds()
    return (one.function, one.id, state, str(len(one.attempts)), age(seconds), one.message)


def _describe(one: "Queued | Result") -> list[Line]:
    from schemas.invocations import Result  # noqa: PLC0415 - see `list`

    facts = [("function", one.function), ("id", one.id), ("state", one.state)]
    if isinstance(one, Result):
        facts.append(("accepted", one.accepted_at.astimezone().strftime("%Y-%m-%d %H:%M:%S")))
        if one.message:
            facts.append(("message", one.message))
        for attempt in one.attempts:
            said = f"{attempt.outcome} {attempt.status or ''} {attempt.error}".strip()
            facts.append((f"attempt {attempt.number}", f"{said} ({attempt.duration_ms:.0f} ms)"))
        if one.answer is not None:
            facts.append(("answer", f"HTTP {one.answer.status}, {one.answer.size_bytes} bytes"))
            facts.append(("body", one.answer.body.decode("utf-8", "backslashreplace")))
    return [(Span(name.ljust(12), "dim"), Span(printable(text))) for name, text in facts]
