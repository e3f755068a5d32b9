"""Lookup counts, handle numbers, late writes and the cookies of a directory."""

from __future__ import annotations

import errno
import threading
import tracemalloc

import pyfuse3
import pytest

from fuse.handles import DirectoryHandle, Handles, LookupCounts, Stragglers


def test_an_inode_is_unknown_when_all_its_lookups_are_forgotten() -> None:
    counts = LookupCounts()
    assert counts.add(7) is True
    assert counts.add(7) is False
    assert counts.add(8) is True
    assert counts.forget([(7, 1)]) == []
    assert counts.forget([(7, 1), (8, 1)]) == [7, 8]
    assert counts.known() == []


def test_forgetting_too_much_does_not_raise() -> None:
    counts = LookupCounts()
    counts.add(7)
    assert counts.forget([(7, 5), (9, 1)]) == [7, 9]
    assert counts.add(7) is True


def test_a_closed_handle_is_ebadf() -> None:
    handles: Handles[str] = Handles()
    number = handles.add("file")
    assert handles[number] == "file"
    assert handles.remove(number) == "file"
    with pytest.raises(pyfuse3.FUSEError) as refused:
        handles[number]
    assert refused.value.errno == errno.EBADF
    assert handles.add("other") != number


def test_a_file_takes_no_write_before_a_late_one_is_over() -> None:
    stragglers, file, over = Stragglers(), object(), threading.Event()
    stragglers.add(file, over)  # type: ignore[arg-type]
    with pytest.raises(pyfuse3.FUSEError) as refused:
        stragglers.check(file)  # type: ignore[arg-type]
    assert refused.value.errno == errno.EIO
    over.set()
    stragglers.check(file)  # type: ignore[arg-type]


def _list(handle: DirectoryHandle, names: list[bytes], cookie: int = 0) -> list[int]:
    cookies = []
    for name in names:
        cookie = handle.next_cookie(cookie, name)
        cookies.append(cookie)
    return cookies


def test_a_listing_repeated_from_any_cookie_meets_the_same_cookies() -> None:
    handle = DirectoryHandle(1)
    cookies = _list(handle, [b"a", b"b/", b"c"])
    assert [handle.position(c) for c in cookies] == [b"a", b"b/", b"c"]
    assert _list(handle, [b"b/", b"c"], cookies[0]) == cookies[1:]


def test_cookies_stay_good_while_the_directory_changes() -> None:
    handle = DirectoryHandle(1)
    before = _list(handle, [b"a", b"c", b"d"])
    # Back to a; meanwhile b was made and c removed.
    after = _list(handle, [b"b", b"d", b"e"], before[0])
    assert [handle.position(c) for c in before] == [b"a", b"c", b"d"]
    assert [handle.position(c) for c in after] == [b"b", b"d", b"e"]
    assert not set(before) & set(after)


def test_a_cookie_that_was_never_given_is_einval() -> None:
    handle = DirectoryHandle(1)
    [cookie] = _list(handle, [b"a"])
    for wrong in (0, -1, cookie + 1):
        with pytest.raises(pyfuse3.FUSEError) as refused:
            handle.position(wrong)
        assert refused.value.errno == errno.EINVAL
    handle.rewind()
    with pytest.raises(pyfuse3.FUSEError):
        handle.position(cookie)


def test_a_million_cookies_take_little_memory() -> None:
    handle = DirectoryHandle(1)
    tracemalloc.start()
    cookie = 0
    for number in range(1_000_000):
        cookie = handle.next_cookie(cookie, b"name-of-20-bytes%05d" % (number % 100_000))
    size, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert cookie == 1_000_000
    assert size < 40 << 20
