"""The key file: made at its first use, private, seen by every process at once."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from cache.errors import FormatMismatch, InvalidName, NameExists, NoSuchMasterKey
from cache.keyring import NODE_KEY, Keyring


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "keyring.json"


def test_the_nodes_key_is_made_at_its_first_use(path: Path) -> None:
    ring = Keyring(path)
    assert ring.list() == []
    assert not path.exists()
    key = ring.newest_of_node()
    assert (key.id, key.version, len(key.secret)) == (NODE_KEY, 1, 32)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert ring.newest_of_node() == key
    assert Keyring(path).newest_of_node() == key
    assert repr(key.secret) not in repr(key)


def test_changes_by_another_process_count_at_once(path: Path) -> None:
    ours, theirs = Keyring(path), Keyring(path)
    with pytest.raises(NoSuchMasterKey):
        ours.newest("one")
    theirs.create("one")
    first = ours.newest("one")
    assert theirs.rotate("one") == 2
    assert ours.newest("one").version == 2
    assert ours.newest("one").secret != first.secret
    assert ours.get("one", 1) == first
    assert [(key.id, key.versions) for key in ours.list()] == [("one", 2)]


def test_what_is_not_there_and_what_cannot_be(path: Path) -> None:
    ring = Keyring(path)
    ring.create("one")
    with pytest.raises(NameExists):
        ring.create("one")
    for bad in ("", NODE_KEY, "a b", "/a", "x" * 129):
        with pytest.raises(InvalidName):
            ring.create(bad)
    with pytest.raises(NoSuchMasterKey):
        ring.rotate("two")
    for version in (0, 2):
        with pytest.raises(NoSuchMasterKey):
            ring.get("one", version)


def test_a_file_of_another_format_is_refused(path: Path) -> None:
    path.write_text('{"format": 2, "keys": {}}')
    with pytest.raises(FormatMismatch, match="format 2"):
        Keyring(path).newest_of_node()
    path.write_text("{")
    with pytest.raises(FormatMismatch):
        Keyring(path).list()
