"""A bus behind TLS, and users who prove themselves without sending a secret."""

import datetime
import ipaddress
from pathlib import Path

import nkeys
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from services.bus.connection import BusSettings, connect
from services.bus.errors import BusError


class Authority:
    """A certificate authority of the test's own, in a directory."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir()
        self.directory = directory
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, directory.name)])
        self.file = directory / "ca.pem"
        self.file.write_bytes(self._sign(self._name, self._key, ca=True, host="127.0.0.1"))

    def issue(self, name: str, host: str = "127.0.0.1") -> tuple[Path, Path]:
        """Return the files of a certificate and of its key."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        certificate, private = self.directory / f"{name}.pem", self.directory / f"{name}.key"
        certificate.write_bytes(self._sign(subject, key, ca=False, host=host))
        private.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
        )
        return certificate, private

    def _sign(
        self, subject: x509.Name, key: ec.EllipticCurvePrivateKey, *, ca: bool, host: str
    ) -> bytes:
        now = datetime.datetime.now(datetime.UTC)
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(days=1))
            .not_valid_after(now + datetime.timedelta(days=1))
            .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
            .add_extension(
                x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(host))]),
                critical=False,
            )
        )
        certificate = builder.sign(self._key, hashes.SHA256())
        return certificate.public_bytes(serialization.Encoding.PEM)


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "ours")


@pytest.fixture
def make_tls_server(make_nats_server, authority):
    def make(more: str = "", host: str = "127.0.0.1", users: str = ""):
        certificate, key = authority.issue("server", host)
        tls = f'tls {{ cert_file: "{certificate}"; key_file: "{key}"; {more} }}\n'
        return make_nats_server(config=tls + users)

    return make


async def says(settings: BusSettings) -> str:
    """Return an answer that came over the bus."""
    async with connect(settings, "test") as bus:

        async def answer(message):
            await message.respond(b"yes")

        await bus.nc.subscribe("question", cb=answer)
        reply = await bus.nc.request("question", b"?", timeout=10)
        return reply.data.decode()


async def test_the_bus_speaks_tls_with_whom_the_authority_vouches_for(make_tls_server, authority):
    server = make_tls_server()
    assert await says(BusSettings(nats_url=server.url, nats_ca_file=str(authority.file))) == "yes"


@pytest.mark.parametrize("whose", ["another authority", "another name", "no tls at all"])
async def test_a_server_that_cannot_prove_who_it_is_is_told_nothing(
    make_tls_server, make_nats_server, authority, tmp_path, whose
):
    if whose == "no tls at all":
        server = make_nats_server()
    else:
        server = make_tls_server(host="127.0.0.2" if whose == "another name" else "127.0.0.1")
    trusted = Authority(tmp_path / "theirs") if whose == "another authority" else authority
    settings = BusSettings(nats_url=server.url, nats_ca_file=str(trusted.file), nats_wait_s=1.0)
    with pytest.raises(BusError):
        await says(settings)


async def test_a_server_may_ask_for_our_certificate(make_tls_server, authority):
    server = make_tls_server(f'ca_file: "{authority.file}"; verify: true')
    certificate, key = authority.issue("client")
    known = BusSettings(
        nats_url=server.url, nats_ca_file=str(authority.file), nats_wait_s=1.0,
        nats_cert_file=str(certificate), nats_cert_key_file=str(key),
    )  # fmt: skip
    assert await says(known) == "yes"
    with pytest.raises(BusError):
        await says(
            BusSettings(nats_url=server.url, nats_ca_file=str(authority.file), nats_wait_s=1.0)
        )


async def test_certificates_that_are_none_are_one_sentence(tmp_path):
    (tmp_path / "ca.pem").write_text("none")
    for name in ("ca.pem", "missing.pem"):
        with pytest.raises(BusError, match="certificates of NATS"):
            await says(BusSettings(nats_ca_file=str(tmp_path / name)))


def user(seed_file: Path) -> str:
    """Make a user's nkey, write its seed, and return its public key."""
    seed = nkeys.encode_seed(seed_file.name.ljust(32, "x").encode()[:32], nkeys.PREFIX_BYTE_USER)
    seed_file.write_bytes(seed)
    return nkeys.from_seed(bytearray(seed)).public_key.decode()


async def test_a_user_proves_itself_with_its_nkey_over_tls(make_tls_server, authority, tmp_path):
    known, stranger = tmp_path / "known.nk", tmp_path / "stranger.nk"
    users = f"authorization {{ users: [{{ nkey: {user(known)} }}] }}"
    user(stranger)
    server = make_tls_server(users=users)
    common = {"nats_url": server.url, "nats_ca_file": str(authority.file), "nats_wait_s": 1.0}
    assert await says(BusSettings(**common, nats_nkey_file=str(known))) == "yes"
    for seed in (str(stranger), ""):
        with pytest.raises(BusError, match=r"(?i)authorization"):
            await says(BusSettings(**common, nats_nkey_file=seed))
    with pytest.raises(BusError, match="there is no file"):
        await says(BusSettings(**common, nats_nkey_file=str(tmp_path / "none.nk")))
