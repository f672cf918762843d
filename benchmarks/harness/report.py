"""A result as a table for people, as Markdown for documents and as JSON for programs."""

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import msgspec

from benchmarks.harness.result import Figure, Result, Target


class Record(msgspec.Struct, frozen=True):
    """A result with everything that is needed to judge it and to take it again."""

    command: str
    taken_at: datetime
    machine: dict[str, str]
    result: Result


def record(result: Result, command: str, machine: dict[str, str]) -> Record:
    """Return `result` as it is written."""
    return Record(command, datetime.now(UTC).replace(microsecond=0), machine, result)


def write(kept: Record, directory: Path) -> Path:
    """Write `<topic>.json` and return its path."""
    directory.mkdir(parents=True, exist_ok=True)
    file = directory / f"{kept.result.topic}.json"
    rounded = msgspec.convert(_rounded(msgspec.to_builtins(kept)), Record)
    file.write_bytes(msgspec.json.format(msgspec.json.encode(rounded), indent=1) + b"\n")
    return file


def read(file: Path) -> Record:
    """Return what `write` wrote."""
    return msgspec.json.decode(file.read_bytes(), type=Record)


def _rounded(value: object) -> object:
    """Return `value` with no more digits than a clock gives."""
    if isinstance(value, float):
        return float(f"{value:.5g}")
    if isinstance(value, (list, tuple)):
        return [_rounded(v) for v in value]
    if isinstance(value, dict):
        return {k: _rounded(v) for k, v in value.items()}
    return value


def table(kept: Record) -> str:
    """Return the figures, the ratios to the first contestant, and the verdicts, as text."""
    result = kept.result
    rows = [_HEADER, *_rows(result)]
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = [result.title, ""]
    for row in rows:
        words = [
            w.ljust(n) if i < 2 else w.rjust(n)
            for i, (w, n) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(words).rstrip())
    lines.append("")
    lines += [verdict(target) for target in result.targets]
    lines += [f"missing: {name}" for name in result.missing]
    lines += [f"note: {note}" for note in result.notes]
    lines += ["", f"$ {kept.command}", ", ".join(f"{k} {v}" for k, v in kept.machine.items())]
    return "\n".join(lines)


def markdown(kept: Record) -> str:
    """Return the figures and the verdicts as tables of Markdown, with the command above."""
    machine = kept.machine
    taken = f"{kept.taken_at:%Y-%m-%d}, commit {machine.get('commit')}"
    lines = [f"`{kept.command}`", "", f"{taken}, load {machine.get('load')}.", ""]
    lines += _markdown_table([("what", "of", *_HEADER[2:]), *_rows(kept.result)])
    if kept.result.targets:
        held = [
            (t.what, "-" if t.value is None else number(t.value), bound(t), t.verdict)
            for t in kept.result.targets
        ]
        lines += ["", *_markdown_table([("target", "value", "bound", ""), *held])]
    lines += ["", *(f"- {note}" for note in (*kept.result.notes, *kept.result.missing))]
    return "\n".join(lines).rstrip() + "\n"


def _markdown_table(rows: Sequence[Sequence[str]]) -> list[str]:
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    return [lines[0], "|" + "---|" * len(rows[0]), *lines[1:]]


_HEADER: Final = ("", "", "n", "min", "p50", "p99", "max", "ratio")


def _rows(result: Result) -> list[tuple[str, ...]]:
    return [_row(figure, name) for figure in result.figures for name in figure.samples]


def _row(figure: Figure, contestant: str) -> tuple[str, ...]:
    spread = figure.spread(contestant)
    ratio = figure.ratio(contestant)
    return (
        f"{figure.name}, {figure.unit}" if figure.name else figure.unit,
        contestant,
        str(spread.n),
        *(number(v) for v in (spread.min, spread.p50, spread.p99, spread.max)),
        "" if ratio is None else f"{ratio:.2f}",
    )


def verdict(target: Target) -> str:
    """Return one line on how a target stands."""
    value = "not measured" if target.value is None else number(target.value)
    return f"{target.verdict:>6}  {target.what}: {value} (target {bound(target)})"


def bound(target: Target) -> str:
    """Return what a target asks for."""
    return f"{target.relation} {number(target.bound)} {target.unit}".rstrip()


def number(value: float) -> str:
    """Return `value` with three significant digits, or as a whole number."""
    if value == 0 or abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}"
