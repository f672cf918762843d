"""Pulls the module out of an image reference, by the OCI distribution specification 1.1.

httpx and this file instead of the `oras` library: that one reads manifests
without a bound, verifies no digest, has no time limits, blocks its thread and
takes credentials from whatever the user's Docker configuration holds. The
registry is a stranger's: every body has a size limit and is checked against
its digest, credentials go to their own registry only, and plain HTTP is spoken
only to registries that the operator has listed.
"""

import asyncio
import base64
import hashlib
import re
from collections.abc import Mapping
from fnmatch import fnmatch
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import httpx
import msgspec

from schemas.unreadable import UNREADABLE
from services.builder.errors import Rejected, Unavailable
from services.builder.reference import DOCKER_HUB, Reference, parse
from services.builder.unpack import (
    WASM_LAYERS,
    Config,
    Content,
    Manifest,
    choose,
    decode,
    file_name,
    find_module,
    named_file,
)

ACCEPT: Final = (
    "application/vnd.oci.image.index.v1+json, application/vnd.oci.image.manifest.v1+json, "
    "application/vnd.docker.distribution.manifest.list.v2+json, "
    "application/vnd.docker.distribution.manifest.v2+json"
)
MAX_DOCUMENT_BYTES: Final = 4 * 1024 * 1024
"""Manifests and configurations. 4 MiB is what registries themselves must take."""
MAX_LAYERS: Final = 128
TITLE: Final = "org.opencontainers.image.title"
_CHALLENGE: Final = re.compile(r'([a-zA-Z_]+)="([^"]*)"')


class Policy(msgspec.Struct, frozen=True):
    """What may be pulled, and how."""

    max_bytes: int
    """Of the layers of one image, packed and unpacked."""
    insecure: tuple[str, ...] = ()
    """Registries (host:port patterns) that are spoken to over plain HTTP."""
    allowed: tuple[str, ...] = ("*",)
    """Registries (host:port patterns) that may be asked at all."""
    credentials: Mapping[str, str] = {}
    """`user:password` by registry."""
    timeout_s: float = 120.0
    """For the whole pull."""


class Pulled(msgspec.Struct, frozen=True):
    """A module out of an image."""

    file_name: str
    module: bytes
    digest: str
    """Of the manifest that it came from."""


class _Credential(msgspec.Struct):
    auth: str = ""
    username: str = ""
    password: str = ""


class _DockerConfig(msgspec.Struct):
    auths: dict[str, _Credential] = {}


def credentials_file(setting: str, environ: Mapping[str, str]) -> Path | None:
    """Return the file with the registries' credentials: the setting, or where logins are kept.

    Those are the places of podman and skopeo (REGISTRY_AUTH_FILE) and of docker
    (DOCKER_CONFIG), and only if the environment names them.
    """
    if chosen := setting or environ.get("REGISTRY_AUTH_FILE"):
        return Path(chosen)
    if folder := environ.get("DOCKER_CONFIG"):
        file = Path(folder) / "config.json"
        return file if file.exists() else None
    return None


def read_credentials(file: Path) -> dict[str, str]:
    """Return `user:password` by registry from `file`, in the form of Docker's `config.json`.

    That is also the form of a Kubernetes Secret of type dockerconfigjson.

    Raises:
        ValueError: the file cannot be read or has another form. Its content is not quoted.
    """
    try:
        config = msgspec.json.decode(file.read_bytes(), type=_DockerConfig)
        return {
            # Docker Hub stands there under its historic URL.
            urlsplit(name if "//" in name else f"//{name}").netloc.replace(
                "index.docker.io", DOCKER_HUB
            ): base64.b64decode(entry.auth).decode()
            if entry.auth
            else f"{entry.username}:{entry.password}"
            for name, entry in config.auths.items()
            # Where a credential helper keeps the password, the entry is empty.
            if entry.auth or entry.username
        }
    except OSError as error:
        raise ValueError(f"cannot read {file}: {error.strerror}") from None
    except (ValueError, *UNREADABLE):
        raise ValueError(f"{file} is not a Docker configuration with `auths`") from None


async def pull(text: str, policy: Policy) -> Pulled:
    """Return the module that the image reference `text` names.

    Raises:
        Rejected: no such image, no permission, no module in it, or too large.
        Unavailable: the registry did not answer, or said to come later.
    """
    reference = parse(text)
    if not any(fnmatch(reference.registry, pattern) for pattern in policy.allowed):
        raise Rejected(f"registry {reference.registry} is not one that images are taken from")
    # Blobs are often elsewhere: httpx follows, and leaves credentials behind at another origin.
    # A digest is one of the bytes on the wire, so they must not be recoded on the way.
    async with httpx.AsyncClient(
        follow_redirects=True, timeout=20.0, headers={"Accept-Encoding": "identity"}
    ) as client:
        try:
            async with asyncio.timeout(policy.timeout_s):
                return await _Session(client, reference, policy).pull()
        except TimeoutError:
            raise Unavailable(
                f"pulling {reference} took more than {policy.timeout_s:g} s"
            ) from None
        except httpx.TransportError as error:
            raise Unavailable(
                f"registry {reference.registry} cannot be reached: {error or type(error).__name__}"
            ) from None
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise Rejected(f"registry {reference.registry} answers nonsense: {error}") from None


