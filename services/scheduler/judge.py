"""Tell whether a spec is right, and say what is wrong in words for its author.

Pure: the bytes of one spec, and for a function the environment in force, give
a verdict. What needs other objects of the same kind, which is only the collision
of routes, is in `routes`.
"""

import re
from typing import Any, Final, get_args

import msgspec

from schemas import names
from schemas.active import ActiveEnvironment
from schemas.builds import ImageSource, Source, UploadSource
from schemas.names import Name
from schemas.specs import (
    KIB,
    AnySpec,
    EnvironmentSpec,
    FunctionSpec,
    TimerSpec,
    UnknownKindError,
    decode_spec,
)
from schemas.unreadable import UNREADABLE
from services.bus.applications import Applications
from services.scheduler.schedule import schedule_problem
from services.scheduler.subjects import subject_problem

_WHERE: Final = re.compile(r"^(?P<what>.*) - at `(?P<path>[^`]*)`$", re.DOTALL)
_KEY_WHERE: Final = re.compile(r"^(?P<what>.*) - at `key` in `(?P<path>[^`]*)`$", re.DOTALL)
_FIELD: Final = re.compile(
    r"^Object (?:contains unknown|missing required) field `(?P<name>.*)`$", re.DOTALL
)
_STEP: Final = re.compile(r"\.([^.\[\]]+)|\[(\d+)\]")
MAX_SPEC_BYTES: Final = 512 * KIB
"""NATS takes messages of 1 MiB, and what is in force says more than the spec that led to it."""
_UNRESTRICTED: Final = Applications()
_QUOTED_CHARACTERS: Final = 60
_MESSAGE_CHARACTERS: Final = 1000
"""An author's text may be quoted in what is said of it, and a spec can be 1 MiB."""


class Rejected(msgspec.Struct, frozen=True):
    """The spec is wrong. `field` is the path of what is to blame, such as `$.limits.timeout_s`."""

    message: str
    field: str | None = None


class Waiting(msgspec.Struct, frozen=True):
    """The spec is right, and needs something that is not there yet."""

    message: str


class Resolved(msgspec.Struct, frozen=True):
    """A function with what it takes from its environment filled in.

    `revision` is the greater of its own and its environment's, so that a
    changed environment rolls out like a changed function.
    """

    revision: int
    spec: FunctionSpec
    source: Source | None
    """What it is built from. Nothing: `spec.image` runs as it is (`executor: deployment`)."""


def judge(
    kind: str,
    namespace: str,
    name: str,
    payload: bytes,
    applications: Applications = _UNRESTRICTED,
) -> AnySpec | Rejected:
    """Decode a spec, or say why it is none. Never raises, whatever the bytes.

    `applications`: what of the bus a spec may name.
    """
    verdict = _judge(kind, namespace, name, payload, applications)
    if not isinstance(verdict, Rejected):
        return verdict
    return Rejected(_told(verdict.message), verdict.field and _told(verdict.field))


def _judge(
    kind: str, namespace: str, name: str, payload: bytes, applications: Applications
) -> AnySpec | Rejected:
    for word, text in (("namespace", namespace), ("name", name)):
        try:
            msgspec.convert(text, Name)
        except msgspec.ValidationError:
            return Rejected(f"{_quote(text)} is no valid {word}: use {_ALPHABETS[_pattern(Name)]}")
    if len(payload) > MAX_SPEC_BYTES:
        return _too_large(len(payload))
    try:
        spec = decode_spec(kind, payload)
    except UnknownKindError as error:
        return Rejected(str(error))
    except msgspec.ValidationError as error:
        return _explain(str(error), payload)
    except UNREADABLE as error:
        return Rejected(f"the spec is not JSON: {error}")
    if isinstance(spec, TimerSpec) and (wrong := schedule_problem(spec)) is not None:
        return Rejected(wrong[1], field=wrong[0])
    if (wrong := subject_problem(spec, applications)) is not None:
        return Rejected(wrong[1], field=wrong[0])
    return spec


