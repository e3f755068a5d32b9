"""What is remembered of the index."""

from __future__ import annotations

from pathlib import Path

import pytest

from cache.index import Index, Table
from cache.memo import Memo


@pytest.fixture
def index(tmp_path: Path) -> Index:
    return Index(tmp_path / "index", cap_bytes=1 << 20, sync=False)


def test_what_was_read_is_kept_until_the_next_commit(index: Index) -> None:
    reads: list[str] = []

    def read(key: str) -> bytes | None:
        reads.append(key)
        with index.read() as txn:
            return txn.get(Table.META, key.encode())

    memo = Memo(index)
    memo.refresh()
    assert [memo.of(read, "a"), memo.of(read, "a"), memo.of(read, "b")] == [None, None, None]
    memo.refresh()
    assert memo.of(read, "a") is None
    assert reads == ["a", "b"]
    index.commit(lambda txn: txn.put(Table.META, b"a", b"new"))
    assert memo.of(read, "a") is None  # as of the last refresh
    memo.refresh()
    assert memo.of(read, "a") == b"new"
    assert reads == ["a", "b", "a"]


def test_errors_are_not_kept(index: Index) -> None:
    answers = iter([KeyError("no"), None])

    def read(_: str) -> str:
        error = next(answers)
        if error is not None:
            raise error
        return "found"

    memo = Memo(index)
    with pytest.raises(KeyError):
        memo.of(read, "key")
    assert memo.of(read, "key") == "found"


def test_what_is_kept_is_bounded(index: Index) -> None:
    memo = Memo(index)
    for number in range(10_000):
        memo.refresh()
        memo.of(str, number)
    assert len(memo._kept) < 5_000
