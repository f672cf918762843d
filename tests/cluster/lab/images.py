"""Images without a registry to fetch from: buildah, Debian's packages and the tree make them."""

import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

from tests.cluster.lab import containerd, node, paths, registry
from tests.cluster.lab.commands import CommandError, lock, run

_PAUSE = """
FROM scratch
COPY pause /pause
ENTRYPOINT ["/pause"]
"""

_BUSYBOX = """
FROM scratch
COPY root /
ENV PATH=/bin
CMD ["/bin/sh"]
"""


def build(
    context: Path,
    tag: str,
    dockerfile: Path | None = None,
    *,
    target: str = "",
    arguments: Mapping[str, str] | None = None,
    contexts: Mapping[str, Path] | None = None,
) -> None:
    """Build an image into the lab's own store, where it is called `tag`.

    `arguments` are the Dockerfile's ARGs; `contexts` are directories that take the places of
    its stages and images of these names.
    """
    # Neither namespaces nor a runtime are needed for RUN, and no layer is built twice.
    options = ["--isolation=chroot", "--layers", "--pull-never", f"--tag={tag}"]
    options += [f"--build-arg={name}={value}" for name, value in (arguments or {}).items()]
    options += [f"--build-context={name}={place}" for name, place in (contexts or {}).items()]
    if target:
        options.append(f"--target={target}")
    _buildah("bud", *options, "--file", dockerfile or context / "Dockerfile", context)


def exists(tag: str) -> bool:
    """Say if the lab's store has an image of this name."""
    try:
        _buildah("inspect", "--type=image", tag)
    except CommandError:
        return False
    return True


def rename(tag: str, other: str) -> None:
    """Give an image of the store another name beside its own."""
    _buildah("tag", tag, other)


def push(tag: str) -> str:
    """Push an image of the store to the lab's registry; return the name to pull it by."""
    push = ["push", "--quiet", "--tls-verify=false", tag, f"docker://{name(tag)}"]
    run(*node.inside(*_command(*push)))
    return name(tag)


def copy(tag: str, other: str) -> None:
    """Give an image of the registry another name there."""
    plain = ["--src-tls-verify=false", "--dest-tls-verify=false"]
    node.run(
        "skopeo", "copy", "--quiet", *plain, f"docker://{name(tag)}", f"docker://{name(other)}"
    )


def name(tag: str) -> str:
    """Return the name by which the lab's nodes pull what is called `tag`."""
    return f"{registry.NAME}/{tag}"


def make_small() -> None:
    """Make the two images that containerd is given as files: pause and busybox."""
    with lock(paths.ROOT / "images.lock"):
        if not (paths.IMAGES / "pause.tar").exists():
            with tempfile.TemporaryDirectory() as scratch:
                context = Path(scratch)
                source = Path(__file__).with_name("pause.c")
                run("gcc", "-Os", "-static", "-s", "-o", context / "pause", source)
                _make_file(context, _PAUSE, containerd.PAUSE_IMAGE, "pause")
        if not (paths.IMAGES / "busybox.tar").exists():
            with tempfile.TemporaryDirectory() as scratch:
                context = Path(scratch)
                _busybox(context / "root")
                _make_file(context, _BUSYBOX, containerd.BUSYBOX_IMAGE, "busybox")


def _busybox(root: Path) -> None:
    for directory in ("bin", "etc", "tmp", "www"):
        (root / directory).mkdir(parents=True)
    (root / "tmp").chmod(0o1777)
    shutil.copy2("/bin/busybox", root / "bin/busybox")
    for applet in run("/bin/busybox", "--list").split():
        if applet != "busybox":
            (root / "bin" / applet).symlink_to("busybox")
    (root / "etc/passwd").write_text("root:x:0:0:root:/:/bin/sh\n")
    (root / "www/index.html").write_text("hello from a pod\n")


def _make_file(context: Path, dockerfile: str, tag: str, name: str) -> None:
    (context / "Dockerfile").write_text(dockerfile)
    build(context, tag)
    paths.IMAGES.mkdir(parents=True, exist_ok=True)
    new = paths.IMAGES / f"{name}.tar.new"
    new.unlink(missing_ok=True)
    _buildah("push", "--quiet", tag, f"docker-archive:{new}:{tag}")
    new.rename(paths.IMAGES / f"{name}.tar")


def _buildah(*words: str | Path) -> str:
    return run(*_command(*words))


def _command(*words: str | Path) -> list[str]:
    store = ["--root", paths.BUILDAH / "storage", "--runroot", paths.BUILDAH / "run"]
    options = ["--storage-driver", "overlay"]
    return ["buildah", *map(str, store), *options, *map(str, words)]
