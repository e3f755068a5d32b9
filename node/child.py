"""The entry of every child process: `python -m node.child ROLE LIFELINE`.

Order: tie ourselves to the supervisor; load the role's modules; read from the supervisor what to
run (a spare waits here until it is needed); lock our name; open the volume; run the role in this,
the main, thread until SIGTERM; close. The roles are the doors' `serve` functions and
`node/mover.py`: each handles SIGTERM in its own loop, and calls `ready` from inside the loop once
it serves. From then on a thread asks that loop, once a second, to prove that it runs.

How a child learns that it must end:
- the supervisor says Stop on the lifeline: we send ourselves SIGTERM;
- the supervisor is gone: the kernel sends SIGTERM (PR_SET_PDEATHSIG), and the lifeline ends, after
  which a role that does not finish soon is cut off. The next supervisor waits for our lock.
"""

from __future__ import annotations

import ctypes
import faulthandler
import gc
import importlib
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cache.errors import CacheError
from node import logs, orphans, run_lock
from node.config import NodeConfig, parse, secrets_of
from node.errors import ExitCode, OperatorError
from node.lifeline import Beat, ChildEnd, Endpoint, Failed, Ready, Report, Start, Stop
from node.volumes import open_volume

if TYPE_CHECKING:
    from cache.volume import Volume

log = logging.getLogger(__name__)

MODULES = {"mount": "fuse.mount", "gateway": "s3api.gateway", "mover": "node.mover"}
"""What a role loads: its own stack only, as the mount needs no HTTP server and the gateway no
FUSE. The functions that run the roles import the same again, for nothing."""

_PR_SET_PDEATHSIG = 1
_BEAT_INTERVAL_S = 1.0

AskLoop = Callable[[Callable[[], None]], object]
"""Has a loop call a function soon; callable from any thread, RuntimeError once the loop ended."""


class Reporter:
    """What the role may tell the supervisor."""

    def __init__(self, lifeline: ChildEnd) -> None:
        self._lifeline = lifeline
        self.grace_s = orphans.END_BY_ITSELF_S
        """Time that the role has after SIGTERM; the supervisor's Stop brings a longer one."""

    def ready(self, ask: AskLoop, **facts: str) -> None:
        """The role serves, and `ask` is how to see that it goes on. Once, from its loop."""
        self._lifeline.send(Ready(facts))
        threading.Thread(target=self._beat, args=(ask,), name="pulse", daemon=True).start()

    def report(self, facts: dict[str, Any]) -> None:
        """What the role has to say of its work; the last one is what it leaves."""
        self._lifeline.send(Report(facts))

    def listen(self) -> None:
        """Turn what comes down the lifeline into SIGTERM; runs in a thread of its own."""
        while isinstance(message := self._lifeline.receive(), Stop):
            self.grace_s = message.grace_s
            os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(orphans.END_BY_ITSELF_S)
        log.warning("the supervisor is gone; not waiting any longer")
        os._exit(ExitCode.FAILED)

    def _beat(self, ask: AskLoop) -> None:
        ran = threading.Event()
        while True:
            ran.clear()
            try:
                ask(ran.set)
            except RuntimeError:
                return  # the role has ended
            # However long it takes: no beat while the loop hangs, one as soon as it runs again.
            ran.wait()
            self._lifeline.send(Beat())
            time.sleep(_BEAT_INTERVAL_S)


def main() -> None:
    role, descriptor = sys.argv[1], int(sys.argv[2])
    # From here on the death of the supervisor reaches us even while Python is busy; an earlier
    # death shows as the end of the lifeline.
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    faulthandler.enable()  # SIGABRT, by which the supervisor ends a hanging child, shows where
    lifeline = ChildEnd(descriptor)
    gc.disable()  # loading makes much and drops nothing; the collector takes a tenth of its time
    importlib.import_module(MODULES[role])
    gc.enable()
    # What was loaded lives as long as the process: a collection that looked at all of it would stop
    # every request for tens of milliseconds.
    gc.freeze()
    start = lifeline.receive()  # a spare waits here, until it is needed or its supervisor is gone
    if not isinstance(start, Start):
        return
    try:
        _run(role, start, lifeline)
    except (OperatorError, CacheError) as exc:
        code = exc.code if isinstance(exc, OperatorError) else ExitCode.FAILED
        log.error("%s", exc)
        lifeline.send(Failed(str(exc) or type(exc).__name__, int(code)))
        sys.exit(int(code))


def _run(role: str, start: Start, lifeline: ChildEnd) -> None:
    name = start.name
    config = parse(start.config)
    logs.configure(name, config.log, secrets=secrets_of(config))
    reporter = Reporter(lifeline)
    threading.Thread(target=reporter.listen, name="lifeline", daemon=True).start()
    with run_lock.take(orphans.lock_path(config.cache.run_dir, name)):
        match role:
            case "mount":
                _mount(config, reporter)
            case "gateway":
                _gateway(config, start.endpoint, int(name.partition("-")[2]), reporter)
            case "mover":
                _mover(config, reporter)
    log.debug("ended")


def _open_stores(volume: Volume) -> None:
    """Beside what is served by now: the client of S3 alone takes 0.2 s to load, which the first
    reader of something that is not cached would wait for."""
    threading.Thread(target=volume.buckets.open_stores, name="stores", daemon=True).start()


def _mount(config: NodeConfig, reporter: Reporter) -> None:
    import trio

    from fuse.mount import serve
    from fuse.mountpoint import MountError

    assert config.mount is not None, "the supervisor starts no mount that is not configured"

    def ready() -> None:
        reporter.ready(trio.lowlevel.current_trio_token().run_sync_soon)
        _open_stores(volume)

    with open_volume(config, is_mount=True) as volume:
        try:
            serve(volume, config.mount, change_socket=config.cache.change_socket, ready=ready)
        except MountError as exc:
            raise OperatorError(str(exc), ExitCode.CONFIGURATION) from exc


def _gateway(config: NodeConfig, endpoint: Endpoint, index: int, reporter: Reporter) -> None:
    import asyncio

    from s3api.auth import Authenticator
    from s3api.gateway import serve
    from s3api.listening import Listener

    with open_volume(config) as volume:
        keeper = Authenticator(config.auth, volume.keys, address=config.s3.address, region=None)

        def ready() -> None:
            loop = asyncio.get_running_loop()
            reporter.ready(loop.call_soon_threadsafe, auth=keeper.mode)
            _open_stores(volume)

        listeners = []
        if endpoint.port is not None:
            listeners.append(Listener(config.s3.address, endpoint.port))
        if endpoint.https_port is not None:
            pair = Path(endpoint.certificate), Path(endpoint.key)
            listeners.append(Listener(config.s3.address, endpoint.https_port, *pair))
        serve(volume, config.s3, config.auth, listeners=listeners, index=index, ready=ready)


def _mover(config: NodeConfig, reporter: Reporter) -> None:
    from node import mover

    def ready() -> None:
        # Its main thread only waits: what can hang are the chores, each bounded by itself.
        reporter.ready(lambda ran: ran())

    with open_volume(config) as volume:
        may_close = mover.serve(
            volume,
            upload_age_max_s=config.s3.upload_age_max_s,
            lifecycle_day_s=config.s3.lifecycle_day_s,
            ready=ready,
            report=reporter.report,
            grace_s=lambda: reporter.grace_s,
        )
        if not may_close:
            os._exit(ExitCode.DONE)


if __name__ == "__main__":
    main()
