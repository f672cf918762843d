"""Make the keys and passwords of a cluster that are missing: `python -m wasmfn.clusterkeys`.

It runs as a Job of the manifests, so that `kubectl apply -k` is all that an
installation takes, and neither a repository nor anybody's laptop ever holds a
key. What is there already is left as it is, so that running it again, or
bringing keys of one's own before, is harmless.

Private keys and passwords become Secrets of the system namespace. Public keys
become a ConfigMap there and in the namespace of the keepers.
"""

import base64
import os
import secrets
import ssl
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final

import httpx
import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from services.bus.permissions import USERS

SYSTEM: Final = "wasmfn"
FUNCTIONS: Final = "wasmfn-functions"
PAIRS: Final = ("control", "artifact")
PUBLIC: Final = "wasmfn-keys"
PASSWORDS: Final = "wasmfn-nats"
PASSWORD_OWNERS: Final = (*USERS, "server")
"""The users of NATS, and what its servers present to each other."""

_ACCOUNT: Final = Path("/var/run/secrets/kubernetes.io/serviceaccount")
_TIMEOUT_S: Final = 10.0
_NOT_FOUND: Final = 404
_CONFLICT: Final = 409


class KeysError(Exception):
    """The keys could not be made sure of. The message is for the operator."""


class _Metadata(msgspec.Struct):
    name: str
    resourceVersion: str = ""  # noqa: N815 - the API's word


class _Map(msgspec.Struct):
    """A Secret, whose values are in base64, or a ConfigMap, whose values are not."""

    metadata: _Metadata
    data: dict[str, str] | None = None


class Cluster:
    """The little of the Kubernetes API that this takes."""

    def __init__(self, client: httpx.Client) -> None:
        """Talk through `client`, which knows the server's address and our token."""
        self._client = client

    def complete(
        self, kind: str, namespace: str, name: str, wanted: Mapping[str, str], *, replace: bool
    ) -> dict[str, str]:
        """Have the object hold every key of `wanted`, and return all that it holds then.

        Args:
            kind: `secrets` or `configmaps`.
            namespace: of the object.
            name: of the object.
            wanted: values as the API wants them.
            replace: also change values that differ; otherwise those that are there stand.

        Raises:
            KeysError: the API server does not do it.
        """
        while True:
            found = self._find(kind, namespace, name)
            have = dict(found.data or {}) if found else {}
            put = {k: v for k, v in wanted.items() if k not in have or (replace and have[k] != v)}
            if not put:
                return have
            what = f"{kind[:-1]} {namespace}/{name}"
            body = {
                "metadata": {"name": name, "labels": {"app.kubernetes.io/part-of": "wasmfn"}},
                "data": put,
            }
            path = f"/api/v1/namespaces/{namespace}/{kind}"
            if found is None:
                stored = self._send("POST", path, body)
            else:
                body["metadata"] = {"resourceVersion": found.metadata.resourceVersion}
                stored = self._send("PATCH", f"{path}/{name}", body)
            if stored:
                print(f"{'completed' if found else 'made'} the {what}")  # noqa: T201 - the Job's log
                return have | put
            # Somebody else was faster: look at what they did.

    def _find(self, kind: str, namespace: str, name: str) -> _Map | None:
        answer = self._ask("GET", f"/api/v1/namespaces/{namespace}/{kind}/{name}")
        if answer.status_code == _NOT_FOUND:
            return None
        _check(answer)
        return msgspec.json.decode(answer.content, type=_Map)

    def _send(self, method: str, path: str, body: object) -> bool:
        answer = self._ask(method, path, msgspec.json.encode(body))
        if answer.status_code == _CONFLICT:
            return False
        _check(answer)
        return True

    def _ask(self, method: str, path: str, body: bytes | None = None) -> httpx.Response:
        content = "application/merge-patch+json" if method == "PATCH" else "application/json"
        try:
            return self._client.request(
                method, path, content=body, headers={"content-type": content}
            )
        except httpx.HTTPError as error:
            raise KeysError(f"the API server does not answer: {error}") from error


def ensure(cluster: Cluster) -> None:
    """Make what is missing. Raises KeysError."""
    public = {}
    for pair in PAIRS:
        # Made in vain if there is one already; that costs less than asking twice.
        key = Ed25519PrivateKey.generate().private_bytes_raw().hex()
        have = cluster.complete(
            "secrets", SYSTEM, f"wasmfn-{pair}-key", _encoded({"private": key}), replace=False
        )
        public[f"{pair}.pub"] = _public_of(have["private"], f"wasmfn-{pair}-key")
    passwords = {owner: _password() for owner in PASSWORD_OWNERS}
    cluster.complete("secrets", SYSTEM, PASSWORDS, _encoded(passwords), replace=False)
    for namespace in (SYSTEM, FUNCTIONS):
        cluster.complete("configmaps", namespace, PUBLIC, public, replace=True)


def _password() -> str:
    # nats-server reads it as a word of its configuration: one that begins as a number is none.
    return "p" + secrets.token_hex(24)


def _encoded(values: Mapping[str, str]) -> dict[str, str]:
    return {key: base64.b64encode(value.encode()).decode() for key, value in values.items()}


def _public_of(encoded: str, name: str) -> str:
    try:
        private = bytes.fromhex(base64.b64decode(encoded).decode("ascii").strip())
        key = Ed25519PrivateKey.from_private_bytes(private)
    except ValueError:
        # Not chained: what the parser says may quote the key.
        raise KeysError(
            f"the secret {SYSTEM}/{name} holds no Ed25519 private key in hexadecimal under"
            " `private`; correct or delete it"
        ) from None
    return key.public_key().public_bytes_raw().hex()


def _check(answer: httpx.Response) -> None:
    if answer.is_success:
        return
    try:
        message = msgspec.json.decode(answer.content, type=dict[str, object]).get("message", "")
    except msgspec.DecodeError:
        message = ""
    raise KeysError(f"the API server refused it with {answer.status_code}: {message}")


def in_cluster() -> httpx.Client:
    """Return a client of this pod's API server, as this pod's account. OSError if it has none."""
    host = os.environ.get("KUBERNETES_SERVICE_HOST", "")
    port = os.environ.get("KUBERNETES_SERVICE_PORT", "443")
    token = (_ACCOUNT / "token").read_text("ascii").strip()
    return httpx.Client(
        base_url=f"https://[{host}]:{port}" if ":" in host else f"https://{host}:{port}",
        headers={"authorization": f"Bearer {token}"},
        verify=ssl.create_default_context(cafile=str(_ACCOUNT / "ca.crt")),
        timeout=_TIMEOUT_S,
        trust_env=False,
    )


def main(arguments: Iterable[str]) -> int:
    """Make sure of everything; return the exit code."""
    if list(arguments):
        sys.stderr.write("usage: python -m wasmfn.clusterkeys (in a pod)\n")
        return 2
    try:
        with in_cluster() as client:
            ensure(Cluster(client))
    except (KeysError, OSError) as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
