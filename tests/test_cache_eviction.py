"""Eviction: what the policy says, what is remembered of what went, and that nothing else goes."""

from __future__ import annotations

import contextlib
import random
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cache import eviction, extents, ghosts, heat, namespace, volume
from cache.config import MIB
from cache.errors import CacheFull
from cache.heat import COLD, HEAT_MAX, TURNS, Heat
from cache.index import Index, Table, Txn
from cache.records import EvictionState, InodeFlag, SegmentRecord, SegmentState
from tests.support.volume import TestVolume, some_bytes

SIZE = 200_000
"""Of an object: one extent of the small segments here."""


def segment(number: int, stream: str = "dirty", live: int = 50) -> SegmentRecord:
    return SegmentRecord(number, 0, 100, stream, SegmentState.SEALED, live, 0)


# ---------------------------------------------------------------------- what the policy says


def test_heat_halves_with_each_turn() -> None:
    found = Heat(12, 65_535)
    assert [found.now(turn % TURNS) for turn in range(65_535, 65_541)] == [12, 6, 3, 1, 0, 0]
    assert found.raised(0) == Heat(7, 0)
    assert Heat(HEAT_MAX, 4).raised(4) == Heat(HEAT_MAX, 4)


def test_heat_is_stored_in_three_bytes_or_in_one() -> None:
    assert Heat(12, 258).pack() == b"\x0c\x01\x02"
    assert Heat(0, 258).pack() == b"\0"
    assert heat.unpack(b"\x0c\x01\x02") == Heat(12, 258)
    assert heat.unpack(b"\x03") == Heat(3, 0), "of an early version"


def test_the_victim_is_an_empty_segment_then_what_the_policy_says() -> None:
    some = [segment(1, "kept"), segment(2), segment(3, "fill")]
    empty = segment(4, live=0)
    assert eviction.victim([*some, empty], "s3fifo", 1000, some[0]) == empty
    assert eviction.victim(some, "fifo", 1000, None) == some[0]
    assert eviction.victim(some, "s3fifo", 1000, some[0]) == some[1], "the main queue has room"
    assert eviction.victim(some, "s3fifo", 100, some[0]) == some[0], "it has more than its share"
    assert eviction.victim(some[1:], "s3fifo", 1000, None) == some[1]
    dead = segment(9, "main", live=20)
    assert eviction.victim([*some, dead], "s3fifo", 1000, some[0]) == dead, "mostly dead"
    active = SegmentRecord(9, 0, 100, "dirty", SegmentState.ACTIVE, 0, 0)
    assert eviction.victim([active], "lru", 1000, None) is None


def test_the_oldest_become_the_main_queue_while_it_has_room() -> None:
    some = [segment(number, "fill") for number in range(1, 21)]
    assert [s.id for s in eviction.promoted(some, 2000)] == list(range(1, 20))
    assert [s.id for s in eviction.promoted(some, 1000)] == list(range(1, 10))
    main = [segment(number, "main") for number in range(30, 49)]
    assert eviction.promoted([*some, *main], 2000) == []


@pytest.mark.parametrize(
    ("stream", "price", "budget", "least"),
    [
        ("fill", 0.0, 1000, 2),
        ("main", 0.0, 1000, 1),
        ("fill", 2.5, 1000, 4),
        ("fill", 99.0, 1000, HEAT_MAX),
        ("main", 0.0, 25, 5),
        ("main", 0.0, 0, None),
    ],
)
def test_what_survives_is_hotter_than_the_price_and_within_the_budget(
    stream: str, price: float, budget: int, least: int | None
) -> None:
    clean = [(count, 10) for count in range(8)]
    assert eviction.survival_heat(segment(1, stream), "s3fifo", price, clean, budget) == least


def test_lru_keeps_what_was_read_and_fifo_nothing() -> None:
    assert eviction.survival_heat(segment(1), "lru", 9.0, [(1, 10)], 0) == 1
    assert eviction.survival_heat(segment(1), "fifo", 0.0, [(9, 10)], 99) is None


def test_admitted_is_what_was_read_before_and_is_hotter_than_the_price() -> None:
    assert not eviction.is_admitted(1, 0.0)
    assert eviction.is_admitted(2, 0.0)
    assert not eviction.is_admitted(4, 3.0)
    assert eviction.is_admitted(HEAT_MAX, HEAT_MAX)


