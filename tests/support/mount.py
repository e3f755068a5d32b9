"""A real mount in a process of its own, over a volume and a posix store in a temporary directory.

    with mount.mounted(tmp_path) as mounted:
        (mounted.bucket / "file").write_text("hello")

The process is this module, run with `python -m`. Nothing waits without a deadline, and whatever a
test does to the mount, it is gone afterwards: SIGTERM, SIGKILL, abort of the connection, lazy
unmount, in this order.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import json
import logging
import os
import select
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from cache.config import BucketConfig, CacheConfig, VolumeConfig
from cache.records import WriteMode
from cache.stores.base import Store
from cache.stores.posix import PosixStore, PosixStoreConfig
from cache.volume import Volume
from fuse import mountpoint
from fuse.config import MountConfig
from fuse.mount import serve

BUCKET = "data"
_READY_TIMEOUT_S = 90
_END_TIMEOUT_S = 60

requires_fuse = pytest.mark.skipif(
    not os.access("/dev/fuse", os.W_OK) or shutil.which("fusermount3") is None,
    reason="needs /dev/fuse and fusermount3",
)


@dataclass
class Mounted:
    """A mount and the process that serves it."""

    home: Path
    settings: dict[str, Any] = field(default_factory=dict)  # fields of MountConfig
    bucket_settings: dict[str, Any] = field(default_factory=dict)  # fields of BucketConfig
    prepare: str = ""  # "module:function", given Store and home in the process; returns what to use
    process: subprocess.Popen[bytes] | None = None

    @property
    def root(self) -> Path:
        return self.home / "mount"

    @property
    def bucket(self) -> Path:
        """Directory of the one bucket."""
        return self.root / BUCKET

    @property
    def store(self) -> Path:
        """What is behind the bucket."""
        return self.home / "store"

    @property
    def state(self) -> Path:
        return self.home / "state"

    @property
    def log(self) -> str:
        return (self.home / "log").read_text()

    def start(self) -> None:
        """Start the process; return when the mount answers."""
        assert self.process is None
        ready_in, ready_out = os.pipe()
        arguments = dataclasses.asdict(self) | {"process": None, "ready": ready_out}
        with (self.home / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "tests.support.mount", json.dumps(arguments, default=str)],
                pass_fds=[ready_out],
                stderr=log,
                stdin=subprocess.DEVNULL,
                # script/test keeps the current directory out of the path (PYTHONSAFEPATH).
                env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])},
            )
        os.close(ready_out)
        with os.fdopen(ready_in, "rb") as ready:
            # End of file when the process ends early.
            if not _readable(ready.fileno(), _READY_TIMEOUT_S) or ready.read() != b"ready":
                self.end()
                pytest.fail(f"the mount did not start:\n{self.log}")

    def stop(self) -> int:
        """SIGTERM; the exit code, once the process has ended."""
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        code = self.process.wait(_END_TIMEOUT_S)
        self.process = None
        return code

    def kill(self) -> None:
        """SIGKILL, and wait for the end. The dead mount stays."""
        assert self.process is not None
        self.process.kill()
        self.process.wait(_END_TIMEOUT_S)
        self.process = None

    def end(self) -> None:
        """Leave neither process nor mount behind."""
        mount = mountpoint.mounted_on(self.root)
        if self.process is not None:
            for end in (self.stop, self.kill):
                with contextlib.suppress(subprocess.TimeoutExpired):
                    end()
                    break
            else:
                if mount is not None:
                    mountpoint.abort(mount)
                self.kill()
        if mountpoint.mounted_on(self.root) is not None:
            mountpoint.detach(self.root)


@contextlib.contextmanager
def mounted(
    home: Path,
    *,
    bucket: dict[str, Any] | None = None,
    prepare: str = "",
    **settings: Any,
) -> Iterator[Mounted]:
    """A running mount with these settings of MountConfig, taken down at the end."""
    mount = Mounted(home, settings=settings, bucket_settings=bucket or {}, prepare=prepare)
    mount.store.mkdir(exist_ok=True)
    mount.start()
    try:
        yield mount
    finally:
        mount.end()


def _readable(descriptor: int, timeout_s: float) -> bool:
    return bool(select.select([descriptor], [], [], timeout_s)[0])


def _serve(arguments: dict[str, Any]) -> None:
    """In the process: what node/child.py does for the mount, without a supervisor."""
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
    home = Path(arguments["home"])
    store = PosixStore(PosixStoreConfig(path=home / "store"))
    bucket = {"name": BUCKET, "store": "main"} | arguments["bucket_settings"]
    if "write_mode" in bucket:
        bucket["write_mode"] = WriteMode(bucket["write_mode"])  # a text on its way to us
    config = VolumeConfig(
        cache=CacheConfig(state_dir=home / "state", capacity_bytes=2 << 30),
        buckets=(BucketConfig(**bucket),),
    )
    stores: dict[str, Store] = {"main": store}
    module, _, function = arguments["prepare"].partition(":")
    if module:
        stores["main"] = getattr(importlib.import_module(module), function)(store, home)
    volume = Volume.open(config, stores, is_mount=True)
    ready: int = arguments["ready"]
    try:
        serve(
            volume,
            MountConfig(path=home / "mount", **arguments["settings"]),
            change_socket=config.cache.change_socket,
            ready=lambda: os.close(ready) if os.write(ready, b"ready") else None,
        )
    finally:
        volume.close()


if __name__ == "__main__":
    _serve(json.loads(sys.argv[1]))
