"""How a run of a foreign suite is counted (`script/conformance`); the runs themselves take long."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.conformance import ROOT
from tests.support.conformance.cases import Case, remarks
from tests.support.conformance.cases import table as cases_table
from tests.support.conformance.fsstress import count_operations
from tests.support.conformance.fsx import read_output
from tests.support.conformance.pjdfstest import read_tap
from tests.support.conformance.s3 import read_outcomes
from tests.support.conformance.s3_table import category_of, count, failures, table
from tests.support.trees import differences

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
    plugin = ("-p", "tests.support.conformance.s3_outcomes", "-p", "no:cacheprovider")
    subprocess.run(
        [sys.executable, "-m", "pytest", "-q", *plugin, suite],
        env={**os.environ, "PYTHONPATH": str(ROOT), "CONFORMANCE_OUTCOMES": str(written)},
        cwd=tmp_path,
        capture_output=True,
        timeout=200,
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


# ------------------------------------------------------------------ suites of POSIX tests

_TAP = """1..5
ok 1
not ok 2 - tried 'chmod file', expected 0, got EPERM
not ok 3 # TODO not on this system
ok 4
"""


def test_what_pjdfstest_says_is_counted_and_what_it_leaves_out_has_failed() -> None:
    case = read_tap("chmod/00", _TAP, exit_code=1)
    assert (case.group, case.total, case.passed, case.todo) == ("chmod", 5, 2, 1)
    assert case.failures == (
        "2 - tried 'chmod file', expected 0, got EPERM",
        "1 of 5 never came; exit code 1",
    )
    assert not case.ok
    assert read_tap("chmod/01", "1..1\nok 1\n", exit_code=0).ok


def test_what_fsx_says_is_counted() -> None:
    left_out = "main: filesystem does not support clone range, disabling!\n"
    whole = read_output("with mmap", 1, 10, left_out + "All 10 operations completed A-OK!\n", 0)
    assert whole.ok
    assert whole.notes == ("filesystem does not support clone range",)
    said = "READ BAD DATA: offset = 0x1, size = 0x2\nLOG DUMP (7 total operations):\n"
    broken = read_output("with mmap", 1, 10, said, 110)
    assert (broken.passed, broken.ok) == (7, False)
    assert "READ BAD DATA: offset = 0x1" in broken.failures[0]


def test_operations_of_fsstress_are_counted_over_its_loops(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text("0/0: creat f1\n1/0: stat\n0/2: read\n0/2: read more of it\n0/1: creat f2\n")
    assert count_operations(log) == 6  # 0 to 2, 0 to 1, and one of the other process


def test_trees_are_compared_by_all_that_is_to_be_kept(tmp_path: Path) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    for tree in (one, other):
        (tree / "directory").mkdir(parents=True)
        (tree / "directory/file").write_text("same")
        (tree / "link").symlink_to("file")
        for path in (tree / "directory/file", tree / "directory"):
            os.utime(path, ns=(1, 1))
    assert differences(one, other) == []
    (one / "directory/file").write_text("else")
    os.utime(one / "directory/file", ns=(1, 1))
    (other / "link").unlink()
    assert differences(one, other) == [
        f"only in {one}: link",
        "directory/file (-rw-r--r--): other bytes",
    ]


def test_the_table_has_a_row_for_each_group_and_a_column_for_each_side() -> None:
    native = [Case("fsx", "with mmap", "seed 1", 10, 10), Case("fsx", "without", "seed 1", 10, 10)]
    ours = [native[0], Case("fsx", "without", "seed 1", 10, 3, 0, ("exit code 1",), ("no holes",))]
    sides = {"ext4": native, "forebay": ours}
    assert list(cases_table(sides)) == [
        "| suite | ext4 | whole | forebay | whole |",
        "|---|---|---|---|---|",
        "| fsx with mmap | 10 of 10 | 1 of 1 | 10 of 10 | 1 of 1 |",
        "| fsx without | 10 of 10 | 1 of 1 | 3 of 10 | 0 of 1 |",
        "| **fsx** | 20 of 20 | 2 of 2 | 13 of 20 | 1 of 2 |",
    ]
    assert list(remarks(sides)) == [
        "forebay: fsx seed 1: FAILED exit code 1",
        "forebay: fsx: no holes (in 1 runs)",
    ]
