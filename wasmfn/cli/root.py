"""The root of the command line: every verb by its section, and where it is found.

The table repeats each verb's short help, so that `wasmfn --help` and completion
import none of them; a test compares the two.
"""

import contextlib
import importlib
import sys
from collections.abc import Iterator
from typing import Final

import click

from wasmfn.cli.verb import VerbGroup

SECTIONS: Final[dict[str, dict[str, tuple[str, str]]]] = {
    "Run": {
        "demo": ("demo:demo", "See it work: start, deploy, invoke, and look inside."),
        "up": ("up:up", "Run the whole platform on this machine."),
        "doctor": ("doctor:doctor", "Check the platform and say what to do."),
    },
    "Deploy": {
        "deploy": (
            "deploy:deploy",
            "Make a module, or an image, answer HTTP, and wait until it does.",
        ),
        "dev": ("dev:dev", "Deploy a module again whenever its file changes."),
        "apply": ("apply:apply", "Make the platform what YAML files say."),
        "export": ("apply:export", "Print every spec as YAML that apply takes."),
    },
    "Objects": {
        "fn": ("fn:fn", "Functions: create, get, list, update, delete, test, logs."),
        "env": ("env:env", "Environments: modules and variables that functions share."),
        "route": ("route:route", "Routes: from a method and a path to a function."),
        "timer": ("timer:timer", "Timers: call a function at set times."),
        "subscription": (
            "subscription:subscription",
            "Subscriptions: call a function with messages of NATS.",
        ),
        "secret": ("secret:secret", "Secrets of functions on this machine."),
    },
    "Invocations": {
        "invoke": ("invoke:invoke", "Call a function by its route, and wait for it or not."),
        "invocations": (
            "invocations:invocations",
            "Invocations that nobody waits for: list, get, wait, cancel, redrive, prune.",
        ),
        "dead": ("dead:dead", "Dead letters: list, get, redrive, discard, prune."),
    },
    "Cluster": {
        "install": ("install:install", "Install or upgrade the platform in a Kubernetes cluster."),
        "uninstall": (
            "install:uninstall",
            "Remove the platform from a Kubernetes cluster, with all that it holds.",
        ),
        "status": ("install:status", "Show how the platform in a Kubernetes cluster is."),
    },
    "Look": {
        "events": ("events:events", "Show the event log, live or from the past."),
        "version": ("version:version", "Print the versions of wasmfn and of its engine."),
        "completion": ("version:completion", "Print the completion script of a shell."),
    },
}

_EXIT_CODES: Final = """
Exit codes:
  0  done                     4  no such object
  1  failed                   5  rejected by the platform
  2  wrong usage              6  did not happen in time
  3  platform not reachable   7  exists already, is in use, or changed meanwhile
"""

_INSTEAD: Final = {
    **dict.fromkeys(
        ("down", "stop"), "`wasmfn up` runs in the foreground; Ctrl-C, or SIGTERM, stops it"
    ),
    **dict.fromkeys(("logs", "log"), "`wasmfn fn logs NAME` shows what a function wrote"),
    **dict.fromkeys(("list", "ls", "ps", "functions"), "`wasmfn fn list` lists the functions"),
    **dict.fromkeys(
        ("delete", "rm", "remove", "undeploy"),
        "`wasmfn fn delete NAME` deletes a function, and `wasmfn route delete NAME` its route",
    ),
    **dict.fromkeys(("call", "run", "test"), "`wasmfn invoke NAME` calls a function"),
    **dict.fromkeys(
        ("init", "new", "create"),
        "there is no project to make: `wasmfn deploy FILE.wasm` takes what a compiler built",
    ),
    "rollback": "deploy the file of before again; `wasmfn deploy --help` tells what stays",
}
"""What other tools call it: the word that somebody tries first, and what does it here."""

_ALL: Final = {verb: entry for verbs in SECTIONS.values() for verb, entry in verbs.items()}


@contextlib.contextmanager
def _without(package: str) -> Iterator[None]:
    """Let a package look as if it were not installed, unless it is imported already.

    nats-py imports aiohttp wherever it is installed, and needs it only for
    WebSockets: that is a third of the start-up time of a command.
    """
    if package in sys.modules:
        yield
        return
    sys.modules[package] = None  # type: ignore[assignment]  # how one says "absent"
    try:
        yield
    finally:
        del sys.modules[package]


class VerbTable(VerbGroup):
    """A group that imports a verb's module when the verb is used."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return every verb, in the order of the sections."""
        return list(_ALL)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return the command of a verb, or None if there is no such verb."""
        if cmd_name not in _ALL:
            return None
        module, _, attribute = _ALL[cmd_name][0].partition(":")
        with _without("aiohttp"):
            command = getattr(importlib.import_module(f"wasmfn.cli.{module}"), attribute)
        if not isinstance(command, click.Command):
            raise TypeError(f"wasmfn.cli.{module}:{attribute} is no command")
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Return the command of the first word; one that is of other tools is told what to say."""
        if args and args[0] in _INSTEAD:
            raise click.UsageError(f"No such command '{args[0]}': {_INSTEAD[args[0]]}.", ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the verbs with their short help, section by section."""
        width = max(map(len, _ALL))
        for section, verbs in SECTIONS.items():
            with formatter.section(section):
                formatter.write_dl(
                    [(verb.ljust(width), short) for verb, (_, short) in verbs.items()]
                )

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write what the exit codes mean."""
        formatter.write(_EXIT_CODES)


@click.group(
    cls=VerbTable,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(
    package_name="wasmfn", message="wasmfn %(version)s", help="Show the version and exit."
)
def root() -> None:
    """WebAssembly functions over HTTP, on this machine or a cluster.

    Begin with:
      wasmfn demo                       everything at once, in a place of its own
      wasmfn up                         run the platform (leave it running)
      wasmfn deploy sort.wasm           make a module answer at /sort
      wasmfn fn test sort 3 1 2         call it
      wasmfn events -f                  watch what happens

    The running platform is found by itself; --nats or WASMFN_NATS name another
    one. `wasmfn VERB --help` has examples.
    """
