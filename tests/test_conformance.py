"""How a run of a foreign suite is counted (`script/conformance`); the runs themselves take long."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.conformance import ROOT, read_outcomes
from tests.support.conformance_table import category_of, count, failures, table

_SUITE = """
import pytest

def test_bucket_list_empty():
    pass

@pytest.mark.fails_on_aws
def test_object_raw_get():
    assert 403 == 200, "refused"

def test_sse_kms_present():
    pytest.skip("no key")

@pytest.fixture
def broken():
    yield
    raise RuntimeError("left behind")

def test_atomic_write_1mb(broken):
    pass
"""


def test_the_plugin_writes_the_worst_phase_of_every_test_and_its_first_line(tmp_path: Path) -> None:
    suite, written = tmp_path / "test_s3.py", tmp_path / "outcomes.jsonl"
    suite.write_text(_SUITE)
    (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers =\n    fails_on_aws\n")
    plugin = ("-p", "tests.support.conformance_outcomes", "-p", "no:cacheprovider")
    subprocess.run(
        [sys.executable, "-m", "pytest", "-q", *plugin, suite],
        env={**os.environ, "PYTHONPATH": str(ROOT), "CONFORMANCE_OUTCOMES": str(written)},
        cwd=tmp_path,
        capture_output=True,
        timeout=60,
        check=False,
    )
    outcomes = read_outcomes(written)
    assert [(o.name, o.outcome, o.error, o.fails_on_aws) for o in outcomes] == [
        ("test_s3.py::test_bucket_list_empty", "passed", "", False),
        ("test_s3.py::test_object_raw_get", "failed", "AssertionError: refused", True),
        ("test_s3.py::test_sse_kms_present", "skipped", "Skipped: no key", False),
        (
            "test_s3.py::test_atomic_write_1mb",
            "failed",
            "teardown: RuntimeError: left behind",
            False,
        ),
    ]
    assert json.loads(written.read_text().splitlines()[1])["marks"].count("fails_on_aws") == 1
    assert count(outcomes).total == 4
    assert list(table(outcomes))[-2:] == [
        "| of those not marked fails_on_aws | 3 | 1 | 1 | 1 |",
        "| all | 4 | 1 | 2 | 1 |",
    ]
    assert list(failures(outcomes)) == [
        "atomic:",
        "  test_atomic_write_1mb: teardown: RuntimeError: left behind",
        "object ACL, raw, presigned:",
        "  test_object_raw_get (fails_on_aws): AssertionError: refused",
    ]


@pytest.mark.parametrize(
    ("test", "marks", "category"),
    [
        ("test_headers.py::test_object_create_bad_md5_invalid_short", [], "headers"),
        ("test_s3.py::test_copy_enc[sse-c-none]", ["encryption"], "SSE-C, KMS, SSE-S3"),
        ("test_s3.py::test_object_write_check_etag", [], "object put/get/head/metadata/attributes"),
        ("test_s3.py::test_bucket_listv2_many", ["list_objects_v2"], "list v2"),
        ("test_s3.py::test_multipart_copy_small", ["copy"], "copy"),
        ("test_s3.py::test_something_new", [], "other"),
    ],
)
def test_the_category_of_a_test_is_found_by_file_mark_and_name(
    test: str, marks: list[str], category: str
) -> None:
    assert category_of(f"s3tests/functional/{test}", marks) == category
