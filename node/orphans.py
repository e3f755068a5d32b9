"""Children of a supervisor that was killed: awaited, and if need be ended, before others start.

A child notices the death of its supervisor and ends by itself (`node/child.py`). The next
supervisor may come sooner than that: until the old processes are gone, two mounts or two movers
would be at work. Each child holds the lock run/processes/NAME.lock, so the kernel says who is left.
"""

from __future__ import annotations

import logging
import os
import select
import signal
from pathlib import Path

from node import run_lock
from node.errors import OperatorError

log = logging.getLogger(__name__)

END_BY_ITSELF_S = 1.0
"""Time that an orphan has for requests under way, before it exits hard (`node/child.py`)."""

_PATIENCE_S = END_BY_ITSELF_S + 0.5
_KILL_WAIT_S = 3.0


def lock_path(run_dir: Path, child: str) -> Path:
    """The lock that the child of this name holds while it lives."""
    return run_dir / "processes" / f"{child}.lock"


def wait_until_gone(run_dir: Path) -> None:
    """Return when no child of an earlier supervisor lives: at most some seconds, blocking.

    OperatorError if one cannot be ended. The caller holds the supervisor's lock.
    """
    for path in sorted((run_dir / "processes").glob("*.lock")):
        if _gone(path, _PATIENCE_S):
            continue
        log.warning("the %s of an earlier start hangs; killing it", path.stem)
        if not _gone(path, _KILL_WAIT_S, kill=True):
            raise OperatorError(
                f"the {path.stem} of an earlier start (process {run_lock.holder(path)}) cannot be "
                "killed: it waits in the kernel; abort its connection in "
                "/sys/fs/fuse/connections, or reboot"
            )


def _gone(path: Path, patience_s: float, *, kill: bool = False) -> bool:
    """True when nobody holds the lock, at the latest after patience_s."""
    pid = run_lock.holder(path)
    if not pid:
        return True
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        # The descriptor is of this very process, unless the number changed hands just before.
        if run_lock.holder(path) != pid:
            return True
        if kill:
            signal.pidfd_send_signal(descriptor, signal.SIGKILL)
        poll = select.poll()
        poll.register(descriptor, select.POLLIN)
        return bool(poll.poll(patience_s * 1000))
    except ProcessLookupError:
        return True
    finally:
        os.close(descriptor)
