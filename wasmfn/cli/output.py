"""Where lines and documents leave for the terminal or the pipe.

Colour and spinners are for terminals. rich is imported only there: a pipe does
not pay for it.
"""

import contextlib
import functools
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Final, Literal

import click
import msgspec

from wasmfn.objects import Object, plain_spec
from wasmfn.render import Line, Span, plain, table

if TYPE_CHECKING:
    from rich.console import Console

Format = Literal["table", "json", "yaml", "name"]

SPINNER_AFTER_S: Final = 0.4
"""Work that is shorter than this needs no spinner, and does not wait for rich."""

output_option = click.option(
    "-o",
    "--output",
    "form",
    type=click.Choice(["table", "json", "yaml", "name"]),
    default="table",
    show_default=True,
    help="How to print it.",
)


def write(*lines: Line | str) -> None:
    """Write lines to stdout at once, in colour if it is a terminal that wants it."""
    if sys.stdout.isatty():
        from rich.text import Text  # noqa: PLC0415 - see the module's docstring

        for line in lines:
            spans: Line = (Span(line),) if isinstance(line, str) else line
            _console().print(Text.assemble(*spans), soft_wrap=True)
        return
    text = "".join((line if isinstance(line, str) else plain(line)) + "\n" for line in lines)
    # Names may hold what the locale cannot write; that must not be the end of a listing.
    write_bytes(text.encode(sys.stdout.encoding or "utf-8", "backslashreplace"))


def write_bytes(data: bytes) -> None:
    """Write to stdout at once, and end the command in peace if nobody reads any more."""
    try:
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()
    except BrokenPipeError:
        # `wasmfn … | head` has read enough: that is no failure. What is left in
        # the buffer must not be tried again when Python exits.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise click.exceptions.Exit(0) from None


def note(sentence: str) -> None:
    """Write a sentence to stderr that is no result, such as what was done."""
    click.echo(sentence, err=True)


def document(value: Any, form: Format) -> None:
    """Write a value as JSON or YAML."""
    if form == "yaml":
        import yaml  # noqa: PLC0415 - only here

        text = yaml.safe_dump(msgspec.to_builtins(value), sort_keys=False, allow_unicode=False)
        write(text.rstrip("\n"))
    else:
        write(msgspec.json.format(msgspec.json.encode(value), indent=2).decode())


def listing(
    form: Format,
    things: Sequence[Object],
    header: Sequence[str],
    row: Callable[[Object], Sequence[str | Span]],
) -> None:
    """Write objects in the form that was asked for."""
    if form == "name":
        write(*(thing.key.name for thing in things))
    elif form == "table":
        if things:
            write(*table(header, map(row, things)))
        else:
            note("there is nothing to list; -n names another namespace")
    else:
        document([as_plain(thing) for thing in things], form)


def as_plain(thing: Object) -> dict[str, Any]:
    """Return what is shown of an object as JSON or YAML."""
    return {
        "kind": thing.key.kind,
        "namespace": thing.key.namespace,
        "name": thing.key.name,
        "revision": thing.revision,
        "published_at": thing.published_at.isoformat(),
        "phase": thing.phase,
        "active_revision": thing.active_revision,
        "message": thing.message,
        "spec": None if thing.spec is None else plain_spec(thing.spec),
    }


@contextlib.contextmanager
def progress(doing: str) -> Iterator[Callable[[str], None]]:
    """Show on a terminal what a wait is for, once it is long; call what is yielded with news."""
    if not sys.stderr.isatty() or os.environ.get("TERM") == "dumb":
        yield lambda news: None
        return
    import threading  # noqa: PLC0415 - only for a terminal

    shown: list[str] = [doing]
    over = threading.Event()

    def spin() -> None:
        if over.wait(SPINNER_AFTER_S):
            return
        from rich.console import Console  # noqa: PLC0415 - see the module's docstring

        with Console(stderr=True).status(doing) as status:
            while not over.wait(0.1):
                status.update(shown[0])

    thread = threading.Thread(target=spin, daemon=True)
    thread.start()
    try:
        yield functools.partial(shown.__setitem__, 0)
    finally:
        over.set()
        thread.join()


def paint_diff(lines: Iterable[str]) -> list[Line]:
    """Return the lines of a unified diff in its usual colours."""
    styles = {"+": "green", "-": "red", "@": "cyan"}
    return [(Span(line, styles.get(line[:1], "")),) for line in lines]


@functools.cache
def _console() -> "Console":
    from rich.console import Console  # noqa: PLC0415 - see the module's docstring

    return Console(highlight=False)


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
