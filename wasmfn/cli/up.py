"""`wasmfn up`: the whole platform in the foreground."""

import sys
from pathlib import Path

import click

from wasmfn.cli.output import note, write
from wasmfn.cli.verb import Verb
from wasmfn.discovery import Platform


@click.command(cls=Verb)
@click.option(
    "--http",
    default="127.0.0.1:8080",
    metavar="HOST:PORT",
    show_default=True,
    help="Where functions answer; port 0 takes a free one.",
)
@click.option(
    "--data",
    type=click.Path(file_okay=False, path_type=Path),
    envvar="WASMFN_DATA",
    help="Data directory (WASMFN_DATA; by default one in your home).",
)
@click.option(
    "--nats",
    envvar="WASMFN_NATS",
    metavar="URL",
    help="Use this NATS server instead of an own one (WASMFN_NATS).",
)
@click.option(
    "--nats-token-file",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    envvar="WASMFN_NATS_TOKEN_FILE",
    help="The token for --nats (WASMFN_NATS_TOKEN_FILE).",
)
@click.pass_context
def up(
    ctx: click.Context,
    http: str,
    data: Path | None,
    nats: str | None,
    nats_token_file: Path | None,
) -> None:
    """Run the whole platform on this machine.

    Starts NATS, router, builder, scheduler and podwatch, prints one line
    `ready http://… nats://…` when everything is, and runs until Ctrl-C or
    SIGTERM. Functions are kept in the data directory and come back by
    themselves.

    Examples:
      wasmfn up
      wasmfn up --http 0.0.0.0:80 --data /srv/wasmfn
      wasmfn up --http 127.0.0.1:0 --data ./data     take a free port
      wasmfn up --nats nats://nats.example:4222      use a server that runs

    Exit codes of `up`: 0 stopped when told, 3 the data directory or a port is
    in use, 4 the data directory cannot be used, 5 a part did not start.
    """
    # The supervisor is imported by nothing but this verb.
    from wasmfn import stack  # noqa: PLC0415

    def ready(platform: Platform) -> None:
        write(f"ready {platform.http_url} {platform.nats_url}")
        if sys.stdout.isatty():
            note("In another terminal: wasmfn deploy FILE.wasm. Ctrl-C stops the platform here.")

    options = stack.StackOptions(http=http, data=data, nats=nats, nats_token_file=nats_token_file)
    try:
        code = stack.run(options, ready, note)
    except stack.StackError as error:
        note(f"error: {error}")
        code = error.exit_code
    ctx.exit(code)
