"""What one node tells the platform: sightings, probes and the stream brought together.

Two tables are kept: `facts` is what is so, and `told` what the stream says of
this node. A fact is announced whenever the two differ, whichever of them has
changed. So a restart of podwatch, of NATS, or an emptied stream needs no case
of its own: the comparison is with the stream, never with what this process
remembers to have said.
"""

import asyncio
import logging
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import msgspec

from schemas import subjects
from schemas.events import NO_NAMESPACE, Event, new_event
from schemas.pods import LABEL_NAMESPACE, LABEL_ROLE, ROLE_FUNCTION, PodFact
from schemas.streams import PODS
from schemas.unreadable import UNREADABLE
from services.bus.connection import Bus
from services.bus.events import EventLog
from services.bus.follow import follow
from services.bus.state import Deleted, Entry, Put, Replaced
from services.bus.state import Snapshot as StreamSnapshot
from services.podwatch import facts
from services.podwatch.announce import Announcer
from services.podwatch.logs import LogCarrier
from services.podwatch.probe import until_connected, until_ready
from services.podwatch.sources import PodGone, PodSeen, PodSource, Sighting, Snapshot

log = logging.getLogger(__name__)

NOT_LISTED: Final = "it does not run on its node any more"


class Told(msgspec.Struct, frozen=True):
    """The last fact about one pod on the stream."""

    sequence: int
    fact: PodFact


class _Probe(msgspec.Struct, frozen=True):
    """A probe that runs, or has had its answer."""

    incarnation: facts.Incarnation
    task: asyncio.Task[None]


