"""`wasmfn env`: environments, which are modules and variables that functions share."""

from pathlib import Path

import click
import msgspec

from schemas.specs import EnvironmentSpec, Module
from wasmfn.cli.flags import changed_variables, checked
from wasmfn.cli.output import note
from wasmfn.cli.parameters import ENVIRONMENT, Variable
from wasmfn.cli.publishing import create_object, update_object, upload
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

variables_option = click.option(
    "--env",
    "variables",
    type=ENVIRONMENT,
    multiple=True,
    metavar="KEY=VALUE",
    help="Set a variable. Repeatable.",
)


@click.group(cls=VerbGroup)
def env() -> None:
    """Environments: modules and variables that functions share.

    Examples:
      wasmfn env create --name sort-wasm --image docker.io/you/sort:1
      wasmfn env create --name sort-wasm --image sort.wasm
      wasmfn fn create --name sort --env sort-wasm
    """


@env.command()
@name_argument
@click.option(
    "--image", metavar="REF|FILE.wasm", help="An OCI image with a module, or a module's file."
)
@variables_option
@with_session
async def create(
    session: Session,
    name: str | None,
    named: str | None,
    image: str | None,
    variables: tuple[Variable | str, ...],
) -> None:
    """Create an environment from an image, a module's file, or variables alone.

    Examples:
      wasmfn env create sort-wasm --image docker.io/you/sort:1
      wasmfn env create --name sort-wasm --image sort.wasm --env MODE=fast
    """
    key = Key("environment", session.namespace, the_name(name, named))
    settings, file = changed_variables(None, variables), file_of(image)
    async with session.connect() as client:
        module = await upload(client, file)
        spec = spec_with(EnvironmentSpec(), settings, module, image)
        await create_object(client, key, spec)
    note(f"created {key}; use it with: wasmfn fn create --name NAME --env {key.name}")


@env.command()
@name_argument
@click.option("--image", metavar="REF|FILE.wasm", help="The new image or module's file.")
@variables_option
@click.option("--unset", multiple=True, metavar="KEY", help="Take a variable away. Repeatable.")
@with_session
async def update(
    session: Session,
    name: str | None,
    named: str | None,
    image: str | None,
    variables: tuple[Variable | str, ...],
    unset: tuple[str, ...],
) -> None:
    """Change an environment; the functions that use it roll out anew.

    Naming the same image again resolves its tag again.

    Example:
      wasmfn env update sort-wasm --image docker.io/you/sort:2
    """
    key = Key("environment", session.namespace, the_name(name, named))
    file = file_of(image)

    def changed(before: EnvironmentSpec) -> EnvironmentSpec:
        settings = changed_variables(before, variables)
        for variable in unset:
            settings.pop(variable, None)
        return spec_with(before, settings, module, image)

    async with session.connect() as client:
        module = await upload(client, file)
        await update_object(client, key, EnvironmentSpec, changed)
    note(f"updated {key}")


def file_of(image: str | None) -> Path | None:
    """Return the file that `--image` names, or None if it names an image.

    Raises:
        click.UsageError: it looks like a file that is not there.
    """
    if image is None:
        return None
    path = Path(image)
    if path.is_file():
        return path
    if image.endswith(".wasm"):
        raise click.UsageError(f"--image {image}: there is no such file")
    return None


def spec_with(
    before: EnvironmentSpec, variables: dict[str, str], module: Module | None, image: str | None
) -> EnvironmentSpec:
    """Return the environment with these variables, and a new module or image if one is given."""
    fields = {**msgspec.to_builtins(before), "variables": variables}
    if module is not None:
        fields |= {"module": msgspec.to_builtins(module), "image": None}
    elif image is not None:
        fields |= {"module": None, "image": image}
    return checked(fields, EnvironmentSpec)


def _row(thing: Object) -> tuple[str | Span, ...]:
    source = "-"
    if isinstance(thing.spec, EnvironmentSpec):
        if thing.spec.module is not None:
            source = f"{thing.spec.module.file_name} {thing.spec.module.sha256[:12]}"
        source = thing.spec.image or source
    return (thing.key.name, phase(thing.phase), source, age_of(thing), trouble(thing))


add_get(env, "environment")
add_list(env, "environment", ("NAME", "PHASE", "SOURCE", "AGE", "MESSAGE"), _row)
add_delete(env, "environment")
