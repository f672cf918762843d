"""Every JetStream stream and core subject: what it carries, who writes, who reads.

This table is the one place that says it. The bus creates the streams from it,
and the AsyncAPI document is generated from it.

Streams that hold accepted state refuse new messages when they are full
(`discard: new`), so nothing accepted is pushed out. Event and function logs
drop their oldest instead.
"""

from typing import Any, Final, Literal

import msgspec

from schemas import (
    active,
    builds,
    control,
    endpoints,
    events,
    invocations,
    leases,
    pods,
    specs,
    status,
    subjects,
    timers,
)
from schemas.specs import MIB

DAY_S: Final = 24 * 3600.0

TERM_HEADER: Final = "Wasmfn-Term"
"""In whose term a message of a fenced stream was written. On the fence, a message of its own
with nothing else: followers take it for the deletion of what never was."""


class Stream(msgspec.Struct, frozen=True):
    """A JetStream stream. `max_age_s` 0 keeps messages for ever."""

    name: str
    template: subjects.Template
    message: Any
    """The Struct, or union of Structs, that a payload decodes to."""
    description: str
    writer: str
    readers: tuple[str, ...]
    max_msgs_per_subject: int
    max_bytes: int
    max_age_s: float = 0.0
    discard: Literal["new", "old"] = "new"
    allow_msg_ttl: bool = True
    duplicate_window_s: float = 120.0
    retention: Literal["limits", "workqueue"] = "limits"
    """`workqueue`: a message is gone once a consumer has acknowledged it."""
    discard_new_per_subject: bool = False
    """A subject that has its `max_msgs_per_subject` takes no more, instead of losing the oldest."""
    producers: tuple[str, ...] = ()
    """Who else writes: a queue has several, since no two write the same message."""
    fenced: bool = False
    """Only a leader writes, and what one of an earlier term sends is not stored."""

    @property
    def fence(self) -> str:
        """The subject on which each term of a fenced stream begins."""
        return subjects.FENCES.subject(stream=self.name.lower())

    @property
    def subjects(self) -> tuple[str, ...]:
        """The subjects that the stream captures."""
        return (self.template.wildcard, *((self.fence,) if self.fenced else ()))


class Channel(msgspec.Struct, frozen=True):
    """A core NATS subject, not stored. With a `reply` it is request/reply."""

    name: str
    template: subjects.Template
    message: Any
    description: str
    writer: str
    readers: tuple[str, ...]
    reply: Any = None


SPECS: Final = Stream(
    name="SPECS",
    template=subjects.SPECS,
    message=specs.AnySpec,
    description="What people want. A spec's revision is its stream sequence; an empty message"
    " with `Nats-Rollup: sub` deletes the object.",
    writer="anyone",
    readers=("scheduler", "builder"),
    max_msgs_per_subject=16,
    max_bytes=256 * MIB,
)
ACTIVE: Final = Stream(
    name="ACTIVE",
    template=subjects.ACTIVE,
    message=active.Active,
    description="What is in force: judged and resolved specs.",
    writer="scheduler",
    readers=("router", "scheduler", "builder"),
    max_msgs_per_subject=1,
    max_bytes=256 * MIB,
    fenced=True,
)
STATUS: Final = Stream(
    name="STATUS",
    template=subjects.STATUS,
    message=status.Status,
    description="How far each object is, and what is wrong with it, for people.",
    writer="scheduler",
    readers=("people", "scheduler"),
    max_msgs_per_subject=1,
    max_bytes=256 * MIB,
    fenced=True,
)
BUILDS: Final = Stream(
    name="BUILDS",
    template=subjects.BUILDS,
    message=builds.Build,
    description="The record of each build.",
    writer="builder",
    readers=("scheduler",),
    max_msgs_per_subject=1,
    max_bytes=256 * MIB,
)
PODS: Final = Stream(
    name="PODS",
    template=subjects.PODS,
    message=pods.PodFact,
    description="Facts about the platform's pods, each told by its node. A dead uid stays dead.",
    writer="podwatch",
    readers=("scheduler", "router"),
    max_msgs_per_subject=1,
    max_bytes=64 * MIB,
)
ENDPOINTS: Final = Stream(
    name="ENDPOINTS",
    template=subjects.ENDPOINTS,
    message=endpoints.Endpoint,
    description="Where each instance answers.",
    writer="scheduler",
    readers=("router", "scheduler"),
    max_msgs_per_subject=1,
    max_bytes=256 * MIB,
    fenced=True,
)
EVENTS: Final = Stream(
    name="EVENTS",
    template=subjects.EVENTS,
    message=events.Event,
    description="The event log: every step of a build, a cold start, a routing change.",
    writer="each service its own",
    readers=("people",),
    max_msgs_per_subject=-1,
    max_bytes=1024 * MIB,
    max_age_s=7 * DAY_S,
    discard="old",
)
LOGS: Final = Stream(
    name="LOGS",
    template=subjects.LOGS,
    message=events.LogLine,
    description="What functions write to stderr.",
    writer="podwatch",
    readers=("people",),
    max_msgs_per_subject=10_000,
    max_bytes=512 * MIB,
    max_age_s=7 * DAY_S,
    discard="old",
)
LEASES: Final = Stream(
    name="LEASES",
    template=subjects.LEASES,
    message=leases.Lease,
    description="Leader leases: one message each, replaced with an expected sequence.",
    writer="scheduler",
    readers=("scheduler",),
    max_msgs_per_subject=1,
    max_bytes=1 * MIB,
)

