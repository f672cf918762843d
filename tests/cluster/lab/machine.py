"""Whether a lab can run on this machine.

It is tried, not looked up: what a container, a capability that is missing or a kernel without a
module forbids is written in no file.
"""

import os
import subprocess
import tempfile
from pathlib import Path

from tests.cluster.lab import cgroups, node


def unfit() -> str:
    """Return why no lab can run here, in one sentence, or an empty text."""
    if os.environ.get("WASMFN_LAB") == "off":
        return "it is switched off by WASMFN_LAB=off"
    release = Path("/etc/os-release")
    if not release.exists() or "VERSION_CODENAME=bookworm" not in release.read_text():
        return "it is made of Debian 12's packages, and this machine is another"
    if os.geteuid() != 0:
        return "it needs root"
    if Path("/run/wasmfn-lab-node").exists():
        # Process ids mean others there, so that a lab that runs would look like one that crashed.
        return "this is its own node: it is started and ended from outside"
    if not cgroups.hierarchies():
        return "kubelet 1.20 needs cgroups of version 1, and this machine has none mounted"
    return _refused()


def _refused() -> str:
    """Try what a node takes of the kernel; return what is refused, or an empty text."""
    try:
        made = cgroups.make(f"wasmfn-trial-{os.getpid()}")
    except OSError as problem:
        return f"this machine does not let us make cgroups: {problem.strerror}"
    for cgroup in made:
        cgroups.remove(cgroup)
    unshare = ["unshare", *node.NAMESPACES, "--propagation", "private", "--fork"]
    trial = Path(__file__).with_name("trial.sh")
    with tempfile.TemporaryDirectory() as scratch:
        tried = subprocess.run(
            [*unshare, "sh", trial, scratch, *cgroups.hierarchies()],
            capture_output=True,
            text=True,
            check=False,
        )
    if tried.returncode == 0:
        return ""
    return tried.stdout.strip() or (
        f"this machine does not let us make namespaces: {tried.stderr.strip()}"
    )
