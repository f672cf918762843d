from datetime import UTC

import pytest

from benchmarks.__main__ import main
from benchmarks.harness import plot, report
from benchmarks.harness.result import Figure, Result, Target, WrongAnswerError
from benchmarks.topics import endurance

RESULT = Result(
    topic="example",
    title="An example",
    figures=(
        Figure("c=1", "requests/s", {"nginx": [100.0, 110.0], "router": [90.0, 99.0]}, "rate"),
        Figure("cold", "ms", {"platform": [i / 3 for i in range(60)]}),
        Figure("refused", "ms", {}),
    ),
    targets=(Target("router / nginx", 0.9, ">=", 0.85), Target("cold", None, "<=", 8, "ms")),
    missing=("haproxy is not installed",),
)


@pytest.fixture
def kept():
    return report.record(RESULT, "python -P -m benchmarks example", {"system": "Linux"})


def test_a_table_has_every_contestant_ratio_verdict_and_the_command(kept):
    lines = report.table(kept).splitlines()
    router = next(line for line in lines if "router " in line)
    assert router.split()[-1] == "0.90"
    assert "   met  router / nginx: 0.9 (target >= 0.85)" in lines
    assert "  open  cold: not measured (target <= 8 ms)" in lines
    assert "missing: haproxy is not installed" in lines
    assert "$ python -P -m benchmarks example" in lines


def test_markdown_has_the_same_figures_and_verdicts(kept):
    lines = report.markdown(kept).splitlines()
    assert lines[0] == "`python -P -m benchmarks example`"
    assert "| c=1, requests/s | router | 2 | 90 | 94.5 | 99 | 99 | 0.90 |" in lines
    assert "| router / nginx | 0.9 | >= 0.85 | met |" in lines
    assert "| cold | - | <= 8 ms | open |" in lines
    assert "- haproxy is not installed" in lines


def test_what_is_written_is_read_again_to_five_digits(kept, tmp_path):
    file = report.write(kept, tmp_path / "new")
    read = report.read(file)
    assert file.name == "example.json"
    assert (read.command, read.machine) == (kept.command, kept.machine)
    assert read.taken_at.tzinfo == UTC
    samples = read.result.figures[1].samples["platform"]
    assert samples == pytest.approx(RESULT.figures[1].samples["platform"], rel=1e-4)
    assert samples[1] == 0.33333


def test_a_result_is_drawn_the_same_each_time(tmp_path):
    pytest.importorskip("matplotlib")
    svg, png = plot.draw(RESULT, tmp_path)
    once = svg.read_bytes()
    plot.draw(RESULT, tmp_path)
    assert svg.read_bytes() == once
    assert png.stat().st_size > 1000


def test_a_topic_that_got_a_wrong_answer_writes_nothing(monkeypatch, tmp_path, capsys):
    def measure(options):
        raise WrongAnswerError("of 10 requests 1 was answered wrongly")

    monkeypatch.setattr(endurance, "measure", measure)
    assert main(["endurance", "--out", str(tmp_path)]) == 1
    assert list(tmp_path.iterdir()) == []
    assert "no result: of 10 requests 1" in capsys.readouterr().err


def test_reports_are_made_again_of_what_was_written(kept, tmp_path, capsys):
    report.write(kept, tmp_path)
    (tmp_path / "example.json").rename(tmp_path / "router.json")
    (tmp_path / "foreign.json").write_text("of another program")
    assert main(["report", "--out", str(tmp_path)]) == 0
    assert "An example" in capsys.readouterr().out
