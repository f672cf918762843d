"""`wasmfn doctor`: look at everything, and say what to do."""

import click
import msgspec

from wasmfn.checks import Check, checks
from wasmfn.cli.output import document, write
from wasmfn.cli.session import Session, with_session
from wasmfn.cli.verb import Verb
from wasmfn.errors import WasmfnError
from wasmfn.render import Line, Span, printable

_MARKS = {"good": Span("ok    ", "green"), "warning": Span("warn  ", "yellow"),
          "bad": Span("BAD   ", "bold red")}  # fmt: skip


@click.command(cls=Verb)
@click.option(
    "-o", "--output", "form", type=click.Choice(["text", "json"]), default="text",
    help="How to print it.",
)  # fmt: skip
@with_session
async def doctor(session: Session, form: str) -> None:
    """Check the platform and say what to do.

    Looks for the platform, its disk, every service, the router's port, NATS,
    the streams, the leading scheduler, the keepers and the clock. Exits with 1
    if something is bad.

    Examples:
      wasmfn doctor
      wasmfn doctor -o json --nats nats://127.0.0.1:4222
    """
    found: list[Check] = []
    async for check in checks(session.nats):
        found.append(check)
        if form == "text":
            write(*_lines(check))
    if form == "json":
        document([msgspec.to_builtins(check) for check in found], "json")
    bad = [check.name for check in found if check.state == "bad"]
    if bad:
        raise WasmfnError(f"not well: {', '.join(bad)}")


def _lines(check: Check) -> list[Line]:
    lines: list[Line] = [
        (_MARKS[check.state], Span(f"{check.name:<11}", "bold"), Span(printable(check.detail)))
    ]
    if check.advice:
        lines.append((Span(" " * 17 + check.advice, "yellow"),))
    return lines