# ---------------------------------------------------------------------- ghosts


@settings(max_examples=20, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 3000), st.integers(1, 30)), min_size=1, max_size=30))
def test_ghosts_are_bounded(
    tmp_path_factory: pytest.TempPathFactory, runs: list[tuple[int, int]]
) -> None:
    """However many leave, and wherever the mover is killed between two steps."""
    with contextlib.closing(
        Index(tmp_path_factory.mktemp("index"), cap_bytes=64 * MIB, sync=False)
    ) as index:

        def leave(txn: Txn, first: int, count: int) -> None:
            present = ghosts.state(txn)
            for inode in range(first, first + count * 100):
                present = ghosts.note(txn, present, inode, 0, COLD, 10)
            ghosts.put_state(txn, present)
            if ghosts.is_full(txn, present, 1 << 40):
                ghosts.put_state(txn, ghosts.next_generation(present))

        for first, count in runs:
            index.commit(lambda txn, first=first, count=count: leave(txn, first, count))
            index.commit(lambda txn: ghosts.forget_old(txn, 1 << 20))
            with index.read() as txn:
                assert not ghosts.has_old(txn)
                assert txn.count(Table.GHOSTS) <= 2 * (1024 + 3000)


def test_a_ghost_is_found_in_two_generations_with_its_greatest_heat(tmp_path: Path) -> None:
    with contextlib.closing(Index(tmp_path, cap_bytes=16 * MIB, sync=False)) as index:

        def change(txn: Txn) -> EvictionState:
            present = ghosts.state(txn)
            for left in (Heat(1, 0), Heat(3, 0), COLD):
                present = ghosts.note(txn, present, 7, 2, left, 100)
            ghosts.put_state(txn, present)
            return present

        present = index.commit(change)
        assert (present.ghosts, present.ghost_bytes) == (1, 300)
        with index.read() as txn:
            later = ghosts.next_generation(present)
            assert ghosts.find(txn, present, 7, 2) == Heat(3, 0)
            assert ghosts.find(txn, later, 7, 2) == Heat(3, 0)
            assert ghosts.find(txn, ghosts.next_generation(later), 7, 2) is None
            assert ghosts.find(txn, present, 7, 3) is None


# ---------------------------------------------------------------------- on a volume


def fill(box: TestVolume, count: int) -> None:
    """Put objects into the store, as others do."""
    for number in range(count):
        (box.store_dir / f"{number:03}").write_bytes(some_bytes(SIZE, number))


def read(box: TestVolume, number: int) -> bool:
    """Read an object as a node does in which the mover is awake; whether it was cached."""
    before = box.store.calls["read"]
    assert box.get(b"%03d" % number) == some_bytes(SIZE, number)
    hit = box.store.calls["read"] == before
    if not hit:  # the reader has the bytes a moment before the cache does
        with contextlib.suppress(CacheFull):
            box.volume.fetcher.fill_all(box.inode(b"%03d" % number))
    box.volume.contents.fold_heat()
    if not hit:
        box.volume.reclaimer.run_once()
    return hit


def streams(box: TestVolume) -> dict[str, int]:
    """Bytes in use by stream."""
    with box.volume.index.read() as txn:
        found = box.volume.segments.records(txn)
    return {s: sum(r.live for r in found if r.stream == s) for s in {r.stream for r in found}}


def test_of_a_loop_longer_than_the_cache_a_part_stays(tmp_path: Path) -> None:
    """lru has each object until just before it is read again."""
    with contextlib.closing(TestVolume(tmp_path, capacity_bytes=16 * MIB)) as box:
        fill(box, 120)
        hits = [sum(read(box, number) for number in range(120)) for _ in range(4)]
        assert hits[0] == 0
        assert min(hits[1:]) > 120 * 0.2, hits
        assert box.volume.reclaimer.used_bytes() <= 16 * MIB
        box.check()


def test_a_scan_leaves_what_is_popular(tmp_path: Path) -> None:
    with contextlib.closing(TestVolume(tmp_path, capacity_bytes=16 * MIB)) as box:
        fill(box, 240)
        popular = range(20)
        for _ in range(3):
            for number in popular:
                read(box, number)
        for number in range(20, 240):
            read(box, number)
        assert sum(read(box, number) for number in popular) == len(popular)


