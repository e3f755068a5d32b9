"""LIST marks: a page of 1,000 out of 1,000,000 keys beside the same out of 10,000.

Keys are written into the index directly, as rows without bytes that no store has: a million PUTs
would take longer than all the rest, and a listing reads nothing else. The listing goes the whole
way, through the gateway, and the answer is read but not parsed: parsing costs the client the same
for either.
"""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from functools import partial
from itertools import islice, product
from pathlib import Path

from bench import servers
from bench.rounds import Row, measure
from cache import names, namespace
from cache.index import Txn
from cache.records import Dentry, InodeId, Kind
from cache.volume import Volume
from node.config import load
from node.volumes import existing_volume
from tests.support.node import running_node
from tests.support.s3_raw import RawS3

PAGE = 1000
FEW, MANY = 10_000, 1_000_000
_PAGES = 20  # of each contender in a round
_KEYS_A_COMMIT = 20_000


def run(work: Path, rounds: int) -> list[Row]:
    with running_node(
        work,
        **servers.node_settings(work),
        auth={"mode": "simple"},
        node={"gateways": 1},
        mount=None,
    ) as node:
        with existing_volume(load(node.config_file)) as volume:
            for count in (FEW, MANY):
                _fill(volume, f"flat-{count}", _flat(count))
                _fill(volume, f"tree-{count}", _tree(count))
        with RawS3(node.endpoint) as s3:
            return [
                measure(
                    f"LIST {PAGE:,} of a {shape} bucket{', delimiter' if delimiter else ''}",
                    "/s",
                    f"{FEW:,} keys",
                    {
                        f"{count:,} keys": partial(_list, s3, shape, count, delimiter)
                        for count in (FEW, MANY)
                    },
                    rounds,
                )
                for shape, delimiter in product(("flat", "tree"), ("", "/"))
            ]


# --------------------------------------------------------------------------------------- filling


def _flat(count: int) -> Iterator[tuple[bytes, bytes]]:
    """(directory, name): all in one directory."""
    return ((b"", b"key-%07d" % number) for number in range(count))


def _tree(count: int) -> Iterator[tuple[bytes, bytes]]:
    """A page full of directories, with all keys below them."""
    below = count // PAGE
    return (
        (b"directory-%04d/" % (number // below), b"key-%07d" % number) for number in range(count)
    )


def _fill(volume: Volume, bucket: str, keys: Iterator[tuple[bytes, bytes]]) -> None:
    root = volume.buckets.create(bucket, "").root
    while batch := list(islice(keys, _KEYS_A_COMMIT)):
        volume.index.commit(partial(_enter, root=root, keys=batch))


def _enter(txn: Txn, root: int, keys: list[tuple[bytes, bytes]]) -> None:
    parents = {b"": root}
    for directory, name in keys:
        if directory not in parents:
            parents[directory] = namespace.make_directories(
                txn, root, [directory], mode=0o755, uid=0, gid=0
            )
        parent = parents[directory]
        inode = namespace.new_inode(txn, Kind.FILE, mode=0o644, uid=0, gid=0)
        # Not namespace.enter(): that touches the parent for each of a million names.
        namespace.update(txn, inode, parent=InodeId(parent), name=name, etag="0" * 32)
        names.put(txn, parent, name, Dentry(inode.id, inode.kind))


# --------------------------------------------------------------------------------------- listing


def _list(s3: RawS3, shape: str, count: int, delimiter: str) -> float:
    """Pages a second, each from a key somewhere in the first nine tenths of the bucket."""
    places = random.Random(1)
    start = time.perf_counter()
    for _ in range(_PAGES):
        query = {"list-type": "2", "max-keys": str(PAGE)}
        if delimiter:
            query["delimiter"] = delimiter
        if not (shape == "tree" and delimiter):  # that has one page only
            number = places.randrange(count * 9 // 10 - PAGE)
            directory = f"directory-{number // (count // PAGE):04}/" if shape == "tree" else ""
            query["start-after"] = f"{directory}key-{number:07}"
        answer = s3.request("GET", f"/{shape}-{count}", query=query)
        found = answer.expect(200).body.count(b"<Key>") + answer.body.count(b"<CommonPrefixes>")
        assert found == PAGE, found
    return _PAGES / (time.perf_counter() - start)
