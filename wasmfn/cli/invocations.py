"""`wasmfn invocations`: what became of invocations that nobody waits for."""

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import click
import msgspec

from wasmfn.cli.output import Format, document, note, output_option, write
from wasmfn.cli.parameters import NAME
from wasmfn.cli.session import Session, with_session
from wasmfn.cli.verb import VerbGroup
from wasmfn.render import Line, Span, age, printable, table

if TYPE_CHECKING:
    from schemas.invocations import Result
    from wasmfn.invocations import Queued

_STYLES = {"done": "green", "dead": "bold red", "retrying": "yellow", "accepted": "yellow"}
_HEADER = ("FUNCTION", "ID", "STATE", "ATTEMPTS", "AGE", "MESSAGE")


@click.group(cls=VerbGroup)
def invocations() -> None:
    """Invocations that nobody waits for: list, get.

    Examples:
      wasmfn invoke sort 3 1 2 --async
      wasmfn invocations list
      wasmfn invocations get sort 4bf92f3577b34da6a3ce929d0e0e4736
    """


@invocations.command("list")
@click.option("--function", type=NAME, help="Only of this function.")
@output_option
@with_session
async def list_(session: Session, function: str | None, form: Format) -> None:
    """List invocations, as long as their results are kept.

    Example:
      wasmfn invocations list --function sort
    """
    from wasmfn.invocations import Invocations  # noqa: PLC0415 - nats-py takes long to import

    async with session.connect() as client:
        found = await Invocations(client).listed(session.namespace, function)
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

    Example:
      wasmfn invocations get sort 4bf92f3577b34da6a3ce929d0e0e4736 -o json
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


def plain_of(thing: msgspec.Struct) -> dict[str, Any]:
    """Return a result or a dead letter as builtins, with bodies as text where they are text."""
    fields = {name: getattr(thing, name) for name in thing.__struct_fields__}
    plain: dict[str, Any] = {}
    for name, value in fields.items():
        if isinstance(value, bytes):
            try:
                plain[name] = value.decode()
            except UnicodeDecodeError:
                plain[f"{name}_base64"] = msgspec.to_builtins(value)
        elif isinstance(value, msgspec.Struct):
            plain[name] = plain_of(value)
        else:
            plain[name] = msgspec.to_builtins(value)
    return plain


def _row(one: "Queued | Result") -> tuple[str | Span, ...]:
    from schemas.invocations import Result  # noqa: PLC0415 - see `list`

    state = Span(one.state, _STYLES.get(one.state, ""))
    if not isinstance(one, Result):
        return (one.function, one.id, state, "", "", "it waits for its turn, or runs")
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
