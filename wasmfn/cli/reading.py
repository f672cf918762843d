"""The verbs that are the same for every kind of object: get, list and delete."""

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, TypeVar

import click
import msgspec

from wasmfn.cli.output import (
    Format,
    as_plain,
    document,
    listing,
    note,
    output_option,
    write,
)
from wasmfn.cli.parameters import NAME
from wasmfn.cli.session import Session, with_session
from wasmfn.objects import Key, Object, plain_spec, routes_to, verb_of
from wasmfn.render import Line, Span, age, phase, printable

if TYPE_CHECKING:
    from wasmfn.client import Client

F = TypeVar("F", bound=Callable[..., Any])
Row = Callable[[Object], Sequence[str | Span]]


def name_argument(command: F) -> F:
    """Give a command a name, as an argument or, as upstream has it, as `--name`."""
    command = click.option("--name", "named", type=NAME, hidden=True)(command)
    return click.argument("name", type=NAME, required=False)(command)


def the_name(name: str | None, named: str | None) -> str:
    """Return the one name that was given.

    Raises:
        click.UsageError: none was, or two.
    """
    if name and named and name != named:
        raise click.UsageError(f"which one: {name} or {named}?")
    if not (name or named):
        raise click.UsageError("Missing argument 'NAME'.")
    return name or named or ""


def add_get(group: click.Group, kind: str) -> None:
    """Add the verb `get`."""

    @name_argument
    @output_option
    @with_session
    async def get(session: Session, name: str | None, named: str | None, form: Format) -> None:
        key = Key(kind, session.namespace, the_name(name, named))
        async with session.connect() as client:
            thing = await client.get(key)
        if form == "table":
            write(*describe(thing))
        elif form == "name":
            write(thing.key.name)
        else:
            document(as_plain(thing), form)

    _add(group, "get", get, f"Show one {kind}: its state, and its spec.", kind, "get NAME -o yaml")


def add_list(group: click.Group, kind: str, header: Sequence[str], row: Row) -> None:
    """Add the verb `list`, with a table of these columns."""

    @click.option("-A", "--all-namespaces", is_flag=True, help="Of every namespace.")
    @output_option
    @with_session
    async def list_(session: Session, *, all_namespaces: bool, form: Format) -> None:
        async with session.connect() as client:
            things = await client.objects(kind, None if all_namespaces else session.namespace)
        if all_namespaces:
            listing(form, things, ("NAMESPACE", *header), lambda t: (t.key.namespace, *row(t)))
        else:
            listing(form, things, header, row)

    _add(group, "list", list_, f"List the {kind}s with their state.", kind, "list -o json")


def add_delete(group: click.Group, kind: str) -> None:
    """Add the verb `delete`."""

    # Any text: what was published without the CLI can have a name that is none.
    @click.argument("names", nargs=-1)
    @click.option("--name", "named", multiple=True, hidden=True)
    @click.option("--ignore-missing", is_flag=True, help="It is no error if there is none.")
    @with_session
    async def delete(
        session: Session, names: tuple[str, ...], named: tuple[str, ...], *, ignore_missing: bool
    ) -> None:
        keys = [Key(kind, session.namespace, name) for name in (*names, *named)]
        if not all(key.name for key in keys) or not keys:
            raise click.UsageError("Missing argument 'NAMES...'.")
        async with session.connect() as client:
            for key in keys:
                if ignore_missing and await client.find(key, unpublished=True) is None:
                    continue
                await client.delete(key)
                note(f"deleted {key}")
                if kind == "function":
                    await _warn_of_routes(client, key)

    _add(
        group,
        "delete",
        delete,
        f"Delete {kind}s. What is in flight is finished.",
        kind,
        "delete NAME",
    )


async def _warn_of_routes(client: "Client", function: Key) -> None:
    left = routes_to(function, await client.objects("route", function.namespace))
    if left:
        names = " ".join(route.key.name for route in left)
        note(f"its routes answer 503 from now on; delete them too: wasmfn route delete {names}")


def describe(thing: Object) -> list[Line]:
    """Return an object as lines: what it is, how it is, and its spec's fields."""
    facts: list[tuple[str, Span]] = [
        (thing.key.kind, Span(f"{thing.key.namespace}/{thing.key.name}", "bold")),
        ("phase", phase(thing.phase)),
        ("message", Span(printable(thing.message))),
        ("revision", Span(str(thing.revision))),
        ("in force", Span(thing.in_force or "nothing")),
        ("published", Span(thing.published_at.astimezone().strftime("%Y-%m-%d %H:%M:%S"))),
    ]
    fields = {} if thing.spec is None else plain_spec(thing.spec)
    for field, value in fields.items():
        text = value if isinstance(value, str) else msgspec.json.encode(value).decode()
        facts.append((field, Span(printable(text))))
    width = max(len(label) for label, _ in facts) + 2
    return [(Span(label.ljust(width), "dim"), value) for label, value in facts]


def age_of(thing: Object) -> str:
    """Return how long ago the last revision was published."""
    return age((datetime.now(UTC) - thing.published_at).total_seconds())


def trouble(thing: Object) -> str:
    """Return the message of an object that is not simply active, and what serves meanwhile."""
    if thing.phase == "active":
        return ""
    kept = f" (revision {thing.in_force} stays in force)" if thing.active_revision else ""
    return thing.message + (kept if thing.phase in ("failed", "rejected") else "")


def _add(
    group: click.Group, verb: str, run: Callable[..., None], what: str, kind: str, example: str
) -> None:
    help_text = f"{what}\n\nExample:\n  wasmfn {verb_of(kind)} {example}"
    group.command(verb, help=help_text)(run)
