"""`wasmfn subscription`: functions that are called with messages of NATS."""

from typing import Any

import click

from schemas.specs import SubscriptionSpec
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


@click.group(cls=VerbGroup)
def subscription() -> None:
    """Subscriptions: call a function with messages of NATS.

    Examples:
      wasmfn subscription create --name orders --subject shop.orders --function order
      wasmfn subscription create ask --subject 'ask.*' --function answer --reply
      wasmfn subscription create all --subject 'shop.>' --stream SHOP --function audit
    """


@subscription.command()
@name_argument
@click.option("--subject", required=True, help="Whose messages; wildcards behind the first word.")
@click.option("--function", type=NAME, required=True, help="The function that is called.")
@click.option("--stream", help="Take them from this JetStream stream, and lose none.")
@click.option("--queue", help="Share them with other subscribers of this queue group.")
@click.option("--reply", is_flag=True, default=None, help="Answer a message with the output.")
@with_session
async def create(session: Session, name: str | None, named: str | None, **fields: Any) -> None:
    """Create a subscription. Its function may come later; until then its calls fail.

    Examples:
      wasmfn subscription create --name orders --subject shop.orders --function order
      wasmfn subscription create all --subject 'shop.>' --stream SHOP --function audit
    """
    key = Key("subscription", session.namespace, the_name(name, named))
    spec = _spec(None, fields)
    async with session.connect() as client:
        await create_object(client, key, spec)
    note(f"created {key}: {spec.subject} -> {spec.function}")


@subscription.command()
@name_argument
@click.option("--subject", help="Another subject.")
@click.option("--function", type=NAME, help="Another function.")
@click.option("--stream", help="Another stream; an empty one means core NATS.")
@click.option("--queue", help="Another queue group; an empty one means one of its own.")
@click.option("--reply/--no-reply", default=None, help="Answer a message with the output, or not.")
@with_session
async def update(session: Session, name: str | None, named: str | None, **fields: Any) -> None:
    """Change a subscription.

    Example:
      wasmfn subscription update orders --function order-2
    """
    key = Key("subscription", session.namespace, the_name(name, named))
    async with session.connect() as client:
        await update_object(client, key, SubscriptionSpec, lambda before: _spec(before, fields))
    note(f"updated {key}")


def _spec(before: SubscriptionSpec | None, given: dict[str, Any]) -> SubscriptionSpec:
    """Return the subscription with what the options give in place of what it had."""
    fields = changed_fields(before, given)
    for field in ("stream", "queue"):
        fields[field] = fields.get(field) or None
    return checked(fields, SubscriptionSpec)


def _row(thing: Object) -> tuple[str | Span, ...]:
    spec = thing.spec
    shown = ("", "", "")
    if isinstance(spec, SubscriptionSpec):
        source = f"stream {spec.stream}" if spec.stream else f"queue {spec.queue or 'its own'}"
        shown = (spec.subject, source, spec.function)
    return (thing.key.name, phase(thing.phase), *shown, age_of(thing), trouble(thing))


add_get(subscription, "subscription")
add_list(
    subscription,
    "subscription",
    ("NAME", "PHASE", "SUBJECT", "FROM", "FUNCTION", "AGE", "MESSAGE"),
    _row,
)
add_delete(subscription, "subscription")
