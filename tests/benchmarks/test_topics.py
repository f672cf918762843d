"""A topic from end to end, with counts that mean nothing. The others differ in what they start."""

import os
import shutil

import pytest

from benchmarks.__main__ import TOPICS, main
from benchmarks.harness import report


@pytest.mark.skipif(not shutil.which("wrk"), reason="closed-loop load needs wrk")
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can look into a function's process")
def test_a_topic_leaves_its_figures_targets_and_machine(tmp_path, capsys):
    assert main(["endurance", "--tiny", "--out", str(tmp_path)]) == 0
    kept = report.read(tmp_path / "endurance.json")
    command = "python -P -m benchmarks endurance --seconds 3 --runs 3 --tiny"
    assert kept.command == command
    assert kept.machine["wasmtime"]
    assert kept.result.figures[0].spread("last").p50 > 1
    assert [target.verdict for target in kept.result.targets][1:] == ["met"]
    assert "invocations in one keeper process" in capsys.readouterr().out


def test_every_topic_has_a_measure_and_says_what_it_measures():
    for topic in TOPICS:
        module = __import__(f"benchmarks.topics.{topic}", fromlist=["measure"])
        assert callable(module.measure)
        assert module.__doc__
