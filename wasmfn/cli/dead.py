"""`wasmfn dead`: invocations that are not tried any more."""

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Literal

import click

from wasmfn.cli.output import Format, document, note, output_option, plain_of, write
from wasmfn.cli.parameters import NAME, SPAN
from wasmfn.cli.session import Session, with_session
from wasmfn.cli.verb import VerbGroup
from wasmfn.render import Span, age, table

if TYPE_CHECKING:
    from schemas.invocations import DeadLetter

_HEADER = ("FUNCTION", "ID", "REASON", "ATTEMPTS", "AGE", "MESSAGE")
_identities = click.argument("identities", metavar="ID...", nargs=-1)
_all = click.option("--all", "every", is_flag=True, help="Every dead letter of the function.")


@click.group(cls=VerbGroup)
def dead() -> None:
    """Dead letters: list, get, redrive, discard, prune.

    An invocation that failed for good is kept here until somebody decides, for 14
    days unless the router was told another time. They are not pushed out by
    others: when they fill their store, nothing more is accepted until there is room.

    Examples:
      wasmfn dead list
      wasmfn dead get sort 4bf92f3577b34da6a3ce929d0e0e4736
      wasmfn dead redrive sort --all
      wasmfn dead prune --older-than 7d
    """


@dead.command("list")
@click.option("--function", type=NAME, help="Only of this function.")
@output_option
@with_session
async def list_(session: Session, function: str | None, form: Format) -> None:
    """List the dead letters, the oldest first.

    Example:
      wasmfn dead list --function sort
    """
    from wasmfn.invocations import Invocations  # noqa: PLC0415 - nats-py takes long to import

    async with session.connect() as client:
        letters = await Invocations(client).dead(session.namespace, function)
    if form == "name":
        write(*(letter.id for letter in letters))
    elif form != "table":
        document([plain_of(letter) for letter in letters], form)
    elif letters:
        write(*table(_HEADER, map(_row, letters)))
    else:
        note("there are no dead letters; -n names another namespace")


@dead.command()
@click.argument("function", type=NAME)
@click.argument("identity", metavar="ID")
@click.option(
    "-o", "--output", "form", type=click.Choice(["json", "yaml"]), default="yaml",
    show_default=True, help="How to print it.",
)  # fmt: skip
@with_session
async def get(
    session: Session, function: str, identity: str, form: Literal["json", "yaml"]
) -> None:
    """Show one dead letter: why it died, each attempt, and the request.

    Example:
      wasmfn dead get sort 4bf92f3577b34da6a3ce929d0e0e4736
    """
    from wasmfn.invocations import Invocations, Place  # noqa: PLC0415 - see `list`

    async with session.connect() as client:
        letter = await Invocations(client).get_dead(Place(session.namespace, function, identity))
    document(plain_of(letter), form)


@dead.command()
@click.argument("function", type=NAME)
@_identities
@_all
@with_session
async def redrive(
    session: Session, function: str, identities: tuple[str, ...], *, every: bool
) -> None:
    """Send dead letters back to the queue: the same invocations, at the same locations.

    Examples:
      wasmfn dead redrive sort 4bf92f3577b34da6a3ce929d0e0e4736
      wasmfn dead redrive sort --all
      wasmfn invocations redrive sort --all              the same
    """
    await _act(session, function, identities, "redrive", every=every)


@dead.command()
@click.argument("function", type=NAME)
@_identities
@_all
@with_session
async def discard(
    session: Session, function: str, identities: tuple[str, ...], *, every: bool
) -> None:
    """Throw dead letters away.

    Example:
      wasmfn dead discard sort 4bf92f3577b34da6a3ce929d0e0e4736
    """
    await _act(session, function, identities, "discard", every=every)


@dead.command()
@click.option("--function", type=NAME, help="Only of this function.")
@click.option(
    "--older-than", "older_than_s", type=SPAN, metavar="SPAN", required=True,
    help="How long ago they died at least, such as 7d or 12h.",
)  # fmt: skip
@with_session
async def prune(session: Session, function: str | None, older_than_s: float) -> None:
    """Throw away the dead letters of a namespace that are old.

    Examples:
      wasmfn dead prune --older-than 7d
      wasmfn dead prune --older-than 12h --function sort
      wasmfn invocations prune --older-than 7d           the same
    """
    from wasmfn.invocations import Invocations  # noqa: PLC0415 - see `list`

    async with session.connect() as client:
        pruned = await Invocations(client).prune(session.namespace, function, older_than_s)
    note(f"threw away {pruned} dead letter{'' if pruned == 1 else 's'}")


async def _act(
    session: Session,
    function: str,
    identities: tuple[str, ...],
    action: Literal["redrive", "discard"],
    *,
    every: bool,
) -> None:
    from schemas.invocations import DeadRequest  # noqa: PLC0415 - see `list`
    from wasmfn.invocations import Invocations, Place  # noqa: PLC0415 - see `list`

    if bool(identities) == every:
        raise click.UsageError("name dead letters by their ids, or say --all")
    async with session.connect() as client:
        platform = Invocations(client)
        if every:
            letters = await platform.dead(session.namespace, function)
            identities = tuple(letter.id for letter in letters)
        for identity in identities:
            name = Place(session.namespace, function, identity)
            note((await platform.act(name, DeadRequest(identity, action))).message)


def _row(letter: "DeadLetter") -> tuple[str | Span, ...]:
    seconds = (datetime.now(UTC) - letter.time).total_seconds()
    return (
        letter.function, letter.id, Span(letter.reason, "bold red"),
        str(len(letter.attempts)), age(seconds), letter.message,
    )  # fmt: skip
