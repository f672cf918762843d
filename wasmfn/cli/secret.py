"""`wasmfn secret`: secrets of functions on this machine."""

import sys
from pathlib import Path

import click

from wasmfn import secret_store
from wasmfn.cli.output import Format, document, note, output_option, write
from wasmfn.cli.parameters import NAME
from wasmfn.cli.session import Session, with_session
from wasmfn.cli.verb import VerbGroup
from wasmfn.render import table


@click.group(cls=VerbGroup)
def secret() -> None:
    """Secrets of functions on this machine.

    A value never appears in a spec, an event, a log or on a command line. It is
    kept in a file that only this user can read, and given to a function as an
    environment variable when an instance is loaded.

    Examples:
      wasmfn secret create db password             asks for the value
      pass db | wasmfn secret create db password   reads it from a pipe
      wasmfn deploy shop.wasm --secret DB_PASSWORD=db/password
    """


@secret.command()
@click.argument("name", type=NAME)
@click.argument("key")
@click.option(
    "--from-file",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Take the value from this file.",
)
@with_session
def create(session: Session, name: str, key: str, from_file: Path | None) -> None:
    """Store a value, read from a prompt, a pipe or a file. Replaces an older one.

    One newline at the end of a pipe's value is dropped; a file is taken as it is.

    Examples:
      wasmfn secret create db password
      openssl rand -hex 32 | wasmfn secret create api token
      wasmfn secret create tls key --from-file key.pem
    """
    if from_file is not None:
        value = from_file.read_bytes()
    elif sys.stdin.isatty():
        prompted: str = click.prompt(
            f"value of {name}/{key}", hide_input=True, confirmation_prompt=True, err=True
        )
        value = prompted.encode()
    else:
        value = sys.stdin.buffer.read(secret_store.MAX_BYTES + 2).removesuffix(b"\n")
    replaced = secret_store.put(session.secrets_dir(), session.namespace, name, key, value)
    done = "replaced" if replaced else "created"
    note(
        f"{done} {name}/{key}; instances that are loaded from now on see it, and"
        " `wasmfn fn update FUNCTION` loads a function's anew"
    )


@secret.command("list")
@output_option
@with_session
def list_(session: Session, form: Format) -> None:
    """List secrets and their keys, never their values.

    Example:
      wasmfn secret list
    """
    held = secret_store.names(session.secrets_dir(), session.namespace)
    if form == "name":
        write(*held)
    elif form == "table" and not held:
        note("there is nothing to list; -n names another namespace")
    elif form == "table":
        write(*table(("NAME", "KEYS"), [(name, " ".join(keys)) for name, keys in held.items()]))
    else:
        document([{"name": name, "keys": keys} for name, keys in held.items()], form)


@secret.command()
@click.argument("name", type=NAME)
@click.argument("key", required=False)
@with_session
def delete(session: Session, name: str, key: str | None) -> None:
    """Delete a key of a secret, or the whole secret.

    Examples:
      wasmfn secret delete db password
      wasmfn secret delete db
    """
    secret_store.delete(session.secrets_dir(), session.namespace, name, key)
    note(f"deleted {name}" if key is None else f"deleted {name}/{key}")
