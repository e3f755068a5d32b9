"""Memory of processes: what is theirs alone.

RssAnon + RssShmem of /proc/PID/status. Mapped pages of files (RssFile) are left out: the index is
such a mapping, its pages are the kernel's cache and go when something else needs the memory.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Self

_INTERVAL_S = 0.05


def resident_bytes(pid: int) -> int:
    """ProcessLookupError when there is no such process."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except FileNotFoundError:
        raise ProcessLookupError(f"process {pid} is gone") from None
    fields = dict(line.split(":", 1) for line in status.splitlines())
    return sum(int(fields[name].split()[0]) << 10 for name in ("RssAnon", "RssShmem"))


class Peak:
    """How much the processes grow while the block runs, at the most, by name."""

    def __init__(self, pids: Mapping[str, int]) -> None:
        self._pids = dict(pids)
        self._before = {name: resident_bytes(pid) for name, pid in self._pids.items()}
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self.growth_bytes = dict.fromkeys(self._pids, 0)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()
        self._look()

    def _watch(self) -> None:
        while not self._over.wait(_INTERVAL_S):
            self._look()

    def _look(self) -> None:
        for name, pid in self._pids.items():
            growth = resident_bytes(pid) - self._before[name]
            self.growth_bytes[name] = max(self.growth_bytes[name], growth)

    def __str__(self) -> str:
        return ", ".join(
            f"{name} +{b / (1 << 20):.0f} MiB" for name, b in self.growth_bytes.items()
        )
