"""`wasmfn route`: from a method and a path to a function."""

import secrets
from typing import Any

import click
import msgspec

from schemas.access import API_KEY_PREFIX, ApiKey, digest_of
from schemas.specs import RouteSpec
from wasmfn.accesskeys import with_key, without_client
from wasmfn.cli.flags import checked
from wasmfn.cli.output import note
from wasmfn.cli.parameters import METHODS, NAME
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
from wasmfn.routing import Wish, free_name

_METHOD = click.Choice(METHODS, case_sensitive=False)


@click.group(cls=VerbGroup)
def route() -> None:
    """Routes: from a method and a path to a function.

    Examples:
      wasmfn route create --url /sort --method POST --function sort
      wasmfn route create --url '/users/{id}' --method GET --function users
      wasmfn route create --prefix /static --function site --host www.example.org
      wasmfn route grant sort --client ann
    """


@route.command()
@name_argument
@click.option("--url", metavar="/PATH", help="The whole path; {name} stands for one segment.")
@click.option("--prefix", metavar="/PATH", help="This path and everything below it.")
@click.option(
    "--method", "methods", type=_METHOD, multiple=True,
    help="Repeatable.  [default: GET and POST]",
)  # fmt: skip
@click.option("--function", type=NAME, required=True, help="The function that answers.")
@click.option("--host", help="Only for this host name.  [default: every host]")
@with_session
async def create(session: Session, name: str | None, named: str | None, **fields: Any) -> None:
    """Create a route. Its function may come later; until then it answers 503.

    Examples:
      wasmfn route create --url /sort --method POST --function sort
      wasmfn route create shop --prefix /shop --function shop
    """
    pattern = fields["url"] if fields["url"] is not None else fields["prefix"]
    if pattern is None or (fields["url"] is not None and fields["prefix"] is not None):
        raise click.UsageError("give --url or --prefix")
    spec = _spec({}, fields)
    async with session.connect() as client:
        chosen = name or named
        if not chosen:
            taken = [thing.key.name for thing in await client.objects("route", session.namespace)]
            function = Key("function", session.namespace, spec.function)
            chosen = free_name(Wish(pattern, spec.methods), taken, function)
        key = Key("route", session.namespace, chosen)
        await create_object(client, key, spec)
    note(f"created {key}: {','.join(spec.methods)} {pattern} -> {spec.function}")


@route.command()
@name_argument
@click.option("--url", metavar="/PATH", help="The new whole path.")
@click.option("--prefix", metavar="/PATH", help="The new prefix.")
@click.option("--method", "methods", type=_METHOD, multiple=True, help="All methods. Repeatable.")
@click.option("--function", type=NAME, help="Another function.")
@click.option("--host", help="Another host name; an empty one means every host.")
@with_session
async def update(session: Session, name: str | None, named: str | None, **fields: Any) -> None:
    """Change a route.

    Example:
      wasmfn route update sort --method POST --method PUT
    """
    key = Key("route", session.namespace, the_name(name, named))
    if fields["url"] is not None and fields["prefix"] is not None:
        raise click.UsageError("give --url or --prefix, not both")

    def changed(before: RouteSpec) -> RouteSpec:
        return _spec(msgspec.to_builtins(before), fields)

    async with session.connect() as client:
        await update_object(client, key, RouteSpec, changed)
    note(f"updated {key}")


@route.command()
@name_argument
@click.option("--client", type=NAME, required=True, help="What the key's owner is called.")
@with_session
async def grant(session: Session, name: str | None, named: str | None, client: str) -> None:
    """Make an API key for a client, and print it: once, here and nowhere else.

    The route then takes only requests that carry one of its keys in the header
    `x-api-key`. Its spec holds digests of keys, which let nobody in.

    Example:
      wasmfn route grant shop --client ann > ann.key
    """
    key = Key("route", session.namespace, the_name(name, named))
    secret = API_KEY_PREFIX + secrets.token_urlsafe(32)

    def changed(before: RouteSpec) -> RouteSpec:
        after = with_key(before, ApiKey(client, digest_of(secret)))
        # Before its digest is stored: NATS may go away right after that, and the key with it.
        click.echo(secret)
        return after

    async with session.connect() as bus:
        await update_object(bus, key, RouteSpec, changed)
    note(f"{client} may use {key} with this key, which cannot be shown again")


@route.command()
@name_argument
@click.option("--client", type=NAME, required=True, help="Whose keys are taken back.")
@with_session
async def revoke(session: Session, name: str | None, named: str | None, client: str) -> None:
    """Take back a client's API keys.

    Without the last key nobody could use the route, so that one stays: delete
    the route, or publish it without `authentication`.

    Example:
      wasmfn route revoke shop --client ann
    """
    key = Key("route", session.namespace, the_name(name, named))
    async with session.connect() as bus:
        await update_object(bus, key, RouteSpec, lambda before: without_client(before, client))
    note(f"{client} may not use {key} any more")


def _spec(before: dict[str, Any], given: dict[str, Any]) -> RouteSpec:
    """Return the route with what the options give in place of what it had."""
    fields = dict(before)
    if given["url"] is not None:
        fields |= {"path": given["url"], "prefix": None}
    if given["prefix"] is not None:
        fields |= {"path": None, "prefix": given["prefix"]}
    if given["methods"]:
        fields["methods"] = list(dict.fromkeys(given["methods"]))
    if given["function"] is not None:
        fields["function"] = given["function"]
    if given["host"] is not None:
        fields["host"] = given["host"].lower() or None
    return checked(fields, RouteSpec)


def _row(thing: Object) -> tuple[str | Span, ...]:
    if not isinstance(thing.spec, RouteSpec):
        return (thing.key.name, phase(thing.phase), "", "", "", age_of(thing), trouble(thing))
    spec = thing.spec
    path = spec.path if spec.path is not None else f"{str(spec.prefix).rstrip('/')}/*"
    return (
        thing.key.name,
        phase(thing.phase),
        ",".join(spec.methods),
        (spec.host or "") + path,
        spec.function,
        age_of(thing),
        trouble(thing),
    )


add_get(route, "route")
add_list(route, "route", ("NAME", "PHASE", "METHODS", "URL", "FUNCTION", "AGE", "MESSAGE"), _row)
add_delete(route, "route")