def resolve(
    spec: FunctionSpec,
    revision: int,
    environment: ActiveEnvironment | None,
    *,
    runs_images: bool = False,
) -> Resolved | Waiting | Rejected:
    """Return the function with its environment merged in, or why that cannot be.

    A function's own module or image wins over its environment's, and so do its
    own variables and secrets. `runs_images`: whether this platform can run an
    image by itself.
    """
    if spec.executor == "deployment" and not runs_images:
        return Rejected(
            "the executor `deployment` runs an image as a Kubernetes Deployment, and this platform"
            " runs on one machine without Kubernetes; leave `executor` out to run the module in"
            " the image, or install wasmfn on a cluster",
            field="$.executor",
        )
    if spec.environment is not None and environment is None:
        return Waiting(f"waits for the environment {spec.environment!r}, which does not exist yet")
    if environment is None:
        source = _source(spec, revision)
        merged = spec
    else:
        source = _source(spec, revision) or _source(environment.spec, environment.revision)
        inherited = {
            name: value
            for name, value in environment.spec.variables.items()
            if name not in spec.secrets
        }
        merged = msgspec.structs.replace(spec, variables={**inherited, **spec.variables})
        revision = max(revision, environment.revision)
        if (size := len(msgspec.json.encode(merged))) > MAX_SPEC_BYTES:
            return _too_large(size, " together with its environment", field="$.variables")
    if source is None:
        return Rejected(
            f"the environment {spec.environment!r} has no module and no image, and the function"
            " gives none either; give one of them a `module` or an `image`",
            field="$.environment",
        )
    if spec.executor == "keeper":
        return Resolved(revision, merged, source)
    if not isinstance(source, ImageSource):
        return Rejected(
            f"the executor `deployment` runs an image, and the environment {spec.environment!r}"
            " has a module; give `image`",
            field="$.environment",
        )
    return Resolved(revision, msgspec.structs.replace(merged, image=source.reference), None)


def _too_large(size: int, what: str = "", field: str | None = None) -> Rejected:
    most = MAX_SPEC_BYTES // KIB
    return Rejected(
        f"the spec has {size // KIB} KiB{what}, and at most {most} are taken; give the function"
        " large values with its requests",
        field=field,
    )


def _source(spec: FunctionSpec | EnvironmentSpec, revision: int) -> Source | None:
    if spec.module is not None:
        return UploadSource(sha256=spec.module.sha256, file_name=spec.module.file_name)
    if spec.image is not None:
        return ImageSource(reference=spec.image, revision=revision)
    return None


def _pattern(annotated: Any) -> str:
    """Return the pattern of one of the annotated types of `schemas.names`."""
    return str(next(m.pattern for m in get_args(annotated)[1:] if m.pattern))


_ALPHABETS: Final = {
    _pattern(
        names.Name
    ): "lower-case letters, digits and inner dashes, at most 63 characters, such as `sort-2`",
    _pattern(names.FileName): "a bare file name without directories, such as `sort.wasm`",
    _pattern(names.VariableName): "letters, digits and underscores, not beginning with a digit",
    _pattern(names.VariableValue): "text without NUL characters",
    _pattern(names.Sha256): "a SHA-256 digest, which is 64 lower-case hexadecimal digits",
    _pattern(names.ImageReference): "an image reference, such as `docker.io/you/sort:1`",
    _pattern(names.HostName): "a host name in lower case, such as `www.example.org`",
}
"""What msgspec says as a regular expression, for people."""

_UNQUOTED: Final = ("$.variables", "$.arguments")
"""Below these a value may be something that its author would not want repeated."""


def _explain(error: str, payload: bytes) -> Rejected:
    """Turn msgspec's `… - at `$.path`` into a sentence that begins with the field."""
    key = _KEY_WHERE.match(error)
    where = key or _WHERE.match(error)
    what, path = (where["what"], where["path"]) if where else (error, "$")
    if field := _FIELD.match(what):
        path = f"{path}.{field['name']}"
    found = re.search(r"matching regex (?P<quote>['\"])(?P<pattern>.*)(?P=quote)$", what)
    alphabet = found and _ALPHABETS.get(found["pattern"].replace("\\\\", "\\"))
    if found:
        needed = alphabet or "the form that the JSON Schema of this kind gives"
        if key:
            sentence = f"has a key that is not valid: use {needed}"
        elif path.startswith(_UNQUOTED):
            sentence = f"is not valid: use {needed}"
        else:
            sentence = f"{_quote(_look_up(payload, path))} is not valid: use {needed}"
    else:
        sentence = what[:1].lower() + what[1:]
    if path == "$":
        return Rejected(what if not found else sentence)
    return Rejected(f"`{path}`: {sentence}", field=path)


def _look_up(payload: bytes, path: str) -> Any:
    """Return the value at a path that msgspec named in `payload`, or None."""
    try:
        value = msgspec.json.decode(payload)
    except UNREADABLE:
        return None
    for name, index in _STEP.findall(path.removeprefix("$")):
        try:
            value = value[int(index)] if index else value[name]
        except (KeyError, IndexError, TypeError):
            return None
    return value


def _told(text: str) -> str:
    """Return `text`, which may quote its author, as it may be shown on anybody's terminal."""
    return "".join(c if c.isprintable() else "\ufffd" for c in _shortened(text))


def _quote(value: Any) -> str:
    return _shortened(repr(value), _QUOTED_CHARACTERS)


def _shortened(text: str, characters: int = _MESSAGE_CHARACTERS) -> str:
    return text if len(text) <= characters else text[: characters - 1] + "…"
