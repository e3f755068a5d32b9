"""XML in and out: attacks are refused, answers are what botocore reads."""

from __future__ import annotations

from typing import Any

import pytest
from botocore.parsers import create_parser
from botocore.session import get_session

from s3api.documents import DEPTH_MAX, http_date, iso8601, read_document
from s3api.errors import S3Error
from s3api.model import MODEL, Member
from s3api.parsing import payload_member
from s3api.serialising import ROOT_ELEMENTS, write_body, write_headers

NAMESPACE = 'xmlns="http://s3.amazonaws.com/doc/2006-03-01/"'


def payload(operation: str) -> Member:
    member = payload_member(MODEL.operations[operation])
    assert member is not None
    return member


def read(operation: str, document: str) -> dict[str, Any]:
    return read_document(document.encode(), payload(operation))


@pytest.mark.parametrize("namespace", [NAMESPACE, ""])
def test_delete_objects(namespace: str) -> None:
    document = (
        f"<Delete {namespace}><Object><Key>a&amp;b</Key></Object>"
        "<Object><Key> c </Key><VersionId>null</VersionId><Size>12</Size></Object>"
        "<Quiet>true</Quiet></Delete>"
    )
    assert read("DeleteObjects", document) == {
        "Objects": [{"Key": "a&b"}, {"Key": " c ", "VersionId": "null", "Size": 12}],
        "Quiet": True,
    }


def test_complete_multipart_upload() -> None:
    document = (
        f'<?xml version="1.0"?><CompleteMultipartUpload {NAMESPACE}>'
        '<Part><PartNumber>1</PartNumber><ETag>"x"</ETag></Part>'
        "<Part><ETag>y</ETag><PartNumber>2</PartNumber><ChecksumCRC32>AA==</ChecksumCRC32></Part>"
        "</CompleteMultipartUpload>"
    )
    assert read("CompleteMultipartUpload", document) == {
        "Parts": [
            {"PartNumber": 1, "ETag": '"x"'},
            {"PartNumber": 2, "ETag": "y", "ChecksumCRC32": "AA=="},
        ]
    }


def test_an_attribute_with_a_namespace() -> None:
    document = (
        f'<AccessControlPolicy {NAMESPACE} xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance">'
        "<AccessControlList><Grant><Grantee xsi:type='Group'><URI>u</URI></Grantee>"
        "<Permission>READ</Permission></Grant></AccessControlList></AccessControlPolicy>"
    )
    grants = read("PutBucketAcl", document)["Grants"]
    assert grants == [{"Grantee": {"Type": "Group", "URI": "u"}, "Permission": "READ"}]


FILE = '<!ENTITY x SYSTEM "file:///etc/passwd">'
BOMB = '<!ENTITY e0 "ha">' + "".join(f'<!ENTITY e{n} "&e{n - 1};&e{n - 1};">' for n in range(1, 30))


@pytest.mark.parametrize(
    "document",
    [
        "",
        "<Delete>",
        "<Delete></Delete>",
        "<Other/>",
        "not xml",
        "<Delete><Object></Object></Delete>",
        "<Delete><Object><Key>a</Key><Key>b</Key></Object></Delete>",
        "<Delete><Object><Key><b/></Key></Object></Delete>",
        "<Delete><Unknown/><Object><Key>a</Key></Object></Delete>",
        "<Delete><Object><Key>a</Key></Object><Quiet>maybe</Quiet></Delete>",
        "<Delete><Object><Key>a</Key><Size>1_0</Size></Object></Delete>",
        "<Delete><Object><Key>a</Key><Size>" + "9" * 5000 + "</Size></Object></Delete>",
        '<Delete xmlns="http://other/"><Object><Key>a</Key></Object></Delete>',
        "<!DOCTYPE Delete><Delete><Object><Key>a</Key></Object></Delete>",
        f"<!DOCTYPE Delete [{FILE}]><Delete><Object><Key>&x;</Key></Object></Delete>",
        f"<!DOCTYPE Delete [{BOMB}]><Delete><Object><Key>&e29;</Key></Object></Delete>",
        "<Delete>" * (DEPTH_MAX + 1) + "</Delete>" * (DEPTH_MAX + 1),
        "<Delete>" * 100_000,
        '<?xml version="1.0" encoding="no-such"?><Delete/>',
        "<Delete><Object><Key>\x00</Key></Object></Delete>",
    ],
)
def test_documents_that_are_not_what_was_asked_for(document: str) -> None:
    with pytest.raises(S3Error) as refusal:
        read("DeleteObjects", document)
    assert refusal.value.code == "MalformedXML"


