"""Kubernetes' five programs, built once from Debian 12's own source package.

Debian ships only kubectl of it. The programs are kept in the cache under their version;
two runs that both miss them build once.
"""

import os
import shutil
from pathlib import Path

from tests.cluster.lab import debian, paths
from tests.cluster.lab.commands import lock, run

VERSION = "1.20.2"
PROGRAMS = (
    "kube-apiserver",
    "kube-controller-manager",
    "kube-scheduler",
    "kubelet",
    "kube-proxy",
)
BINARIES = paths.TOOLS / f"kubernetes-{VERSION}"

_TOOLCHAIN = (
    "golang-go",
    "golang-github-modern-go-reflect2-dev",
    "dpkg-dev",
    "jq",
    "make",
    "rsync",
)


def built() -> bool:
    return all((BINARIES / program).exists() for program in PROGRAMS)


def build() -> None:
    """Build the programs if the cache has not got them: about six minutes of two cores."""
    with lock(paths.ROOT / "kubernetes.lock"):
        if built():
            return
        debian.install(_TOOLCHAIN)
        work = paths.BUILD / "kubernetes"
        shutil.rmtree(work, ignore_errors=True)
        source = debian.Suite("bookworm", types="deb-src").source("kubernetes", into=work)
        tree = work / "tree"
        run("dpkg-source", "--no-check", "-x", source, tree)
        _replace_reflect2(tree)
        _make(work, tree)
        BINARIES.mkdir(parents=True, exist_ok=True)
        for program in PROGRAMS:
            made = tree / "_output/local/bin/linux/amd64" / program
            # The name appears only with all of the file behind it.
            shutil.copy2(made, BINARIES / f".{program}")
            (BINARIES / f".{program}").rename(BINARIES / program)
        shutil.rmtree(work)


def _replace_reflect2(tree: Path) -> None:
    """Take Debian's modern-go/reflect2: the vendored one faults with Go 1.18 and later."""
    vendored = tree / "vendor/github.com/modern-go/reflect2"
    packaged = Path("/usr/share/gocode/src/github.com/modern-go/reflect2")
    for old in [*vendored.glob("*.go"), *vendored.glob("*.s")]:
        old.unlink()
    for new in [*packaged.glob("*.go"), *packaged.glob("*.s")]:
        if not new.name.endswith("_test.go"):
            shutil.copy(new, vendored)


def _make(work: Path, tree: Path) -> None:
    major, minor, _ = VERSION.split(".")
    version = {
        "KUBE_GIT_COMMIT": "debian",
        "KUBE_GIT_TREE_STATE": "archive",
        "KUBE_GIT_VERSION": f"v{VERSION}",
        "KUBE_GIT_MAJOR": major,
        "KUBE_GIT_MINOR": minor,
    }
    version_file = work / "version.sh"
    version_file.write_text("".join(f"{key}='{value}'\n" for key, value in version.items()))
    home = work / "home"
    home.mkdir()
    # The makefiles want the tree to be where a GOPATH would have it.
    gopath = tree / ".go"
    (gopath / "src/k8s.io").mkdir(parents=True)
    (gopath / "src/k8s.io/kubernetes").symlink_to(tree)
    env = {
        **os.environ,
        "HOME": str(home),
        "GOPATH": str(gopath),
        "GOCACHE": str(work / "go-cache"),
        "GOPROXY": "off",
        "GOLDFLAGS": "-s -w",
        "CGO_ENABLED": "0",
        "KUBE_GIT_VERSION_FILE": str(version_file),
    }
    wanted = " ".join(f"cmd/{program}" for program in PROGRAMS)
    run("nice", "-n", "15", "make", "-s", f"WHAT={wanted}", cwd=tree, env=env)
