"""A changed file made of the blocks of the old one, where the file system shares them, and of its
holes.

Where the file system has reflinks (XFS, Btrfs, NFS 4.2 over one of them) the unchanged blocks are
shared by ioctl_ficlonerange(2), so that a change of a huge file costs what was changed. On others
the file is written whole, but for the holes of the old one: to copy its unchanged bytes would be to
read them there first, which is worse than to send them from the cache.

The result is published as any upload is (posix_uploads): whoever reads the old file reads on in it.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from cache.config import MIB
from cache.stores import posix_holes
from cache.stores.base import Read, StoredAttributes, StoredObject
from cache.stores.deadline import DeadlinePool
from cache.stores.part_plan import PART_BYTES_MIN, Part, plan
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
        """As base.Store.patch; None of a file so small that it is written whole. Blocks."""
        if size_bytes < PART_BYTES_MIN:
            return None
        source = open_pooled(self._publisher.root, self._pool, key)
        upload = PosixUpload(self._publisher, self._pool, key)
        try:
            check_open(source, key, version)
            for part in plan(size_bytes, changed, part_bytes=_CLONE_BYTES, copy_bytes=_CLONE_BYTES):
                if not part.is_copy:
                    _send(upload, read, part.start, part.stop)
                elif self._clones:
                    _share(upload, source, read, part)
                else:
                    _send_bytes(upload, source, key, read, part)
            # Bytes that were changed in place while they were used are not published.
            check_open(source, key, version)
            return upload.commit(attributes, expected=version)
        except NotCloned as exc:
            upload.abort()
            log.info("store %s: changed files are written again: %s", self._path, exc)
            self._clones = False
        except BaseException:
            upload.abort()
            raise
        finally:
            source.close()
        return self.patch(key, changed, read, size_bytes, attributes, version)


def _send(upload: PosixUpload, read: Read, start: int, stop: int) -> None:
    for chunk in read(start, stop):
        upload.write(chunk)


def _share(upload: PosixUpload, source: PooledFile, read: Read, part: Part) -> None:
    """What is unchanged, as blocks of both files."""
    start = -(-part.start // _BLOCK_BYTES) * _BLOCK_BYTES
    stop = part.stop // _BLOCK_BYTES * _BLOCK_BYTES
    _send(upload, read, part.start, start)
    if start < stop:
        upload.clone_from(source, start, stop)
    _send(upload, read, stop, part.stop)


def _send_bytes(
    upload: PosixUpload, source: PooledFile, key: bytes, read: Read, part: Part
) -> None:
    """What is unchanged, sent but for the holes."""
    for piece in posix_holes.pieces(source, key, part.start, part.stop):
        if piece.is_hole:
            upload.skip(piece.stop - piece.start)
        else:
            _send(upload, read, piece.start, piece.stop)
