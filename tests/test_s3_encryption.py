"""Server-side encryption through boto3: SSE-C, SSE-S3, SSE-KMS, and the bucket's default."""

from __future__ import annotations

import base64
import hashlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError

from cache.errors import SealedContent
from cache.records import WriteMode
from s3api import patience
from tests.support import s3
from tests.support.s3 import Door, bucket, client, serving
from tests.support.stores import Backend, moto_backend
from tests.support.volume import some_bytes
from tests.support.waiting import wait_until

__all__ = ["bucket", "client"]

KMS_KEY = "a-key"
MARK = b"the plaintext that must not be on any disk "
MIB = 1 << 20


def customer(letter: str = "k", prefix: str = "SSECustomer") -> dict[str, str]:
    """A client's key as arguments; boto3 adds its MD5."""
    return {f"{prefix}Algorithm": "AES256", f"{prefix}Key": letter * 32}


def encoded(letter: str) -> dict[str, str]:
    """As customer(), for the operation of which boto3 does not know that it takes a key."""
    key = letter.encode() * 32
    return {
        "SSECustomerAlgorithm": "AES256",
        "SSECustomerKey": base64.b64encode(key).decode(),
        "SSECustomerKeyMD5": base64.b64encode(hashlib.md5(key).digest()).decode(),
    }


@pytest.fixture(autouse=True)
def _unhurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """The answer to a Complete that takes long carries no headers of its own."""
    monkeypatch.setattr(patience, "PATIENCE_S", 60)


CUSTOMER = customer()
NODE = {"ServerSideEncryption": "AES256"}
KMS = {"ServerSideEncryption": "aws:kms", "SSEKMSKeyId": KMS_KEY}
PLAIN: dict[str, str] = {}
MODES = {"plain": PLAIN, "sse-c": CUSTOMER, "sse-s3": NODE, "sse-kms": KMS}
ENCRYPTED = {name: mode for name, mode in MODES.items() if mode}
modes = pytest.mark.parametrize("mode", ENCRYPTED.values(), ids=ENCRYPTED)


def reading(mode: dict[str, str], prefix: str = "SSECustomer") -> dict[str, str]:
    """What a request that reads must bring."""
    return customer(prefix=prefix) if "SSECustomerKey" in mode else {}


@pytest.fixture(scope="module", params=[WriteMode.WRITE_BACK, WriteMode.WRITE_THROUGH])
def door(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Door]:
    directory = tmp_path_factory.mktemp("door")
    with serving(directory, write_mode=request.param, access_log="off") as running:
        running.volume.keyring.create(KMS_KEY)
        yield running


def refusal(function: Any, **arguments: Any) -> tuple[int, str]:
    with pytest.raises(ClientError) as refused:
        function(**arguments)
    response = refused.value.response
    return response["ResponseMetadata"]["HTTPStatusCode"], response["Error"]["Code"]


def said(answer: dict[str, Any]) -> dict[str, Any]:
    """What an answer says of encryption."""
    return {
        name: value
        for name, value in answer.items()
        if name.startswith("SSE") or name in ("ServerSideEncryption", "BucketKeyEnabled")
    }


def expected(mode: dict[str, str]) -> dict[str, Any]:
    if mode is not CUSTOMER:
        return dict(mode)
    md5 = hashlib.md5(CUSTOMER["SSECustomerKey"].encode()).digest()
    return {"SSECustomerAlgorithm": "AES256", "SSECustomerKeyMD5": base64.b64encode(md5).decode()}


def persisted(door: Door) -> bool:
    """Nothing waits for the store; there is no mover here that works the queue off."""
    door.volume.queue.run_once(hurry=True)
    return door.volume.queue.is_idle() and not door.volume.queue.backlog().names


def holding(directory: Path, mark: bytes) -> list[str]:
    """Files below a directory that hold these bytes."""
    files = (path for path in directory.rglob("*") if path.is_file())
    return [path.name for path in files if mark in path.read_bytes()]


# ----------------------------------------------------------------------------------- one object


