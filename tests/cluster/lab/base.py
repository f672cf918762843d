"""What a registry gives elsewhere: an image with Python and pip, and the wheels of the project.

The image takes the place of `docker.io/library/python` as the BASE of the project's Dockerfile.
Its pip looks for packages nowhere but in the directory of wheels that is mounted during a build,
so the Dockerfile is the same here and where the network is.
"""

import hashlib
import json
import shutil
import tempfile
import tomllib
from pathlib import Path

from tests.cluster.lab import debian, images, paths
from tests.cluster.lab.commands import lock, run

IMAGE = "localhost/lab/python:3.11"
WHEELS_INSIDE = "/wheels"

_CHECKOUT = Path(__file__).resolve().parents[3]
_PACKAGES = ("ca-certificates", "libseccomp2", "python3", "python3-pip", "python3-venv")
_UNREAD = ("/usr/share/doc/*", "/usr/share/locale/*", "/usr/share/man/*")

_DOCKERFILE = f"""
FROM scratch
ADD root.tar /
RUN rm /usr/lib/python3*/EXTERNALLY-MANAGED \\
 && ln -s /usr/bin/python3 /usr/local/bin/python \\
 && printf '[global]\\nno-index = true\\nfind-links = {WHEELS_INSIDE}\\n' >/etc/pip.conf
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


def _bootstrap(root: Path) -> None:
    new = root.with_name("new-" + root.name)
    new.unlink(missing_ok=True)
    options = ["--quiet", "--variant=minbase", f"--include={','.join(_PACKAGES)}"]
    # It is made once: no need to wait for the disk after every file.
    options += ["--dpkgopt=force-unsafe-io"]
    options += [f"--dpkgopt=path-exclude={unread}" for unread in _UNREAD]
    run("mmdebstrap", *options, "bookworm", new, debian.MACHINE_SOURCES)
    new.rename(root)


def _make_wheels() -> None:
    """Fetch what pyproject.toml asks for, again whenever it asks for something else."""
    project = tomllib.loads((_CHECKOUT / "pyproject.toml").read_text())
    wanted = [*project["build-system"]["requires"], *project["project"]["dependencies"]]
    for extra, requirements in project["project"].get("optional-dependencies", {}).items():
        if extra != "dev":
            wanted += requirements
    key = hashlib.sha256(json.dumps(wanted).encode()).hexdigest()
    made = paths.WHEELS / "made-for"
    if made.exists() and made.read_text() == key:
        return
    shutil.rmtree(paths.WHEELS, ignore_errors=True)
    # By Debian's Python, which is the image's too.
    run(paths.VENV / "bin/python", "-m", "pip", "-q", "wheel", "--wheel-dir", paths.WHEELS, *wanted)
    made.write_text(key)
