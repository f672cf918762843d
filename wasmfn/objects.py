"""An object of the platform as a person sees it: what is wanted, and how far it is.

A spec, its status and what is in force live on three streams. Here they come
together, as plain data.
"""

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Literal

import msgspec

from schemas import status
from schemas.names import Name
from schemas.specs import AnySpec, FunctionSpec, RouteSpec, decode_spec
from schemas.status import NO_SPEC, Status
from schemas.subjects import SPECS
from services.bus.state import Entry

Phase = status.Phase | Literal["pending"]
"""The phases of a status, and `pending` for a revision that has none yet."""


class Key(msgspec.Struct, frozen=True, order=True):
    """What an object is called by."""

    kind: str
    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.kind} {self.namespace}/{self.name}"


class Object(msgspec.Struct, frozen=True, kw_only=True):
    """One object: its last published spec, and what the platform says about it."""

    key: Key
    revision: int
    """Stream sequence of the spec; grows with every publish."""
    published_at: datetime
    spec: AnySpec | None
    """None if there is none, or it cannot be read; then `problem` says why."""
    published: bool = True
    """False if its spec was deleted or lost: it is in force all the same, as its status says."""
    problem: str = ""
    status: Status | None = None

    @property
    def phase(self) -> Phase:
        """How far the last published revision is."""
        if self.status is None or self.status.observed_revision < self.revision:
            return "pending"
        return self.status.phase

    @property
    def active_revision(self) -> int | None:
        """The revision in force, which may be an older one."""
        return None if self.status is None else self.status.active_revision

    @property
    def in_force(self) -> str:
        """That revision in a word: `lost` if its number went with the data of NATS."""
        if self.active_revision is None:
            return ""
        return str(self.active_revision) if self.active_revision else "lost"

    @property
    def message(self) -> str:
        """One sentence on its state."""
        if self.phase == "pending":
            return self.problem or "the scheduler has not looked at it yet"
        return "" if self.status is None else self.status.message


def joined(specs: Iterable[Entry], statuses: Iterable[Entry]) -> list[Object]:
    """Return the objects that messages of SPECS and STATUS tell of, sorted.

    One in force whose spec is gone is among them; what is left of a deleted one is not.
    """
    told = {
        (s.kind, s.namespace, s.name): s for entry in statuses if (s := status_of(entry.payload))
    }
    objects = []
    for entry in specs:
        words = SPECS.parse(entry.subject)
        if words is not None:
            key = Key(words["kind"], words["namespace"], words["name"])
            objects.append(_object(key, entry, told.pop((key.kind, key.namespace, key.name), None)))
    objects += [_unpublished(s) for s in told.values() if s.observed_revision == NO_SPEC]
    return sorted(objects, key=lambda thing: thing.key)


def status_of(payload: bytes) -> Status | None:
    """Return the status in a message, or None if there is none that can be read."""
    try:
        return msgspec.json.decode(payload, type=Status)
    except msgspec.DecodeError:
        return None


def _object(key: Key, entry: Entry, status: Status | None) -> Object:
    spec: AnySpec | None = None
    # Whoever publishes without this client can also choose names that are none.
    problem = name_problem(key.namespace) or name_problem(key.name) or ""
    if not problem:
        try:
            spec = decode_spec(key.kind, entry.payload)
        except (ValueError, msgspec.DecodeError) as error:
            problem = str(error)
    return Object(
        key=key,
        revision=entry.sequence,
        published_at=entry.time,
        spec=spec,
        problem=problem,
        status=status,
    )


def _unpublished(status: Status) -> Object:
    """Return what is in force though its spec is not there any more."""
    return Object(
        key=Key(status.kind, status.namespace, status.name),
        revision=status.observed_revision,
        published_at=status.time,
        spec=None,
        problem=status.message,
        published=False,
        status=status,
    )


def verb_of(kind: str) -> str:
    """Return the verb group of the command line for a kind of object."""
    return {"environment": "env", "function": "fn"}.get(kind, kind)


def name_problem(text: object) -> str | None:
    """Return what keeps `text` from being a name, in words, or None if it is one."""
    try:
        msgspec.convert(text, Name)
    except msgspec.ValidationError:
        quotes = "" if isinstance(text, str) else "; put it in quotes to make it a text"
        return (
            f"{text!r} cannot be a name: a name has lower-case letters, digits and inner dashes,"
            f" at most 63{quotes}"
        )
    return None


def functions_using(environment: Key, objects: Iterable[Object]) -> list[Key]:
    """Return the functions that name `environment`, sorted."""
    return sorted(
        thing.key
        for thing in objects
        if isinstance(thing.spec, FunctionSpec)
        and thing.key.namespace == environment.namespace
        and thing.spec.environment == environment.name
    )


def routes_to(function: Key, objects: Iterable[Object]) -> list[Object]:
    """Return the routes that lead to `function`, sorted by name."""
    return sorted(
        (
            thing
            for thing in objects
            if isinstance(thing.spec, RouteSpec)
            and thing.key.namespace == function.namespace
            and thing.spec.function == function.name
        ),
        key=lambda thing: thing.key,
    )


def url_of(route: RouteSpec, http_url: str) -> str:
    """Return the URL of `route` below the router at `http_url`, parameters in braces."""
    return http_url.rstrip("/") + str(route.path if route.path is not None else route.prefix)


def plain_spec(spec: msgspec.Struct) -> dict[str, object]:
    """Return the fields of a spec that differ from their default, as builtins, without its kind."""
    kept: dict[str, object] = {}
    for field in msgspec.structs.fields(spec):
        item = getattr(spec, field.name)
        factory = field.default_factory
        default = field.default if factory is msgspec.NODEFAULT else factory()
        if item != default:
            kept[field.encode_name] = (
                {key: _plain(each) for key, each in item.items()}
                if isinstance(item, Mapping)
                else _plain(item)
            )
    return kept


def _plain(value: object) -> object:
    if not isinstance(value, msgspec.Struct):
        return msgspec.to_builtins(value)
    config = value.__struct_config__
    # Which of several it is, where that is said by a tag.
    tag = {} if config.tag is None else {str(config.tag_field): config.tag}
    return tag | plain_spec(value)
