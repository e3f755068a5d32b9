"""Clients of others against a whole node: what each stores and does is seen by it and in the mount.

`sigv4` with a key of `forebay keys create`; curl with the deliberately incomplete header of
acceptance A03 against a node in `simple`. tests/test_s3_clients.py looks closer at what the gateway
answers them; here is the node as an operator starts it, with its mount.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError
from minio import Minio
from minio.commonconfig import CopySource

from fuse import mountpoint
from tests.support.mount import requires_fuse
from tests.support.node import RunningNode, running_node
from tests.support.stores import program

pytestmark = requires_fuse

REGION = "us-east-1"
LARGE = os.urandom(11 << 20)  # three parts for boto3 and s3fs, two for minio-py
TIMEOUT_S = 200
MOUNT_DEADLINE_S = 90


@dataclass(frozen=True)
class Key:
    access_key: str
    secret: str

    @property
    def environment(self) -> dict[str, str]:
        """For programs: this key, and nothing of whoever runs the test."""
        return os.environ | {
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret,
            "AWS_DEFAULT_REGION": REGION,
            "AWS_CONFIG_FILE": os.devnull,
            "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    def boto3_arguments(self, endpoint: str) -> dict[str, Any]:
        return {
            "endpoint_url": endpoint,
            "aws_access_key_id": self.access_key,
            "aws_secret_access_key": self.secret,
            "region_name": REGION,
            "config": Config(
                signature_version="s3v4",
                s3={"addressing_style": "path"},
                retries={"max_attempts": 1},
            ),
        }


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningNode]:
    with running_node(tmp_path_factory.mktemp("clients"), auth={"mode": "sigv4"}) as node:
        yield node


@pytest.fixture(scope="module")
def key(node: RunningNode) -> Key:
    made = json.loads(node.forebay("keys", "create", "alice", "--json").stdout)
    return Key(made["access_key"], made["secret_key"])


@pytest.fixture
def bucket(node: RunningNode, request: pytest.FixtureRequest) -> str:
    """A bucket of the test's own, made through the mount."""
    name = request.node.name.replace("_", "-").removeprefix("test-")[:60]
    (mount_of(node) / name).mkdir()
    return name


def mount_of(node: RunningNode) -> Path:
    assert node.mount is not None
    return node.mount


def run(*command: str | Path, env: dict[str, str] | None = None, stdin: bytes = b"") -> bytes:
    done = subprocess.run(
        command, input=stdin, capture_output=True, timeout=TIMEOUT_S, env=env, check=False
    )
    assert done.returncode == 0, f"{command}: {done.stderr.decode(errors='replace')}"
    return done.stdout


def test_boto3_client(node: RunningNode, key: Key, bucket: str) -> None:
    s3 = boto3.client("s3", **key.boto3_arguments(node.endpoint))
    seen = mount_of(node) / bucket
    s3.put_object(Bucket=bucket, Key="dir/small", Body=b"0123456789", Metadata={"colour": "blue"})
    assert (seen / "dir/small").read_bytes() == b"0123456789"
    ranged = s3.get_object(Bucket=bucket, Key="dir/small", Range="bytes=2-5")
    assert (ranged["Body"].read(), ranged["Metadata"]) == (b"2345", {"colour": "blue"})
    s3.upload_fileobj(io.BytesIO(LARGE), bucket, "large")
    assert "-" in s3.head_object(Bucket=bucket, Key="large")["ETag"]
    assert (seen / "large").read_bytes() == LARGE
    s3.copy_object(Bucket=bucket, Key="copy", CopySource={"Bucket": bucket, "Key": "large"})
    assert (seen / "copy").stat().st_size == len(LARGE)
    for number in range(7):
        (seen / f"written-{number}").write_text("through the mount")
    paginator = s3.get_paginator("list_objects_v2")
    pages = list(paginator.paginate(Bucket=bucket, PaginationConfig={"PageSize": 3}))
    keys = [entry["Key"] for page in pages for entry in page["Contents"]]
    assert [len(page["Contents"]) for page in pages] == [3, 3, 3, 1]
    assert keys == ["copy", "dir/small", "large", *(f"written-{n}" for n in range(7))]
    answer = s3.delete_objects(Bucket=bucket, Delete={"Objects": [{"Key": k} for k in keys]})
    assert len(answer["Deleted"]) == 10
    assert os.listdir(seen) == []


