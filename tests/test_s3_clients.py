"""Clients of others against a running gateway: boto3's resources, aws cli, minio-py, rclone, curl.

What they write must come back through them, and lie in the store as plain files.
"""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

import boto3
import pytest
from minio import Minio
from minio.commonconfig import CopySource
from minio.deleteobjects import DeleteObject

from cache.records import WriteMode
from s3api.config import AuthConfig
from tests.support import s3
from tests.support.s3 import Door, bucket, serving

__all__ = ["bucket"]

numbers = count(1)
BIN = Path(sys.executable).parent
TIMEOUT_S = 120


@pytest.fixture(scope="module")
def door(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Door]:
    directory = tmp_path_factory.mktemp("door")
    with serving(directory, write_mode=WriteMode.WRITE_THROUGH, access_log="off") as running:
        yield running


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A small tree of files: empty, small, larger than a part, with awkward names."""
    root = tmp_path / "tree"
    for name, size in {
        "empty": 0,
        "small": 100,
        "sub/deep/er/file": 5000,
        "sub/large": 9 << 20,
        "with space & plus+.txt": 10,
        "ünïcode/漢字": 10,
        "per%20cent": 1,
    }.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(os.urandom(size))
    return root


def contents(root: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()
    }


def run(door: Door, *command: str | Path, env: dict[str, str] | None = None) -> str:
    environment = {"PATH": os.environ["PATH"], "HOME": "/nonexistent", **door.environment()}
    done = subprocess.run(
        [str(part) for part in command],
        env=environment | (env or {}),
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


# ------------------------------------------------------------------------------ boto3 resources


def test_boto3_resources(door: Door, bucket: str) -> None:
    service: Any = boto3.resource("s3", **door.boto_arguments())
    assert bucket in [each.name for each in service.buckets.all()]
    home = service.Bucket(bucket)
    assert home.creation_date is not None
    home.create()  # one's own: again is no error
    for number in range(3):
        home.put_object(Key=f"dir/{number}", Body=b"x" * number, Metadata={"n": str(number)})
    summaries = list(home.objects.filter(Prefix="dir/"))
    assert [(each.key, each.size) for each in summaries] == [
        ("dir/0", 0),
        ("dir/1", 1),
        ("dir/2", 2),
    ]
    assert all(each.last_modified for each in summaries)
    thing = service.Object(bucket, "dir/2")
    assert (thing.get()["Body"].read(), thing.metadata) == (b"xx", {"n": "2"})
    copy = service.Object(bucket, "copy")
    copy.copy_from(CopySource=f"{bucket}/dir/2")
    assert copy.content_length == 2
    assert home.Versioning().status is None
    assert home.Acl().owner["DisplayName"] == s3.USER
    assert thing.Acl().grants[0]["Permission"] == "FULL_CONTROL"
    for acl in (home.Acl(), thing.Acl()):
        acl.put(ACL="public-read")
        acl.reload()
        assert {grant["Permission"] for grant in acl.grants} == {"FULL_CONTROL", "READ"}
        mine = [grant for grant in acl.grants if grant["Permission"] == "FULL_CONTROL"]
        assert mine[0]["Grantee"]["ID"] == acl.owner["ID"]
        acl.put(AccessControlPolicy={"Grants": mine, "Owner": acl.owner})
        acl.reload()
        assert (acl.grants, set(acl.owner)) == (mine, {"DisplayName", "ID"})
    upload = service.Object(bucket, "parts").initiate_multipart_upload()
    part = upload.Part(1).upload(Body=b"part")
    upload.Part(2).copy_from(CopySource=f"{bucket}/copy")
    assert [each.part_number for each in upload.parts.all()] == [1, 2]
    assert [each.object_key for each in home.multipart_uploads.all()] == ["parts"]
    upload.complete(MultipartUpload={"Parts": [{"PartNumber": 1, "ETag": part["ETag"]}]})
    abandoned = service.Object(bucket, "abandoned").initiate_multipart_upload()
    abandoned.abort()
    home.delete_objects(Delete={"Objects": [{"Key": "dir/0"}, {"Key": "dir/1"}]})
    home.objects.all().delete()
    home.delete()
    assert bucket not in [each.name for each in service.buckets.all()]


# ------------------------------------------------------------------------------ aws cli


def aws(door: Door, *arguments: str | Path) -> str:
    return run(door, BIN / "aws", "--endpoint-url", door.url, *arguments)


def test_aws_cli_sync(door: Door, bucket: str, tree: Path, tmp_path: Path) -> None:
    aws(door, "s3", "sync", tree, f"s3://{bucket}/tree")
    assert contents(door.store / bucket / "tree") == contents(tree)
    listed = aws(door, "s3", "ls", "--recursive", f"s3://{bucket}/")
    assert "tree/sub/deep/er/file" in listed
    assert "PRE tree/" in aws(door, "s3", "ls", f"s3://{bucket}")
    assert bucket in aws(door, "s3", "ls")
    aws(door, "s3", "sync", f"s3://{bucket}/tree", tmp_path / "down")
    assert contents(tmp_path / "down") == contents(tree)
    assert aws(door, "s3", "sync", f"s3://{bucket}/tree", tmp_path / "down") == ""
    aws(door, "s3", "mv", f"s3://{bucket}/tree/sub/large", f"s3://{bucket}/moved")
    aws(door, "s3", "rm", "--recursive", f"s3://{bucket}/")
    assert door.is_empty(bucket)
    aws(door, "s3", "rb", f"s3://{bucket}")


def test_aws_cli_api(door: Door, tmp_path: Path) -> None:
    name = f"bucket-{next(numbers)}"
    aws(door, "s3api", "create-bucket", "--bucket", name)
    body = tmp_path / "body"
    body.write_bytes(b"hello")
    put = aws(door, "s3api", "put-object", "--bucket", name, "--key", "k", "--body", body)
    assert "5d41402abc4b2a76b9719d911017c592" in put
    listed = aws(door, "s3api", "list-objects-v2", "--bucket", name)
    assert '"Key": "k"' in listed
    key = ("--bucket", name, "--key", "u")
    created = aws(door, "s3api", "create-multipart-upload", *key, "--query", "UploadId")
    upload = created.strip().strip('"')
    assert aws(door, "s3api", "abort-multipart-upload", *key, "--upload-id", upload) == ""
    # For an endpoint of one's own the cli presigns by Signature Version 2 unless told otherwise.
    (tmp_path / "config").write_text("[default]\ns3 =\n  signature_version = s3v4\n")
    presign = (BIN / "aws", "--endpoint-url", door.url, "s3", "presign", f"s3://{name}/k")
    url = run(door, *presign, env={"AWS_CONFIG_FILE": str(tmp_path / "config")}).strip()
    assert run(door, "curl", "-sf", url) == "hello"


def test_aws_cli_streams(door: Door, bucket: str) -> None:
    """`-` as source: a body of unknown length."""
    body = os.urandom(10 << 20)
    done = subprocess.run(
        [BIN / "aws", "--endpoint-url", door.url, "s3", "cp", "-", f"s3://{bucket}/stream"],
        env={"PATH": os.environ["PATH"], **door.environment()},
        input=body,
        capture_output=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert (door.store / bucket / "stream").read_bytes() == body


# ------------------------------------------------------------------------------ minio-py


def minio(door: Door) -> Minio:
    return Minio(
        door.host, access_key=door.key.access_key, secret_key=door.key.secret, secure=False
    )


def test_minio_py(door: Door, bucket: str) -> None:
    client = minio(door)
    assert bucket in [each.name for each in client.list_buckets()]
    assert client.bucket_exists(bucket)
    assert not client.bucket_exists("no-such-bucket")
    body = os.urandom(11 << 20)
    client.put_object(bucket, "unknown length", io.BytesIO(body), length=-1, part_size=10 << 20)
    client.put_object(bucket, "known", io.BytesIO(b"known"), length=5, metadata={"color": "blue"})
    answer = client.get_object(bucket, "unknown length")
    assert answer.read() == body
    answer.close()
    answer.release_conn()
    assert client.stat_object(bucket, "known").metadata["x-amz-meta-color"] == "blue"
    part = client.get_object(bucket, "unknown length", offset=1000, length=50)
    assert part.read() == body[1000:1050]
    part.close()
    client.copy_object(bucket, "copy", CopySource(bucket, "known"))
    names = [each.object_name for each in client.list_objects(bucket, recursive=True)]
    assert names == ["copy", "known", "unknown length"]
    assert client.list_objects(bucket)
    url = client.presigned_get_object(bucket, "known")
    assert run(door, "curl", "-sf", url) == "known"
    errors = client.remove_objects(bucket, [DeleteObject(name) for name in names])
    assert list(errors) == []
    assert door.is_empty(bucket)
    client.make_bucket(f"{bucket}-made")
    client.remove_bucket(f"{bucket}-made")


# ------------------------------------------------------------------------------ rclone


@pytest.mark.skipif(not (BIN / "rclone").exists(), reason="needs rclone (script/setup test)")
def test_rclone(door: Door, bucket: str, tree: Path, tmp_path: Path) -> None:
    remote = (
        f":s3,provider=Other,endpoint='{door.url}',force_path_style=true,env_auth=true:{bucket}"
    )
    settings = {"RCLONE_CONFIG": str(tmp_path / "none.conf"), "HOME": str(tmp_path)}

    def rclone(*arguments: str | Path) -> str:
        return run(door, BIN / "rclone", *arguments, env=settings)

    rclone("sync", tree, f"{remote}/tree")
    assert contents(door.store / bucket / "tree") == contents(tree)
    rclone("check", tree, f"{remote}/tree")
    rclone("copy", f"{remote}/tree", tmp_path / "down")
    assert contents(tmp_path / "down") == contents(tree)
    assert "sub/large" in rclone("lsf", "-R", f"{remote}/tree")
    rclone("moveto", f"{remote}/tree/small", f"{remote}/tree/moved")
    rclone("purge", remote)


# ------------------------------------------------------------------------------ curl


def test_curl_needs_no_sdk(tmp_path: Path) -> None:
    """The deliberately incomplete header of Alluxio's examples, in simple mode."""
    header = (
        "Authorization: AWS4-HMAC-SHA256 Credential=testuser/... SignedHeaders=... Signature=..."
    )
    (tmp_path / "body").write_bytes(b"x" * 100_000)
    with serving(tmp_path, auth=AuthConfig(mode="simple"), access_log="off") as door:

        def curl(*arguments: str | Path) -> str:
            return run(door, "curl", "-sf", "-H", header, *arguments)

        curl("-X", "PUT", f"{door.url}/bucket")
        curl("-T", tmp_path / "body", f"{door.url}/bucket/key")  # curl expects 100-continue
        assert "<Key>key</Key>" in curl(f"{door.url}/bucket")
        curl("-o", tmp_path / "got", f"{door.url}/bucket/key")
        assert (tmp_path / "got").read_bytes() == b"x" * 100_000
        assert "ETag" in curl("-I", f"{door.url}/bucket/key")
        curl("-X", "DELETE", f"{door.url}/bucket/key")
        assert door.is_empty("bucket")


