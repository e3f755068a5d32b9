"""Clients of others, each doing the same work against an S3 endpoint with its default settings.

Runs in an environment that has the client and needs nothing of Forebay:

    python -m tests.support.other_clients CLIENT ENDPOINT BUCKET DIRECTORY

with the key in AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY. The work: put, ranged get, a listing of
several pages, a large file up (in parts) and down, copy, delete. An assertion that fails is all the
report there is.
"""

from __future__ import annotations

import hashlib
import io
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

SMALL = b"0123456789" * 100
MANY = 1100
"""More than one page of a listing."""
LARGE_BYTES = 200 << 20
REGION = "us-east-1"
AWS_2 = Path("/usr/bin/aws")
"""Where Debian's package has it; the one beside an interpreter is version 1."""


def _key() -> tuple[str, str]:
    return os.environ["AWS_ACCESS_KEY_ID"], os.environ["AWS_SECRET_ACCESS_KEY"]


def _large(directory: Path) -> Path:
    path = directory / "large"
    with path.open("wb") as file:
        for _ in range(LARGE_BYTES >> 20):
            file.write(os.urandom(1 << 20))
    return path


def _small(directory: Path) -> Path:
    path = directory / "small"
    path.write_bytes(SMALL)
    return path


def _many(directory: Path) -> Path:
    """A directory with more files than a page of a listing holds."""
    many = directory / "many"
    many.mkdir()
    for number in range(MANY):
        (many / f"{number:04}").write_bytes(b"x")
    return many


def _run(*command: str | Path) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, (command, done.stderr)
    return done.stdout


def _same(one: Path, other: Path) -> bool:
    def digest(path: Path) -> bytes:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").digest()

    return digest(one) == digest(other)


def boto3(endpoint: str, bucket: str, directory: Path) -> None:
    from concurrent.futures import ThreadPoolExecutor

    import boto3 as library

    verify = os.environ.get("CERTIFICATE")
    s3: Any = library.client("s3", endpoint_url=endpoint, region_name=REGION, verify=verify)
    s3.create_bucket(Bucket=bucket)
    s3.put_object(Bucket=bucket, Key="small", Body=SMALL)
    assert s3.get_object(Bucket=bucket, Key="small", Range="bytes=3-6")["Body"].read() == b"3456"
    with ThreadPoolExecutor(4) as pool:
        names = [f"many/{number:04}" for number in range(MANY)]
        list(pool.map(lambda name: s3.put_object(Bucket=bucket, Key=name, Body=b""), names))
    pages = s3.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix="many/")
    assert [entry["Key"] for page in pages for entry in page["Contents"]] == names
    large, back = _large(directory), directory / "back"
    s3.upload_file(str(large), bucket, "large")
    s3.copy({"Bucket": bucket, "Key": "large"}, bucket, "copy")
    s3.download_file(bucket, "copy", str(back))
    assert _same(large, back)
    for start in range(0, MANY, 1000):
        keys = [{"Key": name} for name in names[start : start + 1000]]
        assert "Errors" not in s3.delete_objects(Bucket=bucket, Delete={"Objects": keys})
    for name in ("small", "large", "copy"):
        s3.delete_object(Bucket=bucket, Key=name)
    s3.delete_bucket(Bucket=bucket)


def smart_open(endpoint: str, bucket: str, directory: Path) -> None:
    import boto3 as library
    import smart_open as library_open
    from smart_open.s3 import iter_bucket

    s3: Any = library.client("s3", endpoint_url=endpoint, region_name=REGION)
    s3.create_bucket(Bucket=bucket)
    client = {"client": s3}

    def opened(key: str, mode: str) -> Any:
        return library_open.open(f"s3://{bucket}/{key}", mode, transport_params=client)

    with opened("small", "wb") as file:
        file.write(SMALL)
    with opened("small", "rb") as file:
        file.seek(3)
        assert file.read(4) == b"3456"
    for number in range(MANY):
        with opened(f"many/{number:04}", "wb") as file:
            file.write(b"x")
    found = iter_bucket(bucket, prefix="many/", workers=2, client_kwargs={"endpoint_url": endpoint})
    assert sorted(key for key, _ in found) == [f"many/{number:04}" for number in range(MANY)]
    large = _large(directory)
    with opened("large", "wb") as file, large.open("rb") as source:
        while piece := source.read(8 << 20):
            file.write(piece)
    with opened("large", "rb") as file, large.open("rb") as source:
        while piece := source.read(8 << 20):
            assert file.read(len(piece)) == piece
        assert not file.read(1)
    s3.copy({"Bucket": bucket, "Key": "small"}, bucket, "copy")
    with opened("copy", "rb") as file:
        assert file.read() == SMALL
    for page in s3.get_paginator("list_objects_v2").paginate(Bucket=bucket):
        for entry in page["Contents"]:
            s3.delete_object(Bucket=bucket, Key=entry["Key"])
    s3.delete_bucket(Bucket=bucket)


