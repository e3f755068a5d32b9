"""A gateway behind nginx: with bodies passed on as they arrive, and collected first.

Signatures cover the Host header and the raw path, so both must come through as they were sent.
"""

from __future__ import annotations

import dataclasses
import http.client
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3.s3.transfer
import pytest
import requests

from s3api.sigv4 import STREAMING_SIGNED, STREAMING_UNSIGNED_TRAILER
from tests.support.balancer import balancer, requires_nginx
from tests.support.s3 import Door, serving
from tests.support.streaming import streaming_body

pytestmark = requires_nginx

MIB = 1 << 20
BUCKET = "bucket"


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Door]:
    with serving(tmp_path_factory.mktemp("node"), access_log="off") as door:
        door.client().create_bucket(Bucket=BUCKET)
        yield door


@pytest.fixture(scope="module")
def ports(node: Door, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, int]]:
    with balancer(tmp_path_factory.mktemp("nginx") / "nginx", node.port) as ports:
        yield ports


@pytest.fixture(params=["streaming", "collecting"])
def door(request: pytest.FixtureRequest, node: Door, ports: dict[str, int]) -> Door:
    """The node, as clients of the balancer see it."""
    return dataclasses.replace(node, port=ports[request.param])


@pytest.fixture
def client(door: Door) -> Any:
    return door.client()


@pytest.mark.parametrize("key", ["plain", "a//b", "ö %2F+?&=#", "./x", "dir/", "~-._!*'()"])
def test_keys_come_through_as_they_are(client: Any, key: str) -> None:
    body = b"" if key.endswith("/") else key.encode()
    client.put_object(Bucket=BUCKET, Key=key, Body=body, Metadata={"a": "b"})
    assert client.get_object(Bucket=BUCKET, Key=key)["Body"].read() == body
    assert client.head_object(Bucket=BUCKET, Key=key)["Metadata"] == {"a": "b"}
    listed = client.list_objects_v2(Bucket=BUCKET, Prefix=key)["Contents"]
    assert [each["Key"] for each in listed] == [key]
    client.delete_objects(Bucket=BUCKET, Delete={"Objects": [{"Key": key}]})


def test_a_large_body_up_and_down(client: Any) -> None:
    body = os.urandom(40 * MIB)
    put = client.put_object(Bucket=BUCKET, Key="large", Body=body, ChecksumAlgorithm="SHA256")
    got = client.get_object(Bucket=BUCKET, Key="large", ChecksumMode="ENABLED")
    assert got["ChecksumSHA256"] == put["ChecksumSHA256"]
    assert got["Body"].read() == body
    ranged = client.get_object(Bucket=BUCKET, Key="large", Range=f"bytes={17 * MIB}-")
    assert ranged["ResponseMetadata"]["HTTPStatusCode"] == 206
    assert ranged["Body"].read() == body[17 * MIB :]


def test_parts_at_the_same_time(client: Any, tmp_path: Path) -> None:
    source, copy = tmp_path / "source", tmp_path / "copy"
    source.write_bytes(os.urandom(24 * MIB))
    how = boto3.s3.transfer.TransferConfig(multipart_threshold=5 * MIB, multipart_chunksize=5 * MIB)
    client.upload_file(str(source), BUCKET, "parts", Config=how)
    assert client.head_object(Bucket=BUCKET, Key="parts")["ETag"].endswith('-5"')
    client.download_file(BUCKET, "parts", str(copy), Config=how)
    assert copy.read_bytes() == source.read_bytes()


def test_a_body_in_http_chunks(client: Any) -> None:
    """Of a length that nobody knows: nginx passes it on so, or with the length it then knows."""
    where = {"Bucket": BUCKET, "Key": "chunks"}
    url = client.generate_presigned_url("put_object", Params=where)
    pieces = (b"piece of a body" * 1000 for _ in range(100))
    answer = requests.put(url, data=pieces, timeout=100)
    assert answer.status_code == 200, answer.text
    assert client.head_object(**where)["ContentLength"] == 15 * 1000 * 100


