"""What registries give elsewhere: an image with Python in it, and the project's dependencies.

They take the places of `docker.io/library/python` (the Dockerfile's BASE) and of PyPI (its stage
`wheels`), so that the project's own Dockerfile is what is built here too.
"""

import hashlib
import shutil
import tempfile
import tomllib
from pathlib import Path

from tests.cluster.lab import debian, images, paths
from tests.cluster.lab.commands import lock, run

IMAGE = "localhost/lab/python:3.11"

CHECKOUT = Path(__file__).resolve().parents[3]
TARGETS = ("services", "keeper", "nats")
_PACKAGES = ("ca-certificates", "libseccomp2", "python3", "python3-pip", "python3-venv")
_UNREAD = ("/usr/share/doc/*", "/usr/share/locale/*", "/usr/share/man/*")

_DOCKERFILE = """
FROM scratch
ADD root.tar /
RUN rm /usr/lib/python3*/EXTERNALLY-MANAGED && ln -s /usr/bin/python3 /usr/local/bin/python
ENV PATH=/usr/local/bin:/usr/bin:/bin
CMD ["python3"]
"""


def make() -> None:
    """Make the image and fetch the wheels, as far as the cache has not got them."""
    with lock(paths.ROOT / "base.lock"):
        _make_wheels()
        root = paths.IMAGES / "python-root.tar"
        if not root.exists():
            _bootstrap(root)
        if not images.exists(IMAGE):
            with tempfile.TemporaryDirectory(dir=paths.ROOT) as scratch:
                context = Path(scratch)
                (context / "root.tar").hardlink_to(root)
                (context / "Dockerfile").write_text(_DOCKERFILE)
                images.build(context, IMAGE)


def push_project() -> list[str]:
    """Build the project's images from the checkout and push them; return the names to pull by."""
    make()
    version = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["project"]["version"]
    pushed = []
    for target in TARGETS:
        tag = f"wasmfn/{target}:{version}"
        arguments, contexts = {"BASE": IMAGE}, {"wheels": paths.WHEELS}
        images.build(CHECKOUT, tag, target=target, arguments=arguments, contexts=contexts)
        pushed.append(images.push(tag))
    return pushed


def _bootstrap(root: Path) -> None:
    new = root.with_name("new-" + root.name)
    new.unlink(missing_ok=True)
    options = ["--quiet", "--variant=minbase", f"--include={','.join(_PACKAGES)}"]
    # It says so if the mirror is away, which would be a long story of mmdebstrap's.
    debian.Suite("bookworm")
    # It is made once: no need to wait for the disk after every file.
    options += ["--dpkgopt=force-unsafe-io"]
    options += [f"--dpkgopt=path-exclude={unread}" for unread in _UNREAD]
    run("mmdebstrap", *options, "bookworm", new, debian.MACHINE_SOURCES)
    new.rename(root)


def _make_wheels() -> None:
    """Fetch what requirements.lock names, again whenever it names something else."""
    lock_file = CHECKOUT / "requirements.lock"
    key = hashlib.sha256(lock_file.read_bytes()).hexdigest()
    made = paths.WHEELS / "made-for"
    if made.exists() and made.read_text() == key:
        return
    shutil.rmtree(paths.WHEELS, ignore_errors=True)
    # By Debian's Python, which is the image's too.
    python = paths.VENV / "bin/python"
    options = ["--no-deps", "--require-hashes", f"--wheel-dir={paths.WHEELS}"]
    run(python, "-m", "pip", "-q", "wheel", *options, "-r", lock_file)
    made.write_text(key)
