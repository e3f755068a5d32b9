"""What a node of many objects takes: bytes of the index for each, and memory. How fast it is then
is for `script/bench growth`."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from bench import filling, memory
from node.config import load
from node.volumes import open_volume
from tests.support.node import running_node, write_config
from tests.support.s3_raw import RawS3

MIB = 1 << 20


def test_an_object_of_one_extent_takes_at_most_600_bytes_of_the_index(tmp_path: Path) -> None:
    config = load(write_config(tmp_path, filling.node_settings(tmp_path)))
    bytes_each = filling.fill(config, "bucket", 5000)
    assert 300 < bytes_each <= 600
    with open_volume(config) as volume:
        report = volume.fsck.run(read_data=True)
    assert (report.problems, report.extents) == ([], 5000)


@pytest.mark.parametrize(
    "count", [20_000, pytest.param(10_000_000, marks=[pytest.mark.long, pytest.mark.timeout(3600)])]
)
def test_the_processes_of_a_node_take_less_than_400_mib(tmp_path: Path, count: int) -> None:
    """Spares, and what the gateways have read of the index, included; not the index's own pages,
    which are the kernel's page cache."""
    settings = filling.node_settings(tmp_path)
    filling.fill(load(write_config(tmp_path, settings)), "bucket", count)
    chance = random.Random(1)
    with running_node(tmp_path, **settings) as node, RawS3(node.endpoint, connections=4) as s3:
        for number in range(100):
            s3.put("bucket", f"new-{number}", bytes(64 << 10))
            assert s3.size("bucket", filling.some_key(count, chance)) == filling.SIZE_BYTES
        assert len(s3.keys("bucket", "directory-00")) == 100 * (count // 2 // filling.DIRECTORIES)
        node.wait_for_spares()
        taken = memory.taken(node)
    assert taken.total + sum(taken.spares.values()) < 400 * MIB, taken
    assert {"supervisor", "mover", "gateway-0", "gateway-1"} <= taken.own.keys()
