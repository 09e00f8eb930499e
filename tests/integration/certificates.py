"""Certificates made on the fly, and etcd's flags for them."""

from __future__ import annotations

import datetime
import ipaddress
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID


@dataclass(frozen=True)
class Certificate:
    """A certificate and its key, as the paths of their files."""

    cert: str
    key: str


class Authority:
    """A CA that issues certificates into a directory."""

    def __init__(self, directory: Path, name: str, *, above: Authority | None = None) -> None:
        """`above`: whose certificate this has; of its own without."""
        self._directory = directory
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = _name(name)
        signer = above or self
        builder = _builder(self._name, signer._name, self._key.public_key()).add_extension(
            x509.BasicConstraints(ca=True, path_length=None), critical=True
        )
        self.cert = _write(
            directory / f"{name}.crt", _pem(builder.sign(signer._key, hashes.SHA256()))
        )

    def issue(self, name: str, *hosts: str, password: bytes = b"") -> Certificate:
        """A certificate for a server at these hosts, and for a client of this name; its key is
        encrypted if there is a password."""
        key = ec.generate_private_key(ec.SECP256R1())
        builder = _builder(_name(name), self._name, key.public_key()).add_extension(
            x509.ExtendedKeyUsage(
                [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
            ),
            critical=False,
        )
        if hosts:
            names = x509.SubjectAlternativeName([_host(host) for host in hosts])
            builder = builder.add_extension(names, critical=False)
        cert = builder.sign(self._key, hashes.SHA256())
        secret = key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(password)
            if password
            else serialization.NoEncryption(),
        )
        return Certificate(
            _write(self._directory / f"{name}.crt", _pem(cert)),
            _write(self._directory / f"{name}.key", secret),
        )


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey
) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.timezone.utc)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(days=1))
    )


def _name(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _host(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _pem(cert: x509.Certificate) -> bytes:
    return cert.public_bytes(serialization.Encoding.PEM)


def _write(path: Path, content: bytes) -> str:
    path.write_bytes(content)
    return str(path)


@dataclass(frozen=True)
class Pki:
    """Who trusts whom: `ca` is the cluster's, `other_ca` a stranger's."""

    ca: str
    other_ca: str
    server: Certificate
    server_elsewhere: Certificate
    client: Certificate
    stranger: Certificate

    @classmethod
    def made_in(cls, directory: Path) -> Pki:
        ours, theirs = Authority(directory, "ca"), Authority(directory, "other-ca")
        return cls(
            ca=ours.cert,
            other_ca=theirs.cert,
            server=ours.issue("server", "127.0.0.1", "localhost"),
            server_elsewhere=ours.issue("elsewhere", "etcd.example"),
            client=ours.issue("client"),
            stranger=theirs.issue("stranger"),
        )


def tls(server: Certificate, *, client_ca: str | None = None) -> list[str]:
    """etcd's flags for TLS; with `client_ca`, for mutual TLS."""
    flags = [f"--cert-file={server.cert}", f"--key-file={server.key}"]
    if client_ca:
        flags += ["--client-cert-auth", f"--trusted-ca-file={client_ca}"]
    return flags