def test_a_key_that_was_revoked_opens_nothing(node: RunningNode, bucket: str) -> None:
    made = json.loads(node.forebay("keys", "create", "mallory", "--json").stdout)
    s3 = boto3.client(
        "s3", **Key(made["access_key"], made["secret_key"]).boto3_arguments(node.endpoint)
    )
    assert bucket in [b["Name"] for b in s3.list_buckets()["Buckets"]]
    node.forebay("keys", "revoke", made["access_key"])
    with pytest.raises(ClientError, match="InvalidAccessKeyId"):
        s3.list_buckets()


def test_boto3_resource(node: RunningNode, key: Key, bucket: str) -> None:
    s3 = boto3.resource("s3", **key.boto3_arguments(node.endpoint))
    seen = mount_of(node) / bucket
    assert bucket in [b.name for b in s3.buckets.all()]
    it = s3.Bucket(bucket)
    it.put_object(Key="one", Body=b"1" * 5000)
    assert s3.Object(bucket, "one").get(Range="bytes=4990-")["Body"].read() == b"1" * 10
    upload = s3.Object(bucket, "parts").initiate_multipart_upload()
    parts = []
    for number, body in enumerate((LARGE[: 5 << 20], LARGE[5 << 20 :]), start=1):
        tag = upload.Part(number).upload(Body=body)["ETag"]
        parts.append({"PartNumber": number, "ETag": tag})
    assert [part.part_number for part in upload.parts.all()] == [1, 2]
    upload.complete(MultipartUpload={"Parts": parts})
    assert (seen / "parts").read_bytes() == LARGE
    s3.Object(bucket, "two").copy_from(CopySource=f"{bucket}/one")
    assert [o.key for o in it.objects.page_size(2)] == ["one", "parts", "two"]
    it.objects.all().delete()
    assert os.listdir(seen) == []


def test_aws_cli(node: RunningNode, key: Key, bucket: str, tmp_path: Path) -> None:
    def aws(*arguments: str | Path, stdin: bytes = b"") -> str:
        command = [program("aws"), "--endpoint-url", node.endpoint, *arguments]
        return run(*command, env=key.environment, stdin=stdin).decode()

    seen = mount_of(node) / bucket
    large, small, got = tmp_path / "large", tmp_path / "tree/sub/small", tmp_path / "got"
    large.write_bytes(LARGE)
    small.parent.mkdir(parents=True)
    small.write_bytes(b"0123456789")
    aws("s3", "cp", large, f"s3://{bucket}/large", "--only-show-errors")
    assert (seen / "large").read_bytes() == LARGE
    aws("s3", "sync", tmp_path / "tree", f"s3://{bucket}/tree", "--only-show-errors")
    assert (seen / "tree/sub/small").read_bytes() == b"0123456789"
    aws("s3", "mv", f"s3://{bucket}/large", f"s3://{bucket}/moved", "--only-show-errors")
    assert sorted(os.listdir(seen)) == ["moved", "tree"]
    (seen / "tree/sub/written").write_text("through the mount")
    assert aws("s3", "ls", f"s3://{bucket}/tree/sub/").split()[2::4] == ["10", "17"]
    ranged = ("--key", "tree/sub/small", "--range", "bytes=3-6", str(got))
    aws("s3api", "get-object", "--bucket", bucket, *ranged)
    assert got.read_bytes() == b"3456"
    listed = json.loads(
        aws("s3api", "list-objects-v2", "--bucket", bucket, "--page-size", "1", "--output", "json")
    )
    keys = [(entry["Key"], entry["Size"]) for entry in listed["Contents"]]
    assert keys == [("moved", len(LARGE)), ("tree/sub/small", 10), ("tree/sub/written", 17)]
    aws("s3", "sync", f"s3://{bucket}/tree", tmp_path / "down", "--only-show-errors")
    assert (tmp_path / "down/sub/written").read_text() == "through the mount"
    aws("s3", "rm", "--recursive", f"s3://{bucket}/", "--only-show-errors")
    assert os.listdir(seen) == []