def test_what_comes_back_goes_to_the_main_queue_at_once(tmp_path: Path) -> None:
    with contextlib.closing(TestVolume(tmp_path, capacity_bytes=16 * MIB)) as box:
        fill(box, 2)
        read(box, 0)
        read(box, 0)
        box.restart()  # so that its segments can be emptied
        box.evict()
        assert set(streams(box).values()) <= {0}
        assert not read(box, 0)
        assert not read(box, 1)
        kept = streams(box)
        assert 0 < kept["main"] == kept["fill"]


def test_what_was_read_in_pieces_was_read_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And what follows a fetch at once belongs to it."""
    monkeypatch.setattr(volume, "HOUSEKEEPING_S", 3600.0)  # it would fold in between
    with contextlib.closing(TestVolume(tmp_path, capacity_bytes=16 * MIB)) as box:
        fill(box, 1)

        def warmth() -> int:
            box.get(b"000")
            box.volume.fetcher.fill_all(box.inode(b"000"))
            for start in range(0, SIZE, 10_000):
                box.get(b"000", start, start + 10_000)
            box.volume.contents.fold_heat()
            with box.volume.index.read() as txn:
                (record,) = box.volume.segments.records(txn)
                (resident,) = extents.residents(txn, record.id)
            return resident.heat.now(0)

        assert [warmth() for _ in range(3)] == [0, 1, 2]


@pytest.mark.parametrize("seed", range(3))
def test_neither_dirty_nor_pinned_bytes_are_evicted(tmp_path: Path, seed: int) -> None:
    order = random.Random(seed)
    with contextlib.closing(TestVolume(tmp_path, capacity_bytes=16 * MIB)) as box:
        fill(box, 100)
        for number in range(20):
            box.put(b"pinned%d" % number, some_bytes(SIZE, number))
        box.drain()

        def pin(txn: Txn) -> None:
            for inode in pinned:
                namespace.update(txn, inode, flags=inode.flags | InodeFlag.PINNED)

        pinned = [box.inode(b"pinned%d" % number) for number in range(20)]
        box.volume.index.commit(pin)
        for number in range(15):
            box.put(b"dirty%d" % number, some_bytes(SIZE, number))
        for _ in range(250):
            read(box, order.randrange(100))
        before = box.store.calls["read"]
        for name, count in ((b"pinned%d", 20), (b"dirty%d", 15)):
            for number in range(count):
                assert box.get(name % number) == some_bytes(SIZE, number)
        assert box.store.calls["read"] == before
        box.check()


class Killed(BaseException):
    """Nothing in the cache may catch it."""


def test_the_mover_may_die_before_any_of_its_commits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(volume, "HOUSEKEEPING_S", 3600.0)  # it commits, too
    order = random.Random(1)
    with contextlib.closing(TestVolume(tmp_path, capacity_bytes=16 * MIB)) as box:
        fill(box, 90)
        for number in (*range(90), *range(40, 60), *range(40, 60)):
            read(box, number)
        for turn in range(18):
            die_in_reclaim(box, order, commits=turn % 9)
            box.restart()
            if turn % 6 == 5:
                box.check()
        for number in range(90):
            read(box, number)
        box.check()


def die_in_reclaim(box: TestVolume, order: random.Random, commits: int) -> None:
    """Read until the reclaimer has made so many commits, and dies instead of the next."""
    commit, made = box.volume.index.commit, 0

    def counting(*arguments: Any, **options: Any) -> Any:
        nonlocal made
        if made == commits:
            raise Killed
        made += 1
        return commit(*arguments, **options)

    while True:
        for _ in range(4):
            box.get(b"%03d" % int(90 * order.random() ** 2))
        box.volume.contents.fold_heat()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(box.volume.index, "commit", counting)
            try:
                box.volume.reclaimer.run_once()
            except Killed:
                return


@pytest.mark.parametrize("policy", ["lru", "fifo"])
def test_other_policies_keep_no_ghosts(tmp_path: Path, policy: str) -> None:
    with contextlib.closing(TestVolume(tmp_path, capacity_bytes=16 * MIB, policy=policy)) as box:
        fill(box, 100)
        for number in range(100):
            read(box, number)
        with box.volume.index.read() as txn:
            assert txn.count(Table.GHOSTS) == 0
        assert streams(box).get("main", 0) == 0
