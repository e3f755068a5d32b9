"""A changed file made of the blocks of the old one, on file systems that can share them.

Where the file system has reflinks (XFS, Btrfs, NFS 4.2 over one of them) the unchanged blocks are
shared by ioctl_ficlonerange(2), so that a change of a huge file costs what was changed. On others
the file is written whole: to copy its unchanged part would be to read it there first, which is
worse than to send it from the cache.

The result is published as any upload is (posix_uploads): whoever reads the old file reads on in it.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from cache.config import MIB
from cache.stores.base import Read, StoredAttributes, StoredObject
from cache.stores.deadline import DeadlinePool
from cache.stores.part_plan import PART_BYTES_MIN, plan
from cache.stores.posix_uploads import (
    NotCloned,
    PooledFile,
    PosixUpload,
    Publisher,
    check_open,
    open_pooled,
)

log = logging.getLogger(__name__)

_BLOCK_BYTES = 64 * 1024
"""What is shared begins and ends at multiples of the file system's blocks: of the largest ones."""
_CLONE_BYTES = 1024 * MIB


class Patcher:
    """For one store: it remembers whether the file system shares blocks."""

    def __init__(self, publisher: Publisher, pool: DeadlinePool, path: Path) -> None:
        self._publisher = publisher
        self._pool = pool
        self._path = path
        self._clones = True  # until the file system refuses to

    def patch(
        self,
        key: bytes,
        changed: Sequence[tuple[int, int]],
        read: Read,
        size_bytes: int,
        attributes: StoredAttributes,
        version: str,
    ) -> StoredObject | None:
        """As base.Store.patch; None if the file must be written whole. Blocks."""
        if not self._clones or size_bytes < PART_BYTES_MIN:
            return None
        source = open_pooled(self._publisher.root, self._pool, key)
        upload = PosixUpload(self._publisher, self._pool, key)
        try:
            check_open(source, key, version)
            self._fill(upload, source, changed, read, size_bytes)
            # Bytes that were changed in place while they were shared are not published.
            check_open(source, key, version)
            return upload.commit(attributes, expected=version)
        except NotCloned as exc:
            log.info("store %s: changed files are written whole: %s", self._path, exc)
            self._clones = False
            upload.abort()
            return None
        except BaseException:
            upload.abort()
            raise
        finally:
            source.close()

    @staticmethod
    def _fill(
        upload: PosixUpload,
        source: PooledFile,
        changed: Sequence[tuple[int, int]],
        read: Read,
        size_bytes: int,
    ) -> None:
        for part in plan(size_bytes, changed, part_bytes=_CLONE_BYTES, copy_bytes=_CLONE_BYTES):
            start = stop = part.stop
            if part.is_copy:
                start = -(-part.start // _BLOCK_BYTES) * _BLOCK_BYTES
                stop = part.stop // _BLOCK_BYTES * _BLOCK_BYTES
            for chunk in read(part.start, start):
                upload.write(chunk)
            if start < stop:
                upload.clone_from(source, start, stop)
            for chunk in read(stop, part.stop):
                upload.write(chunk)
