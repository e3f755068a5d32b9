"""Both doors of a running node as a test's programs use them: boto3, and plain system calls.

A change through the mount is acknowledged by fsync of the file and of the directories whose names
changed, as fsync(2) tells programs to do; one over S3 by its 2xx.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
from botocore.client import Config
from botocore.exceptions import BotoCoreError, ClientError

from tests.support.node import RunningNode

BUCKET = "data"
DOOR_ERRORS = (OSError, ClientError, BotoCoreError)
"""What a door that is shut or refuses raises."""


class Doors:
    """Names are keys of the one bucket, or paths below its directory. Thread-safe."""

    def __init__(self, node: RunningNode) -> None:
        assert node.mount is not None, "these tests need a mount"
        self.directory = node.mount / BUCKET
        self.s3 = client(node.endpoint)

    # ------------------------------------------------------------------ S3

    def is_open(self) -> bool:
        """Whether the bucket is served over S3."""
        try:
            self.s3.head_bucket(Bucket=BUCKET)
        except ClientError:
            return False
        return True

    def put(self, name: str, content: bytes) -> None:
        self.s3.put_object(Bucket=BUCKET, Key=name, Body=content)

    def put_parts(self, name: str, parts: list[bytes]) -> None:
        upload = self.s3.create_multipart_upload(Bucket=BUCKET, Key=name)["UploadId"]
        where = {"Bucket": BUCKET, "Key": name, "UploadId": upload}
        done = [
            {
                "PartNumber": number,
                "ETag": self.s3.upload_part(**where, PartNumber=number, Body=part)["ETag"],
            }
            for number, part in enumerate(parts, 1)
        ]
        self.s3.complete_multipart_upload(**where, MultipartUpload={"Parts": done})

    def abort_uploads(self) -> None:
        """Give up what clients began and did not complete: its parts stay until somebody does."""
        for upload in self.s3.list_multipart_uploads(Bucket=BUCKET).get("Uploads", []):
            self.s3.abort_multipart_upload(
                Bucket=BUCKET, Key=upload["Key"], UploadId=upload["UploadId"]
            )

    def delete(self, name: str) -> None:
        self.s3.delete_object(Bucket=BUCKET, Key=name)

    def copy(self, source: str, target: str) -> None:
        self.s3.copy_object(Bucket=BUCKET, Key=target, CopySource={"Bucket": BUCKET, "Key": source})

    def get(self, name: str) -> bytes | None:
        """The object; None if there is none."""
        try:
            answer = self.s3.get_object(Bucket=BUCKET, Key=name)
        except self.s3.exceptions.NoSuchKey:
            return None
        body: bytes = answer["Body"].read()
        return body

    def keys(self) -> set[str]:
        """Keys of all objects, markers of directories left out."""
        pages = self.s3.get_paginator("list_objects_v2").paginate(Bucket=BUCKET)
        found = {entry["Key"] for page in pages for entry in page.get("Contents", [])}
        return {key for key in found if not key.endswith("/")}

    # ------------------------------------------------------------------ mount

    def write(self, name: str, content: bytes, *, append: bool = False) -> None:
        path = self.directory / name
        with path.open("ab" if append else "wb", buffering=0) as file:
            view = memoryview(content)
            while view:
                view = view[file.write(view) :]
            os.fsync(file.fileno())
        sync_directory(path.parent)

    def replace(self, name: str, content: bytes, temporary: str) -> None:
        """Write beside it, then rename over it: as careful programs do."""
        self.write(temporary, content)
        self.rename(temporary, name)

    def rename(self, old: str, new: str) -> None:
        (self.directory / old).rename(self.directory / new)
        for directory in {(self.directory / name).parent for name in (old, new)}:
            sync_directory(directory)

    def unlink(self, name: str) -> None:
        path = self.directory / name
        path.unlink()
        sync_directory(path.parent)

    def make_directory(self, name: str) -> None:
        path = self.directory / name
        with contextlib.suppress(FileExistsError):
            path.mkdir()
        sync_directory(path)
        sync_directory(path.parent)

    def read(self, name: str) -> bytes | None:
        """The file; None if there is none."""
        try:
            return (self.directory / name).read_bytes()
        except FileNotFoundError:
            return None

    def files(self) -> set[str]:
        """Names of all files."""
        return set(files_below(self.directory))


def client(endpoint: str, **config: Any) -> Any:
    """A boto3 client that tries once."""
    settings = {
        "s3": {"addressing_style": "path"},
        "retries": {"total_max_attempts": 1},
        "connect_timeout": 5,
        "read_timeout": 60,
        "max_pool_connections": 16,
        **config,
    }
    return boto3.client(
        "s3",
        endpoint_url=endpoint,
        aws_access_key_id="me",
        aws_secret_access_key="any",
        region_name="us-east-1",
        config=Config(**settings),
    )


def sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def files_below(directory: Path) -> Iterator[str]:
    """Files below a directory, as relative names. OSError when one cannot be listed."""

    def raise_it(error: OSError) -> None:
        raise error

    for place, _, names in os.walk(directory, onerror=raise_it):
        for name in names:
            yield str((Path(place) / name).relative_to(directory))
