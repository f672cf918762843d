"""`wasmfn apply` and `wasmfn export`: the platform as YAML files."""

import asyncio
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePath

import click

from schemas.specs import AnySpec, EnvironmentSpec, FunctionSpec
from wasmfn.apply import Change, desired, difference, plan, to_yaml
from wasmfn.cli.output import note, paint_diff, progress, write
from wasmfn.cli.parameters import SPAN
from wasmfn.cli.session import Session, with_session
from wasmfn.cli.verb import Verb
from wasmfn.client import Client
from wasmfn.errors import MissingError
from wasmfn.files import documents_in, modules_of
from wasmfn.objects import Key
from wasmfn.render import Line, Span

_STYLES = {"create": "green", "update": "yellow", "delete": "red", "unchanged": "dim"}


@click.command(cls=Verb)
@click.option(
    "-f", "--file", "files", multiple=True, required=True, metavar="FILE|FOLDER|-",
    help="YAML to apply; repeatable.",
)  # fmt: skip
@click.option("--dry-run", is_flag=True, help="Say what would change, and change nothing.")
@click.option("--diff", is_flag=True, help="Show each change line by line.")
@click.option(
    "--prune", is_flag=True, help="Delete what is in the same namespaces and not in the files."
)
@click.option(
    "--wait", "timeout_s", type=SPAN, default=60.0, help="How long to wait.  [default: 60s]"
)
@with_session
async def apply(
    session: Session,
    files: tuple[str, ...],
    timeout_s: float,
    *,
    dry_run: bool,
    diff: bool,
    prune: bool,
) -> None:
    """Make the platform what YAML files say.

    A file holds any number of documents, in any order. Nothing is changed
    unless all of them are understood. Waits until all of it is in force.

      kind: function
      name: sort
      module: {file: sort.wasm}      # beside this file; uploaded
      limits: {timeout_s: 10}
      ---
      kind: route
      name: sort
      function: sort
      path: /sort

    A spec's fields may also stand below `spec:`. `wasmfn export` prints this
    form, and the JSON Schemas of the kinds are in schemas/json.

    Examples:
      wasmfn apply -f examples/sort
      wasmfn apply -f shop.yaml --dry-run --diff
      wasmfn export | wasmfn apply -f - --nats nats://other:4222
    """
    documents = documents_in(files)
    modules, contents = modules_of(documents)
    wanted = desired(documents, session.namespace, modules)
    if not wanted:
        note("the files hold no document; nothing to do")
        return
    async with session.connect() as client:
        present = {thing.key: thing for thing in await client.objects() if thing.published}
        changes = plan(wanted, {key: thing.spec for key, thing in present.items()}, prune=prune)
        for change in changes:
            write(_line(change, dry_run=dry_run))
            if diff:
                write(*paint_diff(difference(change)))
        if not dry_run:
            revisions = {key: thing.revision for key, thing in present.items()}
            await _carry_out(client, changes, revisions, modules_data=contents, timeout_s=timeout_s)


@click.command(cls=Verb)
@click.option("-A", "--all-namespaces", is_flag=True, help="Of every namespace.")
@click.option(
    "--modules",
    type=click.Path(file_okay=False, path_type=Path),
    help="Also write the modules into this folder, for a platform that lost its data.",
)
@with_session
async def export(session: Session, modules: Path | None, *, all_namespaces: bool) -> None:
    """Print every spec as YAML that apply takes.

    Examples:
      wasmfn export > shop.yaml
      wasmfn export -A --modules backup > backup.yaml
    """
    async with session.connect() as client:
        things = await client.objects(namespace=None if all_namespaces else session.namespace)
        specs: dict[Key, AnySpec] = {}
        for thing in things:
            if thing.spec is None:
                note(f"left out {thing.key}: {thing.problem}")
            else:
                specs[thing.key] = thing.spec
        files = {} if modules is None else await _save_modules(client, specs, modules)
    if specs:
        write(to_yaml(specs, files).rstrip("\n"))
    else:
        note("there is nothing to export; -n names another namespace")


async def _carry_out(
    client: Client,
    changes: Sequence[Change],
    present: Mapping[Key, int],
    *,
    modules_data: Mapping[str, bytes],
    timeout_s: float,
) -> None:
    """Upload, publish, wait, then delete: users of a thing go before the thing."""
    publishing = [c for c in changes if c.action in ("create", "update")]
    needed = {
        change.after.module.sha256
        for change in publishing
        if isinstance(change.after, (FunctionSpec, EnvironmentSpec)) and change.after.module
    }
    with progress("applying") as tell:
        for digest in sorted(needed & modules_data.keys()):
            await client.put_module(modules_data[digest], "module.wasm")
        wanted = {change.key: change.after for change in changes if change.after is not None}
        revisions = {
            change.key: await client.publish(
                change.key, wanted[change.key], expected=present.get(change.key)
            )
            for change in publishing
        }
        # What waits for an environment that nobody has made yet would wait for ever.
        early = {
            key: revision
            for key, revision in revisions.items()
            if _lacks_environment(key, wanted[key], {*wanted, *present})
        }
        complete = {key: revisions[key] for key in revisions if key not in early}
        await client.wait_active(
            complete, timeout_s, lambda s: tell(f"{s.kind} {s.name}: {s.phase}")
        )
        for status in (await client.wait_active(early, timeout_s, or_waiting=True)).values():
            note(f"{status.kind} {status.namespace}/{status.name}: {status.message}")
        for change in changes:
            if change.action == "delete":
                await client.delete(change.key)


def _lacks_environment(key: Key, spec: AnySpec, known: set[Key]) -> bool:
    """Whether `spec` is a function whose environment does not exist."""
    if not isinstance(spec, FunctionSpec) or spec.environment is None:
        return False
    return Key("environment", key.namespace, spec.environment) not in known


async def _save_modules(
    client: Client, specs: Mapping[Key, AnySpec], folder: Path
) -> dict[str, PurePath]:
    """Write the module of each spec into `folder`, and return where it is, by digest."""
    await asyncio.to_thread(folder.mkdir, parents=True, exist_ok=True)
    files: dict[str, PurePath] = {}
    for key, spec in specs.items():
        module = spec.module if isinstance(spec, (FunctionSpec, EnvironmentSpec)) else None
        if module is None or module.sha256 in files:
            continue
        try:
            data = await client.get_module(module.sha256)
        except MissingError as error:
            note(f"left out the module of {key}: {error}")
            continue
        file = folder / f"{module.sha256}.wasm"
        await asyncio.to_thread(file.write_bytes, data)
        files[module.sha256] = file
    return files


def _line(change: Change, *, dry_run: bool) -> Line:
    word = (
        change.action if change.action == "unchanged" or not dry_run else f"would {change.action}"
    )
    return (Span(word.ljust(15) + " ", _STYLES[change.action]), Span(str(change.key)))
