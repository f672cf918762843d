"""Draw a result: bars of medians with their whole spread, or curves of what is a distribution.

Needs the extra `bench` (matplotlib). Without it everything else works.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

from benchmarks.harness.result import Figure, Result

if TYPE_CHECKING:
    from matplotlib.axes import Axes

DISTRIBUTION: Final = 50
"""With so many samples a figure is a distribution, and drawn as one unless there are too many."""
MANY: Final = 6
"""More bars side by side need room for their names; more curves in one place tell nothing."""
CHARACTERS: Final = 36
"""More under an axis is set askew."""
MAGNITUDES: Final = 50
"""Bars that differ by more are drawn on a logarithmic scale."""
_COLOURS: Final = ("#5b7fa6", "#8aa9b8", "#d9822b", "#6a994e", "#a26769")
_OURS: Final = "#d9822b"
_OUR_NAMES: Final = ("router", "keeper", "platform")


def draw(result: Result, directory: Path, groups: Sequence[str] = ()) -> list[Path]:
    """Write `<topic>.svg` and `<topic>.png`; return their paths. ImportError without matplotlib.

    `groups` chooses which figures are drawn; all of them by default.
    """
    import matplotlib as mpl  # noqa: PLC0415 - an extra, and a second of start-up time

    mpl.use("Agg")
    # Text stays text: smaller, and no random names, so that equal figures give equal files.
    mpl.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "wasmfn", "font.size": 8})
    from matplotlib import pyplot as plt  # noqa: PLC0415

    panels = _panels(result.figures, groups)
    if not panels:
        return []
    columns = min(3, len(panels))
    rows = -(-len(panels) // columns)
    width = 3.4 if max(map(len, panels)) <= MANY else 6.8
    size = (max(6.8, width * columns), 2.5 * rows)
    drawing, axes = plt.subplots(rows, columns, figsize=size, squeeze=False, layout="constrained")
    flat = [one for row in axes for one in row]
    for axis, panel in zip(flat, panels, strict=False):
        each = [samples for figure in panel for samples in figure.samples.values()]
        if len(panel) <= MANY and all(len(samples) >= DISTRIBUTION for samples in each):
            _curves(axis, panel)
        else:
            _bars(axis, panel)
    for axis in flat[len(panels) :]:
        axis.set_visible(False)
    drawing.suptitle(result.title, fontsize=9)
    directory.mkdir(parents=True, exist_ok=True)
    files = [directory / f"{result.topic}.{kind}" for kind in ("svg", "png")]
    drawing.savefig(files[0], metadata={"Date": None})
    drawing.savefig(files[1], dpi=110)
    plt.close(drawing)
    return files


def _panels(figures: Sequence[Figure], groups: Sequence[str]) -> list[list[Figure]]:
    panels: dict[str, list[Figure]] = {}
    for figure in figures:
        if not figure.samples:
            continue
        key = figure.group or f"{figure.name}, {figure.unit}"
        if not groups or key in groups:
            panels.setdefault(key, []).append(figure)
    return list(panels.values())


def _labels(names: list[str]) -> list[str]:
    """Return `names` without the words that all begin with."""
    shared = {name.rpartition(", ")[0] for name in names}
    return [name.rpartition(", ")[2] for name in names] if len(shared) == 1 else names


def _colour(contestant: str, position: int) -> str:
    if contestant.partition(",")[0] in _OUR_NAMES and "," not in contestant:
        return _OURS
    others = [c for c in _COLOURS if c != _OURS]
    return others[position % len(others)]


def _bars(axis: "Axes", panel: list[Figure]) -> None:
    names = list(dict.fromkeys(name for figure in panel for name in figure.samples))
    width = 0.8 / len(names)
    for position, name in enumerate(names):
        for place, figure in enumerate(panel):
            if name not in figure.samples:
                continue
            spread = figure.spread(name)
            axis.bar(
                place + (position - (len(names) - 1) / 2) * width,
                spread.p50,
                width * 0.92,
                color=_colour(name, position),
                yerr=[[spread.p50 - spread.min], [spread.max - spread.p50]],
                error_kw={"linewidth": 0.7, "capsize": 1.5},
                label=name if place == 0 else None,
            )
    labels = _labels([figure.name for figure in panel])
    long = len("".join(labels)) > CHARACTERS
    axis.set_xticks(
        range(len(panel)), labels, rotation=30 if long else 0, ha="right" if long else "center"
    )
    heights = [figure.spread(name).p50 for figure in panel for name in figure.samples]
    if len(labels) > MANY and max(heights) > MAGNITUDES * min(heights):
        axis.set_yscale("log")
    axis.set_title(panel[0].group or panel[0].name, fontsize=8)
    axis.set_ylabel(panel[0].unit)
    if len(names) > 1 or panel[0].name != names[0]:
        axis.legend(fontsize=6, frameon=False)


def _curves(axis: "Axes", panel: list[Figure]) -> None:
    position = 0
    for figure in panel:
        for name, samples in figure.samples.items():
            ordered = sorted(samples)
            share = [100 * (i + 1) / len(ordered) for i in range(len(ordered))]
            label = name if len(panel) == 1 else f"{figure.name}, {name}"
            axis.step(
                ordered,
                share,
                where="post",
                color=_colour(name, position),
                label=label,
                linewidth=1.2,
            )
            position += 1
    axis.set_xlabel(panel[0].unit)
    axis.set_ylabel("% of samples")
    axis.set_ylim(0, 100)
    axis.set_xlim(left=0)
    axis.set_title(panel[0].group or panel[0].name, fontsize=8)
    axis.legend(fontsize=6, frameon=False, loc="lower right")