@pytest.mark.parametrize("encoding", [STREAMING_SIGNED, STREAMING_UNSIGNED_TRAILER])
def test_a_body_in_amazon_s_chunks(door: Door, client: Any, encoding: str) -> None:
    payload = os.urandom(300_000)
    target = f"/{BUCKET}/aws-chunks"
    headers, body = streaming_body(door, target, encoding, payload)
    assert door.request("PUT", target, headers, body, sign=False).status == 200
    assert client.get_object(Bucket=BUCKET, Key="aws-chunks")["Body"].read() == payload


def test_a_body_after_100_continue(door: Door, client: Any) -> None:
    headers = door.sign("PUT", f"/{BUCKET}/expect", body=b"body")
    answer = door.raw(
        (
            f"PUT /{BUCKET}/expect HTTP/1.1\r\n"
            + "".join(f"{name}: {value}\r\n" for name, value in headers.items())
            + "Content-Length: 4\r\nExpect: 100-continue\r\nConnection: close\r\n\r\n"
        ).encode()
        + b"body"
    )
    assert b" 200 OK\r\n" in answer
    assert client.get_object(Bucket=BUCKET, Key="expect")["Body"].read() == b"body"


def test_a_refusal_of_a_large_body_is_heard(client: Any) -> None:
    """An error that is answered while the body still comes is what the client gets."""
    url = client.generate_presigned_url("put_object", Params={"Bucket": BUCKET, "Key": "refused"})
    forged = url[:-1] + ("0" if url[-1] != "0" else "1")
    answer = requests.put(forged, data=b"x" * (2 * MIB), timeout=100)
    assert answer.status_code == 403
    assert "SignatureDoesNotMatch" in answer.text


def test_presigned_urls(client: Any) -> None:
    client.put_object(Bucket=BUCKET, Key="shared", Body=b"shared")
    url = client.generate_presigned_url("get_object", Params={"Bucket": BUCKET, "Key": "shared"})
    assert requests.get(url, timeout=100).content == b"shared"
    url = client.generate_presigned_url("put_object", Params={"Bucket": BUCKET, "Key": "given"})
    assert requests.put(url, data=b"given", timeout=100).status_code == 200


def test_connections_to_the_node_are_kept(door: Door, node: Door) -> None:
    """nginx keeps up to four: clients who come one after another need no more."""
    for number in range(30):
        assert door.request("GET", f"/{BUCKET}/{number}?tagging").status == 404
        assert 1 <= connections_to(node.port) <= 4


def connections_to(port: int) -> int:
    """Established TCP connections whose far end is a port of this machine."""
    rows = Path("/proc/net/tcp").read_text().splitlines()[1:]
    return sum(row.split()[2].endswith(f":{port:04X}") and row.split()[3] == "01" for row in rows)


def test_many_clients_at_once(door: Door) -> None:
    outcomes: list[int] = []

    def ask(number: int) -> None:
        body = os.urandom(100_000)
        target = f"/{BUCKET}/many-{number}"
        outcomes.append(door.request("PUT", target, body=body).status)
        outcomes.append(200 if door.request("GET", target).body == body else 0)

    clients = [threading.Thread(target=ask, args=(number,)) for number in range(16)]
    for thread in clients:
        thread.start()
    for thread in clients:
        thread.join()
    assert outcomes == [200] * 32


def test_a_balancer_that_changes_the_host(node: Door, ports: dict[str, int]) -> None:
    """The host is signed: what comes as another is refused."""
    renamed = dataclasses.replace(node, port=ports["renaming"])
    answer = renamed.request("GET", f"/{BUCKET}")
    assert (answer.status, answer.code) == (403, "SignatureDoesNotMatch")


def test_the_end_of_a_connection_in_mid_body(door: Door, node: Door) -> None:
    """Half a body through the balancer leaves nothing."""
    headers = door.sign("PUT", f"/{BUCKET}/half", body=b"x" * 1000)
    connection = http.client.HTTPConnection("127.0.0.1", door.port, timeout=100)
    connection.putrequest("PUT", f"/{BUCKET}/half", skip_host=True)
    for name, value in (headers | {"Content-Length": "1000"}).items():
        connection.putheader(name, value)
    connection.endheaders(b"x" * 500)
    connection.close()
    assert node.request("HEAD", f"/{BUCKET}/half").status == 404
