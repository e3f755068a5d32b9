"""The threads that block, so that the event loop does not.

Two pools with limits of their own: `metadata` for work on the index (listings, deletions, copies)
and `transfer` for the bytes of objects. A burst of large uploads can therefore not keep a listing
waiting, nor the other way round. Work queued beyond a pool's threads waits in order; how much can
queue is bounded by the connections.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar, TypeVarTuple, Unpack

T = TypeVar("T")
Arguments = TypeVarTuple("Arguments")


class Threads:
    def __init__(self, *, metadata_threads: int, transfer_threads: int) -> None:
        self._metadata = ThreadPoolExecutor(metadata_threads, thread_name_prefix="metadata")
        self._transfer = ThreadPoolExecutor(transfer_threads, thread_name_prefix="transfer")

    def metadata(
        self, work: Callable[[Unpack[Arguments]], T], *arguments: *Arguments
    ) -> asyncio.Future[T]:
        """Run work on the index; await the future."""
        return asyncio.get_running_loop().run_in_executor(self._metadata, work, *arguments)

    def transfer(
        self, work: Callable[[Unpack[Arguments]], T], *arguments: *Arguments
    ) -> asyncio.Future[T]:
        """Run work on objects' bytes; await the future."""
        return asyncio.get_running_loop().run_in_executor(self._transfer, work, *arguments)

    def close(self) -> None:
        """Wait for what runs and end the threads. Blocks."""
        self._transfer.shutdown()
        self._metadata.shutdown()
