"""How a run of ceph's s3-tests is counted: the categories, the table, the list of failures.

A category is found by the test's file, marks and name, by the first rule that holds. Pure.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

_RULES: tuple[tuple[str, str, str], ...] = (
    # category, a mark that is enough, or a pattern of the name
    ("headers", "test_headers.py", r"$^"),
    ("bucket logging (RGW's extension)", "bucket_logging", r"_bucket_logging"),
    ("conditional writes", "conditional_write", r"put_object_ifn?o?n?match"),
    ("atomic", "", r"^atomic_|multipart_resend_first"),
    ("SSE-C, KMS, SSE-S3", "encryption", r"_sse_|sse_|_enc_|_enc$|encrypt|_kms_|_s3_noenc"),
    ("SSE-C, KMS, SSE-S3", "sse_s3", r"$^"),
    ("lifecycle", "lifecycle", r"lifecycle|restore_object|read_through|restore_noncur"),
    ("object lock", "object_lock", r"^object_lock"),
    ("checksums", "checksum", r"checksum|cksum"),
    ("POST forms", "", r"^post_object"),
    ("CORS", "", r"cors"),
    (
        "bucket policy, public access block",
        "bucket_policy",
        r"bucket(v2)?_policy|_policy|public_block|block_public|ignore_public|publicpolicy",
    ),
    ("tagging", "tagging", r"(^|_)(tags|tagging)(_|$)"),
    ("ownership controls", "object_ownership", r"ownership"),
    ("versioning", "versioning", r"version|delete_marker"),
    ("bucket ACL", "", r"^bucket.*_acl|grant_|^access_bucket|put_bucket_acl"),
    (
        "object ACL, raw, presigned",
        "",
        r"object.*_acl|^object_raw|^object_anon|presigned|object_put_authenticated|x_amz_expires",
    ),
    ("list v2", "list_objects_v2", r"^bucket_listv2|^basic_key_count"),
    ("list v1", "", r"^bucket_list_|^bucket_list$"),
    ("copy", "copy", r"^object_copy|^copy_object|percent_encoded_key"),
    ("multipart", "", r"multipart|get_part"),
    ("ranged GET", "", r"^ranged"),
    ("conditional GET", "", r"^get_object_if"),
    ("bucket create, delete, head, names", "", r"bucket"),
    ("object put/get/head/metadata/attributes", "", r"object|^100_continue"),
)
_OTHER = "other"
ORDER = (*dict.fromkeys(rule[0] for rule in _RULES), _OTHER)


@dataclass(frozen=True, slots=True)
class Outcome:
    """How one test ended."""

    name: str  # file::test
    outcome: str  # passed, failed or skipped
    error: str
    """Of a failed test, the first line of its error; of a skipped one, why."""
    fails_on_aws: bool
    """Marked by the suite: Amazon itself does not answer so."""
    category: str


def category_of(test_id: str, marks: Iterable[str]) -> str:
    """The row of the table in which a test is counted."""
    file, _, name = test_id.rpartition("::")
    name = name.partition("[")[0].removeprefix("test_")
    known = {*marks, file.rpartition("/")[2]}
    for category, mark, pattern in _RULES:
        if (mark and mark in known) or re.search(pattern, name):
            return category
    return _OTHER


@dataclass(frozen=True, slots=True)
class Count:
    passed: int
    failed: int
    skipped: int

    @property
    def total(self) -> int:
        return self.passed + self.failed + self.skipped


def count(outcomes: Iterable[Outcome]) -> Count:
    ended = [each.outcome for each in outcomes]
    return Count(ended.count("passed"), ended.count("failed"), ended.count("skipped"))


def table(outcomes: Sequence[Outcome]) -> Iterator[str]:
    """The lines of a Markdown table, one row for each category, and the sums."""
    yield "| category | tests | pass | fail | skip |"
    yield "|---|---|---|---|---|"
    for category in ORDER:
        row = count(each for each in outcomes if each.category == category)
        if row.total:
            yield _row(category, row)
    yield _row("of those not marked fails_on_aws", count(o for o in outcomes if not o.fails_on_aws))
    yield _row("all", count(outcomes))


def _row(name: str, row: Count) -> str:
    return f"| {name} | {row.total} | {row.passed} | {row.failed} | {row.skipped} |"


def failures(outcomes: Sequence[Outcome]) -> Iterator[str]:
    """A line for each test that failed, by category."""
    for category in ORDER:
        failed = [o for o in outcomes if o.category == category and o.outcome == "failed"]
        if failed:
            yield f"{category}:"
        for each in sorted(failed, key=lambda outcome: outcome.name):
            mark = " (fails_on_aws)" if each.fails_on_aws else ""
            yield f"  {each.name.rpartition('::')[2]}{mark}: {each.error}"
