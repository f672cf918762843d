"""What options make of a spec: what is not given stays, or gets its default in a new one.

Those that describe a function are here too, for `deploy`, `fn create` and
`fn update` share them.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, TypeVar

import click
import msgspec

from schemas.specs import (
    AnySpec,
    EnvironmentSpec,
    FunctionSpec,
    Module,
    RouteSpec,
    SubscriptionSpec,
    TimerSpec,
)
from wasmfn.cli.parameters import ENVIRONMENT, SECRET, SIZE, SPAN, Secret, Variable
from wasmfn.violations import violation

F = TypeVar("F", bound=Callable[..., Any])
S = TypeVar("S", FunctionSpec, EnvironmentSpec, RouteSpec, TimerSpec, SubscriptionSpec)

MODULE_FILE: Final = click.Path(exists=True, dir_okay=False, path_type=Path)

_LIMITS: Final = {"timeout": "timeout_s", "memory": "memory_mib"}
_SCALING: Final = {
    "concurrency": "concurrency",
    "processes": "processes",
    "min_instances": "min_instances",
    "max_instances": "max_instances",
    "idle_timeout": "idle_timeout_s",
}
_CONTAINER: Final = ("port", "runtime_class", "cpu")

_OPTIONS: Final = (
    click.option(
        "--env",
        "environment",
        type=ENVIRONMENT,
        multiple=True,
        metavar="NAME|KEY=VALUE",
        help="The environment to use, or a variable to set. Repeatable.",
    ),
    click.option(
        "--unset", multiple=True, metavar="KEY", help="Take a variable or secret away. Repeatable."
    ),
    click.option(
        "--secret",
        "secrets",
        type=SECRET,
        multiple=True,
        metavar="VAR=NAME/KEY",
        help="Set a variable from a key of a secret. Repeatable.",
    ),
    click.option(
        "--arg",
        "arguments",
        multiple=True,
        help="An argument before those of a request. Repeatable; replaces all earlier ones.",
    ),
    click.option(
        "--interface",
        type=click.Choice(["args", "stdin", "wagi"]),
        help="How a request becomes a call.  [default if new: args]",
    ),
    click.option("--timeout", type=SPAN, help="Most time of one call.  [default if new: 60s]"),
    click.option("--memory", type=SIZE, help="Most memory of one call.  [default if new: 128MiB]"),
    click.option(
        "--concurrency", type=int, help="Calls at once in each process.  [default if new: 16]"
    ),
    click.option("--processes", type=int, help="Processes of an instance.  [default if new: 1]"),
    click.option("--min-instances", type=int, help="Keep so many running.  [default if new: 0]"),
    click.option("--max-instances", type=int, help="Never run more.  [default if new: 10]"),
    click.option(
        "--idle-timeout",
        type=SPAN,
        help="Stop an instance unused for so long.  [default if new: 2m]",
    ),
    click.option(
        "--isolation",
        type=click.Choice(["process", "pod"]),
        help="What it has to itself.  [default if new: process]",
    ),
    click.option(
        "--executor",
        type=click.Choice(["keeper", "deployment"]),
        help="A keeper runs it, or its image a Deployment of its own.  [default if new: keeper]",
    ),
    click.option(
        "--port", type=int, help="Where such an image answers HTTP.  [default if new: 10086]"
    ),
    click.option(
        "--runtime-class", metavar="NAME", help="RuntimeClass of its pods, such as wasm."
    ),
    click.option(
        "--cpu", type=float, help="Cores that one of its pods may use.  [default if new: 1]"
    ),
)  # fmt: skip


def function_options(command: F) -> F:
    """Give a command the options that describe a function, as one dictionary of flags."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def with_flags(
    before: FunctionSpec | None,
    flags: dict[str, Any],
    *,
    module: Module | None = None,
    image: str | None = None,
) -> FunctionSpec:
    """Return `before`, or a new function, changed by what the flags give.

    Args:
        before: the spec so far.
        flags: by the names of `function_options`; None or empty means not given.
        module: its new code, instead of a module or image it had.
        image: the same, as an image reference.

    Raises:
        click.UsageError: the result would be no valid spec; says why.
    """
    fields: dict[str, Any] = {} if before is None else msgspec.to_builtins(before)
    if module is not None or image is not None:
        fields |= {"module": msgspec.to_builtins(module), "image": image}
    environments = [each for each in flags["environment"] if isinstance(each, str)]
    if len(environments) > 1:
        raise click.UsageError(
            f"a function uses one environment; choose {' or '.join(environments)}"
        )
    if environments:
        fields["environment"] = environments[0]
    fields["variables"], fields["secrets"] = _variables(fields, flags)
    if flags["arguments"]:
        fields["arguments"] = list(flags["arguments"])
    for flag in ("interface", "isolation", "executor"):
        if flags[flag] is not None:
            fields[flag] = flags[flag]
    if flags["executor"] == "keeper":
        fields["container"] = None
    container = {flag: flags[flag] for flag in _CONTAINER if flags[flag] is not None}
    if container:
        fields["container"] = {**(fields.get("container") or {}), **container}
    for group, names in (("limits", _LIMITS), ("scaling", _SCALING)):
        given = {field: flags[f] for f, field in names.items() if flags[f] is not None}
        fields[group] = {**fields.get(group, {}), **given}
    return checked(fields, FunctionSpec)


def checked(fields: dict[str, Any], spec: type[S]) -> S:
    """Return the spec with these fields.

    Raises:
        click.UsageError: it would not be valid; says which field, and why.
    """
    try:
        return msgspec.convert(fields, spec)
    except msgspec.ValidationError as error:
        field, problem = violation(error, spec)
        raise click.UsageError(f"{field}: {problem}" if field else problem) from error


def changed_fields(before: AnySpec | None, given: dict[str, Any]) -> dict[str, Any]:
    """Return the fields of a spec, if there is one yet, with those that options give set.

    `given` is by field; None means not given.
    """
    had = {} if before is None else msgspec.structs.asdict(before)
    return had | {field: value for field, value in given.items() if value is not None}


def changed_variables(before: AnySpec | None, given: tuple[Variable | str, ...]) -> dict[str, str]:
    """Return the variables of an environment with those of `--env` set.

    Raises:
        click.UsageError: `--env` names an environment.
    """
    variables = dict(before.variables) if isinstance(before, EnvironmentSpec) else {}
    for each in given:
        if isinstance(each, str):
            raise click.UsageError(f"--env {each}: a variable is KEY=VALUE")
        variables[each.name] = each.value
    return variables


def _variables(
    fields: dict[str, Any], flags: dict[str, Any]
) -> tuple[dict[str, str], dict[str, Any]]:
    """Return variables and secrets as the flags leave them: the last word on a name counts."""
    variables: dict[str, str] = dict(fields.get("variables", {}))
    secrets: dict[str, Any] = dict(fields.get("secrets", {}))
    for name in flags["unset"]:
        if name not in variables and name not in secrets:
            raise click.UsageError(f"--unset {name}: there is no such variable")
        variables.pop(name, None)
        secrets.pop(name, None)
    for each in flags["environment"]:
        if isinstance(each, Variable):
            secrets.pop(each.name, None)
            variables[each.name] = each.value
    secret: Secret
    for secret in flags["secrets"]:
        variables.pop(secret.variable, None)
        secrets[secret.variable] = {"name": secret.name, "key": secret.key}
    return variables, secrets
