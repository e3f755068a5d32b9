"""Websites: what the document may say, and what a browser sees."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from s3api.errors import S3Error
from s3api.website import check_document
from tests.support.s3 import Answer, Door, client, code, serving

__all__ = ["client"]

DOMAIN = "web.test"


@pytest.fixture(scope="module")
def door(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Door]:
    directory = tmp_path_factory.mktemp("door")
    with serving(directory, access_log="off", website_domain=DOMAIN) as running:
        yield running


@pytest.fixture
def bucket(door: Door, client: Any) -> str:
    """A bucket that everybody may read, but for what is called secret."""
    name = door.new_bucket()
    arn = f"arn:aws:s3:::{name}"
    reading = {"Principal": "*", "Action": ["s3:GetObject", "s3:ListBucket"]}
    statements = [
        {"Effect": "Allow", **reading, "Resource": [arn, f"{arn}/*"]},
        {
            "Effect": "Deny",
            **reading,
            "Resource": f"{arn}/secret*",
            "Condition": {"Null": {"aws:username": "true"}},
        },
    ]
    policy = json.dumps({"Version": "2012-10-17", "Statement": statements})
    client.put_bucket_policy(Bucket=name, Policy=policy)
    return name


def visit(door: Door, bucket: str, path: str, method: str = "GET", **headers: str) -> Answer:
    sent = {"Host": f"{bucket}.{DOMAIN}:{door.port}", **headers}
    return door.request(method, path, sent, sign=False)


def location(answer: Answer) -> tuple[int, str]:
    return answer.status, answer.headers["Location"]


SITE = {"IndexDocument": {"Suffix": "index.html"}, "ErrorDocument": {"Key": "oops.html"}}


@pytest.fixture
def site(client: Any, bucket: str) -> str:
    client.put_bucket_website(Bucket=bucket, WebsiteConfiguration=SITE)
    for key, body in (
        ("index.html", b"home"), ("docs/index.html", b"docs"), ("a b.txt", b"text"),
        ("oops.html", b"oops"), ("secret.txt", b"secret"), ("big", b"b" * 200_000),
    ):  # fmt: skip
        client.put_object(Bucket=bucket, Key=key, Body=body, ContentType="text/x-test")
    return bucket


def test_the_document_comes_back_and_goes(client: Any, bucket: str) -> None:
    assert code(client.get_bucket_website, Bucket=bucket) == "NoSuchWebsiteConfiguration"
    rule = {
        "Condition": {"KeyPrefixEquals": "old/", "HttpErrorCodeReturnedEquals": "404"},
        "Redirect": {"ReplaceKeyPrefixWith": "new/", "HttpRedirectCode": "302"},
    }
    for document in (
        {**SITE, "RoutingRules": [rule]},
        {"RedirectAllRequestsTo": {"HostName": "x"}},
    ):
        client.put_bucket_website(Bucket=bucket, WebsiteConfiguration=document)
        found = client.get_bucket_website(Bucket=bucket)
        assert {name: found[name] for name in document} == document
    client.delete_bucket_website(Bucket=bucket)
    assert code(client.get_bucket_website, Bucket=bucket) == "NoSuchWebsiteConfiguration"


def routed(redirect: dict[str, str], condition: dict[str, str] | None = None) -> dict[str, Any]:
    rule: dict[str, Any] = {"Redirect": redirect}
    if condition is not None:
        rule["Condition"] = condition
    return {**SITE, "RoutingRules": [rule]}


@pytest.mark.parametrize(
    ("code", "document"),
    [
        ("InvalidArgument", {}),
        ("InvalidArgument", {"IndexDocument": {"Suffix": "a/b"}}),
        ("InvalidArgument", {"IndexDocument": {"Suffix": ""}}),
        ("InvalidArgument", {**SITE, "ErrorDocument": {"Key": ""}}),
        ("InvalidArgument", {**SITE, "RedirectAllRequestsTo": {"HostName": "x"}}),
        ("InvalidRequest", {"RedirectAllRequestsTo": {"HostName": "x", "Protocol": "ftp"}}),
        ("InvalidRequest", routed({"HttpRedirectCode": "200"})),
        ("InvalidRequest", routed({"HostName": "x"}, {"HttpErrorCodeReturnedEquals": "302"})),
        ("InvalidRequest", routed({"HostName": "x"}, {})),
        ("InvalidRequest", routed({"ReplaceKeyWith": "a", "ReplaceKeyPrefixWith": "b"})),
        ("InvalidRequest", {**SITE, "RoutingRules": [{"Redirect": {"HostName": "x"}}] * 51}),
        ("MalformedXML", routed({})),
    ],
)
def test_documents_that_amazon_refuses(code: str, document: dict[str, Any]) -> None:
    with pytest.raises(S3Error) as refusal:
        check_document(document)
    assert refusal.value.code == code


def test_pages_and_their_index(door: Door, site: str) -> None:
    assert visit(door, site, "/").body == b"home"
    assert visit(door, site, "/docs/").body == b"docs"
    assert location(visit(door, site, "/docs")) == (302, "/docs/")
    page = visit(door, site, "/a%20b.txt")
    assert (page.status, page.body, page.headers["Content-Type"]) == (200, b"text", "text/x-test")
    assert visit(door, site, "/a%20b.txt?x=1&Signature=2").body == b"text"
    head = visit(door, site, "/a%20b.txt", "HEAD")
    assert (head.status, head.body, head.headers["Content-Length"]) == (200, b"", "4")
    assert visit(door, site, "/big").body == b"b" * 200_000
    part = visit(door, site, "/big", Range="bytes=1-3")
    assert (part.status, part.body) == (206, b"bbb")
    same = visit(door, site, "/a%20b.txt", **{"If-None-Match": page.headers["ETag"]})
    assert (same.status, same.body) == (304, b"")


def test_errors_are_pages(door: Door, client: Any, site: str) -> None:
    for path, status in (("/none", 404), ("/secret.txt", 403)):
        answer = visit(door, site, path, Range="bytes=0-1")
        assert (answer.status, answer.body) == (status, b"oops")
    client.delete_object(Bucket=site, Key="oops.html")
    answer = visit(door, site, "/none")
    assert answer.status == 404
    assert answer.headers["Content-Type"].startswith("text/html")
    assert b"<li>Code: NoSuchKey</li>" in answer.body
    assert visit(door, site, "/", "POST").status == 405
    assert b"secret" not in visit(door, site, "/secret.txt").body.partition(b"Key")[0]
    client.delete_bucket_website(Bucket=site)
    answer = visit(door, site, "/")
    assert answer.status == 404
    assert b"NoSuchWebsiteConfiguration" in answer.body
    assert b"NoSuchBucket" in visit(door, "no-such-site", "/").body


def test_redirects(door: Door, client: Any, site: str) -> None:
    client.put_object(Bucket=site, Key="moved", Body=b"", WebsiteRedirectLocation="/a b.txt")
    assert location(visit(door, site, "/moved")) == (301, "/a%20b.txt")
    assert door.request("GET", f"/{site}/moved").status == 200  # to S3 it is an object
    rules = [
        {
            "Condition": {"KeyPrefixEquals": "old/"},
            "Redirect": {"ReplaceKeyPrefixWith": "new/", "HttpRedirectCode": "302"},
        },
        {
            "Condition": {"HttpErrorCodeReturnedEquals": "404"},
            "Redirect": {"HostName": "other.test", "Protocol": "https", "ReplaceKeyWith": "lost"},
        },
    ]
    client.put_bucket_website(Bucket=site, WebsiteConfiguration={**SITE, "RoutingRules": rules})
    here = f"http://{site}.{DOMAIN}:{door.port}"
    assert location(visit(door, site, "/old/x%0d%0ay")) == (302, f"{here}/new/x%0D%0Ay")
    assert location(visit(door, site, "/none")) == (301, "https://other.test/lost")
    assert visit(door, site, "/").body == b"home"
    everything = {"RedirectAllRequestsTo": {"HostName": "new.test", "Protocol": "https"}}
    client.put_bucket_website(Bucket=site, WebsiteConfiguration=everything)
    assert location(visit(door, site, "/any/where")) == (301, "https://new.test/any/where")


def test_a_site_is_not_s3(door: Door, client: Any, site: str) -> None:
    """Nothing but GET and HEAD of objects, whoever signs."""
    signed = door.sign("DELETE", "/index.html")
    del signed["Host"]
    assert visit(door, site, "/index.html", "DELETE", **signed).status == 405
    assert visit(door, site, "/?versions").body == b"home"
    assert visit(door, site, "/?policy").body == b"home"
    assert client.get_object(Bucket=site, Key="index.html")["Body"].read() == b"home"
