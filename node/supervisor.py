"""`forebay serve`: the processes of one node, in the order in which they start and stop.

Start: lock; orphans of an earlier start; S3 ports; mover; then gateways and mount side by side.
Stop: gateways (refuse new, finish what is under way); mount; mover (drains the write-back queue);
all within `node.drain_timeout_s`. What is left stays queued on disk, and is reported.

The supervisor opens neither the index nor a store: nothing that hangs or breaks there takes it
down. It is one trio loop in the main thread; `node/children.py` runs one child.
"""

from __future__ import annotations

import logging
import os
import signal
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import trio

from node import certificates, control, mountpoint, orphans, port, run_lock
from node.children import Child
from node.config import NodeConfig
from node.errors import ExitCode, OperatorError
from node.lifeline import Endpoint, Start
from node.spares import Spares
from node.systemd import Systemd

log = logging.getLogger(__name__)

_DOORS_SHARE = 1 / 3
"""Part of the stop's time that each door may use; the rest is for the write-back queue."""
_LEAST_GRACE_S = 1.0
"""Given to a child even when the time is over: enough to close the index and end."""


@dataclass(frozen=True, slots=True)
class Serving:
    """Where a node serves, once it does."""

    endpoint: str | None  # of plain HTTP, if that is served; None: no S3 at all
    https_endpoint: str | None
    certificate: str | None  # the file that HTTPS is served with
    mount: Path | None
    mount_absent: str  # why there is no mount; "" if there is one
    auth: str  # mode of authentication that is in force
    pid: int
    pids: dict[str, int]  # of the children, by name


