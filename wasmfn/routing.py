"""Which routes a function gets, and what they are called. Pure."""

import hashlib
import re
from collections.abc import Iterable, Sequence
from pathlib import PurePath
from typing import Final

import msgspec

from schemas.names import sha256_hex
from schemas.specs import Method, RouteSpec
from wasmfn.errors import ConflictError
from wasmfn.objects import Key, Object, routes_to

_NAME_CHARACTERS: Final = 63


class Wish(msgspec.Struct, frozen=True):
    """A route that is asked for; no methods means those it has, or the default ones."""

    path: str
    methods: tuple[Method, ...] = ()


def routes_for(
    function: Key, wishes: Sequence[Wish], present: Sequence[Object]
) -> dict[Key, RouteSpec]:
    """Return the routes to publish so that `function` answers at every wish.

    Without a wish, a function that has no route gets `/<its name>`.

    Args:
        function: the function.
        wishes: what was asked for.
        present: the routes of the namespace.

    Raises:
        ConflictError: the name of the route that is needed leads elsewhere.
        msgspec.ValidationError: a path cannot be served.
    """
    mine = routes_to(function, present)
    if not wishes:
        if mine:
            return {}
        wishes = [Wish(f"/{function.name}")]
    names = {thing.key.name: thing for thing in present}
    by_path = {thing.spec.path: thing for thing in mine if isinstance(thing.spec, RouteSpec)}
    wanted: dict[Key, RouteSpec] = {}
    for wish in wishes:
        had = by_path.get(wish.path)
        if had is not None and isinstance(had.spec, RouteSpec):
            spec, key = had.spec, had.key
            if wish.methods:
                spec = msgspec.structs.replace(spec, methods=wish.methods)
            if spec == had.spec and had.phase == "active":
                continue
        else:
            key = Key("route", function.namespace, free_name(wish, names, function))
            fields = {"function": function.name, "path": wish.path}
            spec = msgspec.convert(
                fields | ({"methods": wish.methods} if wish.methods else {}), RouteSpec
            )
        wanted[key] = spec
    return wanted


def free_name(wish: Wish, taken: Iterable[str], function: Key) -> str:
    """Return a name for a route: from its path, then its methods, then a digest.

    Raises:
        ConflictError: all are taken.
    """
    slug = slug_of(wish.path)
    digest = sha256_hex(f"{wish.path} {wish.methods}".encode())[:6]
    for name in (slug, "-".join((slug, *wish.methods)).lower(), f"{slug}-{digest}"):
        if name not in taken and len(name) <= _NAME_CHARACTERS:
            return name
    raise ConflictError(
        f"a route named {slug} exists and does not lead to {function}; "
        "delete it, or give this one another path with --route"
    )


def slug_of(path: str) -> str:
    """Return a path as a name: `/users/{id}` is `users-id`, `/` is `root`."""
    words = re.sub(r"[^a-z0-9]+", "-", path.lower()).strip("-")
    if len(words) > _NAME_CHARACTERS:
        words = words[: _NAME_CHARACTERS - 9] + "-" + hashlib.sha256(path.encode()).hexdigest()[:8]
    return words or "root"


def name_of(file: PurePath) -> str:
    """Return a function's name from its file: `My_Sort.wasm` is `my-sort`."""
    return slug_of(file.name.removesuffix(".wasm").removesuffix(".WASM"))


def file_name_of(file: PurePath) -> str:
    """Return the name under which a function sees its module's file as argv[0]."""
    plain = re.sub(r"[^-A-Za-z0-9_.+]", "_", file.name)[:128]
    return plain if plain[:1].isalnum() or plain[:1] == "_" else f"_{plain}"[:128]