@modes
@pytest.mark.parametrize("size", [0, 1, 5000, 65536, 65537, 3_000_001])
def test_bodies_and_ranges(client: Any, bucket: str, mode: dict[str, str], size: int) -> None:
    body = os.urandom(size)
    where = {"Bucket": bucket, "Key": "dir/key"}
    put = client.put_object(**where, Body=body, **mode)
    assert said(put) == expected(mode)
    is_md5 = put["ETag"] == f'"{hashlib.md5(body).hexdigest()}"'
    assert is_md5 == (mode is NODE)
    where |= reading(mode)
    got = client.get_object(**where, ChecksumMode="ENABLED")  # boto3 checks the checksum
    assert (got["Body"].read(), got["ContentLength"]) == (body, size)
    head = client.head_object(**where)
    assert (head["ContentLength"], head["ETag"]) == (size, put["ETag"])
    assert said(got) == said(head) == expected(mode)
    for first, last in ((0, 0), (size // 2, size - 1), (size - 1, size + 5), (65530, 65540)):
        if 0 <= first < size:
            part = client.get_object(**where, Range=f"bytes={first}-{last}")
            assert part["Body"].read() == body[first : last + 1]
    where |= reading(mode) and encoded("k")
    described = client.get_object_attributes(**where, ObjectAttributes=["ObjectSize", "ETag"])
    assert described["ObjectSize"] == size
    assert [each["Size"] for each in client.list_objects_v2(Bucket=bucket)["Contents"]] == [size]


@modes
def test_no_disk_holds_the_plaintext(
    door: Door, client: Any, bucket: str, mode: dict[str, str]
) -> None:
    directory = door.store.parent
    for number, size in enumerate((100, 2 * MIB)):
        mark = MARK + f"{bucket} {number} ".encode()
        body = (mark * (size // len(mark) + 1))[:size]
        client.put_object(Bucket=bucket, Key=f"key-{number}", Body=body, **mode)
        wait_until(lambda: persisted(door))
        assert not holding(directory, mark[:60])
    plain = MARK + b"plain"
    client.put_object(Bucket=bucket, Key="plain", Body=plain * 50_000)
    assert holding(directory, plain)  # the same look does find what is not encrypted
    # Nor the keys.
    assert not holding(directory / "state" / "index", customer()["SSECustomerKey"].encode())


@modes
def test_bytes_under_the_key_of_a_directory(
    door: Door, client: Any, bucket: str, mode: dict[str, str]
) -> None:
    body = MARK + bucket.encode()
    where = {"Bucket": bucket, "Key": "dir/"}
    assert said(client.put_object(**where, Body=body, **mode)) == expected(mode)
    assert client.get_object(**where, **reading(mode))["Body"].read() == body
    assert client.list_objects_v2(Bucket=bucket)["Contents"][0]["Size"] == len(body)
    wait_until(lambda: persisted(door))
    assert not holding(door.store.parent, body)


def test_an_empty_directory_has_nothing_to_encrypt(client: Any, bucket: str) -> None:
    put = client.put_object(Bucket=bucket, Key="dir/", **NODE)
    assert said(put) == NODE
    head = client.head_object(Bucket=bucket, Key="dir/")
    assert (head["ContentLength"], said(head)) == (0, NODE)
    assert client.get_object(Bucket=bucket, Key="dir/")["Body"].read() == b""


def test_kms_context_and_bucket_key(client: Any, bucket: str) -> None:
    context = base64.b64encode(b'{"purpose": "test"}').decode()
    put = client.put_object(
        Bucket=bucket,
        Key="key",
        Body=b"x",
        **KMS,
        SSEKMSEncryptionContext=context,
        BucketKeyEnabled=True,
    )
    assert said(put) == KMS | {"SSEKMSEncryptionContext": context, "BucketKeyEnabled": True}
    head = client.head_object(Bucket=bucket, Key="key")
    assert said(head) == KMS | {"BucketKeyEnabled": True}
    for bad in ("{}", base64.b64encode(b"[]").decode(), base64.b64encode(b'{"a": 1}').decode()):
        put_bad = {"Bucket": bucket, "Key": "b", "SSEKMSEncryptionContext": bad, **KMS}
        assert refusal(client.put_object, **put_bad) == (400, "InvalidArgument")


def test_objects_of_an_older_key_version_stay_readable(
    door: Door, client: Any, bucket: str
) -> None:
    client.put_object(Bucket=bucket, Key="key", Body=b"old", **KMS)
    before = client.head_object(Bucket=bucket, Key="key")["ETag"]
    door.volume.keyring.rotate(KMS_KEY)
    assert client.get_object(Bucket=bucket, Key="key")["Body"].read() == b"old"
    source = {"Bucket": bucket, "Key": "key"}
    client.copy_object(Bucket=bucket, Key="key", CopySource=source, **KMS)  # to the new version
    got = client.get_object(Bucket=bucket, Key="key")
    assert got["Body"].read() == b"old"
    assert got["ETag"] != before


# ------------------------------------------------------------------------------------- refusals


def raw(key: bytes = b"k" * 32, md5: str | None = None, algorithm: str = "AES256") -> Any:
    """Headers of SSE-C that boto3 would not make."""
    digest = base64.b64encode(hashlib.md5(key).digest()).decode()
    start = "x-amz-server-side-encryption-customer-"
    return {
        f"{start}algorithm": algorithm,
        f"{start}key": base64.b64encode(key).decode(),
        f"{start}key-MD5": digest if md5 is None else md5,
    }


def without(name: str) -> Any:
    return {k: v for k, v in raw().items() if not k.endswith(name)}


SSE = "x-amz-server-side-encryption"
REFUSED_WRITES = [
    (without("algorithm"), "InvalidArgument"),
    (without("key"), "InvalidArgument"),
    (without("MD5"), "InvalidArgument"),
    (raw(md5="AAAAAAAAAAAAAAAAAAAAAA=="), "InvalidArgument"),
    (raw(key=b"short"), "InvalidArgument"),
    (raw() | {f"{SSE}-customer-key": "?"}, "InvalidArgument"),
    (raw(algorithm="AES128"), "InvalidEncryptionAlgorithmError"),
    (raw() | {SSE: "AES256"}, "InvalidArgument"),
    ({SSE: "aes:kms"}, "InvalidArgument"),
    ({SSE: ""}, "InvalidArgument"),
    ({SSE: "aws:kms:dsse"}, "NotImplemented"),
    ({SSE: "AES256", f"{SSE}-aws-kms-key-id": KMS_KEY}, "InvalidArgument"),
    ({f"{SSE}-aws-kms-key-id": KMS_KEY}, "InvalidArgument"),
    ({SSE: "aws:kms"}, "KMS.NotFoundException"),  # nobody made the key aws/s3
    ({SSE: "aws:kms", f"{SSE}-aws-kms-key-id": "nobody-made-it"}, "KMS.NotFoundException"),
    ({SSE: "aws:kms", f"{SSE}-aws-kms-key-id": "sse-s3"}, "KMS.NotFoundException"),
]


@pytest.mark.parametrize(("headers", "code"), REFUSED_WRITES)
def test_writes_that_are_refused(
    door: Door, bucket: str, headers: dict[str, str], code: str
) -> None:
    answer = door.request("PUT", f"/{bucket}/key", headers, b"body")
    assert answer.code == code
    assert answer.status == (501 if code == "NotImplemented" else 400)
    created = door.request("POST", f"/{bucket}/key?uploads", headers)
    assert created.code == code
    assert door.is_empty(bucket)


def test_reads_need_the_key(client: Any, bucket: str) -> None:
    client.put_object(Bucket=bucket, Key="sealed", Body=b"x", **CUSTOMER)
    client.put_object(Bucket=bucket, Key="plain", Body=b"x")
    client.put_object(Bucket=bucket, Key="nodes", Body=b"x", **NODE)
    described = {"Bucket": bucket, "ObjectAttributes": ["ETag"]}
    for function, arguments in (
        (client.get_object, {"Bucket": bucket}),
        (client.head_object, {"Bucket": bucket}),
        (client.get_object_attributes, described),
    ):
        is_head = function == client.head_object
        key_of = encoded if function == client.get_object_attributes else customer
        for key, given, status, code in (
            ("sealed", {}, 400, "InvalidRequest"),
            ("sealed", key_of("o"), 403, "AccessDenied"),
            ("plain", key_of("k"), 400, "InvalidRequest"),
            ("nodes", key_of("k"), 400, "InvalidRequest"),
        ):
            found = refusal(function, Key=key, **arguments, **given)
            assert found == (status, str(status) if is_head else code)
    client.delete_object(Bucket=bucket, Key="sealed")  # without a key


def test_reads_do_not_say_how_to_encrypt(door: Door, client: Any, bucket: str) -> None:
    client.put_object(Bucket=bucket, Key="key", Body=b"x", **NODE)
    for header in (SSE, f"{SSE}-aws-kms-key-id"):
        answer = door.request("GET", f"/{bucket}/key", {header: "AES256"})
        assert (answer.status, answer.code) == (400, "InvalidArgument")
        assert door.request("HEAD", f"/{bucket}/key", {header: "AES256"}).status == 400


def test_a_query_does_not_say_how_to_encrypt(door: Door, bucket: str) -> None:
    for name in (SSE, f"{SSE}-customer-key", f"x-amz-copy-source-{SSE[6:]}-customer-key"):
        answer = door.request("PUT", f"/{bucket}/key?{name.title()}=AES256", body=b"x")
        assert (answer.status, answer.code) == (501, "NotImplemented")
    assert door.is_empty(bucket)


def test_keys_over_http_can_be_refused(tmp_path: Path) -> None:
    with serving(tmp_path, access_log="off", sse_c_over_http="never") as strict:
        bucket = strict.volume.buckets.create("bucket", s3.USER).name
        client = strict.client()
        put = {"Bucket": bucket, "Key": "key", "Body": b"x"}
        assert refusal(client.put_object, **put, **CUSTOMER) == (400, "InvalidRequest")
        client.put_object(**put, **NODE)
        assert client.get_object(Bucket=bucket, Key="key")["Body"].read() == b"x"


# -------------------------------------------------------------------------------------- uploads


def upload(client: Any, bucket: str, parts: dict[int, bytes], mode: dict[str, str]) -> Any:
    where = {"Bucket": bucket, "Key": "big"}
    created = client.create_multipart_upload(**where, **mode)
    assert said(created) == expected(mode)
    where["UploadId"] = created["UploadId"]
    listed = []
    for number, body in parts.items():
        part = client.upload_part(**where, PartNumber=number, Body=body, **reading(mode))
        assert said(part) == expected(mode)
        listed.append({"PartNumber": number, "ETag": part["ETag"]})
    found = client.list_parts(**where)["Parts"]
    assert [each["Size"] for each in found] == [len(body) for body in parts.values()]
    done = client.complete_multipart_upload(
        **where, MultipartUpload={"Parts": listed}, **reading(mode)
    )
    assert said(done) == ({} if mode is CUSTOMER else expected(mode))
    return done


@modes
def test_multipart_uploads(client: Any, bucket: str, mode: dict[str, str]) -> None:
    sizes = {1: 5 * MIB, 3: 5 * MIB + 1, 4: 6 * MIB, 9: 0}
    parts = {number: some_bytes(size, number) for number, size in sizes.items()}
    whole = b"".join(parts.values())
    done = upload(client, bucket, parts, mode)
    where = {"Bucket": bucket, "Key": "big", **reading(mode)}
    head = client.head_object(**where)
    assert (head["ContentLength"], head["ETag"]) == (len(whole), done["ETag"])
    assert client.get_object(**where)["Body"].read() == whole
    for first, last in (
        (0, 0),
        (5 * MIB - 3, 5 * MIB + 3),
        (10 * MIB, 11 * MIB),
        (len(whole) - 1,) * 2,
    ):
        got = client.get_object(**where, Range=f"bytes={first}-{last}")
        assert got["Body"].read() == whole[first : last + 1]
    got = client.get_object(**where, PartNumber=2)
    assert (got["Body"].read(), got["PartsCount"]) == (parts[3], 4)


def test_parts_must_come_with_the_uploads_key(door: Door, client: Any, bucket: str) -> None:
    where = {"Bucket": bucket, "Key": "big"}
    client.put_object(Bucket=bucket, Key="source", Body=b"x")
    sealed = client.create_multipart_upload(**where, **CUSTOMER, ChecksumAlgorithm="CRC32")
    plain = client.create_multipart_upload(**where)
    source = {"CopySource": {"Bucket": bucket, "Key": "source"}}
    for upload_id, given in (
        (sealed["UploadId"], {}),
        (sealed["UploadId"], customer("o")),
        (plain["UploadId"], CUSTOMER),
    ):
        part = {**where, "UploadId": upload_id, "PartNumber": 1, **given}
        assert refusal(client.upload_part, **part, Body=b"x") == (400, "InvalidRequest")
        assert refusal(client.upload_part_copy, **part, **source) == (400, "InvalidRequest")
    where["UploadId"] = sealed["UploadId"]
    etag = client.upload_part(**where, PartNumber=1, Body=b"x", **CUSTOMER)["ETag"]
    whole = {"MultipartUpload": {"Parts": [{"PartNumber": 1, "ETag": etag}]}}
    for given in ({}, customer("o")):
        found = refusal(client.complete_multipart_upload, **where, **whole, **given)
        assert found == (400, "InvalidRequest")
    client.complete_multipart_upload(**where, **whole, **CUSTOMER)
    head = client.head_object(Bucket=bucket, Key="big", **CUSTOMER)
    assert head["ContentLength"] == 1


def test_an_upload_without_checksums_is_completed_without_the_key(door: Door, bucket: str) -> None:
    client = door.client(request_checksum_calculation="when_required")
    where = {"Bucket": bucket, "Key": "big"}
    where["UploadId"] = client.create_multipart_upload(**where, **CUSTOMER)["UploadId"]
    etag = client.upload_part(**where, PartNumber=1, Body=b"body", **CUSTOMER)["ETag"]
    whole = {"MultipartUpload": {"Parts": [{"PartNumber": 1, "ETag": etag}]}}
    client.complete_multipart_upload(**where, **whole)
    got = client.get_object(Bucket=bucket, Key="big", **CUSTOMER)
    assert got["Body"].read() == b"body"


def test_parts_may_repeat_what_their_upload_said(door: Door, client: Any, bucket: str) -> None:
    where = {"Bucket": bucket, "Key": "big"}
    upload_id = client.create_multipart_upload(**where, **KMS)["UploadId"]
    target = f"/{bucket}/big?partNumber=1&uploadId={upload_id}"
    same = {SSE: "aws:kms", f"{SSE}-aws-kms-key-id": KMS_KEY}
    assert door.request("PUT", target, same, b"x").status == 200
    for other in ({SSE: "AES256"}, same | {f"{SSE}-aws-kms-key-id": "other"}):
        answer = door.request("PUT", target, other, b"x")
        assert (answer.status, answer.code) == (400, "InvalidArgument")


# --------------------------------------------------------------------------------------- copies


@pytest.mark.parametrize("target", MODES)
@pytest.mark.parametrize("source", MODES)
def test_copies_between_all_kinds(client: Any, bucket: str, source: str, target: str) -> None:
    body = some_bytes(200_000, source)
    put = client.put_object(Bucket=bucket, Key="source", Body=body, **MODES[source])
    arguments = {
        "CopySource": {"Bucket": bucket, "Key": "source"},
        **reading(MODES[source], "CopySourceSSECustomer"),
    }
    copied = client.copy_object(Bucket=bucket, Key="copy", **arguments, **MODES[target])
    # What nobody says more of is encrypted where its source was.
    kind = NODE if target == "plain" and source != "plain" else MODES[target]
    assert said(copied) == expected(kind)
    got = client.get_object(
        Bucket=bucket, Key="copy", ChecksumMode="ENABLED", **reading(MODES[target])
    )
    assert (got["Body"].read(), said(got)) == (body, expected(kind))
    assert got["ETag"] == copied["CopyObjectResult"]["ETag"]
    if source == target:
        assert got["ETag"] == put["ETag"]  # the same bytes, shared
    part = {"Bucket": bucket, "Key": "parts"}
    part["UploadId"] = client.create_multipart_upload(**part, **MODES[target])["UploadId"]
    part |= reading(MODES[target])
    etag = client.upload_part_copy(
        **part, **arguments, PartNumber=1, CopySourceRange="bytes=65530-199999"
    )["CopyPartResult"]["ETag"]
    client.complete_multipart_upload(
        **part, MultipartUpload={"Parts": [{"PartNumber": 1, "ETag": etag}]}
    )
    got = client.get_object(Bucket=bucket, Key="parts", **reading(MODES[target]))
    assert (got["Body"].read(), said(got)) == (body[65530:], expected(MODES[target]))


def test_a_copy_onto_itself_may_change_the_encryption(client: Any, bucket: str) -> None:
    where = {"Bucket": bucket, "Key": "key"}
    client.put_object(**where, Body=b"body", Metadata={"a": "b"}, ContentType="text/x")
    assert refusal(client.copy_object, **where, CopySource=where) == (400, "InvalidRequest")
    for mode in (NODE, KMS, NODE):
        client.copy_object(**where, CopySource=where, **mode)
        got = client.get_object(**where)
        assert (got["Body"].read(), said(got)) == (b"body", mode)
        assert (got["Metadata"], got["ContentType"]) == ({"a": "b"}, "text/x")


def test_a_copy_of_an_upload_keeps_its_parts_or_becomes_one(client: Any, bucket: str) -> None:
    parts = {1: some_bytes(5 * MIB), 2: some_bytes(100)}
    done = upload(client, bucket, parts, KMS)
    source = {"Bucket": bucket, "Key": "big"}
    client.copy_object(Bucket=bucket, Key="same", CopySource=source, **KMS)
    client.copy_object(Bucket=bucket, Key="other", CopySource=source, **NODE)
    same = client.get_object(Bucket=bucket, Key="same", PartNumber=2)
    assert (same["Body"].read(), same["ETag"]) == (parts[2], done["ETag"])
    other = client.get_object(Bucket=bucket, Key="other", ChecksumMode="ENABLED")
    whole = parts[1] + parts[2]
    assert (other["Body"].read(), other["ChecksumType"]) == (whole, "FULL_OBJECT")
    assert other["ETag"] == f'"{hashlib.md5(whole).hexdigest()}"'


def test_copies_of_sse_c_need_the_sources_key(door: Door, client: Any, bucket: str) -> None:
    client.put_object(Bucket=bucket, Key="source", Body=b"x", **CUSTOMER)
    copy = {"Bucket": bucket, "Key": "copy", "CopySource": {"Bucket": bucket, "Key": "source"}}
    assert refusal(client.copy_object, **copy, **CUSTOMER) == (400, "InvalidRequest")
    wrong = customer("o", "CopySourceSSECustomer")
    assert refusal(client.copy_object, **copy, **wrong) == (403, "AccessDenied")
    assert refusal(client.head_object, Bucket=bucket, Key="copy")[0] == 404


def test_each_version_has_a_key_of_its_own(client: Any, bucket: str) -> None:
    where = {"Bucket": bucket, "Key": "key"}
    client.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
    first = client.put_object(**where, Body=b"first", **customer("a"))["VersionId"]
    second = client.put_object(**where, Body=b"second", **customer("b"))["VersionId"]
    client.put_object(**where, Body=b"third", **NODE)
    for version, letter, body in ((first, "a", b"first"), (second, "b", b"second")):
        got = client.get_object(**where, VersionId=version, **customer(letter))
        assert got["Body"].read() == body
    get = {**where, "VersionId": first}
    assert refusal(client.get_object, **get, **customer("b")) == (403, "AccessDenied")
    client.copy_object(
        Bucket=bucket,
        Key="copy",
        CopySource={**where, "VersionId": first},
        **customer("a", "CopySourceSSECustomer"),
        **KMS,
    )
    got = client.get_object(Bucket=bucket, Key="copy")
    assert (got["Body"].read(), said(got)) == (b"first", KMS)
    sizes = [each["Size"] for each in client.list_object_versions(Bucket=bucket)["Versions"]]
    assert sizes == [5, 5, 6, 5]


# ------------------------------------------------------------------------------- bucket default


def rules(rule: dict[str, Any]) -> dict[str, Any]:
    return {"ServerSideEncryptionConfiguration": {"Rules": [rule]}}


def applied(algorithm: str, **more: str) -> dict[str, Any]:
    return {"ApplyServerSideEncryptionByDefault": {"SSEAlgorithm": algorithm, **more}}


def test_the_default_of_a_bucket(client: Any, bucket: str) -> None:
    where = {"Bucket": bucket}
    missing = (404, "ServerSideEncryptionConfigurationNotFoundError")
    assert refusal(client.get_bucket_encryption, **where) == missing
    client.put_bucket_encryption(**where, **rules(applied("aws:kms", KMSMasterKeyID=KMS_KEY)))
    found = client.get_bucket_encryption(**where)["ServerSideEncryptionConfiguration"]
    assert found["Rules"] == [
        applied("aws:kms", KMSMasterKeyID=KMS_KEY) | {"BucketKeyEnabled": False}
    ]
    assert said(client.put_object(**where, Key="key", Body=b"x")) == KMS
    assert said(client.put_object(**where, Key="nodes", Body=b"x", **NODE)) == NODE
    assert said(client.put_object(**where, Key="own", Body=b"x", **CUSTOMER)) == expected(CUSTOMER)
    assert said(client.create_multipart_upload(**where, Key="big")) == KMS
    copy = client.copy_object(**where, Key="copy", CopySource={**where, "Key": "nodes"})
    assert said(copy) == KMS
    client.put_bucket_encryption(**where, **rules(applied("AES256")))
    assert said(client.put_object(**where, Key="key", Body=b"x")) == NODE
    client.delete_bucket_encryption(**where)
    client.delete_bucket_encryption(**where)
    assert refusal(client.get_bucket_encryption, **where) == missing
    assert said(client.put_object(**where, Key="key", Body=b"x")) == {}
    assert said(client.head_object(**where, Key="nodes")) == NODE


def test_a_bucket_may_block_customer_keys(client: Any, bucket: str) -> None:
    put = {"Bucket": bucket, "Key": "key", "Body": b"x"}
    client.put_object(**put, **CUSTOMER)
    block = {"BlockedEncryptionTypes": {"EncryptionType": ["SSE-C"]}}
    client.put_bucket_encryption(Bucket=bucket, **rules(block))
    assert refusal(client.put_object, **put, **CUSTOMER) == (403, "AccessDenied")
    got = client.get_object(Bucket=bucket, Key="key", **CUSTOMER)
    assert got["Body"].read() == b"x"
    assert said(client.put_object(**put)) == {}


@pytest.mark.parametrize(
    ("document", "code"),
    [
        ({"Rules": []}, "MalformedXML"),
        ({"Rules": [applied("AES256"), applied("AES256")]}, "MalformedXML"),
        ({"Rules": [applied("AES512")]}, "MalformedXML"),
        ({"Rules": [applied("AES256", KMSMasterKeyID="x")]}, "InvalidArgument"),
        ({"Rules": [applied("aws:kms:dsse")]}, "NotImplemented"),
        ({"Rules": [{"BlockedEncryptionTypes": {"EncryptionType": ["X"]}}]}, "MalformedXML"),
    ],
)
def test_documents_that_are_refused(
    client: Any, bucket: str, document: dict[str, Any], code: str
) -> None:
    put = {"Bucket": bucket, "ServerSideEncryptionConfiguration": document}
    assert refusal(client.put_bucket_encryption, **put)[1] == code
    assert refusal(client.get_bucket_encryption, Bucket=bucket)[0] == 404


# ------------------------------------------------------------------------------- the other doors


def test_the_mount_shows_the_size_and_gives_no_bytes(door: Door, client: Any, bucket: str) -> None:
    client.put_object(Bucket=bucket, Key="name", Body=b"x" * 5000, **NODE)
    volume = door.volume
    root = volume.buckets.get(bucket).root
    inode = volume.files.lookup(root, b"name")
    assert inode.visible_size == 5000 < inode.size
    for write in (False, True):
        with pytest.raises(SealedContent):
            volume.open_files.open(inode.id, write=write)
    with pytest.raises(SealedContent):
        volume.open_files.truncate(inode.id, 0)
    volume.renames.rename(root, b"name", root, b"renamed")
    got = client.get_object(Bucket=bucket, Key="renamed")
    assert (got["Body"].read(), said(got)) == (b"x" * 5000, NODE)
    volume.files.unlink(root, b"renamed")
    assert door.is_empty(bucket)


@pytest.mark.parametrize("keeps_keyring", [True, False])
def test_after_the_index_is_lost(tmp_path: Path, keeps_keyring: bool) -> None:
    parts = {1: some_bytes(5 * MIB), 2: some_bytes(100)}
    with serving(tmp_path, access_log="off", write_mode=WriteMode.WRITE_THROUGH) as first:
        first.volume.keyring.create(KMS_KEY)
        client = first.client()
        client.create_bucket(Bucket="bucket")
        for name, mode in ENCRYPTED.items():
            client.put_object(Bucket="bucket", Key=name, Body=b"body of " + name.encode(), **mode)
        upload(client, "bucket", parts, NODE)
    keyring = (tmp_path / "state" / "keyring.json").read_bytes()
    shutil.rmtree(tmp_path / "state")
    (tmp_path / "store").rename(tmp_path / "kept")
    again = tmp_path / "again"
    (again / "state").mkdir(parents=True, mode=0o700)
    if keeps_keyring:
        (again / "state" / "keyring.json").write_bytes(keyring)
    with serving(again, access_log="off") as second:
        (tmp_path / "kept" / "bucket").rename(second.store / "bucket")
        assert second.volume.buckets.adopt() == 1
        client = second.client()
        sizes = {
            each["Key"]: each["Size"] for each in client.list_objects(Bucket="bucket")["Contents"]
        }
        assert sizes == {"big": 5 * MIB + 100, **{n: len(n) + 8 for n in ENCRYPTED}}
        got = client.get_object(Bucket="bucket", Key="sse-c", **CUSTOMER)
        assert got["Body"].read() == b"body of sse-c"
        for name in ("sse-s3", "sse-kms"):
            if keeps_keyring:
                got = client.get_object(Bucket="bucket", Key=name)
                assert (got["Body"].read(), said(got)) == (
                    b"body of " + name.encode(),
                    ENCRYPTED[name],
                )
            else:
                get = {"Bucket": "bucket", "Key": name}
                assert refusal(client.get_object, **get) == (500, "InternalError")
        if keeps_keyring:
            got = client.get_object(Bucket="bucket", Key="big", PartNumber=2)
            assert got["Body"].read() == parts[2]


@pytest.fixture(scope="module")
def moto(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Backend]:
    with moto_backend(tmp_path_factory.mktemp("moto")) as backend:
        yield backend


@pytest.mark.parametrize("write_mode", [WriteMode.WRITE_BACK, WriteMode.WRITE_THROUGH])
def test_an_s3_store_has_what_opens_the_objects(
    moto: Backend, tmp_path: Path, write_mode: WriteMode
) -> None:
    name = f"bucket-{write_mode.replace('_', '-')}"
    parts = {1: some_bytes(5 * MIB), 2: some_bytes(5 * MIB, 2), 7: some_bytes(100)}
    with moto.opened() as store:
        first, second = tmp_path / "first", tmp_path / "second"
        first.mkdir()
        with serving(first, access_log="off", behind=store, write_mode=write_mode) as door:
            door.volume.keyring.create(KMS_KEY)
            client = door.client()
            client.create_bucket(Bucket=name)
            for key, mode in ENCRYPTED.items():
                body = b"body of " + key.encode()
                client.put_object(Bucket=name, Key=key, Body=body, Metadata={"a": "b"}, **mode)
            done = upload(client, name, parts, KMS)
            wait_until(lambda: persisted(door))
        (second / "state").mkdir(parents=True, mode=0o700)
        shutil.copy(first / "state" / "keyring.json", second / "state")
        with serving(second, access_log="off", behind=store) as door:
            door.volume.buckets.adopt()
            client = door.client()
            for key, mode in ENCRYPTED.items():
                got = client.get_object(Bucket=name, Key=key, **reading(mode))
                assert (got["Body"].read(), said(got)) == (
                    b"body of " + key.encode(),
                    expected(mode),
                )
                assert got["Metadata"] == {"a": "b"}
            head = client.head_object(Bucket=name, Key="big")
            assert head["ContentLength"] == 10 * MIB + 100
            if write_mode == WriteMode.WRITE_BACK:  # else it came too late to be kept
                assert head["ETag"] == done["ETag"]
            got = client.get_object(Bucket=name, Key="big", Range=f"bytes={5 * MIB - 5}-")
            assert got["Body"].read() == (parts[1] + parts[2] + parts[7])[5 * MIB - 5 :]
            last = client.get_object(Bucket=name, Key="big", PartNumber=3)
            assert last["Body"].read() == parts[7]
            sizes = [each["Size"] for each in client.list_objects(Bucket=name)["Contents"]]
            assert sizes == [10 * MIB + 100, *(len(key) + 8 for key in sorted(ENCRYPTED))]


def test_bytes_that_others_changed_in_the_store_are_no_answer(tmp_path: Path) -> None:
    with serving(tmp_path, access_log="off", write_mode=WriteMode.WRITE_AROUND) as door:
        client = door.client()
        client.create_bucket(Bucket="bucket")
        client.put_object(Bucket="bucket", Key="key", Body=b"x" * 5000, **NODE)
        path = door.store / "bucket" / "key"
        status = path.stat()
        content = bytearray(path.read_bytes())
        content[100] ^= 1
        with path.open("r+b") as file:
            file.write(content)
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
        found = door.volume.buckets.get("bucket")
        door.volume.discovery.look_again(door.volume.files.lookup(found.root, b"key"))
        get = {"Bucket": "bucket", "Key": "key"}
        assert refusal(client.get_object, **get) == (500, "InternalError")
