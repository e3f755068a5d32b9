"""HTTPS as a node serves it: certificates made, configured, renewed, and clients that trust them.

Also virtual-host addressing with names that need no DNS, which is where clients use it: under
`localhost` every name is this machine.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import ssl
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import boto3
import pytest
from boto3.s3.transfer import TransferConfig
from botocore.config import Config
from botocore.exceptions import SSLError
from cryptography import x509

from node import certificates
from tests.support.node import RunningNode, end_node, restart_node, running_node, write_config
from tests.support.stores import free_port, program
from tests.support.waiting import wait_until

BUCKET = "over-tls"
LARGE = os.urandom(20 << 20)


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningNode]:
    """One that makes its certificate because `forebay serve --https` asks for it."""
    directory = tmp_path_factory.mktemp("https")
    settings = {"https_port": 0, "domain": "localhost", "header_timeout_s": 2}
    config = write_config(directory, {"mount": None, "node": {"gateways": 1}, "s3": settings})
    node = restart_node(directory, config, "--https")
    with contextlib.ExitStack() as stack:
        stack.callback(end_node, node)
        client(node, verify=str(node.certificate)).create_bucket(Bucket=BUCKET)
        yield node


def client(node: RunningNode, endpoint: str = "", style: Any = "path", **arguments: Any) -> Any:
    make: Any = boto3.client
    return make(
        "s3",
        endpoint_url=endpoint or node.https_endpoint,
        aws_access_key_id="me",
        aws_secret_access_key="any",
        region_name="us-east-1",
        config=Config(s3={"addressing_style": style}, retries={"max_attempts": 1}),
        **arguments,
    )


def served(endpoint: str) -> x509.Certificate:
    """The certificate that a connection gets now."""
    parts = urlsplit(endpoint)
    assert parts.hostname is not None
    assert parts.port is not None
    pem = ssl.get_server_certificate((parts.hostname, parts.port), timeout=100)
    return x509.load_pem_x509_certificate(pem.encode())


# ----------------------------------------------------------------------------------------- clients


def test_boto3_trusts_the_node_s_file(node: RunningNode) -> None:
    s3 = client(node, verify=str(node.certificate))
    config = TransferConfig(multipart_threshold=8 << 20, max_concurrency=8)
    file = node.directory / "large"
    file.write_bytes(LARGE)
    s3.upload_file(str(file), BUCKET, "large", Config=config)
    s3.download_file(BUCKET, "large", str(file), Config=config)
    assert file.read_bytes() == LARGE
    part = s3.get_object(Bucket=BUCKET, Key="large", Range="bytes=7000001-9000000")
    assert part["Body"].read() == LARGE[7_000_001:9_000_001]


def test_boto3_trusts_anybody_or_nobody(node: RunningNode) -> None:
    with pytest.warns(Warning, match="Unverified"):
        assert client(node, verify=False).list_buckets()["Buckets"]
    with pytest.raises(SSLError):
        client(node).list_buckets()


def test_curl_trusts_as_it_is_told(node: RunningNode) -> None:
    def curl(*options: str | Path) -> subprocess.CompletedProcess[str]:
        header = "Authorization: AWS4-HMAC-SHA256 Credential=me/x"
        command = [program("curl"), "--silent", "--fail", "-H", header, *options]
        return subprocess.run(
            [*command, f"{node.https_endpoint}/{BUCKET}"],
            capture_output=True,
            text=True,
            timeout=200,
            check=False,
        )

    assert BUCKET in curl("--cacert", node.certificate).stdout
    assert BUCKET in curl("-k").stdout
    assert curl().returncode == 60  # the certificate is not trusted


def test_readers_of_one_object_do_not_get_in_each_other_s_way(node: RunningNode) -> None:
    s3 = client(node, verify=str(node.certificate))
    s3.put_object(Bucket=BUCKET, Key="shared", Body=LARGE)

    def read(number: int) -> bool:
        start = number * 300_000
        found = s3.get_object(Bucket=BUCKET, Key="shared", Range=f"bytes={start}-")
        return bool(found["Body"].read() == LARGE[start:])

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(read, range(12)))


@pytest.mark.parametrize("secure", [True, False])
def test_boto3_puts_the_bucket_into_the_host(
    node: RunningNode, secure: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    resolve = socket.getaddrinfo

    def resolve_localhost(host: str, *arguments: Any, **named: Any) -> Any:
        """As RFC 6761 wants it, and many resolvers do."""
        return resolve("127.0.0.1" if host.endswith(".localhost") else host, *arguments, **named)

    monkeypatch.setattr(socket, "getaddrinfo", resolve_localhost)
    endpoint = node.https_endpoint if secure else node.endpoint
    endpoint = endpoint.replace("127.0.0.1", "localhost")
    s3 = client(node, endpoint, "virtual", verify=str(node.certificate))
    seen: list[str] = []
    s3.meta.events.register("before-send.s3", lambda request, **_: seen.append(request.url))
    s3.create_bucket(Bucket="by-host")
    s3.put_object(Bucket="by-host", Key="a/b c", Body=b"there")
    assert s3.get_object(Bucket="by-host", Key="a/b c")["Body"].read() == b"there"
    assert [each["Key"] for each in s3.list_objects_v2(Bucket="by-host")["Contents"]] == ["a/b c"]
    s3.delete_object(Bucket="by-host", Key="a/b c")
    s3.delete_bucket(Bucket="by-host")
    assert all("//by-host.localhost:" in url for url in seen), seen


# ------------------------------------------------------------------------------------ the transport


def test_plain_http_is_served_beside(node: RunningNode) -> None:
    assert client(node, node.endpoint).list_buckets()["Buckets"]


def test_old_versions_of_tls_are_refused(node: RunningNode) -> None:
    parts = urlsplit(node.https_endpoint)
    for version, accepted in (
        (ssl.TLSVersion.TLSv1_1, False),
        (ssl.TLSVersion.TLSv1_2, True),
        (ssl.TLSVersion.TLSv1_3, True),
    ):
        context = ssl.create_default_context(cafile=str(node.certificate))
        context.set_ciphers("DEFAULT@SECLEVEL=0")
        with (
            pytest.warns(DeprecationWarning, match="TLSv1_1")
            if not accepted
            else contextlib.nullcontext()
        ):
            context.minimum_version = context.maximum_version = version
        with socket.create_connection((parts.hostname, parts.port), timeout=100) as raw:
            outcome = contextlib.nullcontext() if accepted else pytest.raises(ssl.SSLError)
            with outcome, context.wrap_socket(raw, server_hostname="localhost") as tls:
                assert tls.version() == version.name.replace("_", ".")


@pytest.mark.parametrize("wire", [b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"", b"\x16\x03\x01"])
def test_what_is_no_handshake_is_cut_off(node: RunningNode, wire: bytes) -> None:
    parts = urlsplit(node.https_endpoint)
    with socket.create_connection((parts.hostname, parts.port), timeout=100) as raw:
        raw.sendall(wire)
        with contextlib.suppress(ConnectionResetError):
            while raw.recv(4096):
                pass
    assert client(node, verify=str(node.certificate)).list_buckets()["Buckets"]


# ---------------------------------------------------------------------------------- the certificate


def test_a_certificate_made_here(node: RunningNode) -> None:
    found = served(node.https_endpoint)
    names = found.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert {"localhost", "*.localhost"} <= set(names.get_values_for_type(x509.DNSName))
    key = node.certificate.with_name("key.pem")
    assert key.stat().st_mode & 0o777 == 0o600
    assert found == x509.load_pem_x509_certificate(node.certificate.read_bytes())


def test_https_only_with_a_certificate_that_is_renewed(tmp_path: Path) -> None:
    certificate, key = tmp_path / "c.pem", tmp_path / "k.pem"
    certificates.make(certificate, key, ["localhost", "127.0.0.1"])
    plain_port = free_port()
    settings = {
        "https_only": True,
        "https_port": 0,
        "port": plain_port,
        "tls_certificate": str(certificate),
        "tls_key": str(key),
    }
    with running_node(tmp_path, mount=None, node={"gateways": 1}, s3=settings) as node:
        assert node.endpoint == node.https_endpoint
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", plain_port), timeout=100)
        assert client(node, verify=str(certificate)).list_buckets()["Buckets"] == []
        first = served(node.endpoint)

        # Half of a renewal is not taken.
        certificates.make(tmp_path / "c2.pem", tmp_path / "k2.pem", ["localhost", "127.0.0.1"])
        shutil.move(tmp_path / "c2.pem", certificate)
        wait_until(lambda: "is not taken" in node.log)
        assert served(node.endpoint) == first
        shutil.move(tmp_path / "k2.pem", key)
        wait_until(lambda: served(node.endpoint) != first)
        assert client(node, verify=str(certificate)).list_buckets()["Buckets"] == []


def test_a_certificate_is_made_anew_when_it_is_about_to_expire_or_names_another_host(
    tmp_path: Path,
) -> None:
    certificate, key = tmp_path / "certificate.pem", tmp_path / "key.pem"
    certificates.make(certificate, key, ["localhost"])
    assert certificates.is_good(certificate, ["localhost"])
    assert not certificates.is_good(certificate, ["localhost", "other"])
    expires = x509.load_pem_x509_certificate(certificate.read_bytes()).not_valid_after_utc
    soon = expires - certificates.RENEWED_BEFORE
    assert not certificates.is_good(certificate, ["localhost"], now=soon)


def test_a_certificate_that_cannot_be_used_is_a_mistake(tmp_path: Path) -> None:
    for name in ("absent.pem", "garbage.pem"):
        (tmp_path / "garbage.pem").write_text("no certificate")
        settings = {"tls_certificate": str(tmp_path / name), "tls_key": str(tmp_path / name)}
        config = write_config(tmp_path, {"mount": None, "s3": settings})
        done = subprocess.run(
            [program("forebay"), "serve", "--config", config],
            capture_output=True,
            text=True,
            timeout=200,
            check=False,
        )
        assert done.returncode == 3
        assert "s3.tls_certificate" in done.stderr
