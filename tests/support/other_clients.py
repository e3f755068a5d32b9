"""Clients of others, each doing the same work against an S3 endpoint with its default settings.

Runs in an environment of its own that has the client and nothing of Forebay:

    python -m tests.support.other_clients CLIENT ENDPOINT BUCKET DIRECTORY

with the key in AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY. The work: put, ranged get, a listing of
several pages, a large file up (in parts) and down, copy, delete. An assertion that fails is all the
report there is.
"""

from __future__ import annotations

import hashlib
import os
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


def _key() -> tuple[str, str]:
    return os.environ["AWS_ACCESS_KEY_ID"], os.environ["AWS_SECRET_ACCESS_KEY"]


def _large(directory: Path) -> Path:
    path = directory / "large"
    with path.open("wb") as file:
        for _ in range(LARGE_BYTES >> 20):
            file.write(os.urandom(1 << 20))
    return path


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
    for number in range(12):
        with opened(f"many/{number:02}", "wb") as file:
            file.write(b"x")
    found = iter_bucket(bucket, prefix="many/", workers=2, client_kwargs={"endpoint_url": endpoint})
    assert sorted(key for key, _ in found) == [f"many/{number:02}" for number in range(12)]
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
    for entry in s3.list_objects_v2(Bucket=bucket)["Contents"]:
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
        done = subprocess.run(
            [program, "-c", config, "--no-progress", *arguments],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, (arguments, done.stderr)
        return done.stdout

    run("mb", f"s3://{bucket}")
    many = directory / "many"
    many.mkdir()
    for number in range(MANY):
        (many / f"{number:04}").write_bytes(b"x")
    run("put", "--recursive", many, f"s3://{bucket}/")
    assert len(run("ls", "--recursive", f"s3://{bucket}/many/").splitlines()) == MANY
    small, half = directory / "small", directory / "half"
    small.write_bytes(SMALL)
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
}

if __name__ == "__main__":
    _client, _endpoint, _bucket, _directory = sys.argv[1:]
    CLIENTS[_client](_endpoint, _bucket, Path(_directory))
