"""The node's place in the machine's cgroups, of version 1: kubelet 1.20 knows no other."""

import errno
import os
from pathlib import Path

from tests.cluster.lab import process
from tests.cluster.lab.commands import wait_until
from tests.cluster.lab.process import Process

_CGROUPS = Path("/sys/fs/cgroup")


def hierarchies() -> list[str]:
    """Return the mount options of each cgroup v1 hierarchy of this machine."""
    found = []
    for line in Path("/proc/self/mounts").read_text().splitlines():
        _, place, kind, options, *_ = line.split()
        if kind == "cgroup" and Path(place).parent == _CGROUPS:
            chosen = [option for option in options.split(",") if _is_controller(option)]
            found.append(",".join(chosen))
    return found


def _is_controller(option: str) -> bool:
    general = ("rw", "ro", "xattr", "clone_children", "release_agent=")
    return not option.startswith(("no", "rel", *general))


def make(name: str) -> list[Path]:
    """Make a cgroup of this name in each hierarchy, below the one that this process is in.

    Raises:
        OSError: One cannot be made; then none is.
    """
    own = {}
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        own[frozenset(controllers.split(","))] = path
    made: list[Path] = []
    try:
        for options in hierarchies():
            where = own[frozenset(options.split(","))]
            parent = _CGROUPS / options.removeprefix("name=") / where.lstrip("/")
            cgroup = parent / name
            cgroup.mkdir()
            made.append(cgroup)
            for setting in ("cpuset.cpus", "cpuset.mems"):
                # A cpuset takes no process before it has both.
                if (cgroup / setting).exists():
                    (cgroup / setting).write_text((parent / setting).read_text())
    except OSError:
        for cgroup in made:
            remove(cgroup)
        raise
    return made


def remove(cgroup: Path) -> None:
    """Remove a cgroup of the lab, after ending whatever is in it that no file told of."""
    for file in cgroup.rglob("cgroup.procs"):
        for pid in file.read_text().split():
            if ticks := process.started(int(pid)):
                Process(int(pid), ticks).kill()

    def removed() -> bool:
        # The kernel may still be at ending them.
        try:
            for directory, _, _ in os.walk(cgroup, topdown=False):
                Path(directory).rmdir()
        except OSError as problem:
            if problem.errno != errno.EBUSY:
                raise
            return False
        return True

    wait_until(f"{cgroup} is empty", removed, within_s=10)
