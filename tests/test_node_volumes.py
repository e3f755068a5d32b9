"""The stores of a node's volume, opened late and on time."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from node.config import load
from node.volumes import open_volume
from tests.support.node import write_config


def test_stores_are_opened_beside_what_is_served(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """One that cannot be opened keeps none of the others closed."""
    stores = {
        "a-gone": {"type": "posix", "path": str(tmp_path / "gone")},
        "b-far": {"type": "s3", "bucket": "b", "endpoint_url": "http://127.0.0.1:1"},
    }
    config = load(write_config(tmp_path, {"mount": None, "stores": stores}))
    caplog.set_level(logging.DEBUG, logger="node.volumes")
    with open_volume(config) as volume:
        caplog.clear()
        volume.buckets.open_stores()
    assert [r.levelname for r in caplog.records if "store a-gone" in r.message] == ["WARNING"]
    assert "opened store b-far" in caplog.messages