def s3fs(endpoint: str, bucket: str, directory: Path) -> None:
    import s3fs as library

    key, secret = _key()
    files: Any = library.S3FileSystem(
        key=key, secret=secret, endpoint_url=endpoint, client_kwargs={"region_name": REGION}
    )
    files.mkdir(bucket)
    files.pipe_file(f"{bucket}/small", SMALL)
    assert files.cat_file(f"{bucket}/small", start=3, end=7) == b"3456"
    files.pipe({f"{bucket}/many/{number:04}": b"x" for number in range(MANY)})
    files.invalidate_cache()
    assert len(files.find(f"{bucket}/many")) == MANY
    large, back = _large(directory), directory / "back"
    files.put_file(str(large), f"{bucket}/large")
    files.copy(f"{bucket}/large", f"{bucket}/copy")
    files.get_file(f"{bucket}/copy", str(back))
    assert _same(large, back)
    with files.open(f"{bucket}/written", "wb") as file:
        file.write(SMALL)
    with files.open(f"{bucket}/written", "rb") as file:
        file.seek(990)
        assert file.read() == SMALL[990:]
    files.rm(bucket, recursive=True)
    assert not files.exists(bucket)


def obstore(endpoint: str, bucket: str, directory: Path) -> None:
    import obstore as library
    from obstore.store import S3Store

    key, secret = _key()
    _make_bucket(endpoint, bucket)
    store = S3Store(
        bucket,
        endpoint=endpoint,
        access_key_id=key,
        secret_access_key=secret,
        region=REGION,
        client_options={"allow_http": True},
    )
    library.put(store, "small", SMALL)
    assert bytes(library.get_range(store, "small", start=3, length=4)) == b"3456"
    for number in range(MANY):
        library.put(store, f"many/{number:04}", b"x")
    found = [entry["path"] for page in library.list(store, "many") for entry in page]
    assert sorted(found) == [f"many/{number:04}" for number in range(MANY)]
    large, back = _large(directory), directory / "back"
    library.put(store, "large", large)
    library.copy(store, "large", "copy")
    with back.open("wb") as file:
        for piece in library.get(store, "copy").stream():
            file.write(piece)
    assert _same(large, back)
    library.delete(store, [*found, "small", "large", "copy"])
    assert not [entry for page in library.list(store) for entry in page]


def pyarrow(endpoint: str, bucket: str, directory: Path) -> None:
    from pyarrow import fs

    key, secret = _key()
    address = urlsplit(endpoint)
    files = fs.S3FileSystem(
        access_key=key,
        secret_key=secret,
        endpoint_override=address.netloc,
        scheme=address.scheme,
        region=REGION,
        allow_bucket_creation=True,
        allow_bucket_deletion=True,
    )
    files.create_dir(bucket)
    with files.open_output_stream(f"{bucket}/small") as stream:
        stream.write(SMALL)
    with files.open_input_file(f"{bucket}/small") as file:
        assert file.read_at(4, 3) == b"3456"
    for number in range(MANY):
        with files.open_output_stream(f"{bucket}/many/{number:04}") as stream:
            stream.write(b"x")
    assert len(files.get_file_info(fs.FileSelector(f"{bucket}/many", recursive=True))) == MANY
    large, back = _large(directory), directory / "back"
    with files.open_output_stream(f"{bucket}/large") as stream, large.open("rb") as source:
        while piece := source.read(8 << 20):
            stream.write(piece)
    files.copy_file(f"{bucket}/large", f"{bucket}/copy")
    with files.open_input_stream(f"{bucket}/copy") as stream, back.open("wb") as target:
        while piece := stream.read(8 << 20):
            target.write(piece)
    assert _same(large, back)
    files.delete_file(f"{bucket}/small")
    files.delete_dir_contents(bucket)
    assert not files.get_file_info(fs.FileSelector(bucket, recursive=True))
    files.delete_dir(bucket)


