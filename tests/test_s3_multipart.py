"""Multipart uploads through boto3."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import os
import socket
import time
import zlib
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from botocore.exceptions import ClientError

from cache import multipart
from cache.records import WriteMode
from tests.support import s3
from tests.support.s3 import Door, bucket, client, code, serving
from tests.support.waiting import wait_until

__all__ = ["bucket", "client"]

MIB = 1 << 20


@pytest.fixture(scope="module", params=[WriteMode.WRITE_BACK, WriteMode.WRITE_THROUGH])
def door(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Door]:
    directory = tmp_path_factory.mktemp("door")
    with serving(directory, write_mode=request.param, access_log="off") as running:
        yield running


class Upload:
    """A multipart upload under way."""

    def __init__(self, client: Any, bucket: str, key: str = "key", **arguments: Any) -> None:
        self.client = client
        self.created = client.create_multipart_upload(Bucket=bucket, Key=key, **arguments)
        self.names = {"Bucket": bucket, "Key": key, "UploadId": self.created["UploadId"]}
        self.parts: list[dict[str, Any]] = []

    def part(self, number: int, body: bytes, **arguments: Any) -> dict[str, Any]:
        answer: dict[str, Any] = self.client.upload_part(
            **self.names, PartNumber=number, Body=body, **arguments
        )
        self.parts.append({"PartNumber": number, "ETag": answer["ETag"]})
        return answer

    def complete(self, **arguments: Any) -> dict[str, Any]:
        answer: dict[str, Any] = self.client.complete_multipart_upload(
            **self.names, MultipartUpload={"Parts": self.parts}, **arguments
        )
        return answer


def test_an_upload(client: Any, bucket: str, door: Door) -> None:
    bodies = [os.urandom(5 * MIB), os.urandom(6 * MIB), os.urandom(17)]
    upload = Upload(client, bucket, ContentType="text/x", Metadata={"a": "b"})
    assert len(upload.names["UploadId"]) == 36
    for number, body in enumerate(bodies, start=1):
        answer = upload.part(number * 10, body)
        assert answer["ETag"] == f'"{hashlib.md5(body).hexdigest()}"'
    assert code(client.get_object, Bucket=bucket, Key="key") == "NoSuchKey"
    completed = upload.complete()
    md5s = b"".join(hashlib.md5(body).digest() for body in bodies)
    assert completed["ETag"] == f'"{hashlib.md5(md5s).hexdigest()}-3"'
    assert completed["Location"].endswith(f"/{bucket}/key")
    got = client.get_object(Bucket=bucket, Key="key")
    assert got["Body"].read() == b"".join(bodies)
    assert (got["ContentType"], got["Metadata"]) == ("text/x", {"a": "b"})
    second = client.get_object(Bucket=bucket, Key="key", PartNumber=2)
    assert (second["PartsCount"], second["Body"].read()) == (3, bodies[1])
    assert client.head_object(Bucket=bucket, Key="key", PartNumber=3)["ContentLength"] == 17
    assert code(client.head_object, Bucket=bucket, Key="key", PartNumber=4) == "416"
    parts = client.get_object_attributes(
        Bucket=bucket, Key="key", ObjectAttributes=["ObjectParts"], MaxParts=2
    )["ObjectParts"]
    assert parts["TotalPartsCount"] == 3
    assert [part["Size"] for part in parts["Parts"]] == [5 * MIB, 6 * MIB]
    assert not door.volume.uploads.list(bucket)


def test_a_part_again_replaces_it(client: Any, bucket: str) -> None:
    upload = Upload(client, bucket)
    upload.part(1, b"first")
    upload.parts.clear()
    upload.part(1, b"second")
    upload.complete()
    assert client.get_object(Bucket=bucket, Key="key")["Body"].read() == b"second"


def test_complete_again_is_answered_again(client: Any, bucket: str) -> None:
    upload = Upload(client, bucket)
    upload.part(1, b"body")
    first = upload.complete()
    assert upload.complete()["ETag"] == first["ETag"]
    client.put_object(Bucket=bucket, Key="key", Body=b"other")
    assert code(upload.complete) == "NoSuchUpload"


def test_an_abort_frees_everything(client: Any, bucket: str, door: Door) -> None:
    upload = Upload(client, bucket)
    upload.part(1, os.urandom(MIB))
    client.abort_multipart_upload(**upload.names)
    assert door.is_empty(bucket)
    assert code(client.abort_multipart_upload, **upload.names) == "NoSuchUpload"
    assert code(client.upload_part, **upload.names, PartNumber=2, Body=b"x") == "NoSuchUpload"
    assert code(client.list_parts, **upload.names) == "NoSuchUpload"
    assert code(upload.complete) == "NoSuchUpload"


def test_an_abort_on_the_wire(client: Any, bucket: str, door: Door) -> None:
    upload = Upload(client, bucket)
    target = f"/{bucket}/key?uploadId={upload.names['UploadId']}"
    aborted = door.request("DELETE", target)
    assert (aborted.status, aborted.body) == (204, b"")
    again = door.request("DELETE", target)
    assert (again.status, again.code) == (404, "NoSuchUpload")


def test_an_abort_while_parts_arrive(client: Any, bucket: str, door: Door) -> None:
    """They are refused when they end, and leave nothing behind, here or in the store."""
    upload = Upload(client, bucket)
    upload.part(1, os.urandom(MIB))
    body = os.urandom(2 * MIB)
    with contextlib.ExitStack() as stack:
        arriving = []
        for number in (1, 2):
            target = f"/{bucket}/key?partNumber={number}&uploadId={upload.names['UploadId']}"
            headers = door.sign("PUT", target, {"Content-Length": str(len(body))}, body)
            lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
            connection = socket.create_connection(("127.0.0.1", door.port), timeout=100)
            stack.enter_context(connection)
            connection.sendall(f"PUT {target} HTTP/1.1\r\n{lines}\r\n".encode() + body[:MIB])
            arriving.append(connection)
        if is_through(door):  # what has come is there; else it is nowhere yet, or not to be seen
            wait_until(lambda: len(parts_in_the_store(door)) == 3)
        client.abort_multipart_upload(**upload.names)
        for connection in arriving:
            connection.sendall(body[MIB:])
            answer = s3.parse_answer(s3.read_answer(connection))
            assert (answer.status, answer.code) == (404, "NoSuchUpload")
    assert code(client.abort_multipart_upload, **upload.names) == "NoSuchUpload"
    assert door.is_empty(bucket)
    assert not parts_in_the_store(door)


def is_through(door: Door) -> bool:
    return door.volume.config.creatable_write_mode is WriteMode.WRITE_THROUGH


def parts_in_the_store(door: Door) -> list[int]:
    """Sizes of the parts that a store which is a directory keeps until their uploads end."""
    return sorted(part.stat().st_size for part in door.store.glob(".forebay-tmp/parts/*/*"))


def test_parts_are_in_the_store_before_the_end(client: Any, bucket: str, door: Door) -> None:
    """In write_through: that is what makes completing quick. In write_back nothing is, and the
    object goes there in the background."""
    through = is_through(door)
    bodies = [os.urandom(5 * MIB), os.urandom(17)]
    upload = Upload(client, bucket)
    for number, body in enumerate(bodies, start=1):
        upload.part(number, body)
    assert parts_in_the_store(door) == ([17, 5 * MIB] if through else [])
    stored = door.store / bucket / "key"
    assert not stored.exists()
    upload.complete()
    assert not parts_in_the_store(door)
    assert stored.exists() == through
    assert client.get_object(Bucket=bucket, Key="key")["Body"].read() == b"".join(bodies)
    if not through:
        queue = door.volume.queue
        wait_until(lambda: queue.run_once(hurry=True) == 0 and queue.is_idle())
    assert stored.read_bytes() == b"".join(bodies)


def test_an_upload_belongs_to_its_key(client: Any, bucket: str) -> None:
    upload = Upload(client, bucket)
    other = {**upload.names, "Key": "other"}
    assert code(client.upload_part, **other, PartNumber=1, Body=b"x") == "NoSuchUpload"
    assert code(client.list_parts, **other) == "NoSuchUpload"


@pytest.mark.parametrize("number", [0, -1, 10_001])
def test_part_numbers_that_cannot_be(client: Any, bucket: str, number: int) -> None:
    upload = Upload(client, bucket)
    assert (
        code(client.upload_part, **upload.names, PartNumber=number, Body=b"x") == "InvalidArgument"
    )


def test_lists_that_do_not_fit_the_parts(client: Any, bucket: str) -> None:
    upload = Upload(client, bucket)
    first, second = upload.part(1, bytes(5 * MIB)), upload.part(2, b"x")
    one = {"PartNumber": 1, "ETag": first["ETag"]}
    two = {"PartNumber": 2, "ETag": second["ETag"]}
    cases = {
        "InvalidPartOrder": [[two, one], [one, one]],
        "InvalidPart": [[one, {"PartNumber": 3, "ETag": '"x"'}], [{**one, "ETag": '"0"'}]],
        "MalformedXML": [[], [{"PartNumber": 1}]],
    }
    for expected, lists in cases.items():
        for parts in lists:
            upload.parts = parts
            assert code(upload.complete) == expected
    upload.parts = [one, two]
    upload.complete()


def test_parts_that_are_too_small(client: Any, bucket: str) -> None:
    upload = Upload(client, bucket)
    upload.part(1, bytes(5 * MIB - 1))
    upload.part(2, b"x")
    assert code(upload.complete) == "EntityTooSmall"


def test_conditions(client: Any, bucket: str) -> None:
    upload = Upload(client, bucket)
    upload.part(1, b"x")
    client.put_object(Bucket=bucket, Key="key", Body=b"there")
    assert code(upload.complete, IfNoneMatch="*") == "PreconditionFailed"
    assert code(upload.complete, IfMatch='"other"') == "PreconditionFailed"
    etag = client.head_object(Bucket=bucket, Key="key")["ETag"]
    upload.complete(IfMatch=etag)


def test_the_objects_size_is_compared(client: Any, bucket: str) -> None:
    upload = Upload(client, bucket)
    upload.part(1, b"12345")
    assert code(upload.complete, MpuObjectSize=6) == "InvalidRequest"
    upload.complete(MpuObjectSize=5)


def crc32(body: bytes) -> str:
    return base64.b64encode(zlib.crc32(body).to_bytes(4, "big")).decode()


def test_a_full_object_checksum(client: Any, bucket: str) -> None:
    bodies = [os.urandom(5 * MIB), b"tail"]
    upload = Upload(client, bucket, ChecksumAlgorithm="CRC32", ChecksumType="FULL_OBJECT")
    for number, body in enumerate(bodies, start=1):
        assert upload.part(number, body)["ChecksumCRC32"] == crc32(body)
    whole = crc32(b"".join(bodies))
    wrong = {"ChecksumCRC32": crc32(b"x"), "ChecksumType": "FULL_OBJECT"}
    assert code(upload.complete, **wrong) == "BadDigest"
    completed = upload.complete(ChecksumCRC32=whole, ChecksumType="FULL_OBJECT")
    assert completed["ChecksumCRC32"] == whole
    got = client.get_object(Bucket=bucket, Key="key", ChecksumMode="ENABLED")
    assert (got["ChecksumType"], got["ChecksumCRC32"]) == ("FULL_OBJECT", whole)
    assert got["Body"].read() == b"".join(bodies)


def test_a_composite_checksum(client: Any, bucket: str) -> None:
    bodies = [os.urandom(5 * MIB), b"tail"]
    upload = Upload(client, bucket, ChecksumAlgorithm="SHA256")
    assert upload.created["ChecksumType"] == "COMPOSITE"
    for number, body in enumerate(bodies, start=1):
        answer = upload.part(number, body, ChecksumAlgorithm="SHA256")
        upload.parts[-1]["ChecksumSHA256"] = answer["ChecksumSHA256"]
    raw = b"".join(hashlib.sha256(body).digest() for body in bodies)
    whole = base64.b64encode(hashlib.sha256(raw).digest()).decode() + "-2"
    assert upload.complete()["ChecksumSHA256"] == whole
    assert client.head_object(Bucket=bucket, Key="key", ChecksumMode="ENABLED")[
        "ChecksumSHA256"
    ] == whole  # fmt: skip
    asked = client.get_object_attributes(
        Bucket=bucket, Key="key", ObjectAttributes=["ObjectParts", "Checksum"]
    )
    assert asked["Checksum"] == {"ChecksumSHA256": whole, "ChecksumType": "COMPOSITE"}
    for number, body in enumerate(bodies, start=1):
        of_part = base64.b64encode(hashlib.sha256(body).digest()).decode()
        assert asked["ObjectParts"]["Parts"][number - 1]["ChecksumSHA256"] == of_part
        part = client.get_object(Bucket=bucket, Key="key", PartNumber=number)
        assert (part["ChecksumSHA256"], part["ChecksumType"]) == (of_part, "COMPOSITE")
        assert part["Body"].read() == body


def test_checksums_that_do_not_go_together(client: Any, bucket: str) -> None:
    create = {"Bucket": bucket, "Key": "key"}
    for algorithm, kind in (("SHA256", "FULL_OBJECT"), ("CRC64NVME", "COMPOSITE")):
        asked = {"ChecksumAlgorithm": algorithm, "ChecksumType": kind}
        assert code(client.create_multipart_upload, **create, **asked) == "InvalidRequest"
    upload = Upload(client, bucket, ChecksumAlgorithm="SHA256")
    assert (
        code(
            client.upload_part,
            **upload.names,
            PartNumber=1,
            Body=b"x",
            ChecksumAlgorithm="CRC32",
        )
        == "InvalidRequest"
    )


def test_an_upload_without_a_checksum_gets_one(door: Door, bucket: str) -> None:
    client = door.client(request_checksum_calculation="when_required")
    upload = Upload(client, bucket)
    upload.part(1, b"123456789")
    upload.complete()
    got = client.head_object(Bucket=bucket, Key="key", ChecksumMode="ENABLED")
    assert got["ChecksumCRC64NVME"] == "rosUhgp5mIg="


def test_pages_of_parts(client: Any, bucket: str) -> None:
    upload = Upload(client, bucket)
    for number in range(1, 8):
        upload.part(number, bytes([number]))
    seen = []
    for page in client.get_paginator("list_parts").paginate(
        **upload.names, PaginationConfig={"PageSize": 3}
    ):
        seen += [(part["PartNumber"], part["Size"]) for part in page["Parts"]]
        assert page["Owner"]["DisplayName"] == s3.USER
    assert seen == [(number, 1) for number in range(1, 8)]


def test_pages_of_uploads(client: Any, bucket: str) -> None:
    keys = ["a", "a", "a", "b/1", "b/2", "c"]
    made = [(key, Upload(client, bucket, key).names["UploadId"]) for key in keys]
    for size in (1, 2, 10):
        seen = []
        for page in client.get_paginator("list_multipart_uploads").paginate(
            Bucket=bucket, PaginationConfig={"PageSize": size}
        ):
            seen += [(each["Key"], each["UploadId"]) for each in page.get("Uploads", [])]
        assert seen == made
    grouped = client.list_multipart_uploads(Bucket=bucket, Delimiter="/")
    assert [each["Prefix"] for each in grouped["CommonPrefixes"]] == ["b/"]
    assert len(grouped["Uploads"]) == 4
    under = client.list_multipart_uploads(Bucket=bucket, Prefix="b/")
    assert [each["Key"] for each in under["Uploads"]] == ["b/1", "b/2"]


def test_parts_from_objects(client: Any, bucket: str) -> None:
    body = os.urandom(12 * MIB)
    client.put_object(Bucket=bucket, Key="source", Body=body)
    upload = Upload(client, bucket)
    source = {"Bucket": bucket, "Key": "source"}
    ranges = ["bytes=0-6291455", f"bytes=6291456-{len(body) - 1}"]
    for number, part in enumerate(ranges, start=1):
        answer = client.upload_part_copy(
            **upload.names, PartNumber=number, CopySource=source, CopySourceRange=part
        )
        etag = answer["CopyPartResult"]["ETag"]
        first, last = (int(end) for end in part.removeprefix("bytes=").split("-"))
        assert etag == f'"{hashlib.md5(body[first : last + 1]).hexdigest()}"'
        upload.parts.append({"PartNumber": number, "ETag": etag})
    whole = client.upload_part_copy(**upload.names, PartNumber=3, CopySource=source)
    upload.parts.append({"PartNumber": 3, "ETag": whole["CopyPartResult"]["ETag"]})
    upload.complete()
    assert client.get_object(Bucket=bucket, Key="key")["Body"].read() == body + body


def test_parts_from_what_is_not_there(client: Any, bucket: str) -> None:
    client.put_object(Bucket=bucket, Key="source", Body=b"12345")
    upload = Upload(client, bucket)
    copy = {**upload.names, "PartNumber": 1}
    missing = {"Bucket": bucket, "Key": "missing"}
    assert code(client.upload_part_copy, **copy, CopySource=missing) == "NoSuchKey"
    copy["CopySource"] = {"Bucket": bucket, "Key": "source"}
    for part, expected in (("bytes=0-5", "InvalidRange"), ("bytes=x", "InvalidArgument")):
        assert code(client.upload_part_copy, **copy, CopySourceRange=part) == expected


def test_a_transfer_in_many_threads(client: Any, bucket: str) -> None:
    import io

    from boto3.s3.transfer import TransferConfig

    body = os.urandom(41 * MIB)
    config = TransferConfig(multipart_threshold=5 * MIB, multipart_chunksize=5 * MIB)
    client.upload_fileobj(io.BytesIO(body), bucket, "key", Config=config)
    sink = io.BytesIO()
    client.download_fileobj(bucket, "key", sink, Config=config)
    assert sink.getvalue() == body
    client.copy({"Bucket": bucket, "Key": "key"}, bucket, "copy", Config=config)
    sink = io.BytesIO()
    client.download_fileobj(bucket, "copy", sink, Config=config)
    assert sink.getvalue() == body


def test_an_upload_that_never_was(client: Any, bucket: str) -> None:
    names = {"Bucket": bucket, "Key": "key", "UploadId": "no-such-upload"}
    with pytest.raises(ClientError, match="NoSuchUpload"):
        client.complete_multipart_upload(
            **names, MultipartUpload={"Parts": [{"PartNumber": 1, "ETag": "x"}]}
        )


def test_stale_uploads_are_aborted(
    door: Door, client: Any, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    stale: dict[str, Any] = {"Bucket": bucket, "Key": "stale"}
    made = [client.create_multipart_upload(**stale)["UploadId"] for _ in range(2)]
    before_part_ns = time.time_ns()
    client.upload_part(UploadId=made[1], PartNumber=1, Body=b"x", **stale)
    assert door.volume.uploads.abort_stale(3600) == 0
    # What counts is the last part, if there is one.
    with monkeypatch.context() as an_hour_later:
        clock = SimpleNamespace(time_ns=lambda: before_part_ns + 3600 * 10**9)
        an_hour_later.setattr(multipart, "time", clock)
        assert door.volume.uploads.abort_stale(3600) >= 1
    (left,) = client.list_multipart_uploads(Bucket=bucket)["Uploads"]
    assert left["UploadId"] == made[1]
    assert door.volume.uploads.abort_stale(0) == 1
    assert "Uploads" not in client.list_multipart_uploads(Bucket=bucket)
    with pytest.raises(ClientError, match="NoSuchUpload"):
        client.upload_part(UploadId=made[1], PartNumber=1, Body=b"x", **stale)
