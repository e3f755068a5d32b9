"""The certificate that HTTPS is served with: the configured one, or one that the node makes.

A certificate of our own making is its own authority, so that a client can be told to trust that one
file (boto3's verify=FILE, curl's --cacert). It names this machine and is made anew, before the node
serves, when it is about to expire or names something else than it should. Blocking.
"""

from __future__ import annotations

import ipaddress
import os
import socket
import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from node.config import NodeConfig
from node.errors import ExitCode, OperatorError

_VALID_FOR = timedelta(days=397)
RENEWED_BEFORE = timedelta(days=30)


def find(config: NodeConfig) -> tuple[Path, Path]:
    """Files of the certificate and its key. OperatorError if they cannot be used."""
    s3 = config.s3
    if s3.tls_certificate is None or s3.tls_key is None:
        return _self_signed(config)
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(s3.tls_certificate, s3.tls_key)
    except OSError as exc:
        raise OperatorError(
            f"cannot serve HTTPS with s3.tls_certificate {s3.tls_certificate} and s3.tls_key "
            f"{s3.tls_key}: {exc.strerror or exc}",
            ExitCode.CONFIGURATION,
        ) from exc
    return s3.tls_certificate, s3.tls_key


def _self_signed(config: NodeConfig) -> tuple[Path, Path]:
    directory = config.cache.state_dir / "tls"
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    certificate, key = directory / "certificate.pem", directory / "key.pem"
    names = _names(config)
    if not (certificate.exists() and key.exists() and is_good(certificate, names)):
        make(certificate, key, names)
    return certificate, key


def _names(config: NodeConfig) -> list[str]:
    """Names and addresses that clients may know this node by."""
    names = ["localhost", "*.localhost", "127.0.0.1", "::1", socket.gethostname()]
    if config.s3.domain is not None:
        names += [config.s3.domain, f"*.{config.s3.domain}"]
    if config.s3.address not in ("", "0.0.0.0", "::"):  # noqa: S104 - not bound to
        names.append(config.s3.address)
    return list(dict.fromkeys(names))


def is_good(certificate: Path, names: list[str], now: datetime | None = None) -> bool:
    """Whether a certificate of our own making names just these, and lasts for a while."""
    from cryptography import x509

    found = x509.load_pem_x509_certificate(certificate.read_bytes())
    named = found.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    wanted = x509.SubjectAlternativeName([_general_name(name) for name in names])
    return (
        named == wanted and found.not_valid_after_utc - (now or datetime.now(UTC)) > RENEWED_BEFORE
    )


def _general_name(name: str) -> Any:
    from cryptography import x509

    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def make(certificate: Path, key: Path, names: list[str]) -> None:
    """Write a new key, and a certificate of it for these names that is its own authority."""
    # Here, since it takes a while to load and most nodes never need it.
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

    private = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Forebay, self-signed")])
    now = datetime.now(UTC)
    usage = x509.KeyUsage(
        digital_signature=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=True,
        crl_sign=False,
        encipher_only=False,
        decipher_only=False,
    )
    public = private.public_key()
    signed = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + _VALID_FOR)
        .add_extension(x509.SubjectAlternativeName([_general_name(n) for n in names]), False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), True)
        .add_extension(usage, True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), False)
        .sign(private, hashes.SHA256())
    )
    _write(
        key,
        private.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        ),
        0o600,
    )
    _write(certificate, signed.public_bytes(serialization.Encoding.PEM), 0o644)


def _write(path: Path, content: bytes, mode: int) -> None:
    """Replace the file, never readable for more than `mode` allows."""
    new = path.with_suffix(".new")
    new.unlink(missing_ok=True)
    descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    new.replace(path)