class Node:
    """The pods of one node."""

    def __init__(
        self, name: str, bus: Bus, source: PodSource, logs: LogCarrier, events: EventLog
    ) -> None:
        self._name = name
        self._bus = bus
        self._source = source
        self._logs = logs
        self._events = events
        self._announcer = Announcer(bus, self._was_told)
        self.facts: dict[str, PodFact] = {}
        self.told: dict[str, Told] = {}
        self.published = 0
        self._probes: dict[str, _Probe] = {}
        self._stream_read = asyncio.Event()
        self.complete = asyncio.Event()
        """Set once both the source and the stream have been read whole."""

    @property
    def waiting(self) -> int:
        """How many facts are not stored yet."""
        return self._announcer.waiting

    async def run(self) -> None:
        """Tell of this node, until cancelled."""
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._announcer.run(), name="announcer")
                tasks.create_task(self._follow_stream(), name="stream")
                tasks.create_task(self._follow_source(), name="source")
        finally:
            probes = [probe.task for probe in self._probes.values()]
            for task in probes:
                task.cancel()
            if probes:
                await asyncio.wait(probes)

    async def _follow_stream(self) -> None:
        """Keep `told` as the stream has it."""
        async for update in follow(self._bus, PODS.name, [subjects.PODS.filter(node=self._name)]):
            match update:
                case StreamSnapshot(entries):
                    for entry in entries:
                        self._read(entry)
                    self._stream_read.set()
                case Put(entry):
                    if (uid := self._read(entry)) is not None:
                        self._settle(uid)
                case Deleted(subject):
                    self._expired(subject)
                case Replaced():
                    self.told.clear()
                    for uid in tuple(self.facts):
                        self._settle(uid)

    def _read(self, entry: Entry) -> str | None:
        """Take what the stream says of one pod; return its uid if that is news."""
        try:
            fact = msgspec.json.decode(entry.payload, type=PodFact)
        except UNREADABLE as error:
            log.warning("garbage on %s: %s", entry.subject, error)
            return None
        if entry.subject != subjects.PODS.subject(node=self._name, uid=fact.uid):
            log.warning("a fact about another pod on %s", entry.subject)
            return None
        if (told := self.told.get(fact.uid)) is not None and told.sequence >= entry.sequence:
            return None
        self.told[fact.uid] = Told(entry.sequence, fact)
        return fact.uid

    def _was_told(self, fact: PodFact, sequence: int) -> None:
        self.told[fact.uid] = Told(sequence, fact)
        self.published += 1

    def _expired(self, subject: str) -> None:
        """Forget a dead pod together with the stream."""
        uid = (subjects.PODS.parse(subject) or {}).get("uid", "")
        self.told.pop(uid, None)
        if (fact := self.facts.get(uid)) is not None and fact.phase == "dead":
            del self.facts[uid]
        self._settle(uid)

    async def _follow_source(self) -> None:
        # The stream first: it says which uids are dead, and what was ready before.
        await self._stream_read.wait()
        async for sighting in self._source.follow():
            self._take(sighting)

    def _take(self, sighting: Sighting) -> None:
        match sighting:
            case Snapshot(pods):
                for pod in pods:
                    self._seen(pod)
                running = {pod.uid for pod in pods}
                told = {uid: told.fact for uid, told in self.told.items()}
                for fact in facts.vanished(told | self.facts, running):
                    self._gone(fact, NOT_LISTED)
                self._logs.keep(running)
                self.complete.set()
            case PodSeen():
                self._seen(sighting)
            case PodGone(uid, reason):
                if (known := self._known(uid)) is not None:
                    self._gone(known, reason)

    def _known(self, uid: str) -> PodFact | None:
        """Return the last fact about a pod, this process's or an earlier one's."""
        told = self.told.get(uid)
        return self.facts.get(uid) or (told.fact if told else None)

    def _seen(self, pod: PodSeen) -> None:
        fact = facts.seen(self._name, pod, self._known(pod.uid), datetime.now(UTC))
        self._know(fact)
        if fact.phase == "dead":
            return
        # What an image of its own writes is no keeper's log.
        if pod.log and pod.labels.get(LABEL_ROLE) != ROLE_FUNCTION:
            namespace = pod.labels.get(LABEL_NAMESPACE, "")
            self._logs.follow(pod.uid, Path(pod.log), namespace, pod.log_format)
        if fact.phase == "running":
            self._probe(fact)

    def _gone(self, known: PodFact, reason: str) -> None:
        if (probe := self._probes.pop(known.uid, None)) is not None:
            probe.task.cancel()
        self._know(facts.dead(known, reason, datetime.now(UTC)))
        self._logs.end(known.uid)

    def _probe(self, fact: PodFact) -> None:
        """Probe a pod once at each of its addresses, also one that was ready before we came."""
        incarnation = facts.incarnation(fact)
        if (probe := self._probes.get(fact.uid)) is not None:
            if probe.incarnation == incarnation:
                return
            probe.task.cancel()
        task = asyncio.create_task(self._until_ready(fact), name=f"probe of {fact.uid}")
        self._probes[fact.uid] = _Probe(incarnation, task)

    async def _until_ready(self, probed: PodFact) -> None:
        if probed.labels.get(LABEL_ROLE) == ROLE_FUNCTION:
            await until_connected(probed.ip, probed.port)
            self._know(facts.connected(self.facts[probed.uid], datetime.now(UTC)))
            return
        health = await until_ready(probed.uid, probed.ip, probed.port)
        self._know(facts.answered(self.facts[probed.uid], health, datetime.now(UTC)))

    def _know(self, fact: PodFact) -> None:
        """Take a fact of our own finding."""
        before = self._known(fact.uid)
        self.facts[fact.uid] = fact
        if (what := facts.happened(before, fact)) is not None:
            self._events.emit(_event(what, fact))
        self._settle(fact.uid)

    def _settle(self, uid: str) -> None:
        """Have the stream told what it does not say yet of this pod."""
        told = self.told.get(uid)
        fact = self.facts.get(uid)
        if fact is not None:
            if facts.is_news(told.fact if told else None, fact):
                self._announcer.put(fact)
        elif told is not None and told.fact.phase != "dead" and self.complete.is_set():
            self._gone(told.fact, NOT_LISTED)


def _event(what: facts.Happening, fact: PodFact) -> Event:
    where = f"{fact.ip}:{fact.port}" if fact.ip else "no address yet"
    took_ms = (
        max(0.0, (fact.time - fact.started_at).total_seconds() * 1000) if fact.started_at else None
    )
    match what:
        case "started":
            message = f"Pod {fact.name} runs on {fact.node} ({where})."
        case "ready":
            message = f"Pod {fact.name} on {fact.node} answers at {where}."
        case "dead":
            message = f"Pod {fact.name} on {fact.node} is dead: {fact.reason}."
    return new_event(
        "podwatch",
        fact.labels.get(LABEL_NAMESPACE) or NO_NAMESPACE,
        "pod",
        fact.name or fact.uid,
        what,
        message,
        duration_ms=took_ms if what == "ready" else None,
        uid=fact.uid,
        node=fact.node,
    )
