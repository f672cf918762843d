"""`python -P -m benchmarks TOPIC…`: measure topics, print their tables, write JSON and plots.

    python -P -m benchmarks router --seconds 3
    python -P -m benchmarks all --full
    python -P -m benchmarks report              tables and plots of what was measured before
    python -P -m benchmarks publish             take them into docs/performance.md

A topic that saw a wrong answer reports nothing, and the exit code is 1.
"""

import argparse
import importlib
import shlex
import sys
import time
import traceback
from pathlib import Path

from benchmarks.harness import plot, report
from benchmarks.harness.machine import describe
from benchmarks.harness.processes import ROOT
from benchmarks.harness.publish import publish
from benchmarks.harness.result import MissingError, Options, Result, WrongAnswerError

OUT = ROOT / "build" / "benchmarks"
DOCUMENT = ROOT / "docs" / "performance.md"
TOPICS = tuple(
    file.stem
    for file in sorted(Path(__file__).parent.glob("topics/*.py"))
    if file.stem != "__init__"
)


def main(arguments: list[str]) -> int:
    """Do what the command line says; return the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -P -m benchmarks",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    choices = (*TOPICS, "all", "report", "publish")
    parser.add_argument(
        "topics", nargs="+", choices=choices, metavar="TOPIC", help=", ".join(choices)
    )
    parser.add_argument("--seconds", type=float, default=3.0, help="length of one run under load")
    parser.add_argument("--runs", type=int, default=3, help="runs of each contestant")
    parser.add_argument("--full", action="store_true", help="all counts of the targets")
    parser.add_argument("--tiny", action="store_true", help="only see that it works")
    parser.add_argument("--out", type=Path, default=OUT, help="where JSON and plots go")
    flags = parser.parse_args(arguments)
    if flags.topics == ["report"]:
        for topic in TOPICS:
            if (file := flags.out / f"{topic}.json").exists():
                _show(report.read(file), flags.out)
        return 0
    if flags.topics == ["publish"]:
        print("published:", *publish(flags.out, DOCUMENT, TOPICS))
        return 0
    options = Options(seconds=flags.seconds, runs=flags.runs, full=flags.full, tiny=flags.tiny)
    command = _command(flags)
    machine = describe()
    failed = False
    for topic in TOPICS if "all" in flags.topics else flags.topics:
        begin = time.monotonic()
        try:
            result = _measure(topic, options)
        except (WrongAnswerError, MissingError) as error:
            print(f"{topic}: no result: {error}", file=sys.stderr)
            failed = True
            continue
        except Exception:  # noqa: BLE001 - the other topics are measured all the same
            traceback.print_exc()
            print(f"{topic}: no result", file=sys.stderr)
            failed = True
            continue
        kept = report.record(result, command, machine)
        report.write(kept, flags.out)
        _show(kept, flags.out)
        print(f"({time.monotonic() - begin:.0f} s)\n", flush=True)
    return int(failed)


def _command(flags: argparse.Namespace) -> str:
    """Return the command that takes the same figures again, on any machine."""
    words = ["python", "-P", "-m", "benchmarks", *flags.topics]
    words += ["--seconds", f"{flags.seconds:g}", "--runs", str(flags.runs)]
    words += [f"--{name}" for name in ("full", "tiny") if getattr(flags, name)]
    return shlex.join(words)


def _measure(topic: str, options: Options) -> Result:
    result = importlib.import_module(f"benchmarks.topics.{topic}").measure(options)
    assert isinstance(result, Result)
    return result


def _show(kept: report.Record, directory: Path) -> None:
    print(report.table(kept))
    try:
        plot.draw(kept.result, directory)
    except ImportError as error:
        print(f"no plot ({error}): pip install 'wasmfn[bench]'", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
