"""The main job, on real trees: copied in with cp, read over S3; uploaded over S3, read through the
mount; found as plain files or objects in the store; and all again from an emptied cache, and by a
node that knows nothing but its store.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.config import Config

from node.config import load
from node.volumes import open_volume
from tests.support.mount import requires_fuse
from tests.support.node import RunningNode, end_node, restart_node, start_node
from tests.support.stores import BACKENDS, Backend, program
from tests.support.trees import (
    as_files,
    as_objects,
    assert_same,
    assert_same_names_and_bytes,
    slice_of,
)

pytestmark = [requires_fuse, pytest.mark.timeout(600)]

COPIED = ["zoneinfo", "perl", "perl5", "doc"]  # many links in the first
UPLOADED = ["common-licenses", "bash-completion", "lintian", "base-files", "doc"]
CREDENTIALS = {
    "AWS_ACCESS_KEY_ID": "testuser",
    "AWS_SECRET_ACCESS_KEY": "dummy",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_CONFIG_FILE": os.devnull,
    "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
    "AWS_EC2_METADATA_DISABLED": "true",
}


@dataclass
class Job:
    """A node, its store, and the trees that go in and must come out again."""

    directory: Path
    backend: Backend
    write_mode: str
    copied: Path
    uploaded: Path
    keeps_attributes: bool
    compared: int = 0
    """Files, links and directories that were compared, over all."""
    has_forgotten: bool = False
    """All that the node knows, it knows from its store."""
    _node: RunningNode | None = field(default=None, repr=False)

    @property
    def node(self) -> RunningNode:
        assert self._node is not None
        return self._node

    @property
    def mount(self) -> Path:
        assert self.node.mount is not None
        return self.node.mount

    def start(self) -> None:
        store: dict[str, Any]
        if self.backend.name == "posix":
            store = {"type": "posix", "path": str(self.store_directory)}
        else:
            s3 = self.backend.config
            names = (
                "bucket", "endpoint_url", "access_key", "secret_key", "listing", "object_tagging",
                "directory_markers",
            )  # fmt: skip
            store = {"type": "s3"} | {name: getattr(s3, name) for name in names}
        store |= {"creatable": True, "write_mode": self.write_mode}
        self._node = start_node(self.directory, auth={"mode": "simple"}, stores={"main": store})

    def stop(self) -> None:
        """In order: SIGTERM drains the queue."""
        assert self.node.stop() == 0
        end_node(self.node)

    def restart(self) -> None:
        self._node = restart_node(self.directory, self.node.config_file)

    def end(self) -> None:
        if self._node is not None:
            end_node(self._node)

    @property
    def store_directory(self) -> Path:
        path: Path = self.backend.config.path  # type: ignore[union-attr]
        return path

    # ------------------------------------------------------------------ bringing in

    def copy_in(self) -> None:
        (self.mount / "copied").mkdir()
        run("cp", "-a", self.copied, self.mount / "copied" / "tree")

    def sync_up(self) -> None:
        self.aws("s3", "mb", "s3://uploaded")
        self.aws("s3", "sync", "--only-show-errors", self.uploaded, "s3://uploaded/tree")

    def aws(self, *arguments: str | Path) -> None:
        endpoint = ["--endpoint-url", self.node.endpoint]
        run(program("aws"), *endpoint, *arguments, env={**os.environ, **CREDENTIALS})

    # ------------------------------------------------------------------ comparing

    def check_mount(self) -> None:
        # Of larger objects in an S3 store nobody asks for the attributes before they are needed.
        learned = self.has_forgotten and self.backend.name != "posix"
        keeps = self.keeps_attributes and not learned
        same = assert_same if keeps else assert_same_names_and_bytes
        same(self.copied, self.mount / "copied" / "tree")
        assert_same_names_and_bytes(self.uploaded, self.mount / "uploaded" / "tree")
        self._note(self.copied, self.uploaded)

    def check_boto3(self) -> None:
        for bucket, tree in (("copied", self.copied), ("uploaded", self.uploaded)):
            self._check_objects(client_of(self.node.endpoint), bucket, "tree/", tree)

    def check_sync_down(self) -> None:
        for bucket, tree in (("copied", self.copied), ("uploaded", self.uploaded)):
            down = self.directory / f"down-{bucket}"
            self.aws("s3", "sync", "--only-show-errors", f"s3://{bucket}/tree", down)
            expected = as_files(tree, self.directory / f"expected-{bucket}")
            assert_same_names_and_bytes(expected, down)
            self._note(expected)
            shutil.rmtree(down)
            shutil.rmtree(expected)

    def check_store(self) -> None:
        self.node.forebay("flush")
        if self.backend.name == "posix":
            assert_same(self.copied, self.store_directory / "copied" / "tree")
            assert_same_names_and_bytes(self.uploaded, self.store_directory / "uploaded" / "tree")
            self._note(self.copied, self.uploaded)
            return
        s3 = self.backend.config
        client = client_of(
            s3.endpoint_url,  # type: ignore[union-attr]
            s3.access_key,  # type: ignore[union-attr]
            s3.secret_key,  # type: ignore[union-attr]
        )
        for bucket, tree in (("copied", self.copied), ("uploaded", self.uploaded)):
            self._check_objects(client, "bucket", f"{bucket}/tree/", tree)

    def _check_objects(self, client: Any, bucket: str, prefix: str, tree: Path) -> None:
        """The keys below the prefix and their bytes are those of the tree. Directories are
        expected where the tree came in through the mount."""
        expected = as_objects(tree)
        if not self._shows_directories(bucket, tree):
            expected = {k: v for k, v in expected.items() if not k.endswith("/")}
        elif tree == self.uploaded:
            above = {parent.as_posix() for key in expected for parent in Path(key).parents}
            expected |= {f"{directory}/": b"" for directory in above - {"."}}
        pages = client.get_paginator("list_objects_v2").paginate(
            Bucket=bucket, Prefix=prefix, PaginationConfig={"PageSize": 700}
        )
        sizes = {e["Key"]: e["Size"] for page in pages for e in page.get("Contents", [])}
        sizes.pop(prefix, None)  # of the tree itself
        assert sizes == {prefix + key: len(content) for key, content in expected.items()}

        def differs(key: str) -> bool:
            got: bytes = client.get_object(Bucket=bucket, Key=prefix + key)["Body"].read()
            return got != expected[key]

        with ThreadPoolExecutor(4) as pool:
            keys = [key for key in expected if not key.endswith("/")]
            assert [
                k for k, wrong in zip(keys, pool.map(differs, keys), strict=True) if wrong
            ] == []
        self.compared += len(expected)

    def _shows_directories(self, bucket: str, tree: Path) -> bool:
        """A directory is an object where the tree came in through the mount. But a node knows of
        directories that its store cannot hold until it forgets them; and once it knows only its
        store, every real directory there is one that was made."""
        if bucket == "bucket" or self.has_forgotten:
            in_store = self.backend.has_directories
            return in_store and (tree == self.copied or self.backend.name == "posix")
        return tree == self.copied

    def _note(self, *trees: Path) -> None:
        self.compared += sum(len(as_objects(tree)) for tree in trees)

    # ------------------------------------------------------------------ forgetting

    def evict(self) -> None:
        """Empty the cache of a stopped node. What is small lies in the index and stays."""
        with open_volume(load(self.node.config_file)) as volume:
            volume.reclaimer.seal_abandoned()
            assert volume.reclaimer.used_bytes() > 0
            volume.reclaimer.evict_all()
            assert volume.reclaimer.used_bytes() == 0

    def lose_everything(self) -> None:
        """Have nothing left but the store."""
        shutil.rmtree(self.node.state_dir)
        self.has_forgotten = True


def client_of(endpoint: str, key: str = "testuser", secret: str = "dummy") -> Any:
    return boto3.client(
        "s3",
        endpoint_url=endpoint,
        aws_access_key_id=key,
        aws_secret_access_key=secret,
        region_name="us-east-1",
        config=Config(s3={"addressing_style": "path"}, retries={"max_attempts": 1}),
    )


def run(*command: str | Path, env: dict[str, str] | None = None) -> None:
    done = subprocess.run(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=200, env=env, check=False
    )
    output = done.stdout.decode(errors="replace")
    assert done.returncode == 0, f"{command}: {output[-3000:]}"


@contextlib.contextmanager
def job(directory: Path, kind: str, write_mode: str, files: int) -> Iterator[Job]:
    with BACKENDS[kind](directory) as backend:
        copied = slice_of(COPIED, directory / "copied", files)
        uploaded = as_files(
            slice_of(UPLOADED, directory / "uploaded-links", files // 4), directory / "uploaded"
        )
        if not backend.keeps_attributes:
            copied = as_files(copied, directory / "copied-files")
        home = directory / "node"
        home.mkdir()
        job = Job(home, backend, write_mode, copied, uploaded, backend.keeps_attributes)
        try:
            job.start()
            yield job
        finally:
            job.end()


@pytest.mark.parametrize(
    ("kind", "write_mode", "files"),
    [
        ("posix", "write_back", 2000),
        ("posix", "write_through", 150),
        ("moto", "write_through", 40),
        pytest.param("moto", "write_back", 120, marks=pytest.mark.long),
        pytest.param("rclone", "write_back", 120, marks=pytest.mark.long),
    ],
)
def test_trees_go_in_at_either_door_and_come_out_everywhere(
    tmp_path: Path, kind: str, write_mode: str, files: int
) -> None:
    with job(tmp_path, kind, write_mode, files) as it:
        it.copy_in()
        it.sync_up()
        it.check_mount()
        it.check_boto3()
        it.check_sync_down()
        it.check_store()

        it.stop()
        it.evict()
        it.restart()
        it.check_mount()
        it.check_boto3()

        it.stop()
        it.lose_everything()
        it.restart()
        it.check_boto3()
        it.check_mount()
        it.check_store()
        sys.stdout.write(f"\n{kind}, {write_mode}: {it.compared} names compared with their bytes\n")
