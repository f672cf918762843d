"""From a module's file to a URL that answers: what `deploy`, `dev` and `demo` share."""

import asyncio
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from schemas.names import DEFAULT_NAMESPACE
from schemas.specs import FunctionSpec, Module, RouteSpec
from schemas.status import Status
from wasmfn.client import Client
from wasmfn.errors import ConflictError, RejectedError
from wasmfn.objects import Key, Object, routes_to
from wasmfn.routing import Wish, file_name_of, name_of, routes_for

SpecOf = Callable[[FunctionSpec | None, Module | None], FunctionSpec]
"""Makes a function's spec from the one that is there and its new module, if it has one."""

TIMEOUT_S = 60.0


class Deployed(msgspec.Struct, frozen=True):
    """A function that is live."""

    function: Key
    revision: int
    routes: list[RouteSpec]
    milliseconds: float
    """From the first byte sent to the platform until it said that the function is live."""
    changed: bool
    """False if it was live already, exactly so."""


def with_module(before: FunctionSpec | None, module: Module | None) -> FunctionSpec:
    """Return the function with new code, and everything else as it was."""
    if before is None:
        return FunctionSpec(module=module)
    return msgspec.structs.replace(before, module=module, image=None)


async def deploy(
    client: Client,
    file: Path | None,
    *,
    name: str = "",
    namespace: str = DEFAULT_NAMESPACE,
    spec_of: SpecOf = with_module,
    wishes: Sequence[Wish] = (),
    timeout_s: float = TIMEOUT_S,
    on_publish: Callable[[], None] = lambda: None,
    on_status: Callable[[Status], None] = lambda status: None,
) -> Deployed:
    """Upload `file`, publish the function and its routes, and wait until they are live.

    Args:
        client: the platform.
        file: the module; None for a function whose spec names an image.
        name: of the function; by default that of the file.
        namespace: where it shall live.
        spec_of: makes the spec from the one that is there and the module.
        wishes: routes; by default `/<name>` for a function that has none.
        timeout_s: for all of it.
        on_publish: called before the first of them is published, if any is.
        on_status: called with each status on the way.

    Raises:
        RejectedError: the platform does not take it, and says why. What is new is withdrawn.
        MissingError: the environment that it names does not exist.
        ConflictError: somebody deployed the same function at the same time.
        DeadlineError: it is not live in time.
    """
    begin = time.monotonic()
    key = Key("function", namespace, name or (name_of(file) if file is not None else ""))
    module, before, present = await asyncio.gather(
        _upload(client, file),
        client.find(key),
        client.objects("route", namespace),
    )
    spec = spec_of(_spec(before), module)
    if spec.environment is not None:
        # The function would wait for it, without an end.
        await client.get(Key("environment", namespace, spec.environment))
    try:
        wanted = routes_for(key, wishes, [route for route in present if route.published])
    except msgspec.ValidationError as error:
        raise RejectedError(str(error)) from error
    # The tag of an image may stand for another one by now.
    live = before is not None and before.spec == spec and before.phase == "active"
    same = live and file is not None
    if wanted or not same:
        on_publish()
    revisions = dict(
        zip(
            wanted,
            await asyncio.gather(*(client.publish(route, wanted[route]) for route in wanted)),
            strict=True,
        )
    )
    if not same:
        revisions[key] = await client.publish(
            key, spec, expected=None if before is None else before.revision
        )
    try:
        await client.wait_active(revisions, timeout_s - (time.monotonic() - begin), on_status)
    except RejectedError:
        known = {thing.key for thing in present} | ({key} if before is not None else set())
        await client.withdraw({new: revisions[new] for new in revisions if new not in known})
        raise
    routes = [
        thing.spec
        for thing in routes_to(key, present)
        if isinstance(thing.spec, RouteSpec) and thing.key not in wanted
    ]
    return Deployed(
        function=key,
        revision=revisions[key] if before is None or not same else before.revision,
        routes=[*wanted.values(), *routes],
        milliseconds=(time.monotonic() - begin) * 1000,
        changed=bool(revisions),
    )


async def _upload(client: Client, file: Path | None) -> Module | None:
    if file is None:
        return None
    return await client.put_module(await asyncio.to_thread(file.read_bytes), file_name_of(file))


def _spec(found: Object | None) -> FunctionSpec | None:
    if found is None:
        return None
    if not isinstance(found.spec, FunctionSpec):
        raise ConflictError(
            f"the spec of {found.key} cannot be read ({found.problem}); "
            f"delete it first: wasmfn fn delete {found.key.name} -n {found.key.namespace}"
        )
    return found.spec
