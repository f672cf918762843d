"""Turn what was seen of a pod and what its probe said into the fact that is told.

Pure: the shells around it look, probe and publish. The rules are few. A dead uid
stays dead, whatever is seen of it later. A pod that was given another address,
or started anew, has to answer again before it is called ready. A fact is worth
telling when it says something new.
"""

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Literal

import msgspec

from schemas.control import KeeperHealth
from schemas.pods import PodFact
from services.podwatch.sources import PodSeen

Incarnation = tuple[str, int, datetime | None]
"""Address and start of a pod."""

Happening = Literal["started", "ready", "dead"]


def seen(node: str, pod: PodSeen, known: PodFact | None, now: datetime) -> PodFact:
    """Return the fact about a pod that was seen on `node`, given the last one."""
    if known is not None and known.phase == "dead":
        return known
    fact = PodFact(
        uid=pod.uid,
        node=node,
        name=pod.name,
        phase="running" if pod.ip else "pending",
        time=now,
        ip=pod.ip,
        port=pod.port,
        labels=pod.labels,
        started_at=pod.started_at,
    )
    if known is not None and incarnation(known) == incarnation(fact):
        fact = msgspec.structs.replace(
            fact,
            ready=known.ready,
            boot=known.boot,
            engine=known.engine,
            capacity=known.capacity,
        )
    return fact


def answered(fact: PodFact, health: KeeperHealth, now: datetime) -> PodFact:
    """Return the fact about a pod that answered its probe at its present address.

    The answer of another keeper, which was given the address of a pod that is
    about to be told dead, says nothing about this pod.
    """
    if fact.phase != "running" or health.keeper != fact.uid:
        return fact
    return msgspec.structs.replace(
        fact,
        time=now,
        ready=True,
        boot=health.boot,
        engine=health.engine,
        capacity=health.capacity,
    )


def connected(fact: PodFact, now: datetime) -> PodFact:
    """Return the fact about a pod with a function's own image whose port took a connection.

    No more can be asked of it: whatever it answered, it would answer as the function.
    """
    if fact.phase != "running":
        return fact
    return msgspec.structs.replace(fact, time=now, ready=True)


def dead(fact: PodFact, reason: str, now: datetime) -> PodFact:
    """Return the last fact about a pod. The first reason stands."""
    if fact.phase == "dead":
        return fact
    return msgspec.structs.replace(fact, phase="dead", time=now, ready=False, reason=reason)


def is_news(told: PodFact | None, fact: PodFact) -> bool:
    """Whether `fact` says more than another time than what was told before."""
    if told is None:
        return True
    return told.phase != "dead" and msgspec.structs.replace(fact, time=told.time) != told


def vanished(told: Mapping[str, PodFact], running: Iterable[str]) -> list[PodFact]:
    """Return those of the facts told that speak of pods which do not run any more."""
    present = set(running)
    return [fact for uid, fact in told.items() if fact.phase != "dead" and uid not in present]


def incarnation(fact: PodFact) -> Incarnation:
    """Return what must be the same for an earlier probe to still count."""
    return fact.ip, fact.port, fact.started_at


def happened(before: PodFact | None, after: PodFact) -> Happening | None:
    """Return what a person is told when the fact about a pod has changed."""
    if before is None:
        return "dead" if after.phase == "dead" else "started"
    if before.phase != "dead" and after.phase == "dead":
        return "dead"
    return "ready" if after.ready and not before.ready else None