def test_minio_py(node: RunningNode, key: Key, bucket: str) -> None:
    s3 = Minio(
        urlsplit(node.endpoint).netloc,
        access_key=key.access_key,
        secret_key=key.secret,
        secure=False,
        region=REGION,
    )
    seen = mount_of(node) / bucket
    assert bucket in [b.name for b in s3.list_buckets()]
    # Of unknown length: a multipart upload.
    s3.put_object(bucket, "stream", io.BytesIO(LARGE), length=-1, part_size=10 << 20)
    assert (seen / "stream").read_bytes() == LARGE
    s3.put_object(bucket, "dir/small", io.BytesIO(b"0123456789"), length=10)
    with contextlib.closing(s3.get_object(bucket, "dir/small", offset=4, length=3)) as ranged:
        assert ranged.read() == b"456"
        ranged.release_conn()
    s3.copy_object(bucket, "copy", CopySource(bucket, "stream"))
    assert (seen / "copy").stat().st_size == len(LARGE)
    names = [o.object_name for o in s3.list_objects(bucket, recursive=True)]
    assert names == ["copy", "dir/small", "stream"]
    for name in names:
        s3.remove_object(bucket, name)
    assert os.listdir(seen) == []


def test_rclone(node: RunningNode, key: Key, bucket: str, tmp_path: Path) -> None:
    environment = key.environment | {
        "RCLONE_CONFIG": os.devnull,
        "RCLONE_CONFIG_NODE_TYPE": "s3",
        "RCLONE_CONFIG_NODE_PROVIDER": "Other",
        "RCLONE_CONFIG_NODE_ENDPOINT": node.endpoint,
        "RCLONE_CONFIG_NODE_ACCESS_KEY_ID": key.access_key,
        "RCLONE_CONFIG_NODE_SECRET_ACCESS_KEY": key.secret,
        "RCLONE_CONFIG_NODE_REGION": REGION,
        "RCLONE_S3_UPLOAD_CUTOFF": "6M",
        "RCLONE_S3_LIST_CHUNK": "2",
    }

    def rclone(*arguments: str | Path, stdin: bytes = b"") -> bytes:
        return run(program("rclone"), *arguments, env=environment, stdin=stdin)

    seen = mount_of(node) / bucket
    tree = tmp_path / "tree"
    (tree / "sub").mkdir(parents=True)
    (tree / "large").write_bytes(LARGE)
    for number in range(5):
        (tree / f"sub/{number}").write_text(str(number) * 100)
    rclone("sync", tree, f"node:{bucket}/tree")
    assert (seen / "tree/large").read_bytes() == LARGE
    rclone("check", "--download", tree, f"node:{bucket}/tree")
    assert rclone("cat", "--offset", "2", "--count", "3", f"node:{bucket}/tree/sub/4") == b"444"
    (seen / "tree/written").write_text("through the mount")
    listed = rclone("lsf", "-R", "--files-only", f"node:{bucket}").decode().split()
    assert sorted(listed) == ["tree/large", *(f"tree/sub/{n}" for n in range(5)), "tree/written"]
    rclone("copyto", f"node:{bucket}/tree/large", f"node:{bucket}/copy")
    assert (seen / "copy").stat().st_size == len(LARGE)
    rclone("rcat", f"node:{bucket}/piped", stdin=b"from a pipe")
    assert (seen / "piped").read_bytes() == b"from a pipe"
    rclone("delete", f"node:{bucket}")
    left = [files for _, _, files in os.walk(seen) if files]
    assert left == []


def test_s3fs(node: RunningNode, key: Key, bucket: str, tmp_path: Path) -> None:
    """Another file system over our endpoint: modes, links, renames and directories are its own
    notes in metadata, which come back to it as they were."""
    seen = mount_of(node) / bucket
    with s3fs(node, key, bucket, tmp_path) as there:
        (there / "sub").mkdir()
        (there / "sub/small").write_bytes(b"0123456789")
        (there / "sub/small").chmod(0o640)
        (there / "large").write_bytes(LARGE)
        os.symlink("sub/small", there / "link")
        assert (there / "sub/small").stat().st_mode & 0o777 == 0o640
        assert os.readlink(there / "link") == "sub/small"
        assert (seen / "sub/small").read_bytes() == b"0123456789"
        assert (seen / "large").read_bytes() == LARGE
        with (there / "large").open("rb") as file:
            file.seek(7 << 20)
            assert file.read(1000) == LARGE[7 << 20 : (7 << 20) + 1000]
        for number in range(12):
            (seen / f"sub/written-{number}").write_text("through the mount")
        assert (there / "sub/written-11").read_text() == "through the mount"
        shutil.copyfile(there / "large", there / "copy")
        assert (seen / "copy").stat().st_size == len(LARGE)
        (there / "sub/small").rename(there / "renamed")
        assert (seen / "renamed").read_bytes() == b"0123456789"
        assert not (seen / "sub/small").exists()
        assert sorted(os.listdir(there)) == ["copy", "large", "link", "renamed", "sub"]
        shutil.rmtree(there / "sub")
        for name in ("copy", "large", "link", "renamed"):
            (there / name).unlink()
        assert os.listdir(seen) == []


