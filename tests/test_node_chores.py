"""Chores: done again and again, whatever they raise."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

import pytest

from node.chores import Chore, Chores

DEADLINE_S = 60


def counting(outcomes: list[int | Exception], done: threading.Event) -> Callable[[], int]:
    """A piece of work with these outcomes in turn; tells when they are used up."""
    left = iter(outcomes)

    def run() -> int:
        outcome = next(left, None)
        if outcome is None:
            done.set()
            return 0
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    return run


def test_a_failure_is_logged_once_and_tried_again(caplog: pytest.LogCaptureFixture) -> None:
    done = threading.Event()
    outcomes: list[int | Exception] = [OSError("full"), OSError("full"), ValueError("odd"), 1]
    with caplog.at_level(logging.INFO, "node.chores"):
        chores = Chores([Chore("sweep", counting(outcomes, done), every_s=0.001)])
        chores.start()
        assert done.wait(DEADLINE_S)
        chores.stop(1)
    assert [record.getMessage() for record in caplog.records] == [
        "sweep failed; trying again",
        "sweep failed; trying again",
        "sweep works again",
    ]


def test_one_that_finds_work_goes_on_without_its_pause() -> None:
    done = threading.Event()
    work: list[int | Exception] = [1] * 100
    chores = Chores([Chore("sweep", counting(work, done), every_s=600, busy_s=0.0)])
    chores.start()
    # After the last piece the long pause begins; the outcomes are used up just before it.
    assert done.wait(DEADLINE_S)
    chores.stop(1)


def test_a_chore_that_hangs_keeps_neither_the_others_nor_the_end() -> None:
    hang, done = threading.Event(), threading.Event()

    def never() -> int:
        hang.wait()
        return 0

    chores = Chores(
        [Chore("hangs", never, every_s=1), Chore("works", counting([1], done), every_s=0.001)]
    )
    chores.start()
    assert done.wait(DEADLINE_S)
    assert chores.stop(0.1) == ["hangs"]
    hang.set()
    assert chores.stop(DEADLINE_S) == []
