"""The 25 actions of Alluxio's S3 API, each by the AWS CLI and as a plain HTTP request (A12).

The 22 of its current pages, and CreateBucket, DeleteBucket and UploadPartCopy of its older one. The
rows of a way run in order against one bucket, as the examples of those pages do: each finds what
the ones before it left.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.support.aws_cli import AwsCli
from tests.support.s3 import Door, door

__all__ = ["door"]

ACTIONS = {
    "AbortMultipartUpload", "CompleteMultipartUpload", "CopyObject", "CreateBucket",
    "CreateMultipartUpload", "DeleteBucket", "DeleteBucketTagging", "DeleteObject",
    "DeleteObjects", "DeleteObjectTagging", "GetBucketTagging", "GetObject", "GetObjectTagging",
    "HeadBucket", "HeadObject", "ListBuckets", "ListMultipartUploads", "ListObjects",
    "ListObjectsV2", "ListParts", "PutBucketTagging", "PutObject", "PutObjectTagging",
    "UploadPart", "UploadPartCopy",
}  # fmt: skip

TAGS = "<Tagging><TagSet><Tag><Key>color</Key><Value>blue</Value></Tag></TagSet></Tagging>"
CLI_TAGS = "TagSet=[{Key=color,Value=blue}]"
COPIED = {"x-amz-copy-source": "/rest/key"}
PART_1 = "/rest/parts?partNumber=1&uploadId=UPLOAD"
PART_2 = "/rest/parts?partNumber=2&uploadId=UPLOAD"
LISTED = (
    "<CompleteMultipartUpload><Part><PartNumber>1</PartNumber><ETag>ETAG</ETag></Part>"
    "</CompleteMultipartUpload>"
)
DOOMED = "<Delete><Object><Key>copy</Key></Object><Object><Key>parts</Key></Object></Delete>"
CLI_UPLOAD = "--bucket cli --key parts --upload-id UPLOAD"
CLI_ABANDONED = "--bucket cli --key abandoned --upload-id UPLOAD"
CLI_LISTED = "--multipart-upload Parts=[{PartNumber=1,ETag=ETAG}]"
CLI_DOOMED = "--delete Objects=[{Key=copy},{Key=parts}]"

REST: list[tuple[str, str, str, str, Mapping[str, str], int, str]] = [
    # action, method, target, body, headers, status, what is in the answer's body
    ("CreateBucket", "PUT", "/rest", "", {}, 200, ""),
    ("HeadBucket", "HEAD", "/rest", "", {}, 200, ""),
    ("ListBuckets", "GET", "/", "", {}, 200, "<Name>rest</Name>"),
    ("PutBucketTagging", "PUT", "/rest?tagging", TAGS, {}, 200, ""),
    ("GetBucketTagging", "GET", "/rest?tagging", "", {}, 200, "<Value>blue</Value>"),
    ("DeleteBucketTagging", "DELETE", "/rest?tagging", "", {}, 204, ""),
    ("PutObject", "PUT", "/rest/key", "hello", {}, 200, ""),
    ("HeadObject", "HEAD", "/rest/key", "", {}, 200, ""),
    ("GetObject", "GET", "/rest/key", "", {}, 200, "hello"),
    ("GetObject", "GET", "/rest/key", "", {"Range": "bytes=1-3"}, 206, "ell"),
    ("CopyObject", "PUT", "/rest/copy", "", COPIED, 200, "<CopyObjectResult"),
    ("PutObjectTagging", "PUT", "/rest/key?tagging", TAGS, {}, 200, ""),
    ("GetObjectTagging", "GET", "/rest/key?tagging", "", {}, 200, "<Key>color</Key>"),
    ("DeleteObjectTagging", "DELETE", "/rest/key?tagging", "", {}, 204, ""),
    ("ListObjects", "GET", "/rest", "", {}, 200, "<Key>copy</Key>"),
    ("ListObjectsV2", "GET", "/rest?list-type=2", "", {}, 200, "<KeyCount>2</KeyCount>"),
    ("CreateMultipartUpload", "POST", "/rest/parts?uploads", "", {}, 200, "<UploadId>"),
    ("UploadPart", "PUT", PART_1, "part", {}, 200, ""),
    ("UploadPartCopy", "PUT", PART_2, "", COPIED, 200, "<CopyPartResult"),
    ("ListParts", "GET", "/rest/parts?uploadId=UPLOAD", "", {}, 200, "<Size>5</Size>"),
    ("ListMultipartUploads", "GET", "/rest?uploads", "", {}, 200, "<Key>parts</Key>"),
    ("CompleteMultipartUpload", "POST", "/rest/parts?uploadId=UPLOAD", LISTED, {}, 200,
     "<CompleteMultipartUploadResult"),
    ("CreateMultipartUpload", "POST", "/rest/abandoned?uploads", "", {}, 200, "<UploadId>"),
    ("AbortMultipartUpload", "DELETE", "/rest/abandoned?uploadId=UPLOAD", "", {}, 204, ""),
    ("DeleteObject", "DELETE", "/rest/key", "", {}, 204, ""),
    ("DeleteObjects", "POST", "/rest?delete", DOOMED, {}, 200, "<Deleted><Key>parts</Key>"),
    ("DeleteBucket", "DELETE", "/rest", "", {}, 204, ""),
]  # fmt: skip

CLI: list[tuple[str, str, str]] = [
    # action, command line, what it prints
    ("CreateBucket", "create-bucket --bucket cli", "/cli"),
    ("HeadBucket", "head-bucket --bucket cli", ""),
    ("ListBuckets", "list-buckets", '"cli"'),
    ("PutBucketTagging", f"put-bucket-tagging --bucket cli --tagging {CLI_TAGS}", ""),
    ("GetBucketTagging", "get-bucket-tagging --bucket cli", '"blue"'),
    ("DeleteBucketTagging", "delete-bucket-tagging --bucket cli", ""),
    ("PutObject", "put-object --bucket cli --key key --body FILE", "ETag"),
    ("HeadObject", "head-object --bucket cli --key key", '"ContentLength": 5'),
    ("GetObject", "get-object --bucket cli --key key GOT", '"ContentLength": 5'),
    ("CopyObject", "copy-object --bucket cli --key copy --copy-source cli/key", "CopyObjectResult"),
    ("PutObjectTagging", f"put-object-tagging --bucket cli --key key --tagging {CLI_TAGS}", ""),
    ("GetObjectTagging", "get-object-tagging --bucket cli --key key", '"color"'),
    ("DeleteObjectTagging", "delete-object-tagging --bucket cli --key key", ""),
    ("ListObjects", "list-objects --bucket cli", '"Key": "copy"'),
    ("ListObjectsV2", "list-objects-v2 --bucket cli", '"Key": "copy"'),
    ("CreateMultipartUpload", "create-multipart-upload --bucket cli --key parts", "UploadId"),
    ("UploadPart", f"upload-part {CLI_UPLOAD} --part-number 1 --body FILE", "ETag"),
    ("UploadPartCopy", f"upload-part-copy {CLI_UPLOAD} --part-number 2 --copy-source cli/key",
     "CopyPartResult"),
    ("ListParts", f"list-parts {CLI_UPLOAD}", '"PartNumber": 2'),
    ("ListMultipartUploads", "list-multipart-uploads --bucket cli", '"Key": "parts"'),
    ("CompleteMultipartUpload", f"complete-multipart-upload {CLI_UPLOAD} {CLI_LISTED}",
     '"Key": "parts"'),
    ("CreateMultipartUpload", "create-multipart-upload --bucket cli --key abandoned", "UploadId"),
    ("AbortMultipartUpload", f"abort-multipart-upload {CLI_ABANDONED}", ""),
    ("DeleteObject", "delete-object --bucket cli --key key", ""),
    ("DeleteObjects", f"delete-objects --bucket cli {CLI_DOOMED}", '"Deleted"'),
    ("DeleteBucket", "delete-bucket --bucket cli", ""),
]  # fmt: skip


def test_all_actions_by_rest(door: Door) -> None:
    upload = etag = ""
    for action, method, target, body, headers, status, expected in REST:
        sent = body.replace("ETAG", etag).encode()
        answer = door.request(method, target.replace("UPLOAD", upload), dict(headers), sent)
        text = answer.body.decode()
        assert (answer.status, expected in text) == (status, True), (action, text)
        if status == 204:
            assert text == "", action
        if found := re.search("<UploadId>(.*)</UploadId>", text):
            upload = found[1]
        etag = answer.headers.get("ETag", etag)
    assert {row[0] for row in REST} == ACTIONS


def test_all_actions_by_the_cli(
    door: Door, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, value in {**door.environment(), "AWS_CONFIG_FILE": str(tmp_path / "none")}.items():
        monkeypatch.setenv(name, value)
    (tmp_path / "body").write_bytes(b"hello")
    cli = AwsCli(capsys, "--endpoint-url", door.url, "s3api")
    words = {"FILE": str(tmp_path / "body"), "GOT": str(tmp_path / "got")}
    for action, line, expected in CLI:
        arguments = line
        for word, value in words.items():
            arguments = arguments.replace(word, value)
        printed = cli.run(*arguments.split())
        assert expected in printed, (action, printed)
        shown = json.loads(printed) if printed else {}
        if "UploadId" in shown:
            words["UPLOAD"] = shown["UploadId"]
        if "ETag" in shown:
            words["ETAG"] = shown["ETag"].strip('"')
    assert (tmp_path / "got").read_bytes() == b"hello"
    assert {row[0] for row in CLI} == ACTIONS
