"""Put what was measured into a document: tables and plots between marks, text around them kept.

    <!-- figures: router -->      becomes the plot, the table and the verdicts of a topic
    <!-- end -->
    <!-- targets -->              becomes all targets in one table
    <!-- end -->

So no figure of a document was copied by hand, and each stands with its command.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks.harness import plot, report
from benchmarks.harness.report import Record

_BLOCK = re.compile(r"<!-- (targets|figures: (\w+)) -->\n.*?<!-- end -->", re.DOTALL)


def filled(text: str, records: Mapping[str, Record], place: str) -> str:
    """Return the document `text` with its marked blocks made anew. Pure.

    A topic that was not measured keeps the block that it has. `place` is where the
    plots are, as seen from the document.
    """

    def block(found: re.Match[str]) -> str:
        if found[1] == "targets":
            inner = _targets(records)
        elif found[2] in records:
            kept = records[found[2]]
            inner = f"![{kept.result.title}]({place}/{found[2]}.svg)\n\n{report.markdown(kept)}"
        else:
            return found[0]
        return f"<!-- {found[1]} -->\n{inner}<!-- end -->"

    return _BLOCK.sub(block, text)


def _targets(records: Mapping[str, Record]) -> str:
    lines = ["| topic | target | value | bound | |", "|---|---|---|---|---|"]
    for topic, kept in records.items():
        lines += [
            f"| {topic} | {t.what} | {'-' if t.value is None else report.number(t.value)} "
            f"| {report.bound(t)} | {t.verdict} |"
            for t in kept.result.targets
        ]
    return "\n".join(lines) + "\n"


def publish(measured: Path, document: Path, topics: Sequence[str]) -> list[str]:
    """Take the results of `topics` in `measured` into `document`; return the topics found.

    Results and plots are kept in a directory beside the document, of its name, and
    those that are there already stay unless there are newer ones.
    """
    kept_in = document.with_suffix("")
    fresh = list(_records(measured, topics).values())
    for kept in fresh:
        report.write(kept, kept_in)
        for file in plot.draw(kept.result, kept_in):
            if file.suffix == ".png":
                file.unlink()
    made = filled(document.read_text(), _records(kept_in, topics), kept_in.name)
    document.write_text(made)
    return [kept.result.topic for kept in fresh]


def _records(place: Path, topics: Sequence[str]) -> dict[str, Record]:
    files = {topic: place / f"{topic}.json" for topic in topics}
    return {topic: report.read(file) for topic, file in files.items() if file.exists()}
