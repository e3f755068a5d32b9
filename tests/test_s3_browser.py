"""The listing of a bucket as a page for people."""

from __future__ import annotations

import re
from collections.abc import Iterator
from html import unescape

import pytest

from tests.support.s3 import Answer, Door, serving

KEYS = ["a&b.txt", "dir/<script>alert(1)", "dir/x", "dir/y/z", "top", "é"]


@pytest.fixture(scope="module")
def door(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Door]:
    directory = tmp_path_factory.mktemp("door")
    with serving(directory, access_log="off", browser=True, domain="s3.test") as running:
        client = running.client()
        client.create_bucket(Bucket="bucket")
        for key in [*KEYS, "/other.host/x"]:
            client.put_object(Bucket="bucket", Key=key, Body=key.encode())
        yield running


def browse(door: Door, target: str) -> Answer:
    answer = door.request("GET", target)
    assert answer.status == 200
    assert answer.headers["Content-Type"] == "text/html; charset=utf-8"
    assert "default-src 'none'" in answer.headers["Content-Security-Policy"]
    return answer


def links(answer: Answer) -> dict[str, str]:
    """Where the names on a page lead."""
    found = re.findall('<a href="([^"]*)">([^<]*)</a>', answer.body.decode())
    return {unescape(name): unescape(link) for link, name in found}


def test_objects_and_prefixes(door: Door) -> None:
    page = links(browse(door, "/bucket?browser=true"))
    assert list(page) == ["/", "a&b.txt", "dir/", "top", "é"]
    for name in ("a&b.txt", "top", "é"):
        assert door.request("GET", page[name]).body == name.encode()
    below = links(browse(door, "/bucket" + page["dir/"]))
    assert list(below) == ["..", "<script>alert(1)", "x", "y/"]
    assert door.request("GET", below["x"]).body == b"dir/x"
    assert links(browse(door, "/bucket" + below[".."])) == page


def test_names_are_text(door: Door) -> None:
    page = browse(door, "/bucket?browser=true&prefix=dir%2F")
    assert b"<script" not in page.body
    injected = browse(door, "/bucket?browser=true&prefix=%22%3E%3Cscript%3E")
    assert b"<script" not in injected.body


def test_links_stay_on_this_host(door: Door) -> None:
    """Of a key that begins with a slash, where the host names the bucket."""
    host = {"Host": f"bucket.s3.test:{door.port}"}
    page = door.request("GET", "/?browser=true&prefix=/other.host/", host, sign=False)
    assert (page.status, page.code) == (403, "AccessDenied")  # and only for whom may list
    policy = (
        '{"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Principal": "*",'
        '"Action": "s3:*", "Resource": ["arn:aws:s3:::bucket", "arn:aws:s3:::bucket/*"]}]}'
    )
    door.client().put_bucket_policy(Bucket="bucket", Policy=policy)
    page = door.request("GET", "/?browser=true&prefix=/other.host/", host, sign=False)
    link = links(page)["x"]
    assert link == "/%2Fother.host%2Fx"
    assert door.request("GET", link, host, sign=False).body == b"/other.host/x"


def test_pages(door: Door) -> None:
    seen: list[str] = []
    target = "?browser=true&max-keys=2"
    while target:
        page = links(browse(door, "/bucket" + target))
        target = page.pop("Next page", "")
        target = target and f"{target}&max-keys=2"
        seen += page
    assert seen == ["/", "a&b.txt", "dir/", "top", "é"]


def test_off_the_parameter_means_nothing(
    door: Door, tmp_path_factory: pytest.TempPathFactory
) -> None:
    with serving(tmp_path_factory.mktemp("off"), access_log="off") as off:
        off.client().create_bucket(Bucket="bucket")
        answer = off.request("GET", "/bucket?browser=true")
        assert (answer.status, answer.headers["Content-Type"]) == (200, "application/xml")
    answer = door.request("GET", "/bucket?browser=false")
    assert (answer.status, answer.headers["Content-Type"]) == (200, "application/xml")
