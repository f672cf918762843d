import pytest

from benchmarks.harness import report
from benchmarks.harness.publish import filled, publish
from benchmarks.harness.result import Figure, Result, Target

TEXT = """\
Before.
<!-- targets -->
OUTDATED
<!-- end -->
Between.
<!-- figures: example -->
<!-- end -->
<!-- figures: other -->
what stood here
<!-- end -->
After.
"""


@pytest.fixture
def kept():
    result = Result(
        topic="example",
        title="An example",
        figures=(Figure("cold", "ms", {"platform": [1.0, 2.0, 3.0]}),),
        targets=(Target("cold, p50", 2.0, "<=", 8, "ms"),),
    )
    return report.record(result, "python -P -m benchmarks example", {"system": "Linux"})


def test_marked_blocks_are_made_anew_and_the_text_around_them_stays(kept):
    made = filled(TEXT, {"example": kept}, "performance")
    assert "| example | cold, p50 | 2 | <= 8 ms | met |" in made
    assert "![An example](performance/example.svg)\n\n`python -P -m benchmarks example`" in made
    assert "OUTDATED" not in made
    for kept_text in ("Before.\n", "\nBetween.\n", "\nwhat stood here\n<!-- end -->\nAfter.\n"):
        assert kept_text in made
    assert filled(made, {"example": kept}, "performance") == made


def test_results_and_plots_are_kept_beside_the_document(kept, tmp_path):
    pytest.importorskip("matplotlib")
    report.write(kept, tmp_path / "out")
    (tmp_path / "out" / "foreign.json").write_text("of another program")
    document = tmp_path / "performance.md"
    document.write_text(TEXT)
    assert publish(tmp_path / "out", document, ["example", "other"]) == ["example"]
    names = {file.name for file in (tmp_path / "performance").iterdir()}
    assert names == {"example.json", "example.svg"}
    assert "cold, p50" in document.read_text()
