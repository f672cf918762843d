"""`wasmfn invoke`: call a function, and wait for it or not."""

import click

from wasmfn.cli.calling import WAIT_S, invoke_and_show
from wasmfn.cli.parameters import NAME, SPAN
from wasmfn.cli.session import Session, with_session
from wasmfn.cli.verb import Verb


@click.command(cls=Verb, context_settings={"ignore_unknown_options": True})
@click.argument("name", type=NAME)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
@click.option("--async", "detached", is_flag=True, help="Do not wait; print where its result is.")
@click.option(
    "--idempotency-key", "key", metavar="KEY",
    help="With --async: the same key is the same invocation.",
)  # fmt: skip
@click.option(
    "--wait", "waits", is_flag=True,
    help="With --async: wait for the result all the same, through every attempt.",
)  # fmt: skip
@click.option(
    "--timeout", "within_s", type=SPAN, default=WAIT_S, metavar="SPAN",
    help="With --wait: how long. [5m]",
)  # fmt: skip
@click.option("--stdin", "from_stdin", is_flag=True, help="Send this command's stdin along.")
@click.option("--raw", is_flag=True, help="Print the answer's body as it came.")
@click.option("--http", envvar="WASMFN_HTTP", metavar="URL", help="The router (WASMFN_HTTP).")
@with_session
async def invoke(
    session: Session,
    name: str,
    arguments: tuple[str, ...],
    key: str | None,
    http: str | None,
    *,
    detached: bool,
    waits: bool,
    within_s: float,
    from_stdin: bool,
    raw: bool,
) -> None:
    """Call a function by its route, and wait for it or not.

    With --async the platform promises to run it at least once: it is stored
    when this returns, tried again when it fails, and in the end it is done or
    among the dead letters.

    What a route asks for comes from WASMFN_API_KEY or WASMFN_TOKEN.

    Examples:
      wasmfn invoke sort 3 1 2
      wasmfn invoke sort 3 1 2 --async
      wasmfn invoke sort 3 1 2 --async --idempotency-key order-17
      wasmfn invoke sort 3 1 2 --async --wait --timeout 1m
    """
    if key is not None and not detached:
        raise click.UsageError("an idempotency key goes with --async")
    if key is not None and not (key.isascii() and key.isprintable()):
        raise click.UsageError("an idempotency key consists of visible ASCII characters")
    if waits and not detached:
        raise click.UsageError("without --async it waits anyway; leave --wait out")
    identity = await invoke_and_show(
        session, name, arguments,
        http=http, from_stdin=from_stdin, raw=raw, wait=not detached, key=key,
    )  # fmt: skip
    if waits:
        from wasmfn.cli.invocations import wait_and_show  # noqa: PLC0415 - for this alone

        await wait_and_show(session, name, identity, within_s, raw=raw)
