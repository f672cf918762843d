"""Reach the bus of a cluster from outside, through a port that kubectl forwards.

NATS is not open to the world, and should not be: whoever may forward ports and
read the Secret in the namespace `wasmfn` is an operator, and gets in as the
user `people`. The forward is a child of this command and ends with it.
"""

import atexit
import base64
import contextlib
import os
import re
import select
import subprocess
import time
from typing import Final
from urllib.parse import urlsplit

from services.bus.permissions import PEOPLE
from wasmfn.cluster import NAMESPACE, Kubectl, failure, find_kubectl
from wasmfn.discovery import Platform
from wasmfn.errors import UnreachableError

SCHEME: Final = "kubernetes:"
"""`kubernetes:` is the cluster of the kubeconfig, `kubernetes:CONTEXT` another one in it."""

_READY_S: Final = 15.0
_PORT: Final = re.compile(r"Forwarding from 127\.0\.0\.1:(\d+) ")


def find_in_cluster(url: str) -> Platform:
    """Return the platform in the cluster that `url` names, reachable as long as we run.

    Raises:
        UnreachableError: the cluster, or the platform in it, does not answer.
    """
    return reach(find_kubectl(context=url.removeprefix(SCHEME).strip("/") or None))


def reach(kubectl: Kubectl) -> Platform:
    """Forward a port to the cluster's NATS until this process ends. Errors are of `kubectl`."""
    secret = kubectl.get("secret", "wasmfn-nats", f"--namespace={NAMESPACE}")
    password = base64.b64decode(secret["data"][PEOPLE]).decode("ascii")
    port = _forward(kubectl)
    return Platform(
        nats_url=f"nats://{PEOPLE}:{password}@127.0.0.1:{port}",
        http_url=os.environ.get("WASMFN_HTTP") or _router(kubectl),
    )


def _forward(kubectl: Kubectl) -> int:
    words = ["port-forward", "service/nats", ":4222", f"--namespace={NAMESPACE}"]
    child = subprocess.Popen(  # noqa: S603 - no shell, and its words are ours
        [*kubectl.command, *words, "--address=127.0.0.1"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        # A Ctrl-C is for the command, which ends it then.
        start_new_session=True,
    )
    atexit.register(_end, child)
    assert child.stdout is not None  # noqa: S101 - it is a pipe
    assert child.stderr is not None  # noqa: S101
    by, said = time.monotonic() + _READY_S, b""
    while (left_s := by - time.monotonic()) > 0:
        if not select.select([child.stdout], [], [], left_s)[0]:
            break
        piece = os.read(child.stdout.fileno(), 4096)
        said += piece
        if found := _PORT.search(said.decode(errors="replace")):
            return int(found[1])
        if not piece:
            child.wait()
            raise failure(child.stderr.read().decode(errors="replace"))
    raise UnreachableError(
        f"no port to the cluster's NATS was open within {_READY_S:g} s; `wasmfn status` tells more"
    )


def _end(child: subprocess.Popen[bytes]) -> None:
    child.kill()
    with contextlib.suppress(subprocess.TimeoutExpired):
        child.wait(1)


def _router(kubectl: Kubectl) -> str | None:
    """Return where the router is, as far as that can be told: the API server's host, its NodePort.

    On one node they are the same machine; behind a load balancer WASMFN_HTTP tells.
    """
    service = kubectl.get("service", "router", f"--namespace={NAMESPACE}")
    port = service["spec"]["ports"][0].get("nodePort")
    server = kubectl.run(
        "config", "view", "--minify", "--output=jsonpath={.clusters[0].cluster.server}"
    )
    host = urlsplit(server.strip()).hostname
    if not (host and port):
        return None
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
