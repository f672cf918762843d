"""Run targets under atheris, each for a while: `python -m tests.fuzz --seconds 60 [TARGET …]`.

What a target finds is written to `build/fuzz/<target>/`, and what it learnt to
`build/fuzz/<target>/corpus`, where the next run goes on. An input that broke a
target is kept, once it is mended, in `tests/fuzz/corpus/<target>/`: the ordinary
tests play those.
"""

import argparse
import subprocess
import sys
from pathlib import Path

from tests.fuzz.corpus import kept, seeds
from tests.fuzz.targets import TARGETS

_CHILD = """
import sys, atheris
with atheris.instrument_imports(include=["services", "schemas", "keeper", "h11"]):
    from tests.fuzz.targets import TARGETS
atheris.Setup(sys.argv[:1] + sys.argv[2:], TARGETS[sys.argv[1]])
atheris.Fuzz()
"""
_PLACE = Path("build/fuzz")


def fuzz(target: str, seconds: int) -> bool:
    """Run one target, print what came of it, and return whether nothing broke it."""
    place = _PLACE / target
    learnt, given = place / "corpus", place / "seeds"
    for directory in (learnt, given):
        directory.mkdir(parents=True, exist_ok=True)
    for number, data in enumerate((*seeds(target), *kept(target))):
        (given / str(number)).write_bytes(data)
    options = (
        f"-max_total_time={seconds}", "-max_len=8192", "-timeout=20", "-rss_limit_mb=1024",
        "-print_final_stats=1", f"-artifact_prefix={place}/",
    )  # fmt: skip
    with (place / "log").open("wb") as log:
        code = subprocess.run(
            [sys.executable, "-c", _CHILD, target, *options, str(learnt), str(given)],
            stdout=log, stderr=log, check=False,
        ).returncode  # fmt: skip
    lines = (place / "log").read_text(errors="replace").splitlines()
    told = [li.split()[-1] for li in lines if "number_of_executed_units" in li]
    executions = told[-1] if told else "?"
    held = f"BROKEN, see {place}/log" if code else "held"
    print(f"{target}: {executions} executions, {held}", flush=True)  # noqa: T201 - the result
    return code == 0


def main() -> int:
    """Run the targets that are named, or all."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("targets", nargs="*", default=tuple(TARGETS), metavar="TARGET")
    parser.add_argument("--seconds", type=int, default=60, help="for each target")
    given = parser.parse_args()
    if unknown := set(given.targets) - set(TARGETS):
        parser.error(f"no target {sorted(unknown)}; there are {', '.join(TARGETS)}")
    held = [fuzz(target, given.seconds) for target in given.targets]
    return 0 if all(held) else 1


if __name__ == "__main__":
    sys.exit(main())
