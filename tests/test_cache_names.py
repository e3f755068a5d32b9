"""Names: the order of keys in the tree is S3's, however long the names are."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cache import names
from cache.config import MIB
from cache.index import Index, Table
from cache.records import Dentry, Kind

PARENT = 1 << 40
pieces = st.sampled_from([b"a", b"b", b"-", b"\x00", b"\xff", b"x" * 479, b"x" * 480, b"y" * 200])
plain = st.lists(pieces, min_size=1, max_size=5).map(b"".join).filter(lambda n: len(n) <= 1024)
dentry_names = st.tuples(plain, st.sampled_from([b"", b"/"])).map(b"".join)


@pytest.fixture
def index(tmp_path: Path) -> Index:
    return Index(tmp_path, cap_bytes=16 * MIB, sync=False)


class Undo(Exception):
    """Ends a transaction without a trace."""


@settings(
    max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    some=st.lists(dentry_names, unique=True, max_size=12),
    start=st.one_of(st.just(b""), dentry_names),
)
def test_a_scan_from_anywhere_is_in_the_order_of_bytes(
    index: Index, some: list[bytes], start: bytes
) -> None:
    with index._env.begin(write=True) as raw:
        from cache.index import Txn

        txn = Txn(raw, index._tables)
        for number, name in enumerate(some, 10):
            names.put(txn, PARENT, name, Dentry(number, Kind.FILE))
        names.put(txn, PARENT + 1, b"neighbour", Dentry(1, Kind.FILE))
        found = [name for name, _ in names.scan(txn, PARENT, start)]
        assert found == sorted(name for name in some if name >= start)
        for number, name in enumerate(some, 10):
            assert names.find(txn, PARENT, name) == Dentry(number, Kind.FILE)
        for name in some:
            names.delete(txn, PARENT, name)
            assert names.find(txn, PARENT, name) is None
        assert names.is_empty(txn, PARENT)
        assert len(list(txn.scan(Table.DENTRIES))) == 1, "continuation nodes were left behind"
        raw.abort()


@pytest.mark.parametrize("length", [479, 480, 481, 959, 960, 961, 1023, 1024])
def test_a_name_of_any_length_that_s3_allows_is_found(index: Index, length: int) -> None:
    name = b"n" * length
    index.commit(lambda txn: names.put(txn, PARENT, name, Dentry(9, Kind.FILE)))
    index.commit(lambda txn: names.put(txn, PARENT, name[:-1] + b"/", Dentry(8, Kind.DIRECTORY)))
    with index.read() as txn:
        assert names.find(txn, PARENT, name) == Dentry(9, Kind.FILE)
        assert [n for n, _ in names.scan(txn, PARENT)] == [name[:-1] + b"/", name]
        assert names.find(txn, PARENT, name[:-1]) is None


@pytest.mark.parametrize(
    ("key", "parts"),
    [
        (b"a", ([], b"a")),
        (b"a/b/c", ([b"a/", b"b/"], b"c")),
        (b"a/b/", ([b"a/"], b"b/")),
        (b"a//b", ([b"a/", b"/"], b"b")),
        (b"/", ([], b"/")),
        (b"//a", ([b"/", b"/"], b"a")),
    ],
)
def test_a_key_is_split_at_its_slashes(key: bytes, parts: tuple[list[bytes], bytes]) -> None:
    assert names.split_key(key) == parts
    assert b"".join(parts[0]) + parts[1] == key


@pytest.mark.parametrize("name", [b"", b".", b"..", b"n" * 256, b"a\0b"])
def test_names_that_only_s3_can_hold_are_not_shown(name: bytes) -> None:
    assert not names.is_posix_name(name)
    assert names.is_posix_name(b"n" * 255)
