"""Keys and certificates of the cluster, made afresh for each run."""

import datetime
import ipaddress
import json
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from tests.cluster.lab import paths

CA = paths.PKI / "ca.crt"


class Authority:
    """The cluster's certificate authority; its key stays in memory."""

    def __init__(self) -> None:
        paths.PKI.mkdir(parents=True, mode=0o700)
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = _name("lab-ca")
        root = (
            _certificate(self._name, self._name, self._key.public_key())
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .sign(self._key, hashes.SHA256())
        )
        CA.write_bytes(root.public_bytes(serialization.Encoding.PEM))

    def serve(self, file: str, common_name: str, names: list[str]) -> None:
        """Write FILE.crt and FILE.key for a server of these host names and addresses."""
        alternatives = x509.SubjectAlternativeName([_general_name(name) for name in names])
        self._issue(file, _name(common_name), ExtendedKeyUsageOID.SERVER_AUTH, alternatives)

    def identify(self, file: str, common_name: str, group: str = "") -> None:
        """Write FILE.crt and FILE.key for a client that Kubernetes knows as this user and group."""
        self._issue(file, _name(common_name, group), ExtendedKeyUsageOID.CLIENT_AUTH, None)

    def _issue(
        self,
        file: str,
        subject: x509.Name,
        usage: x509.ObjectIdentifier,
        alternatives: x509.SubjectAlternativeName | None,
    ) -> None:
        key = ec.generate_private_key(ec.SECP256R1())
        builder = _certificate(subject, self._name, key.public_key()).add_extension(
            x509.ExtendedKeyUsage([usage]), critical=False
        )
        if alternatives:
            builder = builder.add_extension(alternatives, critical=False)
        certificate = builder.sign(self._key, hashes.SHA256())
        (paths.PKI / f"{file}.crt").write_bytes(
            certificate.public_bytes(serialization.Encoding.PEM)
        )
        write_key(paths.PKI / f"{file}.key", key)


def write_key(path: Path, key: ec.EllipticCurvePrivateKey) -> None:
    path.touch(mode=0o600)
    path.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.TraditionalOpenSSL,
            serialization.NoEncryption(),
        )
    )


def write_service_account_key() -> tuple[Path, Path]:
    """Write the key pair that signs the tokens of service accounts: private, public."""
    private, public = paths.PKI / "accounts.key", paths.PKI / "accounts.pub"
    key = ec.generate_private_key(ec.SECP256R1())
    write_key(private, key)
    public.write_bytes(
        key.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
    )
    return private, public


def write_kubeconfig(file: str, server: str) -> Path:
    """Write FILE.kubeconfig for the client whose certificate is FILE.crt."""
    user = {
        "client-certificate": str(paths.PKI / f"{file}.crt"),
        "client-key": str(paths.PKI / f"{file}.key"),
    }
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [
            {"name": "lab", "cluster": {"server": server, "certificate-authority": str(CA)}}
        ],
        "users": [{"name": file, "user": user}],
        "contexts": [{"name": "lab", "context": {"cluster": "lab", "user": file}}],
        "current-context": "lab",
    }
    path = paths.PKI / f"{file}.kubeconfig"
    path.write_text(json.dumps(config, indent=2))
    return path


def _certificate(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey
) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        # Clocks of one machine agree; the hour is for those who set theirs back in a test.
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(days=30))
    )


def _name(common_name: str, group: str = "") -> x509.Name:
    parts = [x509.NameAttribute(NameOID.COMMON_NAME, common_name)]
    if group:
        parts.insert(0, x509.NameAttribute(NameOID.ORGANIZATION_NAME, group))
    return x509.Name(parts)


def _general_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)
