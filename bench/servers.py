"""The contenders: Forebay, nginx with static files and DAV, rclone serve s3 and rclone mount.

All on loopback, on free ports, below one directory, ended by process id.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import boto3

from fuse import mountpoint
from fuse.config import MountConfig
from tests.support.waiting import wait_until

BIN = Path(sys.executable).parent
DEADLINE_S = 20.0

_NGINX = """
daemon off; worker_processes 1; pid {root}/nginx.pid; error_log {root}/error.log;
events {{ worker_connections 1024; }}
http {{
  access_log off; sendfile on; tcp_nopush on; tcp_nodelay on; keepalive_requests 1000000;
  client_max_body_size 0; client_body_temp_path {root}/body; proxy_temp_path {root}/proxy;
  fastcgi_temp_path {root}/fcgi; uwsgi_temp_path {root}/uwsgi; scgi_temp_path {root}/scgi;
  server {{
    listen 127.0.0.1:{port}; root {files}; dav_methods PUT DELETE; create_full_put_path on;
  }}
}}
"""


def node_settings(directory: Path) -> dict[str, Any]:
    """Of the node that is measured: write_back into a large cache, over a directory, with delays as
    they are by default."""
    store = {"type": "posix", "path": str(directory / "store"), "creatable": True}
    return {
        "cache": {
            "capacity_bytes": "32GiB",
            "segment_bytes": None,
            "index_bytes": "4GiB",
            "persist_delay_ms": None,
        },
        "stores": {"main": store | {"write_mode": "write_back"}},
    }


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def process(
    arguments: list[str | Path], ready_url: str | None, **environment: str
) -> Iterator[int]:
    """Run a server until the block ends; its process id. It is ready when the URL answers."""
    child = subprocess.Popen(
        [str(argument) for argument in arguments],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=os.environ | environment,
    )
    try:
        if ready_url is not None:
            _wait_for(ready_url, child)
        yield child.pid
    finally:
        child.terminate()
        try:
            child.wait(DEADLINE_S)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()


def _wait_for(url: str, child: subprocess.Popen[bytes]) -> None:
    end = time.monotonic() + DEADLINE_S
    while time.monotonic() < end and child.poll() is None:
        try:
            urllib.request.urlopen(url, timeout=1)
        except urllib.error.HTTPError:
            return
        except OSError:
            time.sleep(0.05)
        else:
            return
    raise RuntimeError(f"{child.args!r} does not serve {url}")


@contextmanager
def nginx(root: Path) -> Iterator[str]:
    """One nginx worker over root/files; its URL."""
    files = root / "files"
    files.mkdir(parents=True)
    root.chmod(0o755)
    files.chmod(0o777)
    port = free_port()
    config = root / "nginx.conf"
    config.write_text("user root;" + _NGINX.format(root=root, files=files, port=port))
    url = f"http://127.0.0.1:{port}"
    with process([BIN / "nginx", "-c", config, "-p", root], url + "/"):
        yield url


@contextmanager
def rclone_s3(root: Path) -> Iterator[str]:
    """rclone serve s3 over a directory, keys checked; its URL."""
    (root / "bucket").mkdir(parents=True)
    url = f"http://127.0.0.1:{free_port()}"
    arguments: list[str | Path] = [BIN / "rclone", "serve", "s3", root, "--addr", url[7:]]
    with process([*arguments, "--auth-key", "bench,benchsecret", "--vfs-cache-mode", "off"], url):
        yield url


@contextmanager
def rclone_mount(root: Path, mount: Path) -> Iterator[Path]:
    """rclone mount of a directory with its full VFS cache, written back after the same second as
    Forebay does (its own default is five)."""
    root.mkdir(parents=True)
    mount.mkdir()
    arguments: list[str | Path] = [BIN / "rclone", "mount", root, mount]
    arguments += ["--vfs-cache-mode", "full", "--cache-dir", root.parent / "rclone-cache"]
    with process([*arguments, "--vfs-write-back", "1s"], None), _mounted("rclone", mount):
        yield mount


def wait_for_rclone(directory: Path) -> None:
    """Return when what was written to the mount that has its cache there is in what it mounts."""
    wait_until(lambda: not _is_dirty(directory / "rclone-cache"), "rclone wrote back", 60)


def _is_dirty(cache: Path) -> bool:
    for path in (cache / "vfsMeta").rglob("*"):
        with contextlib.suppress(FileNotFoundError, IsADirectoryError):
            text = path.read_text()
            if not text or json.loads(text)["Dirty"]:  # empty: it is being written
                return True
    return False


@contextmanager
def bare_mount(mount: Path) -> Iterator[Path]:
    """The limit of pyfuse3 (bench/bare.py), tuned as Forebay's mount is."""
    mount.mkdir()
    with process([sys.executable, "-m", "bench.bare", mount], None), _mounted("bare", mount):
        tuned, config = mountpoint.mounted_on(mount), MountConfig(path=mount)
        assert tuned is not None
        mountpoint.tune(
            tuned, read_ahead_kb=config.read_ahead_kb, max_background=config.max_background
        )
        yield mount


@contextmanager
def s3fs_mount(root: Path, mount: Path) -> Iterator[Path]:
    """s3fs-fuse, with its cache of whole files, over an S3 server in memory (moto)."""
    root.mkdir()
    mount.mkdir()
    credentials = root / "credentials"
    credentials.write_text("bench:benchsecret\n")
    credentials.chmod(0o600)
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    with process([BIN / "moto_server", "-H", "127.0.0.1", "-p", str(port)], url):
        boto3.client(
            "s3",
            endpoint_url=url,
            aws_access_key_id="bench",
            aws_secret_access_key="benchsecret",
            region_name="us-east-1",
        ).create_bucket(Bucket="bucket")
        options = f"url={url},use_path_request_style,passwd_file={credentials},endpoint=us-east-1"
        options += f",use_cache={root / 'cache'}"
        arguments: list[str | Path] = ["s3fs", "bucket", mount, "-f", "-o", options]
        with process(arguments, None), _mounted("s3fs", mount):
            yield mount


@contextmanager
def _mounted(name: str, mount: Path) -> Iterator[None]:
    wait_until(lambda: os.path.ismount(mount), f"the mount of {name}", DEADLINE_S)
    try:
        yield
    finally:
        subprocess.run(["fusermount3", "-uz", mount], check=False, timeout=20)