INVOCATIONS: Final = Stream(
    name="INVOCATIONS",
    template=subjects.INVOCATIONS,
    message=invocations.Invocation,
    description="The queue of accepted asynchronous invocations, one consumer for each function."
    " What is in it is accepted; it leaves when its result or its dead letter is stored.",
    writer="router",
    readers=("router",),
    max_msgs_per_subject=1,
    max_bytes=256 * MIB,
    retention="workqueue",
    discard_new_per_subject=True,
    producers=("scheduler",),
)
RESULTS: Final = Stream(
    name="RESULTS",
    template=subjects.RESULTS,
    message=invocations.Result,
    description="How far each asynchronous invocation is, and its answer. Each message expires.",
    writer="router",
    readers=("router", "people"),
    max_msgs_per_subject=1,
    max_bytes=256 * MIB,
)
DEAD: Final = Stream(
    name="DEAD",
    template=subjects.DEAD,
    message=invocations.DeadLetter,
    description="Asynchronous invocations that are not tried again, kept until somebody decides,"
    " or until their time is over: each message may expire.",
    writer="router",
    readers=("router", "people"),
    max_msgs_per_subject=1,
    max_bytes=256 * MIB,
)
TIMERS: Final = Stream(
    name="TIMERS",
    template=subjects.TIMERS,
    message=timers.TimerMark,
    description="Up to when the calls of each timer are in the queue.",
    writer="scheduler",
    readers=("scheduler", "people"),
    max_msgs_per_subject=1,
    max_bytes=16 * MIB,
    fenced=True,
)

STREAMS: Final = (
    SPECS,
    ACTIVE,
    STATUS,
    BUILDS,
    PODS,
    ENDPOINTS,
    EVENTS,
    LOGS,
    LEASES,
    INVOCATIONS,
    RESULTS,
    DEAD,
    TIMERS,
)

CHANNELS: Final = (
    Channel(
        name="demand",
        template=subjects.DEMAND,
        message=control.DemandRequest,
        reply=control.DemandReply,
        description="A router asks for an endpoint of a function that has none to spare.",
        writer="router",
        readers=("scheduler",),
    ),
    Channel(
        name="activity",
        template=subjects.ACTIVITY,
        message=control.Activity,
        description="What each router has in flight and parked, and how far it has read ACTIVE.",
        writer="router",
        readers=("scheduler",),
    ),
    Channel(
        name="build",
        template=subjects.BUILD_REQUESTS,
        message=builds.BuildRequest,
        reply=builds.BuildReply,
        description="The scheduler asks for a build, or how far it is.",
        writer="scheduler",
        readers=("builder",),
    ),
    Channel(
        name="redrive",
        template=subjects.DEAD_REQUESTS,
        message=invocations.DeadRequest,
        reply=invocations.DeadReply,
        description="A person sends a dead letter back to the queue, or throws it away.",
        writer="people",
        readers=("router",),
    ),
    Channel(
        name="cancel",
        template=subjects.CANCEL_REQUESTS,
        message=invocations.CancelRequest,
        reply=invocations.CancelReply,
        description="A person does not want an invocation any more.",
        writer="people",
        readers=("router",),
    ),
    Channel(
        name="interrupt",
        template=subjects.INTERRUPTS,
        message=invocations.Interrupt,
        description="A router has noted that an invocation is not wanted, of which an attempt is"
        " under way: whichever makes it ends it.",
        writer="router",
        readers=("router",),
    ),
)
