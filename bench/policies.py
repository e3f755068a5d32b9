"""Simulators of eviction policies, from their papers: what Forebay's own is compared with.

They count bytes exactly and nothing else: no segments, no watermarks, any object leaves alone and
for free. So they are an upper bound of what their policy gets in a cache on a disk.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from typing import Protocol


class Policy(Protocol):
    def read(self, key: int, size: int) -> bool:
        """Whether the object was there; it is afterwards, if the policy admits it."""


class Lru:
    """Evicts what was read longest ago."""

    def __init__(self, capacity_bytes: int) -> None:
        self._room = capacity_bytes
        self._sizes: OrderedDict[int, int] = OrderedDict()

    def read(self, key: int, size: int) -> bool:
        if key in self._sizes:
            self._sizes.move_to_end(key)
            return True
        self._sizes[key] = size
        self._room -= size
        while self._room < 0:
            self._room += self._sizes.popitem(last=False)[1]
        return False


class S3Fifo:
    """Yang, Zhang, Qiu, Yue, Rashmi: FIFO queues are all you need for cache eviction, SOSP 2023.

    A small queue of 10%, whose objects go to the main queue if they were read more than once there
    and else leave their key in a ghost queue with as many entries as the main queue; the main
    queue is a FIFO with reinsertion and a counter up to 3.

    main_first: while there is room, what the small queue cannot hold goes to the main queue, as
    the authors' simulator has it since; the paper lets the small queue grow.
    """

    def __init__(self, capacity_bytes: int, *, main_first: bool) -> None:
        self._capacity = capacity_bytes
        self._small_max = capacity_bytes // 10
        self._main_first = main_first
        self._full = False
        self._small: deque[int] = deque()
        self._main: deque[int] = deque()
        self._small_bytes = self._main_bytes = 0
        self._sizes: dict[int, int] = {}
        self._reads: dict[int, int] = {}
        self._ghosts: OrderedDict[int, None] = OrderedDict()

    def read(self, key: int, size: int) -> bool:
        if key in self._reads:
            self._reads[key] = min(3, self._reads[key] + 1)
            return True
        while self._small_bytes + self._main_bytes + size > self._capacity:
            self._full = True
            if self._small_bytes >= self._small_max or not self._main:
                self._evict_small()
            else:
                self._evict_main()
        overflow = self._main_first and not self._full and self._small_bytes >= self._small_max
        self._sizes[key] = size
        self._reads[key] = 0
        if key in self._ghosts:
            del self._ghosts[key]
            self._to_main(key)
        elif overflow:
            self._to_main(key)
        else:
            self._small.append(key)
            self._small_bytes += size
        return False

    def _to_main(self, key: int) -> None:
        self._main.append(key)
        self._main_bytes += self._sizes[key]

    def _evict_small(self) -> None:
        key = self._small.popleft()
        self._small_bytes -= self._sizes[key]
        if self._reads[key] > 1:
            self._reads[key] = 0
            self._to_main(key)
            return
        self._forget(key)
        self._ghosts[key] = None
        while len(self._ghosts) > max(1, len(self._main)):
            self._ghosts.popitem(last=False)

    def _evict_main(self) -> None:
        while True:
            key = self._main.popleft()
            if not self._reads[key]:
                break
            self._reads[key] -= 1
            self._main.append(key)
        self._main_bytes -= self._sizes[key]
        self._forget(key)

    def _forget(self, key: int) -> None:
        del self._sizes[key], self._reads[key]


class Sieve:
    """Zhang, Yang, Yue, Vigfusson, Rashmi: SIEVE is simpler than LRU, NSDI 2024.

    One queue; a hand moves from the oldest to the newest, spares what was read since it came by,
    and evicts the rest where it stands."""

    def __init__(self, capacity_bytes: int) -> None:
        self._room = capacity_bytes
        self._sizes: dict[int, int] = {}
        self._visited: dict[int, bool] = {}
        self._newer: dict[int, int | None] = {}
        self._older: dict[int, int | None] = {}
        self._oldest: int | None = None
        self._newest: int | None = None
        self._hand: int | None = None

    def read(self, key: int, size: int) -> bool:
        if key in self._visited:
            self._visited[key] = True
            return True
        while self._room < size:
            self._evict()
        self._room -= size
        self._sizes[key] = size
        self._visited[key] = False
        self._newer[key] = None
        self._older[key] = self._newest
        if self._newest is None:
            self._oldest = key
        else:
            self._newer[self._newest] = key
        self._newest = key
        return False

    def _evict(self) -> None:
        key = self._hand if self._hand is not None else self._oldest
        assert key is not None
        while self._visited[key]:
            self._visited[key] = False
            following = self._newer[key]
            key = following if following is not None else self._oldest
            assert key is not None
        newer, older = self._newer.pop(key), self._older.pop(key)
        if newer is None:
            self._newest = older
        else:
            self._older[newer] = older
        if older is None:
            self._oldest = newer
        else:
            self._newer[older] = newer
        self._hand = newer
        self._room += self._sizes.pop(key)
        del self._visited[key]