def as_botocore_reads(operation: str, output: dict[str, Any]) -> dict[str, Any]:
    """The output written by us, read by botocore."""
    shape = get_session().get_service_model("s3").operation_model(operation).output_shape
    ours = MODEL.operations[operation]
    response = {
        "status_code": 200,
        "headers": write_headers(ours, output),
        "body": write_body(ours, output) or b"",
    }
    parsed: dict[str, Any] = create_parser("rest-xml").parse(response, shape)
    parsed.pop("ResponseMetadata")
    return parsed


NS = 1_795_000_000_123_456_789


def test_a_listing_is_what_botocore_reads() -> None:
    output = {
        "IsTruncated": True,
        "Contents": [
            {
                "Key": "a <&> \u00e9",
                "LastModified": NS,
                "ETag": '"x"',
                "Size": 1 << 40,
                "StorageClass": "STANDARD",
                "Owner": {"ID": "1", "DisplayName": "me"},
            },
            {"Key": "b", "LastModified": NS, "ETag": '"y"', "Size": 0, "StorageClass": "STANDARD"},
        ],
        "Name": "bucket",
        "Prefix": "",
        "MaxKeys": 2,
        "KeyCount": 3,
        "CommonPrefixes": [{"Prefix": "c/"}],
        "NextContinuationToken": "t",
    }
    parsed = as_botocore_reads("ListObjectsV2", output)
    modified = parsed["Contents"][0].pop("LastModified")
    parsed["Contents"][1].pop("LastModified")
    assert modified.isoformat() == "2026-11-18T11:06:40.123000+00:00"
    expected = dict(output)
    expected["Contents"] = [
        {k: v for k, v in each.items() if k != "LastModified"} for each in output["Contents"]
    ]
    assert parsed == expected


@pytest.mark.parametrize(
    ("operation", "output"),
    [
        ("GetBucketVersioning", {}),
        (
            "GetBucketAcl",
            {
                "Owner": {"ID": "1", "DisplayName": "me"},
                "Grants": [
                    {
                        "Grantee": {"ID": "1", "DisplayName": "me", "Type": "CanonicalUser"},
                        "Permission": "FULL_CONTROL",
                    }
                ],
            },
        ),
        ("CopyObject", {"CopyObjectResult": {"ETag": '"x"', "ChecksumCRC32": "AAAAAA=="}}),
        ("DeleteObjects", {"Deleted": [{"Key": "a"}], "Errors": [{"Key": "b", "Code": "c"}]}),
        ("ListParts", {"Parts": [{"PartNumber": 1, "Size": 5}], "IsTruncated": False}),
        (
            "ListBuckets",
            {"Buckets": [{"Name": "a"}, {"Name": "b"}], "Owner": {"ID": "1"}},
        ),
        ("ListBuckets", {"Buckets": []}),
        ("CompleteMultipartUpload", {"Location": "http://h/b/k", "ETag": '"x-2"'}),
        ("HeadBucket", {"BucketRegion": "us-east-1", "AccessPointAlias": False}),
    ],
)
def test_answers_are_what_botocore_reads(operation: str, output: dict[str, Any]) -> None:
    assert as_botocore_reads(operation, output) == output


def test_a_location_is_the_text_of_its_document() -> None:
    body = write_body(MODEL.operations["GetBucketLocation"], {"LocationConstraint": "eu-west-1"})
    assert body is not None
    assert body.endswith(b'/">eu-west-1</LocationConstraint>')


def test_document_elements_name_operations_of_the_model() -> None:
    assert ROOT_ELEMENTS.keys() <= MODEL.operations.keys()


def test_times() -> None:
    assert iso8601(NS) == "2026-11-18T11:06:40.123Z"
    assert http_date(NS) == "Wed, 18 Nov 2026 11:06:40 GMT"
