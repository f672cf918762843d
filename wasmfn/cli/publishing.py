"""Create and update an object, so that nobody's change is lost in between."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from schemas.specs import (
    AnySpec,
    EnvironmentSpec,
    FunctionSpec,
    Module,
    RouteSpec,
    SubscriptionSpec,
    TimerSpec,
)
from wasmfn.cli.output import note, progress
from wasmfn.client import Client
from wasmfn.errors import ConflictError, RejectedError
from wasmfn.objects import Key, verb_of
from wasmfn.routing import file_name_of

S = TypeVar("S", EnvironmentSpec, FunctionSpec, RouteSpec, SubscriptionSpec, TimerSpec)

WAIT_S = 60.0


async def upload(client: Client, file: Path | None) -> Module | None:
    """Upload a module's file, if there is one."""
    if file is None:
        return None
    data = await asyncio.to_thread(file.read_bytes)
    return await client.put_module(data, file_name_of(file))


async def create_object(client: Client, key: Key, spec: AnySpec) -> None:
    """Publish an object that is not there yet, and wait for its judgement.

    Raises:
        ConflictError: it is there already.
        RejectedError: the platform does not take it. Then it is withdrawn.
    """
    if await client.find(key) is not None:
        raise ConflictError(
            f"{key} exists already; change it with `wasmfn {verb_of(key.kind)} update {key.name}`"
        )
    revision = await client.publish(key, spec)
    try:
        await settle(client, key, revision)
    except RejectedError:
        await client.withdraw({key: revision})
        raise
    await _warn_of_its_function(client, key, spec)


async def update_object(client: Client, key: Key, kind: type[S], changed: Callable[[S], S]) -> None:
    """Publish what `changed` makes of an object, and wait for its judgement.

    Raises:
        MissingError: it is not there.
        ConflictError: somebody changed it at the same time.
        RejectedError: the platform does not take it.
    """
    found = await client.get(key)
    if not isinstance(found.spec, kind):
        raise ConflictError(
            f"the spec of {key} cannot be read ({found.problem}); delete it and create it again"
        )
    spec = changed(found.spec)
    revision = await client.publish(key, spec, expected=found.revision)
    await settle(client, key, revision)
    if _function_of(key, spec) != _function_of(key, found.spec):
        await _warn_of_its_function(client, key, spec)


async def settle(client: Client, key: Key, revision: int) -> None:
    """Wait until a revision is in force, or waits for another object, which is said.

    Raises:
        RejectedError: the platform does not take it.
    """
    with progress(str(key)) as tell:
        statuses = await client.wait_active(
            {key: revision}, WAIT_S, lambda s: tell(f"{key}: {s.phase}"), or_waiting=True
        )
    if statuses[key].phase == "waiting":
        note(f"{key}: {statuses[key].message}")


async def _warn_of_its_function(client: Client, key: Key, spec: AnySpec) -> None:
    function = _function_of(key, spec)
    if function is not None and await client.find(function) is None:
        note(f"there is no {function} yet; until there is, {key} calls nothing")


def _function_of(key: Key, spec: AnySpec) -> Key | None:
    """Return the function that a route, timer or subscription calls."""
    if isinstance(spec, (RouteSpec, TimerSpec, SubscriptionSpec)):
        return Key("function", key.namespace, spec.function)
    return None
