"""One event one line; secrets never."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator

import pytest

from node import logs


@pytest.fixture(autouse=True)
def _restored() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    logging.captureWarnings(False)


def test_plain_lines(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure("mover", logs.LogConfig())
    logging.getLogger("cache.persist").info("persisted %s", "a\nb")
    logging.getLogger("cache.persist").debug("not shown")
    (line,) = capsys.readouterr().err.splitlines()
    time, rest = line.split(" ", 1)
    assert time.endswith("Z")
    assert rest.startswith("INFO mover[")
    assert rest.endswith("] cache.persist: persisted a\\nb")


def test_json_lines_with_a_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure("mount", logs.LogConfig(format="json", level="debug"))
    try:
        raise ValueError("broken")
    except ValueError:
        logging.getLogger("fuse").exception("failed")
    (line,) = capsys.readouterr().err.splitlines()
    event = json.loads(line)
    assert event["level"] == "error"
    assert event["message"] == "failed"
    assert "ValueError: broken" in event["traceback"]


@pytest.mark.parametrize("kind", ["plain", "json"])
def test_secrets_are_blanked_out_wherever_they_come_from(
    kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    logs.configure("mover", logs.LogConfig(format=kind), secrets=["hunter2hunter2", "x"])  # type: ignore[arg-type]
    try:
        raise ValueError("key hunter2hunter2 refused")
    except ValueError:
        logging.getLogger("boto3").exception("sent %s", "hunter2hunter2")
    text = capsys.readouterr().err
    assert "hunter2hunter2" not in text
    assert text.count("***") >= 2
    assert "ValueError" in text  # a one-letter secret would have blanked out half of the line
