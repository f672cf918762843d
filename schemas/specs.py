"""What people publish: environments, functions, routes, timers and subscriptions.

A spec is user input. Unknown fields are refused, so that a typing error is an
answer and not a silent default. What a single message can tell is checked
here; what needs other objects (references, collisions) is judged by the
scheduler.

The kind stands in the subject, so it may be left out of the payload; where it
is given it must agree.
"""

from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta

from schemas.access import ApiKeys, Cors, Jwt, RateLimit
from schemas.names import (
    END,
    FileName,
    HostName,
    ImageReference,
    Name,
    Sha256,
    Subject,
    VariableName,
    VariableValue,
)

KIB: Final = 1024
MIB: Final = 1024 * KIB

Interface = Literal["args", "stdin", "wagi", "http"]
"""How an HTTP request becomes a call; see the keeper's `answer` module."""

Isolation = Literal["process", "pod"]
"""`process`: a locked-in process in a shared keeper. `pod`: a keeper of its own."""

Executor = Literal["keeper", "deployment"]
"""Who runs it. `keeper`: its module is loaded by a keeper. `deployment`: its image, which answers
HTTP by itself, runs as a Kubernetes Deployment of its own."""

Method = Literal["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]


StatusPattern = Annotated[str, Meta(pattern=r"^[1-5](xx|[0-9][0-9])" + END)]
"""An HTTP status, or a class of them such as `4xx`."""


class Spec(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind"):
    """What every kind of spec has in common."""


class Module(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A module in the object store bucket `uploads`, stored under its digest."""

    sha256: Sha256
    file_name: FileName = "main.wasm"
    """The function sees this as its argv[0]."""


class SecretRef(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One key of a secret. The value itself never appears in a spec."""

    name: Name
    key: FileName


class Limits(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What one invocation may use at most."""

    timeout_s: Annotated[float, Meta(gt=0, le=3600)] = 60.0
    memory_mib: Annotated[int, Meta(ge=1, le=4096)] = 128
    """Linear memory of one sandbox."""
    output_bytes: Annotated[int, Meta(ge=0, le=256 * MIB)] = 16 * MIB
    body_bytes: Annotated[int, Meta(ge=0, le=256 * MIB)] = 16 * MIB
    """The request body; a larger one is answered with 413."""


class Scaling(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How many instances run, and how much each takes."""

    min_instances: Annotated[int, Meta(ge=0, le=1000)] = 0
    max_instances: Annotated[int, Meta(ge=1, le=1000)] = 10
    concurrency: Annotated[int, Meta(ge=1, le=1024)] = 16
    """Invocations in flight for each process of an instance."""
    processes: Annotated[int, Meta(ge=1, le=64)] = 1
    """Processes of one instance. Each is an endpoint of its own and uses one core."""
    idle_timeout_s: Annotated[float, Meta(gt=0, le=7 * 24 * 3600)] = 120.0

    def __post_init__(self) -> None:
        """Refuse a range that holds no number."""
        if self.min_instances > self.max_instances:
            raise ValueError(
                f"min_instances ({self.min_instances}) is above max_instances "
                f"({self.max_instances}); raise one or lower the other"
            )


class Destination(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where an outcome goes: to a function of the same namespace, or to a NATS subject."""

    function: Name | None = None
    subject: Subject | None = None

    def __post_init__(self) -> None:
        """Refuse none, both, or a subject that is not a user's."""
        if (self.function is None) == (self.subject is None):
            raise ValueError("give either `function` or `subject`")
        if self.subject is not None:
            check_subject(self.subject, wildcards=False)


class Retry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How often, when, and after which answers an asynchronous invocation is tried again.

    The pause before attempt n + 1 is `first_delay_s` times 2 to the power of n - 1, at most
    `max_delay_s`, less a random part of it up to `jitter`.
    """

    attempts: Annotated[int, Meta(ge=1, le=100)] = 5
    first_delay_s: Annotated[float, Meta(ge=0, le=24 * 3600)] = 1.0
    max_delay_s: Annotated[float, Meta(ge=0, le=24 * 3600)] = 300.0
    jitter: Annotated[float, Meta(ge=0, le=1)] = 0.5
    final: Annotated[tuple[StatusPattern, ...], Meta(max_length=32)] = ("4xx",)
    """Statuses after which it is not tried again: `404`, or a class such as `4xx`. A class leaves
    out 408, 425 and 429, which say themselves that a later attempt may succeed."""


class Asynchronous(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What becomes of invocations that nobody waits for."""

    retry: Retry = Retry()
    concurrency: Annotated[int, Meta(ge=1, le=1000)] = 16
    """How many are running or waiting for their next attempt; the others stay in the queue."""
    result_ttl_s: Annotated[float, Meta(ge=1, le=30 * 24 * 3600)] = 3600.0
    """How long a result can be read, and an idempotency key counts, after the invocation ended."""
    on_success: Destination | None = None
    on_failure: Destination | None = None


class Container(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How an image of its own runs (`executor: deployment`)."""

    port: Annotated[int, Meta(ge=1, le=65535)] = 10086
    """Where it answers HTTP; it is told so in the variable `PORT`, unless that is given."""
    runtime_class: Name | None = None
    """The RuntimeClass of its pods, such as `wasm`; without one, the nodes' ordinary runtime."""
    command: Annotated[tuple[VariableValue, ...], Meta(max_length=1024)] = ()
    """What is run instead of the image's own entrypoint."""
    user: Annotated[int, Meta(ge=1, le=2**31 - 1)] = 65532
    """The user id that it runs as. Never root."""
    cpu: Annotated[float, Meta(ge=0.001, le=256)] = 1.0
    """Cores that one pod may use. Its memory is `limits.memory_mib`."""
    pull: Literal["Always", "IfNotPresent", "Never"] | None = None
    """When a node fetches the image. By default as Kubernetes does: always if it is tagged
    `latest` or not at all, else if the node lacks it."""


class EnvironmentSpec(Spec, frozen=True, tag="environment"):
    """A module or image with variables that functions can share."""

    module: Module | None = None
    image: ImageReference | None = None
    variables: dict[VariableName, VariableValue] = {}

    def __post_init__(self) -> None:
        """Refuse two sources at once."""
        if self.module is not None and self.image is not None:
            raise ValueError("give `module` or `image`, not both")


class FunctionSpec(Spec, frozen=True, tag="function"):
    """A function: where its code comes from and how it runs."""

    module: Module | None = None
    image: ImageReference | None = None
    environment: Name | None = None
    """An environment of the same namespace; a module or image given here wins over its own."""
    interface: Interface = "args"
    arguments: Annotated[tuple[VariableValue, ...], Meta(max_length=1024)] = ()
    """Arguments that come before those of a request."""
    variables: dict[VariableName, VariableValue] = {}
    secrets: dict[VariableName, SecretRef] = {}
    """Environment variables whose values are read from secrets when an instance is loaded."""
    limits: Limits = Limits()
    scaling: Scaling = Scaling()
    isolation: Isolation = "process"
    executor: Executor = "keeper"
    container: Container | None = None
    """For the executor `deployment`, whose defaults hold without it."""
    asynchronous: Asynchronous = Asynchronous()

    def __post_init__(self) -> None:
        """Refuse a function that says nothing, or two things, about its code."""
        if self.module is not None and self.image is not None:
            raise ValueError("give `module` or `image`, not both")
        if self.module is None and self.image is None and self.environment is None:
            raise ValueError("a function needs a `module`, an `image` or an `environment` with one")
        if self.interface == "http":
            raise ValueError(
                "interface `http` (a wasi:http component) is not supported yet; "
                "use `args`, `stdin` or `wagi` with a wasm32-wasi (preview 1) command module"
            )
        both = sorted(set(self.variables) & set(self.secrets))
        if both:
            raise ValueError(f"variable {both[0]} is given both as a value and as a secret")
        _check_executor(self)


def _check_executor(spec: FunctionSpec) -> None:
    """Raise ValueError for what the function's executor would have to ignore."""
    if spec.executor == "keeper":
        if spec.container is not None:
            raise ValueError("`container` is for the executor `deployment`; leave one of them out")
        return
    if spec.module is not None:
        raise ValueError("the executor `deployment` runs an image; give `image` and no `module`")
    for field, ignored in (
        ("interface", spec.interface != "args"),
        ("scaling.processes", spec.scaling.processes != 1),
        ("limits.output_bytes", spec.limits.output_bytes != Limits().output_bytes),
    ):
        if ignored:
            raise ValueError(
                f"`{field}` is a keeper's business; the executor `deployment` gives the image"
                " requests as they come: leave it out"
            )


class RouteSpec(Spec, frozen=True, tag="route"):
    """An HTTP route to a function of the same namespace.

    `path` matches a whole path; a segment in braces, as in `/users/{id}`,
    matches one non-empty segment. `prefix` matches the path itself and
    everything below it, at segment borders.
    """

    function: Name
    path: Annotated[str, Meta(max_length=1024)] | None = None
    prefix: Annotated[str, Meta(max_length=1024)] | None = None
    methods: Annotated[tuple[Method, ...], Meta(min_length=1, max_length=7)] = ("GET", "POST")
    host: HostName | None = None
    """Without a port, in lower case. A route without a host serves every host."""
    authentication: ApiKeys | Jwt | None = None
    """Who may use it; without it, everyone."""
    cors: Cors | None = None
    """Which web pages' scripts may use it; without it, the function's own headers say."""
    rate_limit: RateLimit | None = None
    body_bytes: Annotated[int, Meta(ge=0, le=256 * MIB)] | None = None
    """Its largest request body, if that is less than its function's."""

    def __post_init__(self) -> None:
        """Refuse patterns that could never match or have no single meaning."""
        if (self.path is None) == (self.prefix is None):
            raise ValueError("give either `path` or `prefix`")
        pattern = self.path if self.path is not None else self.prefix
        if pattern is not None:
            check_path_pattern(pattern, parameters=self.path is not None)
            if f"{pattern}/".startswith("/.wasmfn/"):
                raise ValueError(f"path {pattern!r} is the platform's own: use one beside /.wasmfn")
        if len(set(self.methods)) != len(self.methods):
            raise ValueError("`methods` names a method twice")
        by_client = self.rate_limit is not None and self.rate_limit.per == "client"
        if by_client and self.authentication is None:
            raise ValueError(
                "`rate_limit.per: client` needs `authentication`; use `address` without it"
            )


def check_path_pattern(pattern: str, *, parameters: bool) -> None:
    """Raise ValueError, in words for the route's author, if `pattern` cannot be served.

    Patterns are written in the decoded form that a request's path is compared
    in: no percent escapes, no `.` or `..`, no empty segments.
    """
    if not pattern.startswith("/"):
        raise ValueError(f"path {pattern!r} must begin with a slash")
    if unfit := next((c for c in pattern if ord(c) <= 0x20 or c in "?#%\\\x7f"), None):
        raise ValueError(f"path {pattern!r} holds {unfit!r}, which no route can; leave it out")
    segments = pattern[1:].split("/")
    if segments[-1] == "":
        segments.pop()
    names: set[str] = set()
    for segment in segments:
        if segment in ("", ".", ".."):
            raise ValueError(f"path {pattern!r} has an empty, `.` or `..` segment")
        if "{" in segment or "}" in segment:
            name = segment[1:-1]
            if not (segment[0] == "{" and segment[-1] == "}" and name.isidentifier()):
                raise ValueError(
                    f"segment {segment!r}: a parameter is a whole segment, as `{{id}}`"
                )
            if not parameters:
                raise ValueError(f"prefix {pattern!r} cannot have parameters; use `path`")
            if name in names:
                raise ValueError(f"path {pattern!r} names parameter {name!r} twice")
            names.add(name)


def check_subject(subject: str, *, wildcards: bool) -> None:
    """Raise ValueError, in words for its author, if a user may not speak on `subject`.

    What begins with `wasmfn`, `_INBOX` or `$` is the platform's and NATS's own,
    and a wildcard in the first place would reach all of it.
    """
    tokens = subject.split(".")
    if "" in tokens:
        raise ValueError(f"subject {subject!r} has an empty token; tokens are separated by one dot")
    first = tokens[0]
    if first == "wasmfn" or first.startswith(("_INBOX", "$")) or first in ("*", ">"):
        raise ValueError(
            f"subject {subject!r} would reach what is not a user's; begin it with a word of your"
            " own, such as `shop.orders`"
        )
    if not wildcards and {"*", ">"} & set(tokens):
        raise ValueError(f"subject {subject!r} has a wildcard, and nothing can be published there")
    if ">" in tokens[:-1]:
        raise ValueError(f"subject {subject!r}: `>` stands for all that follows, so it is the last")


class TimerSpec(Spec, frozen=True, tag="timer"):
    """Calls a function of the same namespace at set times, and waits for none of the calls."""

    function: Name
    schedule: Annotated[str, Meta(min_length=1, max_length=255)]
    """Cron: minute, hour, day of month, month, day of week; six fields begin with seconds."""
    timezone: Annotated[str, Meta(min_length=1, max_length=64)] = "UTC"
    """A name of the IANA database, such as `Europe/Berlin`."""
    missed: Literal["skip", "last", "all"] = "last"
    """Of the runs that nobody could start in time: none, the last, or all are made up for."""
    paused: bool = False
    body: Annotated[str, Meta(max_length=64 * KIB)] = ""
    content_type: Annotated[str, Meta(pattern=r"^[!-~][ -~]*" + END, max_length=255)] = (
        "application/json"
    )


class SubscriptionSpec(Spec, frozen=True, tag="subscription"):
    """Calls a function of the same namespace with each message of a NATS subject."""

    function: Name
    subject: Subject
    """Wildcards are allowed, but not in the first place."""
    stream: Annotated[str, Meta(pattern=r"^[-A-Za-z0-9_]+" + END, max_length=255)] | None = None
    """Take the messages from this JetStream stream, each until it is accepted; without one they
    come from core NATS, which keeps none for a platform that is away."""
    queue: Annotated[str, Meta(pattern=r"^[-A-Za-z0-9_.]+" + END, max_length=255)] | None = None
    """Share the messages of core NATS with other subscribers of this queue group."""
    reply: bool = False
    """Send the function's output to the subject that a message names for its answer."""

    def __post_init__(self) -> None:
        """Refuse subjects that are not a user's, and what JetStream does not know."""
        check_subject(self.subject, wildcards=True)
        if self.stream is not None and (self.queue is not None or self.reply):
            field = "queue" if self.queue is not None else "reply"
            raise ValueError(f"`{field}` is for core NATS; leave it or `stream` out")


AnySpec = EnvironmentSpec | FunctionSpec | RouteSpec | TimerSpec | SubscriptionSpec

KINDS: Final[dict[str, type[AnySpec]]] = {
    "environment": EnvironmentSpec,
    "function": FunctionSpec,
    "route": RouteSpec,
    "timer": TimerSpec,
    "subscription": SubscriptionSpec,
}
"""Every kind of spec by the word that stands in its subject and its tag."""


class UnknownKindError(ValueError):
    """A subject names a kind of spec that does not exist."""

    def __init__(self, kind: str) -> None:
        """Keep the offending word and say which words are right."""
        self.kind = kind
        super().__init__(f"there is no kind {kind!r}; the kinds are {', '.join(KINDS)}")


def decode_spec(kind: str, payload: bytes) -> AnySpec:
    """Decode the JSON payload of a spec of `kind`.

    Raises:
        UnknownKindError: no such kind.
        msgspec.ValidationError: a field is wrong; the message names it by path.
        msgspec.DecodeError: the payload is not JSON.
    """
    if kind not in KINDS:
        raise UnknownKindError(kind)
    return msgspec.json.decode(payload, type=KINDS[kind])
