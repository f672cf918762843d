"""What registries give elsewhere: an image with Python in it, and the project's dependencies.

They take the places of `docker.io/library/python` (the Dockerfile's BASE) and of PyPI (its stage
`wheels`), so that the project's own Dockerfile is what is built here too.
"""

import hashlib
import re
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
    wheels()
    with lock(paths.ROOT / "base.lock"):
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
    """Have the project's images, as the checkout is, in the registry; return the names to pull by.

    They are built only if what goes into them has changed: to find every layer in the cache takes
    half a minute of a busy machine.
    """
    make()
    version = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["project"]["version"]
    tags = {target: f"wasmfn/{target}:{version}" for target in TARGETS}
    pushed_for = paths.REGISTRY / "project"
    # Labs of other checkouts give their images the same names in the store, which they share.
    with lock(paths.ROOT / "project.lock"):
        key = _key(*tags.values())
        if not pushed_for.exists() or pushed_for.read_text() != key:
            for target, tag in tags.items():
                arguments, contexts = {"BASE": IMAGE}, {"wheels": wheels()}
                images.build(CHECKOUT, tag, target=target, arguments=arguments, contexts=contexts)
                images.push(tag)
            pushed_for.write_text(key)
    return [images.name(tag) for tag in tags.values()]


def _key(*tags: str) -> str:
    """Return a digest of everything that the project's images are made of."""
    dockerfile = CHECKOUT / "Dockerfile"
    copied = re.findall(r"^COPY (?!--)(\S+) ", dockerfile.read_text(), re.MULTILINE)
    sources = [source for pattern in copied for source in CHECKOUT.glob(pattern)]
    files = [dockerfile, CHECKOUT / ".dockerignore"]
    files += [file for source in sources for file in (source, *source.rglob("*")) if file.is_file()]
    digest = hashlib.sha256(
        str((tags, (paths.IMAGES / "python-root.tar").stat().st_mtime_ns)).encode()
    )
    for file in sorted(files):
        if file.parent.name != "__pycache__":
            digest.update(f"{file.relative_to(CHECKOUT)} {file.stat().st_size}\n".encode())
            digest.update(file.read_bytes())
    return digest.hexdigest()


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


def wheels() -> Path:
    """Return the directory with what requirements.lock names; it is made if it is missing.

    Each content of the file has its own: another checkout may be building from another one.
    """
    lock_file = CHECKOUT / "requirements.lock"
    place = paths.WHEELS / hashlib.sha256(lock_file.read_bytes()).hexdigest()[:16]
    with lock(paths.ROOT / "wheels.lock"):
        if not place.exists():
            new = place.with_suffix(".new")
            shutil.rmtree(new, ignore_errors=True)
            # By Debian's Python, which is the image's too.
            python = paths.VENV / "bin/python"
            options = ["--no-deps", "--require-hashes", f"--wheel-dir={new}"]
            run(python, "-m", "pip", "-q", "wheel", *options, "-r", lock_file)
            new.rename(place)
    return place
