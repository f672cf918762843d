"""Pulling from Debian's real registry, and from a small server that does what registries may do."""

import asyncio
import base64
import gzip
import json
import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address
from pathlib import Path

import httpx
import msgspec
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from services.builder.errors import Rejected, Unavailable
from services.builder.layout import INDEX_TYPE, MANIFEST_TYPE
from services.builder.registry import Policy, credentials_file, pull, read_credentials
from tests.services.builder.fake_registry import IMAGE, MODULE, FakeRegistry, manifest_of, serving

POLICY = Policy(max_bytes=1 << 20, insecure=("127.0.0.1:*",), timeout_s=20.0)


def policy(**changes) -> Policy:
    return msgspec.structs.replace(POLICY, **changes)


async def refusal(reference: str, using: Policy = POLICY) -> str:
    with pytest.raises(Rejected) as caught:
        await pull(reference, using)
    return str(caught.value)


# --- Debian's docker-registry ---


@pytest.fixture(scope="module")
def debian_registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a real registry with `sort:1` in it."""
    if not shutil.which("docker-registry"):
        pytest.skip("needs Debian's docker-registry")
    directory = tmp_path_factory.mktemp("registry")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    (directory / "config.yml").write_text(
        f"version: 0.1\nlog: {{level: error}}\nhttp: {{addr: '{address}'}}\n"
        f"storage: {{filesystem: {{rootdirectory: '{directory}/data'}}}}\n"
    )
    process = subprocess.Popen(
        ["docker-registry", "serve", directory / "config.yml"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={"PATH": os.environ["PATH"], "OTEL_TRACES_EXPORTER": "none"},
    )
    try:
        with httpx.Client(
            transport=httpx.HTTPTransport(retries=8), base_url=f"http://{address}"
        ) as c:
            for digest, content in IMAGE.blobs.items():
                if digest != IMAGE.manifest.digest:
                    upload = c.post("/v2/you/sort/blobs/uploads/").headers["Location"]
                    mark = "&" if "?" in upload else "?"
                    c.put(f"{upload}{mark}digest={digest}", content=content).raise_for_status()
            c.put(
                "/v2/you/sort/manifests/1",
                content=manifest_of(),
                headers={"Content-Type": MANIFEST_TYPE},
            ).raise_for_status()
        yield address
    finally:
        process.terminate()
        process.wait()


async def test_a_module_is_pulled_from_a_real_registry_by_tag_and_by_digest(debian_registry: str):
    for target in (":1", f"@{IMAGE.manifest.digest}"):
        pulled = await pull(f"{debian_registry}/you/sort{target}", POLICY)
        assert (pulled.file_name, pulled.module) == ("sort.wasm", MODULE)
        assert pulled.digest == IMAGE.manifest.digest


async def test_a_tag_or_image_that_a_real_registry_lacks_is_named(debian_registry: str):
    for name in ("you/sort:2", "you/nothing:latest"):
        said = await refusal(f"{debian_registry}/{name}")
        assert said == f"there is no image {debian_registry}/{name}"


# --- a registry of the test's own ---


BEARER = 'Bearer realm="HEREtoken",service="s",scope="ignored"'


async def test_a_bearer_token_is_fetched_with_the_credentials_on_file(registry):
    fake, reference = registry
    fake.login, fake.challenge = "me:s3cret", BEARER
    using = policy(credentials={reference.partition("/")[0]: "me:s3cret"})
    assert (await pull(reference, using)).module == MODULE
    assert sum(line.startswith("/token") for line in fake.asked) == 1


async def test_basic_authentication_is_answered(registry):
    fake, reference = registry
    fake.login, fake.challenge = "me:s3cret", 'Basic realm="x"'
    using = policy(credentials={reference.partition("/")[0]: "me:s3cret"})
    assert (await pull(reference, using)).module == MODULE


@pytest.mark.parametrize("challenge", [BEARER, 'Basic realm="x"', "Digest x", "Bearer realm="])
async def test_a_registry_that_wants_a_login_says_so_without_the_secret(registry, challenge):
    fake, reference = registry
    fake.login, fake.challenge = "me:s3cret", challenge
    assert "without credentials" in await refusal(reference)
    using = policy(credentials={reference.partition("/")[0]: "me:wr0ng"})
    said = await refusal(reference, using)
    assert "wr0ng" not in said


async def test_credentials_do_not_follow_a_redirect_to_another_host(registry):
    fake, reference = registry
    fake.login, fake.challenge = "me:s3cret", 'Basic realm="x"'
    other = FakeRegistry()
    async with serving(other.app()) as elsewhere:
        fake.elsewhere = f"http://{elsewhere}"
        using = policy(credentials={reference.partition("/")[0]: "me:s3cret"})
        assert (await pull(reference, using)).module == MODULE
    assert other.asked
    assert all(line.endswith(" ") for line in other.asked)


async def test_of_an_index_the_wasm_image_is_pulled(registry):
    fake, reference = registry
    other = fake.add(b"{}") | {"platform": {"os": "linux", "architecture": "amd64"}}
    ours = fake.add(manifest_of()) | {"platform": {"os": "wasip1", "architecture": "wasm"}}
    index = {"schemaVersion": 2, "mediaType": INDEX_TYPE, "manifests": [other, ours]}
    fake.manifests["1"] = json.dumps(index).encode()
    assert (await pull(reference, POLICY)).module == MODULE


@pytest.mark.parametrize("title", ["sort.wasm", None])
async def test_an_artifact_whose_layer_is_the_module_is_pulled(registry, title):
    fake, reference = registry
    layer = fake.add(MODULE) | {"mediaType": "application/wasm"}
    if title:
        layer["annotations"] = {"org.opencontainers.image.title": title}
    document = {"schemaVersion": 2, "config": fake.add(b"{}"), "layers": [layer]}
    fake.manifests["1"] = json.dumps(document).encode()
    pulled = await pull(reference, POLICY)
    assert (pulled.file_name, pulled.module) == ("sort.wasm", MODULE)


async def test_upstreams_shell_string_entrypoint_is_understood(registry):
    fake, reference = registry
    document = json.loads(manifest_of())
    words = {"Entrypoint": ["/bin/sh", "-c", '= ["sort.wasm"]']}
    document["config"] = fake.add(json.dumps({"config": words}).encode())
    fake.manifests["1"] = json.dumps(document).encode()
    assert (await pull(reference, POLICY)).file_name == "sort.wasm"


async def test_a_blob_with_another_content_is_refused(registry):
    fake, reference = registry
    layer = json.loads(manifest_of())["layers"][0]
    fake.blobs[layer["digest"]] = b"x" * layer["size"]
    assert "has another content" in await refusal(reference)


async def test_a_manifest_with_another_digest_is_refused(registry):
    fake, reference = registry
    digest = "sha256:" + "1" * 64
    fake.manifests[digest] = manifest_of()
    assert "has another digest" in await refusal(reference.replace(":1", f"@{digest}"))


async def test_what_is_larger_than_announced_or_allowed_is_not_read_on(registry):
    fake, reference = registry
    layer = json.loads(manifest_of())["layers"][0]
    fake.blobs[layer["digest"]] += b"more"
    assert "sends more than" in await refusal(reference)
    assert "at most 9 are taken" in await refusal(reference, policy(max_bytes=9))
    fake.manifests["1"] = b" " * (5 << 20)
    assert "sends more than" in await refusal(reference)


@pytest.mark.parametrize("document", [b"", b"[]", b'{"layers":[]}', gzip.compress(b"{}", mtime=0)])
async def test_a_manifest_that_is_none_is_refused(registry, document):
    fake, reference = registry
    fake.manifests["1"] = document
    said = await refusal(reference)
    assert "the image's manifest is not" in said or "is not an image" in said


@pytest.mark.parametrize("status", [429, 500, 503])
async def test_a_registry_in_trouble_is_a_reason_to_wait(registry, status):
    fake, reference = registry
    fake.status = status
    with pytest.raises(Unavailable, match=f"answers {status}"):
        await pull(reference, POLICY)


async def test_nobody_there_is_a_reason_to_wait():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        reference = f"127.0.0.1:{taken.getsockname()[1]}/you/sort"
        with pytest.raises(Unavailable, match="cannot be reached"):
            await pull(reference, POLICY)


async def test_a_registry_that_falls_silent_is_a_reason_to_wait():
    async def never(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    server = await asyncio.start_server(never, "127.0.0.1", 0)
    async with server:
        reference = f"127.0.0.1:{server.sockets[0].getsockname()[1]}/you/sort"
        with pytest.raises(Unavailable, match=r"took more than 0\.2 s"):
            await pull(reference, policy(timeout_s=0.2))


async def test_only_allowed_registries_are_asked():
    said = await refusal("169.254.169.254/a/b", policy(allowed=("ghcr.io", "docker.io")))
    assert said == "registry 169.254.169.254 is not one that images are taken from"


@pytest.fixture
def certificate(tmp_path: Path) -> tuple[str, str]:
    """Certificate and key files for 127.0.0.1, signed by itself."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "test")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(IPv4Address("127.0.0.1"))]), critical=False
        )
        .sign(key, hashes.SHA256())
    )
    (tmp_path / "cert.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    (tmp_path / "key.pem").write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return str(tmp_path / "cert.pem"), str(tmp_path / "key.pem")


# asyncio leaks the server's side of a handshake that the client breaks off (fixed in 3.12).
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
async def test_https_is_spoken_and_the_certificate_checked(certificate, monkeypatch):
    cert, key = certificate
    async with serving(FakeRegistry().app(), ssl_certfile=cert, ssl_keyfile=key) as address:
        with pytest.raises(Unavailable, match="certificate"):
            await pull(f"{address}/you/sort:1", policy(insecure=()))
        monkeypatch.setenv("SSL_CERT_FILE", cert)
        assert (await pull(f"{address}/you/sort:1", policy(insecure=()))).module == MODULE


def test_credentials_are_read_from_a_docker_configuration(tmp_path: Path):
    file = tmp_path / "config.json"
    auth = base64.b64encode(b"me:pw").decode()
    hub = "https://index.docker.io/v1/"
    file.write_text(
        json.dumps(
            {
                "auths": {
                    hub: {"auth": auth},
                    "r:5000": {"username": "u", "password": "p"},
                    "helped": {},
                },
                "credsStore": "desktop",
            }
        )
    )
    assert read_credentials(file) == {"docker.io": "me:pw", "r:5000": "u:p"}


def test_credentials_are_looked_for_where_logins_are_kept(tmp_path: Path):
    (tmp_path / "config.json").write_text("{}")
    docker = {"DOCKER_CONFIG": str(tmp_path)}
    podman = {"REGISTRY_AUTH_FILE": "/run/auth.json"}
    assert credentials_file("", {}) is None
    assert credentials_file("", {"DOCKER_CONFIG": "/nowhere"}) is None
    assert credentials_file("", docker) == tmp_path / "config.json"
    assert credentials_file("", docker | podman) == Path("/run/auth.json")
    assert credentials_file("/etc/auth.json", docker | podman) == Path("/etc/auth.json")


def test_a_credentials_file_that_cannot_be_used_is_named_and_not_quoted(tmp_path: Path):
    file = tmp_path / "config.json"
    with pytest.raises(ValueError, match="cannot read"):
        read_credentials(file)
    for text in ('{"auths": "s3cret"}', '{"auths": {"r": {"auth": "s3cret"}}}'):
        file.write_text(text)
        with pytest.raises(ValueError, match="is not a Docker configuration") as caught:
            read_credentials(file)
        assert "s3cret" not in str(caught.value)