def s3cmd(endpoint: str, bucket: str, directory: Path) -> None:
    address = urlsplit(endpoint)
    key, secret = _key()
    config = directory / "s3cfg"
    config.write_text(
        f"[default]\naccess_key = {key}\nsecret_key = {secret}\n"
        f"host_base = {address.netloc}\nhost_bucket = {address.netloc}\n"
        f"use_https = {address.scheme == 'https'}\nbucket_location = {REGION}\n"
    )

    def run(*arguments: str | Path) -> str:
        program = Path(sys.executable).with_name("s3cmd")
        return _run(program, "-c", config, "--no-progress", *arguments)

    run("mb", f"s3://{bucket}")
    many = _many(directory)
    run("put", "--recursive", many, f"s3://{bucket}/")
    assert len(run("ls", "--recursive", f"s3://{bucket}/many/").splitlines()) == MANY
    small, half = _small(directory), directory / "half"
    half.write_bytes(SMALL[:400])
    run("put", small, f"s3://{bucket}/small")
    run("get", "--continue", f"s3://{bucket}/small", half)  # a ranged GET of the rest
    assert half.read_bytes() == SMALL
    large, back = _large(directory), directory / "back"
    run("put", large, f"s3://{bucket}/large")
    run("cp", f"s3://{bucket}/large", f"s3://{bucket}/copy")
    run("get", f"s3://{bucket}/copy", back)
    assert _same(large, back)
    run("sync", many, f"s3://{bucket}/")
    run("del", f"s3://{bucket}/small")
    run("del", "--recursive", "--force", f"s3://{bucket}/")
    run("rb", f"s3://{bucket}")


def minio(endpoint: str, bucket: str, directory: Path) -> None:
    import minio as library
    from minio.commonconfig import CopySource
    from minio.deleteobjects import DeleteObject

    key, secret = _key()
    client: Any = library.Minio(
        urlsplit(endpoint).netloc, access_key=key, secret_key=secret, secure=False
    )
    client.make_bucket(bucket)
    client.put_object(bucket, "small", io.BytesIO(SMALL), len(SMALL))
    ranged = client.get_object(bucket, "small", offset=3, length=4)
    assert ranged.read() == b"3456"
    ranged.close()
    ranged.release_conn()
    for number in range(MANY):
        client.put_object(bucket, f"many/{number:04}", io.BytesIO(b"x"), 1)
    found = [each.object_name for each in client.list_objects(bucket, "many/")]
    assert found == [f"many/{number:04}" for number in range(MANY)]
    large, back = _large(directory), directory / "back"
    client.fput_object(bucket, "large", str(large), part_size=16 << 20)
    client.copy_object(bucket, "copy", CopySource(bucket, "large"))
    client.fget_object(bucket, "copy", str(back))
    assert _same(large, back)
    doomed = [DeleteObject(name) for name in [*found, "small", "large", "copy"]]
    assert not list(client.remove_objects(bucket, doomed))
    client.remove_bucket(bucket)


def rclone(endpoint: str, bucket: str, directory: Path) -> None:
    os.environ |= {
        "RCLONE_CONFIG": os.devnull,
        "RCLONE_CONFIG_NODE_TYPE": "s3",
        "RCLONE_CONFIG_NODE_PROVIDER": "Other",
        "RCLONE_CONFIG_NODE_ENDPOINT": endpoint,
        "RCLONE_CONFIG_NODE_ENV_AUTH": "true",
        "RCLONE_CONFIG_NODE_REGION": REGION,
    }

    def run(*arguments: str | Path) -> str:
        return _run(Path(sys.executable).with_name("rclone"), *arguments)

    there = f"node:{bucket}"
    run("mkdir", there)
    run("copyto", _small(directory), f"{there}/small")
    assert run("cat", "--offset", "3", "--count", "4", f"{there}/small") == "3456"
    run("copy", _many(directory), f"{there}/many")
    assert len(run("lsf", "-R", f"{there}/many").splitlines()) == MANY
    large, back = _large(directory), directory / "back"
    run("copyto", large, f"{there}/large")
    run("copyto", f"{there}/large", f"{there}/copy")
    run("copyto", f"{there}/copy", back)
    assert _same(large, back)
    run("deletefile", f"{there}/copy")
    run("purge", there)


def aws(endpoint: str, bucket: str, directory: Path) -> None:
    """Version 2, which comes as a package of the system."""

    def run(*arguments: str | Path) -> str:
        return _run(AWS_2, "--endpoint-url", endpoint, *arguments)

    there = f"s3://{bucket}"
    run("s3", "mb", there)
    run("s3", "cp", _small(directory), f"{there}/small")
    got = directory / "got"
    this = ("--bucket", bucket, "--key", "small")
    run("s3api", "get-object", *this, "--range", "bytes=3-6", got)
    assert got.read_bytes() == b"3456"
    run("s3", "sync", _many(directory), f"{there}/many", "--only-show-errors")
    assert len(run("s3", "ls", f"{there}/many/").splitlines()) == MANY
    large, back = _large(directory), directory / "back"
    run("s3", "cp", large, f"{there}/large", "--only-show-errors")
    run("s3", "cp", f"{there}/large", f"{there}/copy", "--only-show-errors")
    run("s3", "cp", f"{there}/copy", back, "--only-show-errors")
    assert _same(large, back)
    run("s3", "rm", f"{there}/small")
    run("s3", "rm", "--recursive", there, "--only-show-errors")
    run("s3", "rb", there)


