"""What a topic found: samples by contestant, and the targets that they are held against.

A topic that saw one wrong answer has no result: it raises `WrongAnswerError`,
and nothing of its run is written. A contestant that is not installed is not an
error: it is named as missing, and every target against it stays open.
"""

from typing import Literal

import msgspec

from benchmarks.harness.statistics import Spread, ratio, spread


class WrongAnswerError(Exception):
    """Something answered wrongly, or not at all. The message says what and how often."""


class MissingError(Exception):
    """A program that the topic cannot do without is not installed. The message says which."""


class Options(msgspec.Struct, frozen=True):
    """How long and how often to measure."""

    seconds: float = 3.0
    """Length of one run under closed-loop load."""
    runs: int = 3
    """Runs of each contestant, interleaved."""
    full: bool = False
    """All the counts of the targets, where fewer give a figure in minutes."""
    tiny: bool = False
    """Just enough to see that the topic works. The figures mean nothing."""

    def count(self, few: int, all_of_them: int) -> int:
        """Return how many to measure of what is counted, not timed."""
        if self.tiny:
            return max(1, few // 20)
        return all_of_them if self.full else few


class Figure(msgspec.Struct, frozen=True):
    """One thing that was measured of one or more contestants.

    `samples` holds a number for each run, or for each event (a start, a request)
    where the distribution is the figure. The first contestant is what the others
    are compared with.
    """

    name: str
    unit: str
    samples: dict[str, list[float]]
    group: str = ""
    """Figures of one group are drawn side by side; their names are the labels."""
    compared: bool = True
    """The others stand beside the first: their ratio means something."""

    def spread(self, contestant: str) -> Spread:
        """Return the summary of a contestant's samples."""
        return spread(self.samples[contestant])

    def ratio(self, contestant: str) -> float | None:
        """Return `contestant` to the first one, run by run if they were interleaved."""
        baseline = next(iter(self.samples))
        if contestant == baseline or not self.compared:
            return None
        return ratio(self.samples[contestant], self.samples[baseline])


class Target(msgspec.Struct, frozen=True):
    """A bound that a value of this run is held against."""

    what: str
    value: float | None
    """None: it could not be measured here."""
    relation: Literal[">=", "<="]
    bound: float
    unit: str = ""

    @property
    def verdict(self) -> Literal["met", "missed", "open"]:
        """Say whether the value is within its bound."""
        if self.value is None:
            return "open"
        met = self.value >= self.bound if self.relation == ">=" else self.value <= self.bound
        return "met" if met else "missed"


class Result(msgspec.Struct, frozen=True):
    """What a topic reports."""

    topic: str
    title: str
    figures: tuple[Figure, ...]
    targets: tuple[Target, ...] = ()
    missing: tuple[str, ...] = ()
    """Contestants that are not installed."""
    notes: tuple[str, ...] = ()
    """What a reader has to know to read the figures."""


def compared(figure: Figure, one: str, other: str) -> float | None:
    """Return the ratio of two contestants, or None if one of them is not there."""
    if one not in figure.samples or other not in figure.samples:
        return None
    return ratio(figure.samples[one], figure.samples[other])
