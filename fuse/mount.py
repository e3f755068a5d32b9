"""The mount process's work, from the first look at the mount point to the last published byte.

Order of a start: listen for changes (a sender that finds no listener concludes that no kernel can
hold anything stale), clear the mount point, mount, tune, serve. Order of a stop, on SIGTERM or
SIGINT: have the kernel hand over what programs wrote, take the mount away, end the loop, publish
what is still open. A crash takes the mount away from nobody: callers get ENOTCONN until the next
start, instead of an empty directory that a mirror job would take for the truth.

One mount for each process (pyfuse3 keeps its session in a global). Called by the node in the
child process's main thread.
"""

from __future__ import annotations

import functools
import logging
import signal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pyfuse3
import trio

from cache.changes import ChangeListener
from cache.volume import Volume
from fuse import arrivals, mountpoint, replacing
from fuse.config import MountConfig
from fuse.interrupts import Interrupts
from fuse.kernel import KernelCache
from fuse.mountpoint import Mount, MountError
from fuse.operations import Operations
from fuse.threads import Lane

log = logging.getLogger(__name__)

_REQUESTS_MAX = 1000
"""Requests answered at the same time. Each has a buffer of 1 MiB, which takes memory once it was
filled; when all wait, nothing more is read from the kernel, so it is far above the lanes' widths:
a lookup that is answered at once must not queue behind hung reads."""
_REQUESTS_IDLE = 8
"""Tasks that stay around for the next request; the others end when they have nothing to do."""


def serve(
    volume: Volume,
    config: MountConfig,
    *,
    change_socket: Path,
    ready: Callable[[], None],
) -> None:
    """Mount, serve until SIGTERM, SIGINT or an unmount from outside, unmount. Blocks.

    `ready` is called inside the loop once the mount answers. MountError if it cannot be mounted.
    """
    if config.allow_other:
        mountpoint.check_allow_other()
    kernel = KernelCache()
    interrupts = Interrupts()
    operations = Operations(
        volume.files,
        volume.renames,
        volume.open_files,
        kernel,
        metadata=Lane(
            "metadata",
            threads=config.metadata_threads,
            deadline_s=config.metadata_deadline_s,
            interrupts=interrupts,
        ),
        data=Lane(
            "data",
            threads=config.data_threads,
            deadline_s=config.data_deadline_s,
            interrupts=interrupts,
        ),
        xattrs=volume.xattrs if config.xattrs else None,
        access_times=volume.access_times if config.relatime else None,
    )
    volume.discovery.tell_kernel = kernel.forget_soon
    listener = ChangeListener(change_socket, kernel.forget)
    listener.start()
    try:
        path = mountpoint.prepare(config.path)
        mount = _mount(operations, path, config)
        kernel.mounted()
        try:
            trio.run(
                _serve_until_stopped,
                _Served(operations, path, mount, config, kernel, interrupts),
                ready,
            )
        finally:
            _end(mount, kernel, config)
            operations.close_all()
    finally:
        listener.stop()
    log.info("unmounted from %s", path)


def _mount(operations: Operations, path: Path, config: MountConfig) -> Mount:
    options = {"default_permissions", f"fsname={config.fsname}", "subtype=forebay"}
    options.add("dev" if config.dev else "nodev")
    options.add("suid" if config.suid else "nosuid")
    for option, wanted in (
        ("allow_other", config.allow_other),
        ("noatime", not config.relatime),
        ("noexec", config.noexec),
        ("ro", config.read_only),
    ):
        if wanted:
            options.add(option)
    try:
        pyfuse3.init(operations, _place(path, config), options)
    except RuntimeError as exc:
        raise MountError(f"cannot mount on {path}: {exc}") from exc
    mount = mountpoint.mounted_on(path)
    if mount is None:
        raise MountError(f"{path} was unmounted at once")
    log.info("mounted on %s", path)
    return mount


def _place(path: Path, config: MountConfig) -> str:
    """Where libfuse is to mount: in the place of a dead mount it need not, as it is done."""
    place = str(path)
    if mountpoint.mounted_on(path) is None:
        return place
    try:
        place = replacing.mount_beneath(path, config)
    except OSError as exc:
        log.debug("programs may see an empty %s for a moment: %s", path, exc.strerror)
    mountpoint.take_dead_off(path)
    return place


def _end(mount: Mount, kernel: KernelCache, config: MountConfig) -> None:
    """After the loop: give the session back.

    A forget that is under way uses the session, and may wait in the kernel for an operation that
    nobody will answer any more; breaking the connection ends both.
    """
    if not kernel.unmounting(config.stop_timeout_s):
        mountpoint.abort(mount)
        kernel.unmounting(config.stop_timeout_s)
    pyfuse3.close(unmount=False)


@dataclass(frozen=True, slots=True)
class _Served:
    """What the loop's tasks need to know of the mount."""

    operations: Operations
    path: Path
    mount: Mount
    config: MountConfig
    kernel: KernelCache
    interrupts: Interrupts


async def _serve_until_stopped(served: _Served, ready: Callable[[], None]) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_stop_on_signal, served, nursery.cancel_scope)
        nursery.start_soon(_answer_requests, nursery.cancel_scope)
        nursery.start_soon(served.interrupts.watch)
        # Greeting us the kernel sets its own read-ahead, over what was set before.
        await served.operations.greeted.wait()
        await trio.to_thread.run_sync(
            functools.partial(
                mountpoint.tune,
                served.mount,
                read_ahead_kb=served.config.read_ahead_kb,
                max_background=served.config.max_background,
            )
        )
        ready()


async def _answer_requests(loop: trio.CancelScope) -> None:
    """Until the session ends: by terminate(), by an unmount, or by an aborted connection."""
    arrivals.install()
    await pyfuse3.main(min_tasks=_REQUESTS_IDLE, max_tasks=_REQUESTS_MAX)
    loop.cancel()


async def _stop_on_signal(served: _Served, loop: trio.CancelScope) -> None:
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        await anext(signals)
        log.info("unmounting %s", served.path)
        await trio.to_thread.run_sync(_unmount, served)
        pyfuse3.terminate()
        # Handlers under way may finish, but a hung one does not hold up the end.
        loop.deadline = trio.current_time() + served.config.stop_timeout_s


def _unmount(served: _Served) -> None:
    """In a thread, while the loop still serves: the kernel has pages to hand over."""
    if not mountpoint.unmount(served.path):
        log.info("%s is in use: taking it away from its users", served.path)
        mountpoint.flush(served.path, served.config.stop_timeout_s)
        mountpoint.detach(served.path)
    served.kernel.unmounting(served.config.stop_timeout_s)