def s3fs_fuse(endpoint: str, bucket: str, directory: Path) -> None:
    """The mount of others over the endpoint, which comes as a package of the system."""
    _make_bucket(endpoint, bucket)
    password, there = directory / "password", directory / "there"
    password.write_text(":".join(_key()))
    password.chmod(0o600)
    there.mkdir()
    options = f"url={endpoint},use_path_request_style,passwd_file={password},endpoint={REGION}"
    _run("s3fs", bucket, there, "-o", options)
    try:
        small, large = there / "small", _large(directory)
        small.write_bytes(SMALL)
        with small.open("rb") as file:
            file.seek(3)
            assert file.read(4) == b"3456"
        (there / "many").mkdir()
        for number in range(MANY):
            (there / f"many/{number:04}").touch()
        assert len(os.listdir(there / "many")) == MANY
        shutil.copyfile(large, there / "large")
        shutil.copyfile(there / "large", there / "copy")
        assert _same(large, there / "copy")
        (there / "copy").rename(there / "renamed")  # a copy by S3, and a deletion
        assert _same(large, there / "renamed")
        shutil.rmtree(there / "many")
        for name in ("small", "large", "renamed"):
            (there / name).unlink()
        assert os.listdir(there) == []
    finally:
        _run("fusermount3", "-uz", there)


def torch(endpoint: str, bucket: str, directory: Path) -> None:
    """The data sets of Amazon's connector, iterated as Alluxio's page does (B08)."""
    from s3torchconnector import S3Checkpoint, S3ClientConfig, S3IterableDataset, S3MapDataset
    from s3torchconnectorclient._mountpoint_s3_client import MountpointS3Client

    _make_bucket(endpoint, bucket)
    client = MountpointS3Client(REGION, endpoint=endpoint, force_path_style=True)
    large = _large(directory).read_bytes()
    samples = {f"set/{number:04}": str(number).encode() for number in range(MANY)}
    samples["set/large"] = large
    for key, body in samples.items():
        stream = client.put_object(bucket, key)
        stream.write(body)
        stream.close()
    here: dict[str, Any] = {
        "region": REGION,
        "endpoint": endpoint,
        "s3client_config": S3ClientConfig(force_path_style=True),
    }
    found: Any = S3IterableDataset.from_prefix(f"s3://{bucket}/set/", **here)
    assert {item.key: item.read() for item in found} == samples
    mapped: Any = S3MapDataset.from_objects([f"s3://{bucket}/set/large"], **here)
    item = mapped[0]
    item.seek(12_345_678)
    assert item.read(1000) == large[12_345_678:12_346_678]
    checkpoint = S3Checkpoint(**here)
    with checkpoint.writer(f"s3://{bucket}/checkpoint") as writer:
        writer.write(large)
    with checkpoint.reader(f"s3://{bucket}/checkpoint") as reader:
        assert reader.read() == large
    client.copy_object(bucket, "checkpoint", bucket, "copy")
    for key in [*samples, "checkpoint", "copy"]:
        client.delete_object(bucket, key)
    assert not [each for page in client.list_objects(bucket) for each in page.object_info]


def _make_bucket(endpoint: str, bucket: str) -> None:
    import boto3 as library

    s3: Any = library.client("s3", endpoint_url=endpoint, region_name=REGION)
    s3.create_bucket(Bucket=bucket)


CLIENTS: dict[str, Callable[[str, str, Path], None]] = {
    "boto3": boto3,
    "smart_open": smart_open,
    "s3fs": s3fs,
    "obstore": obstore,
    "pyarrow": pyarrow,
    "s3cmd": s3cmd,
    "minio": minio,
    "rclone": rclone,
    "aws": aws,
    "s3fs_fuse": s3fs_fuse,
}
"""Those that one environment holds, or the system."""

if __name__ == "__main__":
    _client, _endpoint, _bucket, _directory = sys.argv[1:]
    (CLIENTS | {"torch": torch})[_client](_endpoint, _bucket, Path(_directory))
