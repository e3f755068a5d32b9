"""Attacks on the S3 door of one running node: each is refused with Amazon's code and touches
nothing, and its harmless twin is let in.

The classes are those that S3 servers were found open to before (the tables name them); attacks
between the nodes of a cluster belong to the cluster.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import chain
from urllib.parse import urlsplit

import pytest

from node.config import load
from node.volumes import existing_volume
from tests.support import attacks_on_bodies, attacks_on_parsing, attacks_on_signatures
from tests.support.attacks import (
    BUCKET,
    KEPT,
    KEPT_BODY,
    OTHER_BUCKET,
    OTHER_USER,
    Attack,
    fingerprint,
)
from tests.support.node import RunningNode, running_node
from tests.support.s3 import USER, Door

ATTACKS = list(
    chain.from_iterable(
        table.attacks() for table in (attacks_on_signatures, attacks_on_bodies, attacks_on_parsing)
    )
)


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningNode]:
    with running_node(tmp_path_factory.mktemp("node"), mount=None) as node:
        yield node


@pytest.fixture(scope="module")
def door(node: RunningNode) -> Iterator[Door]:
    """The running node's door, with a second look into its index from here."""
    with existing_volume(load(node.config_file)) as volume:
        key = volume.keys.create(USER)
        port = urlsplit(node.endpoint).port
        assert port is not None
        door = Door(port, volume, key, node.store_dir)
        assert door.request("PUT", f"/{BUCKET}").status == 200
        assert door.request("PUT", KEPT, body=KEPT_BODY).status == 200
        others = replace(door, key=volume.keys.create(OTHER_USER))
        assert others.request("PUT", f"/{OTHER_BUCKET}").status == 200
        assert others.request("PUT", f"/{OTHER_BUCKET}/own", body=b"theirs").status == 200
        yield door


def test_every_attack_has_a_name_of_its_own() -> None:
    names = [attack.name for attack in ATTACKS]
    assert len(names) == len(set(names))
    assert len(names) >= 300


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.name)
def test_attack(door: Door, attack: Attack) -> None:
    before = fingerprint(door)
    answer = attack.shoot(door)
    assert (answer.status, answer.code) in attack.codes
    assert fingerprint(door) == before
    twin = attack.twin(door)
    assert attack.accepts(twin), (twin.status, twin.code)


def test_nothing_is_left_of_all_that(door: Door, node: RunningNode) -> None:
    assert door.request("GET", KEPT).body == KEPT_BODY
    assert "Traceback" not in node.log
    assert door.key.secret not in node.log
