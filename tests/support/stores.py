"""Real stores to run tests against: a directory, rclone's and moto's S3 servers, another node.

Each context manager starts what it needs on a free loopback port, waits until it answers, yields
a `Backend` and stops exactly what it started. A further backend is one more context manager and
one more line in `BACKENDS`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import http.client
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from cache.config import MIB
from cache.stores.base import Store
from cache.stores.opening import StoreConfig, open_store
from cache.stores.posix import PosixStoreConfig
from cache.stores.s3 import S3StoreConfig
from tests.support.node import running_node

ACCESS_KEY = "forebaytest"
SECRET_KEY = "forebaytestsecret"
START_DEADLINE_S = 90


@dataclasses.dataclass(frozen=True)
class Backend:
    """A running store with what the contract test must know about it."""

    name: str
    config: StoreConfig
    keeps_attributes: bool = True
    """Attributes survive as they were given (rclone serve s3 keeps them in memory, mostly)."""
    has_directories: bool = True
    """Keys that end in / can be stored; else they are omitted, by configuration."""
    has_any_key: bool = True
    """Any key can be stored (rclone maps keys to a file system without escapes)."""
    has_part_copy: bool = True
    is_conditional: bool = True
    """Conditions on writes are atomic, not only checked before."""

    @contextlib.contextmanager
    def opened(self, **changes: object) -> Iterator[Store]:
        store = open_store(dataclasses.replace(self.config, **changes))  # type: ignore[arg-type]
        try:
            yield store
        finally:
            store.close()


def free_port() -> int:
    """A loopback port for a server that is about to start. A connection of it has just ended, so
    for a minute the kernel gives it to nobody who asks for any port, such as another test, but to
    those who name it with SO_REUSEADDR or SO_REUSEPORT, as servers do."""
    with socket.create_server(("127.0.0.1", 0), reuse_port=True) as listening:
        address: tuple[str, int] = listening.getsockname()
        with socket.create_connection(address) as client:
            accepted, _ = listening.accept()
            accepted.close()  # who closes first keeps the port in TIME_WAIT
            client.recv(1)
        return address[1]


def wait_until_it_answers(port: int, process: subprocess.Popen[bytes] | None = None) -> None:
    """Poll until something speaks HTTP on the port."""
    deadline = time.monotonic() + START_DEADLINE_S
    while True:
        if process is not None and process.poll() is not None:
            raise RuntimeError(f"{process.args!r} ended with {process.returncode}")
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=2)
        try:
            connection.request("GET", "/")
            connection.getresponse()
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)
        else:
            return
        finally:
            connection.close()


@contextlib.contextmanager
def running(arguments: list[str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A server process; its output goes to a file, it is stopped at the end."""
    with log.open("wb") as output:
        process = subprocess.Popen(arguments, stdout=output, stderr=subprocess.STDOUT)
        try:
            yield process
        finally:
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def program(name: str) -> str:
    """A program of the virtual environment, else of the system."""
    beside = Path(sys.executable).with_name(name)
    found = str(beside) if beside.exists() else shutil.which(name)
    if found is None:
        raise RuntimeError(f"{name} is missing: run script/setup test")
    return found


def s3_config(port: int, bucket: str, **changes: object) -> S3StoreConfig:
    settings: dict[str, object] = {
        "bucket": bucket,
        "endpoint_url": f"http://127.0.0.1:{port}",
        "access_key": ACCESS_KEY,
        "secret_key": SECRET_KEY,
        "part_size_bytes": 5 * MIB,
        "deadline_s": 60.0,
    }
    return S3StoreConfig(**{**settings, **changes})  # type: ignore[arg-type]


def make_bucket(config: S3StoreConfig) -> None:
    from cache.stores.s3_client import make_client

    client = make_client(config)
    client.create_bucket(Bucket=config.bucket)
    client.close()


@contextlib.contextmanager
def posix_backend(directory: Path) -> Iterator[Backend]:
    root = directory / "posix"
    root.mkdir()
    yield Backend("posix", PosixStoreConfig(root))


@contextlib.contextmanager
def moto_backend(directory: Path) -> Iterator[Backend]:
    """moto's server in a process of its own."""
    port = free_port()
    command = [program("moto_server"), "-H", "127.0.0.1", "-p", str(port)]
    with running(command, directory / "moto.log") as process:
        wait_until_it_answers(port, process)
        config = s3_config(port, "bucket")
        make_bucket(config)
        yield Backend("moto", config)


@contextlib.contextmanager
def rclone_backend(directory: Path) -> Iterator[Backend]:
    """`rclone serve s3` over a local directory."""
    port = free_port()
    root = directory / "rclone"
    (root / "bucket").mkdir(parents=True)
    command = [
        program("rclone"), "--config", "", "serve", "s3", "--addr", f"127.0.0.1:{port}",
        "--auth-key", f"{ACCESS_KEY},{SECRET_KEY}", "--vfs-cache-mode", "off", str(root),
    ]  # fmt: skip
    with running(command, directory / "rclone.log") as process:
        wait_until_it_answers(port, process)
        config = s3_config(
            port, "bucket", listing="unordered", object_tagging=False, directory_markers="omit"
        )
        yield Backend(
            "rclone",
            config,
            keeps_attributes=False,
            has_directories=False,
            has_any_key=False,
            has_part_copy=False,
            is_conditional=False,
        )


@contextlib.contextmanager
def forebay_backend(directory: Path) -> Iterator[Backend]:
    """A second Forebay node, which writes through to a directory."""
    with running_node(directory / "forebay", mount=None) as node:
        config = s3_config(0, "bucket", endpoint_url=node.endpoint, object_tagging=False)
        make_bucket(config)
        yield Backend("forebay", config)


BACKENDS: dict[str, Callable[[Path], contextlib.AbstractContextManager[Backend]]] = {
    "posix": posix_backend,
    "moto": moto_backend,
    "rclone": rclone_backend,
    "forebay": forebay_backend,
}
