"""`wasmfn demo`: see it work."""

import click

from wasmfn.cli.output import write
from wasmfn.cli.verb import Verb


@click.command(cls=Verb)
@click.option("--once", is_flag=True, help="Exit when everything was shown.")
@click.option(
    "--http",
    default="127.0.0.1:0",
    metavar="HOST:PORT",
    help="Where the function answers.  [default: a free port of 127.0.0.1]",
)
def demo(http: str, *, once: bool) -> None:
    """See it work: start, deploy, invoke, and look inside.

    Starts the whole platform in a temporary directory, deploys an example that
    sorts its arguments, lets it scale to zero, invokes it over HTTP, and shows
    where the time of its cold start went. Then it is yours to play with.

    Examples:
      wasmfn demo
      wasmfn demo --once
    """
    from wasmfn import demo as demonstration  # noqa: PLC0415 - brings NATS and asyncio along

    demonstration.run(http, write, once=once)
