"""Versions and what may go wrong with the store: cut off at any of its answers, killed, another
kind of store."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from cache.errors import CacheError, StoreUnavailable
from cache.records import WriteMode
from cache.versions import ENABLED, NULL
from tests.support.fault_store import no_fault
from tests.support.stores import moto_backend
from tests.support.versions import VersionedBucket
from tests.support.volume import BUCKET, TestVolume
from tests.support.waiting import wait_until
from tests.test_cache_versions import enable, read, same, step

OLD, NEW = b"old" * 3000, b"new" * 3000  # not inline


class Cut:
    """Fails at the n-th call of the store, before it or when its answer is on the way, and at all
    after it: the process is as good as dead."""

    def __init__(self, box: TestVolume, number: int, *, answered: bool) -> None:
        self.left = number
        self.was_reached = False
        self._answered = answered
        box.store.before = self._before
        box.store.after = self._after

    def _before(self, operation: str, key: bytes) -> None:
        self.left -= 1
        if self.left < 0 or (self.left == 0 and not self._answered):
            self.was_reached = True
            raise StoreUnavailable(operation)

    def _after(self, operation: str, key: bytes) -> None:
        if self.left <= 0:
            self.was_reached = True
            raise StoreUnavailable(operation)


def put(box: TestVolume, model: VersionedBucket) -> None:
    version_id = box.put(b"d/k", NEW).version_id
    model.put(b"d/k", NEW, version_id or NULL)


def delete(box: TestVolume, model: VersionedBucket) -> None:
    deleted = box.volume.objects.delete(BUCKET, b"d/k")
    model.delete(b"d/k", deleted.version_id or NULL)


def delete_current(box: TestVolume, model: VersionedBucket) -> None:
    version_id = model.keys[b"d/k"][0].version_id
    box.volume.objects.delete(BUCKET, b"d/k", version_id=version_id)
    model.delete_version(b"d/k", version_id)


@pytest.mark.parametrize("answered", [False, True])
@pytest.mark.parametrize("act", [put, delete, delete_current])
@pytest.mark.parametrize("mode", [WriteMode.WRITE_THROUGH, WriteMode.WRITE_BACK])
def test_cut_off_at_any_call_of_the_store(
    tmp_path: Path, mode: WriteMode, act: object, answered: bool
) -> None:
    """Whatever was acknowledged is there, with its bytes, and so it is in the store later."""
    assert callable(act)
    for number in range(1, 30):
        box = TestVolume(tmp_path / str(number), write_mode=mode)
        model = VersionedBucket(ENABLED)
        try:
            enable(box)
            for body in (OLD, OLD + b"2"):
                model.put(b"d/k", body, box.put(b"d/k", body).version_id or NULL)
            box.drain()
            box.evict()
            kept = [(v.version_id, v.body) for v in model.keys[b"d/k"]]
            cut = Cut(box, number, answered=answered)
            failed = False
            try:
                act(box, model)
                box.volume.queue.run_once(hurry=True)
                wait_until(box.volume.queue.is_idle)
            except CacheError:
                failed = True
            box.store.before = box.store.after = no_fault
            box.restart()
            box.drain()
            box.evict()
            for again in (False, True):
                if again:
                    box.forget_all()
                if not failed:
                    same(box, model)
                # An operation that failed did all of it or nothing; what others there were, stays.
                for version_id, body in kept:
                    if act is not delete_current or version_id != kept[0][0]:
                        assert read(box, b"d/k", version_id) == body
            if not cut.was_reached:
                return
        finally:
            box.close()
    pytest.fail("the operation has no end")


WRITER = """
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from cache.records import WriteMode
from tests.support.volume import BUCKET, TestVolume
from tests.support.waiting import wait_until
box = TestVolume(Path(sys.argv[1]), write_mode=WriteMode(sys.argv[2]), sync=True)
box.volume.versioning.set_status(BUCKET, "Enabled")
print("begun", flush=True)
number = 0
while True:
    number += 1
    key = f"d/{number % 3}"
    body = f"{key} {number} " * 800
    print(key, box.put(key.encode(), body.encode()).version_id, number, flush=True)
    if number % 7 == 0:
        print(key, box.volume.objects.delete(BUCKET, key.encode()).version_id, 0, flush=True)
    box.volume.queue.run_once(hurry=True)
"""


PATH = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])}
"""So that the writer finds tests.support, also where PYTHONSAFEPATH is set."""


@pytest.mark.parametrize("mode", [WriteMode.WRITE_THROUGH, WriteMode.WRITE_BACK])
def test_killed_while_versions_are_made(tmp_path: Path, mode: WriteMode) -> None:
    acknowledged: list[tuple[str, str, int]] = []
    chance = random.Random(str(mode))
    for _ in range(3):
        command = [sys.executable, "-c", WRITER, str(tmp_path), str(mode)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=PATH) as writer:
            assert writer.stdout is not None
            assert writer.stdout.readline() == "begun\n"
            for _ in range(chance.randint(5, 30)):
                key, version_id, number = writer.stdout.readline().split()
                acknowledged.append((key, version_id, int(number)))
            writer.kill()
            for line in writer.stdout:
                if line.endswith("\n"):
                    key, version_id, number = line.split()
                    acknowledged.append((key, version_id, int(number)))
    box = TestVolume(tmp_path, write_mode=mode)
    try:
        for is_emptied in (False, True):
            if is_emptied:
                box.drain()
                box.check()
                box.forget_all()
            for key, version_id, number in acknowledged:
                if number:
                    body = f"{key} {number} ".encode() * 800
                    assert read(box, key.encode(), version_id) == body
                else:
                    assert box.volume.objects.get(BUCKET, key.encode(), version_id).is_marker
    finally:
        box.close()


def test_versions_in_an_s3_store(tmp_path: Path) -> None:
    chance = random.Random(3)
    model = VersionedBucket()
    with moto_backend(tmp_path) as backend, backend.opened() as store:
        box = TestVolume(tmp_path, store=store, write_mode=WriteMode.WRITE_THROUGH)
        try:
            for _ in range(60):
                step(box, model, chance)
            same(box, model)
            box.drain()
            box.evict()
            same(box, model)
            box.forget_all()
            same(box, model)
        finally:
            box.close()


@pytest.mark.parametrize("mode", [WriteMode.WRITE_THROUGH, WriteMode.WRITE_BACK])
def test_writers_of_one_key_lose_no_version(tmp_path: Path, mode: WriteMode) -> None:
    box = TestVolume(tmp_path, write_mode=mode)
    try:
        enable(box)

        def write(number: int) -> dict[str, bytes]:
            made = {}
            for count in range(6):
                body = f"{number} {count} ".encode() * 1500
                made[str(box.put(b"d/k", body).version_id)] = body
                if count == 3:
                    box.volume.objects.delete(BUCKET, b"d/k")
            return made

        with ThreadPoolExecutor(6) as writers:
            made = {k: v for each in writers.map(write, range(6)) for k, v in each.items()}
        assert len(made) == 36
        box.drain()
        box.check()
        for is_emptied in (False, True):
            if is_emptied:
                box.forget_all()
            for version_id, body in made.items():
                assert read(box, b"d/k", version_id) == body
            page = box.volume.objects.list_versions(BUCKET, prefix=b"d/k")
            assert len(page.entries) == 36 + 6
    finally:
        box.close()
