"""Resident memory of a node's processes, from /proc/PID/smaps.

A page that several processes share counts in each as its part of it (PSS), so that the sum is what
the node takes. The index is mapped, and its pages are the kernel's page cache, there once and
dropped when anybody needs the memory: they are counted apart.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tests.support.node import RunningNode

_INTERVAL_S = 0.25
_MAPPING = re.compile(r"[0-9a-f]+-[0-9a-f]+ \S+ \S+ \S+ \d+ *(.*)")


@dataclass(slots=True)
class Taken:
    """Bytes, by process."""

    own: dict[str, int] = field(default_factory=dict)
    spares: dict[str, int] = field(default_factory=dict)
    index: int = 0

    @property
    def total(self) -> int:
        """Of the processes that serve."""
        return sum(self.own.values())


def taken(node: RunningNode) -> Taken:
    """What the processes take now."""
    found = Taken()
    spares = {f"spare {role}": pid for role, pid in node.status()["spares"].items()}
    for name, pid in (node.pids | spares).items():
        own, index = _pss(pid)
        (found.spares if name in spares else found.own)[name] = own
        found.index += index
    return found


def _pss(pid: int) -> tuple[int, int]:
    """(without the index, of the index), in bytes."""
    own = index = 0
    path = ""
    for line in Path(f"/proc/{pid}/smaps").read_text().splitlines():
        if found := _MAPPING.match(line):
            path = found[1]
        elif line.startswith("Pss:"):
            size = int(line.split()[1]) << 10
            if path.endswith("data.mdb"):
                index += size
            else:
                own += size
    return own, index


@contextmanager
def most(node: RunningNode) -> Iterator[list[Taken]]:
    """While the body runs, look again and again; in the list, at its end, is the greatest."""
    seen: list[Taken] = []
    done = threading.Event()

    def look() -> None:
        while not done.wait(_INTERVAL_S):
            seen.append(taken(node))

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield seen
    finally:
        done.set()
        thread.join()
    seen.sort(key=lambda sample: sample.total)
    del seen[:-1]
