"""`wasmfn timer`: functions that are called at set times."""

from typing import Any

import click

from schemas.specs import TimerSpec
from wasmfn.cli.flags import changed_fields, checked
from wasmfn.cli.output import note
from wasmfn.cli.parameters import NAME
from wasmfn.cli.publishing import create_object, update_object
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
from wasmfn.render import Span, phase

_MISSED = click.Choice(["skip", "last", "all"])


@click.group(cls=VerbGroup)
def timer() -> None:
    """Timers: call a function at set times.

    Examples:
      wasmfn timer create --name nightly --cron '0 3 * * *' --function report
      wasmfn timer create tick --cron '*/5 * * * *' --timezone Europe/Berlin --function tick
      wasmfn timer update nightly --pause
    """


@timer.command()
@name_argument
@click.option("--cron", "schedule", metavar="SCHEDULE", required=True, help="When, as cron has it.")
@click.option("--function", type=NAME, required=True, help="The function that is called.")
@click.option("--timezone", metavar="ZONE", help="Such as Europe/Berlin.  [default: UTC]")
@click.option("--missed", type=_MISSED, help="Which missed calls are made up for.  [default: last]")
@click.option("--body", help="What the function gets, as a request's body.")
@click.option("--content-type", help="Of the body.  [default: application/json]")
@with_session
async def create(session: Session, name: str | None, named: str | None, **fields: Any) -> None:
    """Create a timer. Its function may come later; until then its calls fail.

    Examples:
      wasmfn timer create --name nightly --cron '0 3 * * *' --function report
      wasmfn timer create sorts --cron '0 * * * *' --function sort --body '{"args": ["2", "1"]}'
    """
    key = Key("timer", session.namespace, the_name(name, named))
    spec = _spec(None, fields)
    async with session.connect() as client:
        await create_object(client, key, spec)
    note(f"created {key}: {spec.schedule} {spec.timezone} -> {spec.function}")


@timer.command()
@name_argument
@click.option("--cron", "schedule", metavar="SCHEDULE", help="Another schedule.")
@click.option("--function", type=NAME, help="Another function.")
@click.option("--timezone", metavar="ZONE", help="Another time zone.")
@click.option("--missed", type=_MISSED, help="Which missed calls are made up for.")
@click.option("--body", help="Another body.")
@click.option("--content-type", help="Of the body.")
@click.option("--pause/--resume", "paused", default=None, help="Make no calls, or calls again.")
@with_session
async def update(session: Session, name: str | None, named: str | None, **fields: Any) -> None:
    """Change a timer. It begins anew: nothing of the time before was missed.

    Example:
      wasmfn timer update nightly --pause
    """
    key = Key("timer", session.namespace, the_name(name, named))
    async with session.connect() as client:
        await update_object(client, key, TimerSpec, lambda before: _spec(before, fields))
    note(f"updated {key}")


def _spec(before: TimerSpec | None, given: dict[str, Any]) -> TimerSpec:
    """Return the timer with what the options give in place of what it had."""
    return checked(changed_fields(before, given), TimerSpec)


def _row(thing: Object) -> tuple[str | Span, ...]:
    spec = thing.spec
    shown = ("", "", "")
    if isinstance(spec, TimerSpec):
        shown = (spec.schedule + (" (paused)" if spec.paused else ""), spec.timezone, spec.function)
    return (thing.key.name, phase(thing.phase), *shown, age_of(thing), trouble(thing))


add_get(timer, "timer")
add_list(timer, "timer", ("NAME", "PHASE", "SCHEDULE", "ZONE", "FUNCTION", "AGE", "MESSAGE"), _row)
add_delete(timer, "timer")
