"""Listing against a sorted list of keys: any prefix, delimiter, start and page size."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.support.model import grouped_listing
from tests.support.volume import BUCKET, TestVolume, box

__all__ = ["box"]

ALPHABET = [b"a", b"b", b"-", b"/", b"a/", b"ab", b"\xc3\xa4", b"\x01", b"0", b"x" * 200]
texts = st.lists(st.sampled_from(ALPHABET), max_size=6).map(b"".join)
keys = texts.filter(lambda key: 0 < len(key) <= 1024)


@pytest.fixture(scope="module")
def shared() -> Iterator[TestVolume]:
    with tempfile.TemporaryDirectory() as directory:
        volume = TestVolume(Path(directory))
        volume.listed()
        yield volume
        volume.close()


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    some=st.lists(keys, max_size=15, unique=True),
    questions=st.lists(
        st.tuples(
            texts,
            st.sampled_from([b"", b"/", b"-", b"ab", b"/a", b"a/", b"\xc3\xa4", b"x"]),
            st.one_of(st.just(b""), texts),
            st.integers(1, 7),
        ),
        min_size=1,
        max_size=25,
    ),
)
def test_every_listing_is_what_a_sorted_list_gives(
    shared: TestVolume, some: list[bytes], questions: list[tuple[bytes, bytes, bytes, int]]
) -> None:
    for key in some:
        shared.put(key, b"")
    every = sorted(some)
    for prefix, delimiter, start, limit in questions:
        found: list[bytes] = []
        after = start
        while True:
            page = shared.volume.objects.list(
                BUCKET, prefix=prefix, delimiter=delimiter, after=after, limit=limit
            )
            assert len(page.entries) <= limit
            found += [entry.key for entry in page.entries]
            if not page.truncated:
                break
            assert page.entries, "a page that ends nowhere"
            after = page.last
        assert found == grouped_listing(every, prefix, delimiter, start)
    for key in some:
        shared.delete(key)
    assert shared.listed() == []


def test_names_of_any_bytes_end_with_their_group(box: TestVolume) -> None:
    for name in (b"a-\xff", b"a-\xff\xff", b"a-\xff\xff\xff\xff", b"b"):
        box.create(name)
    assert box.listed(delimiter=b"-") == [b"a-", b"b"]


def test_a_page_of_none_says_that_there_is_no_more_to_ask(box: TestVolume) -> None:
    box.put(b"a")
    page = box.volume.objects.list(BUCKET, limit=0)
    assert (page.entries, page.truncated) == ([], False)


def test_implicit_directories_show_when_asked_for(box: TestVolume) -> None:
    box.put(b"a/b/c")
    assert box.listed() == [b"a/b/c"]
    page = box.volume.objects.list(BUCKET, directories=True)
    assert [entry.key for entry in page.entries] == [b"a/", b"a/b/", b"a/b/c"]


def test_a_directory_of_thousands_is_listed_in_pages_of_the_same_order(box: TestVolume) -> None:
    wanted = sorted(b"%d/%d" % (n % 7, n) for n in range(2000))
    parents = {n: box.mkdir(b"%d" % n).id for n in range(7)}

    def change(txn) -> None:  # type: ignore[no-untyped-def]
        from cache import namespace
        from cache.records import Kind

        for n in range(2000):
            inode = namespace.new_inode(txn, Kind.FILE, mode=0o644, uid=0, gid=0)
            namespace.enter(txn, parents[n % 7], b"%d" % n, inode)

    box.volume.index.commit(change)
    found = [key for key in box.listed() if not key.endswith(b"/")]
    assert found == wanted
    shown: list[bytes] = []
    position = b""
    while True:
        page = box.volume.files.entries(parents[3], position, 13)
        if not page:
            break
        shown += [name for name, _ in page]
        position = box.volume.files.position(*page[-1])
    assert shown == sorted(b"%d" % n for n in range(3, 2000, 7))
