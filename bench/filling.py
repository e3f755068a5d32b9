"""A bucket of any number of objects, entered into the index without their bytes ever being sent.

The records are those of objects that boto3 has PUT and the mover persisted: each with its name,
its inode, attributes, place in the store, and one extent with its reverse row. They are made by the
functions that a PUT ends in, many in one transaction. The bytes are zeros in sparse segment files,
and the checksums are theirs, so that the objects can be read; the store has nothing of them, and is
never asked, since all of it is cached and no bucket is revalidated.

Half of the keys lie flat in the bucket, in order; the other half in DIRECTORIES directories, in
an order that is random within each, as hashes are.
"""

from __future__ import annotations

import dataclasses
import os
import random
from collections.abc import Iterator
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import msgspec
import xxhash

from bench import servers
from cache import extents, namespace
from cache.config import CacheConfig
from cache.index import Txn
from cache.records import Extent, Kind, ObjectAttributes, Stored
from cache.segments import BLOCK
from cache.volume import Volume
from node.config import NodeConfig
from node.volumes import open_volume

DIRECTORIES = 1000
SIZE_BYTES = 5000
"""Of each object: more than the index itself would hold."""
_OBJECTS_A_COMMIT = 50_000
_CHECKSUM = xxhash.xxh3_64_intdigest(bytes(SIZE_BYTES))
_TAKES_BYTES = -(-SIZE_BYTES // BLOCK) * BLOCK
_ATTRIBUTES = ObjectAttributes(
    content_type="binary/octet-stream",
    checksums={"CRC32": "lnWYDA=="},
    checksum_type="FULL_OBJECT",
)
_NOW_NS = 1_700_000_000_123_456_789

Key = tuple[bytes, bytes]
"""Directory (with its `/`; empty for none) and name."""


def flat_key(number: int) -> bytes:
    return b"object-%09d.bin" % number


def tree_key(number: int, count: int) -> Key:
    """Of the number-th of `count` keys that lie in directories."""
    digest = xxhash.xxh3_64_hexdigest(number.to_bytes(8, "big"))
    return b"directory-%04d/" % (number * DIRECTORIES // count), f"{digest}.bin".encode()


def some_key(count: int, chance: random.Random) -> str:
    """A key of a bucket of `count` objects."""
    half = count // 2
    number = chance.randrange(half)
    key = flat_key(number) if chance.random() < 0.5 else b"".join(tree_key(number, half))
    return key.decode()


def node_settings(directory: Path) -> dict[str, Any]:
    """The configuration of a node for such a bucket, with gateways that believe who asks."""
    settings = servers.node_settings(directory)
    # Room for sparse segments: what is on the disk is the index only.
    settings["cache"] |= {"capacity_bytes": "512GiB", "index_bytes": "32GiB"}
    return settings | {"auth": {"mode": "simple"}, "node": {"gateways": 2}}


def fill(config: NodeConfig, bucket: str, count: int) -> float:
    """Make the bucket with `count` objects. The bytes of the index that each of them takes."""
    # Nothing is acknowledged to anybody: no commit is synced.
    unsynced = dataclasses.replace(config, cache=dataclasses.replace(config.cache, sync=False))
    # As the mount: nobody's kernel has to be told.
    with open_volume(unsynced, is_mount=True) as volume:
        root = volume.buckets.create(bucket, "").root
        before = volume.index.used_bytes()
        half = count // 2
        for keys in (
            ((b"", flat_key(number)) for number in range(half)),
            (tree_key(number, half) for number in range(half)),
        ):
            _enter_all(volume, root, keys)
        return (volume.index.used_bytes() - before) / (2 * half)


def _enter_all(volume: Volume, root: int, keys: Iterator[Key]) -> None:
    places = _places(volume)
    while batch := list(islice(keys, _OBJECTS_A_COMMIT)):
        # Taken before the commit: a segment is begun by a commit of its own.
        at = list(islice(places, len(batch)))
        volume.index.commit(
            partial(_enter, root=root, keys=batch, places=at, config=volume.config.cache)
        )


def _places(volume: Volume) -> Iterator[tuple[int, int]]:
    """(segment, offset) of one extent after the other."""
    while True:
        segment = volume.segments.begin("dirty")
        os.ftruncate(segment.fd, BLOCK)  # the reserved space is given back: only zeros follow
        os.ftruncate(segment.fd, segment.size_bytes)
        os.close(segment.fd)
        for offset in range(BLOCK, segment.size_bytes - _TAKES_BYTES + 1, _TAKES_BYTES):
            yield segment.id, offset


def _enter(
    txn: Txn, root: int, keys: list[Key], places: list[tuple[int, int]], config: CacheConfig
) -> None:
    parents = {b"": root}
    for (directory, name), (segment, offset) in zip(keys, places, strict=True):
        parent = parents.get(directory)
        if parent is None:
            parent = namespace.make_directories(txn, root, [directory], config)
            parents[directory] = parent
        inode = namespace.new_inode(txn, Kind.FILE, mode=0o644, uid=0, gid=0)
        extent = Extent(
            start=0,
            length=SIZE_BYTES,
            segment=segment,
            offset=offset,
            stored_length=SIZE_BYTES,
            checksum=_CHECKSUM,
            skip=0,
            revision=inode.revision,
        )
        extents.attach(txn, inode.id, [extent])
        inode = namespace.put_object_attributes(txn, inode, _ATTRIBUTES)
        version = f"{inode.id}:{SIZE_BYTES}:{_NOW_NS}:{_NOW_NS}"
        stored = Stored(
            parent, name, version, SIZE_BYTES, inode.revision, inode.attributes_revision
        )
        inode = msgspec.structs.replace(
            inode, size=SIZE_BYTES, etag=f"{inode.id:032x}", stored=stored
        )
        namespace.enter(txn, parent, name, inode)
    txn.changes.clear()  # the kernel of no mount knows of the bucket yet