@contextlib.contextmanager
def s3fs(node: RunningNode, key: Key, bucket: str, directory: Path) -> Iterator[Path]:
    """s3fs-fuse, mounted over the node's endpoint."""
    if shutil.which("s3fs") is None:
        pytest.skip("needs s3fs")
    password = directory / "password"
    password.write_text(f"{key.access_key}:{key.secret}")
    password.chmod(0o600)
    options = (
        f"url={node.endpoint},use_path_request_style,passwd_file={password},endpoint={REGION},"
        "sigv4,multipart_size=5,stat_cache_expire=0,max_stat_cache_size=0"
    )
    there = directory / "s3fs"
    with mounted_by(["s3fs", bucket, there, "-f", "-o", options], there):
        yield there


def test_rclone_mount(node: RunningNode, key: Key, bucket: str, tmp_path: Path) -> None:
    """A file system of goofys' kind over our endpoint, without a cache on disk: what is written
    goes there as it is written, front to back, and what is read comes by ranges."""
    seen = mount_of(node) / bucket
    there = tmp_path / "rclone"
    environment = {
        "RCLONE_CONFIG": os.devnull,
        "RCLONE_CONFIG_NODE_TYPE": "s3",
        "RCLONE_CONFIG_NODE_PROVIDER": "Other",
        "RCLONE_CONFIG_NODE_ENDPOINT": node.endpoint,
        "RCLONE_CONFIG_NODE_ACCESS_KEY_ID": key.access_key,
        "RCLONE_CONFIG_NODE_SECRET_ACCESS_KEY": key.secret,
        "RCLONE_CONFIG_NODE_REGION": REGION,
    }
    command: list[str | Path] = [program("rclone"), "mount", f"node:{bucket}", there]
    command += ["--vfs-cache-mode", "off", "--dir-cache-time", "0s", "--attr-timeout", "1ns"]
    with mounted_by(command, there, environment):
        (there / "sub").mkdir()
        (there / "sub/small").write_bytes(b"0123456789")
        shutil.copyfile(large_file(tmp_path), there / "large")
        assert (seen / "sub/small").read_bytes() == b"0123456789"
        assert (seen / "large").read_bytes() == LARGE
        with (there / "large").open("rb") as file:
            file.seek(7 << 20)
            assert file.read(1000) == LARGE[7 << 20 : (7 << 20) + 1000]
        (seen / "sub/written").write_text("through the mount")
        assert sorted(os.listdir(there / "sub")) == ["small", "written"]
        assert (there / "sub/written").read_text() == "through the mount"
        (there / "sub/small").rename(there / "renamed")
        assert (seen / "renamed").read_bytes() == b"0123456789"
        assert not (seen / "sub/small").exists()
        for name in ("large", "renamed", "sub/written"):
            (there / name).unlink()
    assert [name for _, _, files in os.walk(seen) for name in files] == []


def large_file(directory: Path) -> Path:
    """The large body as a file."""
    source = directory / "source"
    source.write_bytes(LARGE)
    return source


@contextlib.contextmanager
def mounted_by(
    command: list[str | Path], there: Path, environment: dict[str, str] | None = None
) -> Iterator[None]:
    """A FUSE client that mounts `there`; gone afterwards, whatever happens."""
    there.mkdir()
    output = there.with_suffix(".log")
    with output.open("wb") as log:
        process = subprocess.Popen(
            command, stdout=log, stderr=subprocess.STDOUT, env=os.environ | (environment or {})
        )
    try:
        deadline = time.monotonic() + MOUNT_DEADLINE_S
        while mountpoint.mounted_on(there) is None:
            if process.poll() is not None or time.monotonic() > deadline:
                pytest.fail(f"{command[0]} did not mount: {output.read_text()}")
            time.sleep(0.05)
        yield
    finally:
        subprocess.run(["fusermount3", "-uz", there], timeout=20, check=False, capture_output=True)
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