class _Session:
    """One pull: the client, the token it was given, and the bytes it may still take."""

    def __init__(self, client: httpx.AsyncClient, reference: Reference, policy: Policy) -> None:
        self._client = client
        self._reference = reference
        self._policy = policy
        self._authorization: str | None = None
        insecure = any(fnmatch(reference.registry, pattern) for pattern in policy.insecure)
        self._scheme = "http" if insecure else "https"
        host = "registry-1.docker.io" if reference.registry == DOCKER_HUB else reference.registry
        self._base = f"{self._scheme}://{host}/v2/{reference.repository}"

    async def pull(self) -> Pulled:
        content, digest = await self._manifest(self._reference.target)
        manifest = decode(content, Manifest, "the image's manifest")
        if manifest.manifests:
            entry = choose(manifest)
            content, digest = await self._manifest(entry.digest)
            manifest = decode(content, Manifest, "the image's manifest")
        if manifest.config is None or not manifest.layers:
            raise Rejected(f"{self._reference} is not an image: it has no layers")
        if len(manifest.layers) > MAX_LAYERS:
            raise Rejected(f"{self._reference} has more than {MAX_LAYERS} layers")
        modules = [layer for layer in manifest.layers if layer.media_type in WASM_LAYERS]
        if modules:
            return await self._artifact(modules, digest)
        return await self._image(manifest.config, manifest.layers, digest)

    async def _artifact(self, modules: list[Content], digest: str) -> Pulled:
        if len(modules) > 1:
            raise Rejected(f"{self._reference} holds {len(modules)} modules; one is expected")
        name = modules[0].annotations.get(TITLE) or self._reference.repository + ".wasm"
        return Pulled(file_name(name), await self._blob(modules[0], self._policy.max_bytes), digest)

    async def _image(self, config: Content, layers: list[Content], digest: str) -> Pulled:
        wanted = named_file(
            decode(
                await self._blob(config, MAX_DOCUMENT_BYTES), Config, "the image's configuration"
            )
        )
        parts: list[tuple[str, bytes]] = []
        left = self._policy.max_bytes
        for layer in layers:
            content = await self._blob(layer, left)
            left -= len(content)
            parts.append((layer.media_type, content))
        name, module = await asyncio.to_thread(
            find_module, parts, wanted, max_bytes=self._policy.max_bytes
        )
        return Pulled(name, module, digest)

    async def _manifest(self, target: str) -> tuple[bytes, str]:
        content = await self._get(f"/manifests/{target}", MAX_DOCUMENT_BYTES, {"Accept": ACCEPT})
        digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
        if target.startswith("sha256:") and digest != target:
            raise Rejected(f"the registry's manifest {target} has another digest, {digest}")
        return content, digest

    async def _blob(self, blob: Content, limit: int) -> bytes:
        if blob.size > limit:
            raise Rejected(
                f"the image needs {blob.size} bytes for one part; at most {limit} are taken"
            )
        content = await self._get(f"/blobs/{blob.digest}", blob.size, {})
        if f"sha256:{hashlib.sha256(content).hexdigest()}" != blob.digest:
            raise Rejected(f"the registry's blob {blob.digest} has another content")
        return content

    async def _get(self, path: str, limit: int, headers: dict[str, str]) -> bytes:
        """Return the body at `path`, authenticating once if the registry asks for it."""
        for _ in range(2):
            if self._authorization:
                headers["Authorization"] = self._authorization
            async with self._client.stream("GET", self._base + path, headers=headers) as response:
                if response.status_code == 401 and "Authorization" not in headers:
                    challenge = response.headers.get("WWW-Authenticate", "")
                    self._authorization = await self._authorize(challenge)
                    continue
                self._check(response)
                return await _body(response, limit)
        raise self._refused()

    def _refused(self) -> Rejected:
        known = "with the credentials on file" if self._credential() else "without credentials"
        return Rejected(f"registry {self._reference.registry} refuses {self._reference} {known}")

    def _check(self, response: httpx.Response) -> None:
        status = response.status_code
        if status in (401, 403):
            raise self._refused()
        if status == 404:
            raise Rejected(f"there is no image {self._reference}")
        if status == 429 or status >= 500:
            raise Unavailable(f"registry {self._reference.registry} answers {status}")
        if status != 200:
            raise Rejected(f"registry {self._reference.registry} answers {status}")

    def _credential(self) -> str | None:
        return self._policy.credentials.get(self._reference.registry)

    async def _authorize(self, challenge: str) -> str:
        """Return the Authorization header that answers `challenge`: basic, or a fetched token."""
        credential = self._credential()
        basic = credential and "Basic " + base64.b64encode(credential.encode()).decode()
        scheme, _, rest = challenge.partition(" ")
        if scheme.lower() == "basic" and basic:
            return basic
        if scheme.lower() != "bearer":
            raise self._refused()
        fields = dict(_CHALLENGE.findall(rest))
        realm = fields.get("realm", "")
        # A login may be sent over plain HTTP only where everything else is, too.
        if not realm.startswith(("https://", f"{self._scheme}://")):
            raise self._refused()
        query = {"scope": f"repository:{self._reference.repository}:pull"}
        if "service" in fields:
            query["service"] = fields["service"]
        async with self._client.stream(
            "GET", realm, params=query, headers={"Authorization": basic} if basic else {}
        ) as response:
            self._check(response)
            token = decode(
                await _body(response, MAX_DOCUMENT_BYTES), _Token, "the registry's token"
            )
        return f"Bearer {token.token or token.access_token}"


class _Token(msgspec.Struct):
    token: str = ""
    access_token: str = ""


async def _body(response: httpx.Response, limit: int) -> bytes:
    """Return the body of `response`. Raises Rejected if it has more than `limit` bytes."""
    body = bytearray()
    async for chunk in response.aiter_raw():
        body += chunk
        if len(body) > limit:
            raise Rejected(f"the registry sends more than the {limit} bytes that were agreed")
    return bytes(body)