class Supervisor:
    def __init__(self, config: NodeConfig, *, until_unmounted: bool = False) -> None:
        """until_unmounted: the node ends with its mount; else a mount that somebody takes away
        is made again."""
        self._config = config
        self._until_unmounted = until_unmounted
        self._run_dir = config.cache.run_dir
        self._mount_path = mountpoint.real_path(config.mount.path) if config.mount else Path()
        self._mount_absent = _why_no_mount(config)
        self._children: list[Child] = []
        self._spares = Spares()
        self._endpoint: str | None = None
        self._https_endpoint: str | None = None
        self._certificate: str | None = None
        self._state = "starting"
        self._started = time.monotonic()
        self._stop_asked = trio.Event()
        self._systemd = Systemd()

    def run(self, on_ready: Callable[[Serving], None]) -> dict[str, Any]:
        """Serve until SIGTERM, SIGINT or SIGHUP. Returns what is left in the write-back queue.

        on_ready is called once, when every child serves. Raises OperatorError when the node cannot
        start; nothing is left running then.
        """
        if self._mount_absent and not self._config.s3.enabled:
            raise OperatorError(
                f"nothing to serve: s3.enabled is false, and no mount: {self._mount_absent}",
                ExitCode.CONFIGURATION,
            )
        self._run_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        with self._only_one():
            orphans.wait_until_gone(self._run_dir)
            with self._reserve_ports() as endpoint:
                self._children = self._make_children(endpoint)
                return trio.run(self._serve, on_ready)

    async def _serve(self, on_ready: Callable[[Serving], None]) -> dict[str, Any]:
        # SIGHUP: the terminal of an interactive node was closed.
        with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT, signal.SIGHUP) as signals:
            async with (
                control.listening(self._run_dir, {"status": self.status}),
                trio.open_nursery() as nursery,
            ):
                nursery.start_soon(self._heed, signals)
                roles = {child.role for child in self._children}
                self._spares.prepare(child.role for child in self._children)
                # The mover first: it makes a new index, or finds out that an old one is unusable.
                mover, *doors = self._children
                nursery.start_soon(mover.keep_running)
                failure = await self._until_serving([mover])
                if failure is None and not self._stop_asked.is_set():
                    for child in doors:
                        nursery.start_soon(child.keep_running)
                    failure = await self._until_serving(doors)
                if failure is None and not self._stop_asked.is_set():
                    self._announce(on_ready)
                    nursery.start_soon(self._feed_watchdog)
                    if self._config.node.spares:
                        self._spares.keep(roles)
                    await self._stop_asked.wait()
                await self._stop()
                nursery.cancel_scope.cancel()
        if failure is not None:
            raise failure
        return self._find("mover").report

    # ---------------------------------------------------------------- start

    def _only_one(self) -> AbstractContextManager[Any]:
        """The lock that makes this the only supervisor of the state directory."""
        try:
            return run_lock.take(self._run_dir / "supervisor.lock")
        except run_lock.LockHeldError as exc:
            raise OperatorError(
                f"a node is already running on {self._config.cache.state_dir} (process {exc.pid}); "
                "stop it, or give this one another cache.state_dir",
                ExitCode.ALREADY_RUNNING,
            ) from exc

    @contextmanager
    def _reserve_ports(self) -> Iterator[Endpoint]:
        """The S3 ports, held, and the certificate that HTTPS is served with; none if S3 is off."""
        s3 = self._config.s3
        host = _host(s3.address)
        endpoint = Endpoint(None)
        with ExitStack() as ports:
            if s3.enabled and s3.https:
                endpoint.certificate, endpoint.key = map(str, certificates.find(self._config))
                number = ports.enter_context(
                    port.reserved(s3.address, s3.https_port, "s3.https_port")
                )
                endpoint.https_port = number
                self._endpoint = self._https_endpoint = f"https://{host}:{number}"
                self._certificate = endpoint.certificate
            if s3.enabled and not s3.https_only:
                endpoint.port = ports.enter_context(port.reserved(s3.address, s3.port))
                self._endpoint = f"http://{host}:{endpoint.port}"
            yield endpoint

    def _make_children(self, endpoint: Endpoint) -> list[Child]:
        gateways = 0
        if self._config.s3.enabled:
            gateways = self._config.node.gateways or os.cpu_count() or 1
        names = ["mover", *(f"gateway-{number}" for number in range(gateways))]
        if not self._mount_absent:
            names.append("mount")
        return [
            Child(
                Start(name=name, config=self._config.text, endpoint=endpoint),
                self._config.node,
                spares=self._spares,
                unblock=partial(mountpoint.abort, self._mount_path) if name == "mount" else None,
                over=self._unmounted if name == "mount" and self._until_unmounted else None,
            )
            for name in names
        ]

    async def _until_serving(self, children: Sequence[Child]) -> OperatorError | None:
        """Wait for each child's first Ready, or for a signal. Returns what keeps one from ever
        serving."""
        async with trio.open_nursery() as nursery:

            async def until_stopped() -> None:
                await self._stop_asked.wait()
                nursery.cancel_scope.cancel()

            nursery.start_soon(until_stopped)
            for child in children:
                await child.first_ready.wait()
                if child.failure is not None:
                    nursery.cancel_scope.cancel()
                    return child.failure
            nursery.cancel_scope.cancel()
        return None

    def _announce(self, on_ready: Callable[[Serving], None]) -> None:
        self._state = "serving"
        mount = None if self._mount_absent else self._mount_path
        pids = {child.name: child.pid for child in self._children if child.pid is not None}
        if self._mount_absent:
            log.warning("no mount: %s; serving S3 only", self._mount_absent)
        log.info("serving: endpoint %s, mount %s", self._endpoint or "none", mount or "none")
        self._systemd.ready(
            f"serving S3 on {self._endpoint or 'nothing'}, mounted on {mount or 'nothing'}"
        )
        on_ready(
            Serving(
                endpoint=self._endpoint,
                https_endpoint=self._https_endpoint,
                certificate=self._certificate,
                mount=mount,
                mount_absent=self._mount_absent,
                auth=self._auth,
                pid=os.getpid(),
                pids=pids,
            )
        )

    # ---------------------------------------------------------------- while it serves

    async def _heed(self, signals: AsyncIterator[int]) -> None:
        """The first signal stops in order; the next one stops waiting."""
        async for number in signals:
            name = signal.Signals(number).name
            if self._stop_asked.is_set():
                log.warning("%s again: not waiting any longer", name)
                for child in self._children:
                    child.hasten()
            else:
                log.info("%s: stopping", name)
                self._stop_asked.set()

    def _unmounted(self) -> None:
        log.info("unmounted from outside: stopping")
        self._stop_asked.set()

    async def _feed_watchdog(self) -> None:
        """Tell systemd that the node lives, for as long as every process that serves does.

        A hanging child is killed by ourselves; when even that does not help (it waits in the
        kernel), the pings cease and systemd restarts the unit.
        """
        interval_s = self._systemd.watchdog_interval_s
        while interval_s is not None:
            hang_s = self._config.node.hang_timeout_s + interval_s
            if all(child.silent_s < hang_s for child in self._children):
                self._systemd.alive()
            await trio.sleep(interval_s)

    def status(self) -> dict[str, Any]:
        """What `forebay status` shows of the processes. Does not block."""
        return {
            "state": self._state,
            "pid": os.getpid(),
            "uptime_s": round(time.monotonic() - self._started, 1),
            "endpoint": self._endpoint,
            "https_endpoint": self._https_endpoint,
            "mount": None if self._mount_absent else str(self._mount_path),
            "mount_absent": self._mount_absent,
            "auth": self._auth,
            "spares": self._spares.pids,
            "processes": [
                {
                    "name": child.name,
                    "state": child.state.value,
                    "pid": child.pid,
                    "restarts": child.restarts,
                    "silent_s": round(child.silent_s, 1),
                    "last_end": child.last_end,
                    "report": child.report,
                }
                for child in self._children
            ],
        }

    # ---------------------------------------------------------------- stop

    async def _stop(self) -> None:
        """End the children in order. Doors first: nothing new can come, then the queue drains."""
        total_s = self._config.node.drain_timeout_s
        deadline = time.monotonic() + total_s
        self._state = "stopping"
        self._spares.close()
        self._systemd.stopping("draining the write-back queue", total_s + 5)

        def grace_s(share: float) -> float:
            return max((deadline - time.monotonic()) * share, _LEAST_GRACE_S)

        async with trio.open_nursery() as nursery:
            for child in self._children:
                if child.name.startswith("gateway-"):
                    nursery.start_soon(child.stop, grace_s(_DOORS_SHARE))
        if not self._mount_absent:
            await self._find("mount").stop(grace_s(_DOORS_SHARE))
            await trio.to_thread.run_sync(mountpoint.clear, self._mount_path)
        await self._find("mover").stop(grace_s(1))

    @property
    def _auth(self) -> str:
        """The mode of authentication that is in force, as a gateway found out."""
        modes = (child.facts["auth"] for child in self._children if "auth" in child.facts)
        return next(modes, self._config.auth.mode)

    def _find(self, name: str) -> Child:
        return next(child for child in self._children if child.name == name)


def _why_no_mount(config: NodeConfig) -> str:
    if config.mount is None:
        return "the configuration has no table [mount]"
    if not config.mount.enabled:
        return "mount.enabled is false"
    return mountpoint.unavailable()


def _host(address: str) -> str:
    """As it stands in a URL that a client on this machine can use."""
    here = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}  # noqa: S104 - not bound to
    address = here.get(address, address)
    return f"[{address}]" if ":" in address else address
