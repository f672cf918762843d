"""Medians, percentiles and ratios. Pure."""

import math
import statistics
from collections.abc import Sequence

import msgspec


class Spread(msgspec.Struct, frozen=True):
    """What is reported of a list of numbers."""

    n: int
    min: float
    p50: float
    p99: float
    max: float


def spread(samples: Sequence[float]) -> Spread:
    """Summarise `samples`. ValueError if there are none."""
    if not samples:
        raise ValueError("nothing was measured")
    ordered = sorted(samples)
    return Spread(
        n=len(ordered),
        min=ordered[0],
        p50=statistics.median(ordered),
        p99=percentile(ordered, 99),
        max=ordered[-1],
    )


def percentile(ordered: Sequence[float], percent: float) -> float:
    """Return the smallest of the sorted samples that `percent` of all do not exceed.

    The nearest-rank method: always a value that was measured. ValueError if there is none.
    """
    if not ordered:
        raise ValueError("nothing was measured")
    return ordered[max(0, math.ceil(len(ordered) * percent / 100) - 1)]


def ratio(samples: Sequence[float], baseline: Sequence[float]) -> float:
    """Return how `samples` compare with `baseline`.

    Runs that were taken in turns are compared run by run, and the median of these
    ratios is returned: what slows the machine for a while slows both. Samples that
    are no pairs are compared by their medians.
    """
    if len(samples) == len(baseline) and len(samples) < 50:
        return statistics.median(a / b for a, b in zip(samples, baseline, strict=True))
    return statistics.median(samples) / statistics.median(baseline)


def thinned(samples: Sequence[float], most: int = 1_000) -> list[float]:
    """Return `samples` in order, thinned evenly to about `most`; the largest is kept."""
    ordered = sorted(samples)
    step = -(-len(ordered) // most) if ordered else 1
    return ordered[::-step][::-1] if step > 1 else ordered
