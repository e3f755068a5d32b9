"""Users and groups of the S3 door in the index."""

from __future__ import annotations

import msgspec
import pytest

from cache.errors import InvalidName, NoSuchGroup, NoSuchUser, UserExists
from cache.users import User, canonical_id, canonical_id_of, display_name
from tests.support.volume import TestVolume, box

__all__ = ["box"]


def test_a_user_is_what_was_said_of_it(box: TestVolume) -> None:
    users = box.volume.users
    made = users.create(User("alice", "Alice A.", "alice@example.org", admin=True))
    assert users.get("alice") == users.known("alice") == made
    assert made.created_ns > 0
    assert display_name(made) == "Alice A."
    assert canonical_id(made) == canonical_id_of("alice")
    assert len(canonical_id(made)) == 64


def test_a_name_without_a_record_is_a_user_of_no_rank(box: TestVolume) -> None:
    users = box.volume.users
    with pytest.raises(NoSuchUser):
        users.get("bob")
    assert users.known("bob") == User("bob")
    assert users.known("x" * 1000) == User("x" * 1000)
    assert users.known("") == User("")
    assert users.by_canonical_id(canonical_id_of("bob")) is None
    box.volume.keys.create("bob")
    assert users.by_canonical_id(canonical_id_of("bob")) == User("bob")


def test_names_addresses_and_ids_are_one_users_alone(box: TestVolume) -> None:
    users = box.volume.users
    users.create(User("alice", email="a@example.org", canonical_id="1234"))
    users.create(User("bob"))
    for twin in (
        User("alice"),
        User("carol", email="A@example.org"),
        User("carol", canonical_id="1234"),
        User("carol", canonical_id=canonical_id_of("bob")),
    ):
        with pytest.raises(UserExists):
            users.create(twin)
    with pytest.raises(UserExists):
        users.change("bob", lambda user: msgspec.structs.replace(user, email="a@example.org"))
    found = users.by_email("A@EXAMPLE.org")
    assert found is not None
    assert found.name == "alice"
    assert users.by_email("") is None
    assert users.by_canonical_id("1234") == found


@pytest.mark.parametrize("name", ["", " a", "a\n", "a*", "a?", "x" * 257])
def test_what_is_no_name_is_refused(box: TestVolume, name: str) -> None:
    with pytest.raises(InvalidName):
        box.volume.users.create(User(name))


def test_a_deleted_user_has_no_keys(box: TestVolume) -> None:
    box.volume.users.create(User("alice"))
    keys = [box.volume.keys.create(name) for name in ("alice", "bob", "alice")]
    assert box.volume.users.delete("alice") == 2
    assert [box.volume.keys.get(key.access_key) is None for key in keys] == [True, False, True]
    with pytest.raises(NoSuchUser):
        box.volume.users.delete("alice")


def test_groups_have_members_and_policies(box: TestVolume) -> None:
    users = box.volume.users
    users.create_group("readers")
    with pytest.raises(UserExists):
        users.create_group("readers")
    with pytest.raises(NoSuchGroup):
        users.create(User("alice", groups=["writers"]))
    users.create(User("alice", groups=["readers"]))
    users.change_group("readers", lambda g: msgspec.structs.replace(g, policies={"p": b"{}"}))
    alice, groups = users.with_groups("alice")
    assert [group.policies for group in groups] == [{"p": b"{}"}]
    assert users.members("readers") == [alice]
    users.delete_group("readers")
    assert users.with_groups("alice") == (msgspec.structs.replace(alice, groups=[]), [])
    with pytest.raises(NoSuchGroup):
        users.group("readers")
