"""What of a cluster's bus belongs to applications, as an operator gives it at an installation.

Two places must say the same: what NATS permits to the routers and to the user
`app`, and what the scheduler accepts in specs. Both are patched by a kustomization
over the overlay, so that kustomize names the new configuration by its content
and the servers are restarted with it.
"""

import contextlib
import json
import os
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Final

import msgspec

from services.bus.applications import IN_A_CLUSTER, Applications
from wasmfn import natsusers
from wasmfn.errors import RejectedError

_SUBJECTS: Final = "WASMFN_SCHEDULER_APPLICATION_SUBJECTS"
_STREAMS: Final = "WASMFN_SCHEDULER_APPLICATION_STREAMS"


def parse(subjects: Iterable[str], streams: Iterable[str]) -> Applications:
    """Return what options say: subjects, and streams as `NAME=SUBJECT[,SUBJECT…]`.

    Without subjects they are what the manifests give.

    Raises:
        RejectedError: it cannot be given to applications; says why.
    """
    named = dict(stream.partition("=")[::2] for stream in streams)
    given = {
        # None at all would be all that NATS has.
        "subjects": list(subjects) or IN_A_CLUSTER.subjects,
        "streams": {name: text.split(",") for name, text in named.items()},
    }
    try:
        return msgspec.convert(given, Applications)
    except msgspec.ValidationError as error:
        raise RejectedError(f"not for applications: {error}") from error


@contextlib.contextmanager
def overlay_with(applications: Applications, overlay: Path) -> Iterator[Path]:
    """Yield a directory with an overlay over `overlay` that gives applications this."""
    environ = [
        {"name": _SUBJECTS, "value": json.dumps(applications.subjects)},
        {"name": _STREAMS, "value": json.dumps(applications.streams)},
    ]
    containers = [{"name": "scheduler", "env": environ}]
    patch = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "scheduler", "namespace": "wasmfn"},
        "spec": {"template": {"spec": {"containers": containers}}},
    }
    with tempfile.TemporaryDirectory(prefix="wasmfn-") as name:
        directory = Path(name).resolve()
        kustomization = {
            "apiVersion": "kustomize.config.k8s.io/v1beta1",
            "kind": "Kustomization",
            # It takes no absolute paths.
            "resources": [os.path.relpath(overlay.resolve(), directory)],
            "configMapGenerator": [
                {
                    "name": "nats", "namespace": "wasmfn", "behavior": "merge",
                    "files": [natsusers.FILE.name],
                }
            ],
            "patches": [{"path": "scheduler.yaml"}],
        }  # fmt: skip
        (directory / natsusers.FILE.name).write_text(natsusers.configuration(applications), "ascii")
        # JSON is YAML.
        (directory / "scheduler.yaml").write_text(json.dumps(patch), "utf-8")
        (directory / "kustomization.yaml").write_text(json.dumps(kustomization), "utf-8")
        yield directory


def of_objects(objects: Iterable[dict[str, Any]]) -> Applications | None:
    """Return what the scheduler among `objects` gives to applications; None if there is none."""
    for one in objects:
        if one["kind"] == "Deployment" and one["metadata"]["name"] == "scheduler":
            (container,) = one["spec"]["template"]["spec"]["containers"]
            environ = {entry["name"]: entry.get("value", "") for entry in container["env"]}
            with contextlib.suppress(msgspec.ValidationError, json.JSONDecodeError):
                given = {
                    "subjects": json.loads(environ.get(_SUBJECTS) or "[]"),
                    "streams": json.loads(environ.get(_STREAMS) or "{}"),
                }
                return msgspec.convert(given, Applications)
    return None


def options(applications: Applications) -> str:
    """Return the options of `wasmfn install` that give this."""
    subjects = (f"--subject '{subject}'" for subject in applications.subjects)
    streams = (f"--stream '{n}={','.join(s)}'" for n, s in applications.streams.items())
    return " ".join((*subjects, *streams))
