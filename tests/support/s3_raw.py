"""A small, fast S3 client for tests: requests by hand over connections that stay open.

boto3 spends a millisecond of processor time on each request; a test of ten thousand of them cannot.
It speaks to an endpoint in `auth.mode = "simple"`, with the incomplete Authorization header that
such an endpoint accepts (acceptance A03). One thread uses a RawS3 at a time.
"""

from __future__ import annotations

import http.client
import itertools
import re
import socket
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from urllib.parse import quote, urlencode, urlsplit
from xml.etree import ElementTree

AUTHORIZATION = (
    "AWS4-HMAC-SHA256 Credential=testuser/... SignedHeaders=... Signature=..."  # word for word A03
)
_TIMEOUT_S = 60.0
_NAMESPACE = re.compile(r"\{[^}]*\}")


@dataclass(frozen=True)
class Answer:
    status: int
    headers: Mapping[str, str]  # names in lower case
    body: bytes

    def expect(self, status: int) -> Answer:
        """Itself, if the status is this one."""
        assert self.status == status, f"{self.status} {self.body[:500]!r}"
        return self


class RawS3:
    """Requests go over the connections in turn: the node's gateways share a port, and the kernel
    gives each connection to one of them."""

    def __init__(self, endpoint: str, *, connections: int = 1) -> None:
        address = urlsplit(endpoint)
        assert address.hostname is not None
        self._connections = [
            http.client.HTTPConnection(address.hostname, address.port, timeout=_TIMEOUT_S)
            for _ in range(connections)
        ]
        for connection in self._connections:
            connection.connect()
            # Head and body are two writes: without this the second waits for the first's ACK.
            connection.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._turns = itertools.cycle(self._connections)

    def __enter__(self) -> RawS3:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        for connection in self._connections:
            connection.close()

    def request(
        self,
        method: str,
        target: str,
        *,
        query: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
        body: bytes = b"",
    ) -> Answer:
        """target: `/bucket/key`, not yet quoted."""
        response = self.start(method, target, query=query, headers=headers, body=body)
        return Answer(
            response.status, {k.lower(): v for k, v in response.getheaders()}, response.read()
        )

    def start(
        self,
        method: str,
        target: str,
        *,
        query: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
        body: bytes = b"",
    ) -> http.client.HTTPResponse:
        """As request, with the body left to read: before the connection's next request."""
        connection = next(self._turns)
        url = quote(target) + (f"?{urlencode(query)}" if query else "")
        sent = {"Authorization": AUTHORIZATION, **(headers or {})}
        connection.request(method, url, body=body if method in ("PUT", "POST") else None,
                           headers=sent)  # fmt: skip
        return connection.getresponse()

    # ------------------------------------------------------------------ what tests ask for

    def make_bucket(self, bucket: str) -> None:
        self.request("PUT", f"/{bucket}").expect(200)

    def put(self, bucket: str, key: str, body: bytes) -> str:
        """The ETag, without its quotes."""
        return self.request("PUT", f"/{bucket}/{key}", body=body).expect(200).headers["etag"][1:-1]

    def get(self, bucket: str, key: str) -> bytes | None:
        """None if there is no such key."""
        answer = self.request("GET", f"/{bucket}/{key}")
        return None if answer.status == 404 else answer.expect(200).body

    def size(self, bucket: str, key: str) -> int | None:
        """By HEAD; None if there is no such key."""
        answer = self.request("HEAD", f"/{bucket}/{key}")
        return None if answer.status == 404 else int(answer.expect(200).headers["content-length"])

    def delete(self, bucket: str, key: str) -> None:
        self.request("DELETE", f"/{bucket}/{key}").expect(204)

    def copy(self, bucket: str, source: str, key: str) -> None:
        headers = {"x-amz-copy-source": quote(f"/{bucket}/{source}")}
        answer = self.request("PUT", f"/{bucket}/{key}", headers=headers).expect(200)
        assert b"<CopyObjectResult" in answer.body, answer.body

    def upload(self, bucket: str, key: str, parts: Sequence[bytes]) -> None:
        """Multipart; all parts but the last have at least 5 MiB."""
        target = f"/{bucket}/{key}"
        begun = self.request("POST", target, query={"uploads": ""}).expect(200)
        upload = _texts(begun.body, "UploadId")[0]
        document = ["<CompleteMultipartUpload>"]
        for number, part in enumerate(parts, start=1):
            query = {"partNumber": str(number), "uploadId": upload}
            etag = self.request("PUT", target, query=query, body=part).expect(200).headers["etag"]
            document.append(f"<Part><PartNumber>{number}</PartNumber><ETag>{etag}</ETag></Part>")
        document.append("</CompleteMultipartUpload>")
        done = self.request(
            "POST", target, query={"uploadId": upload}, body="".join(document).encode()
        ).expect(200)
        assert b"<CompleteMultipartUploadResult" in done.body, done.body

    def keys(self, bucket: str, prefix: str = "", *, page: int = 1000) -> list[str]:
        """All keys, over as many pages as it takes."""
        return [key for key, _ in self._listed(bucket, prefix, page)]

    def sizes(self, bucket: str, prefix: str = "") -> dict[str, int]:
        """Sizes by key."""
        return dict(self._listed(bucket, prefix, 1000))

    def _listed(self, bucket: str, prefix: str, page: int) -> Iterator[tuple[str, int]]:
        query = {"list-type": "2", "prefix": prefix, "max-keys": str(page)}
        while True:
            listing = ElementTree.fromstring(
                self.request("GET", f"/{bucket}", query=query).expect(200).body
            )
            for element in listing.iter():
                element.tag = _NAMESPACE.sub("", element.tag)
            for entry in listing.iter("Contents"):
                yield entry.findtext("Key", ""), int(entry.findtext("Size", "-1"))
            token = listing.findtext("NextContinuationToken")
            if token is None:
                return
            query["continuation-token"] = token


def _texts(document: bytes, name: str) -> list[str]:
    root = ElementTree.fromstring(document)
    return [e.text or "" for e in root.iter() if _NAMESPACE.sub("", e.tag) == name]