def test_curl_streams_without_a_length(tmp_path: Path) -> None:
    with serving(tmp_path, auth=AuthConfig(mode="simple"), access_log="off") as door:
        door.volume.buckets.create("bucket", "me")
        header = "Authorization: AWS4-HMAC-SHA256 Credential=me/"
        done = subprocess.run(
            ["curl", "-sf", "-H", header, "-T", "-", f"{door.url}/bucket/key"],
            input=b"y" * 3_000_000,
            timeout=TIMEOUT_S,
            check=False,
        )
        assert done.returncode == 0
        assert door.volume.objects.get("bucket", b"key").size == 3_000_000


def curl_signs() -> bool:
    text = shutil.which("curl") and subprocess.run(
        ["curl", "--help", "all"], capture_output=True, text=True, check=False
    ).stdout  # fmt: skip
    return bool(text) and "--aws-sigv4" in str(text)


@pytest.mark.skipif(not curl_signs(), reason="needs a curl with --aws-sigv4")
def test_curl_signs(door: Door, bucket: str) -> None:
    user = f"{door.key.access_key}:{door.key.secret}"
    signed = ("curl", "-sf", "--aws-sigv4", "aws:amz:us-east-1:s3", "--user", user)
    unsigned = "x-amz-content-sha256: UNSIGNED-PAYLOAD"
    run(door, *signed, "-H", unsigned, "-X", "PUT", "--data", "hello", f"{door.url}/{bucket}/key")
    assert run(door, *signed, "-H", unsigned, f"{door.url}/{bucket}/key") == "hello"


# ------------------------------------------------------------------------------ virtual hosts


def test_virtual_hosts(tmp_path: Path) -> None:
    """boto3's default addressing, at a domain of which every name is this machine."""
    with serving(tmp_path, domain="localhost", access_log="off") as door:
        door.volume.buckets.create("bucket", s3.USER)
        for host, target in (
            (f"bucket.localhost:{door.port}", "/key"),
            (f"localhost:{door.port}", "/bucket/key"),
        ):
            headers = s3.AWSRequest("PUT", f"http://{host}{target}", data=b"x")
            headers.headers["Host"] = host
            s3.S3SigV4Auth(door.credentials, "s3", s3.REGION).add_auth(headers)
            sent = dict(headers.headers.items())
            assert door.request("PUT", target, sent, b"x", sign=False).status == 200
        listed = door.client().list_objects_v2(Bucket="bucket")["Contents"]
        assert [each["Key"] for each in listed] == ["key"]
