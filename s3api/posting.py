"""PostObject: an upload by a browser's form, which is a PutObject in other clothes.

The fields before the file say who allows it and what is to become of it; they are turned into the
headers that a PutObject with the same meaning has, and the function that puts objects does the
rest. So a form can do whatever PutObject can, and nothing that it cannot. Rules: "POST Object" in
Amazon's S3 API reference.

Runs on the event loop; of a form nothing but its fields is held.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Mapping
from datetime import UTC, datetime
from urllib.parse import quote, urlencode, urlsplit
from xml.etree.ElementTree import Element, SubElement, tostring

from aiohttp import web

from s3api.access import authorise
from s3api.buckets import check_expected_owner
from s3api.documents import read_document
from s3api.errors import S3Error
from s3api.forms import Form
from s3api.keys import Target, check_key
from s3api.model import MODEL
from s3api.operations import Call, find_offer, offers
from s3api.parsing import read_input
from s3api.payload import PUT_BYTES_MAX
from s3api.post_policy import PostPolicy
from s3api.receiving import BLOCK_BYTES, wire_blocks

_PUT_OBJECT = MODEL.operations["PutObject"]
_TAGGING = MODEL.operations["PutObjectTagging"].input

_HEADERS = {
    "acl": "x-amz-acl",
    "cache-control": "cache-control",
    "content-disposition": "content-disposition",
    "content-encoding": "content-encoding",
    "content-language": "content-language",
    "content-md5": "content-md5",
    "content-type": "content-type",
    "expires": "expires",
}
"""Fields whose header has another name, or does not begin with x-amz-."""
_NOT_HEADERS = frozenset(
    {
        "x-amz-algorithm",
        "x-amz-content-sha256",
        "x-amz-credential",
        "x-amz-date",
        "x-amz-security-token",
        "x-amz-signature",
    }
)
"""x-amz- fields that say who sends the form."""
_FILE_NAME = "${filename}"

_HEADER_NAME = re.compile(r"[a-z0-9!#$%&'*+.^_`|~-]+")  # RFC 9110, in lower case
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")

Blocks = AsyncIterator[tuple[list[bytes], bool]]


@offers("PostObject")
async def post_object(call: Call) -> web.StreamResponse:
    _refuse_other_credentials(call)
    form = Form(call.headers.get("content-type", ""))
    blocks = wire_blocks(call, BLOCK_BYTES)
    first, ended = await _read_fields(form, blocks)
    fields = {
        name: value.replace(_FILE_NAME, form.file_name) for name, value in form.fields.items()
    }
    if "key" not in fields:
        raise S3Error(
            "InvalidArgument",
            "Bucket POST must contain a field named 'key'."
            "  If it is specified, please check the order of the fields.",
            ArgumentName="key",
            ArgumentValue="",
        )
    policy = _authenticate(call, fields)
    call.target = Target(call.bucket, check_key(fields["key"].encode("utf-8")))
    call.operation = _PUT_OBJECT
    call.headers = _headers_of(fields)
    offer = find_offer(call.operation)
    call.input = read_input(call.operation, offer.members, {}, call.headers.items())
    await authorise(call)
    if "ExpectedBucketOwner" in call.input:
        check_expected_owner(call, call.bucket, call.input["ExpectedBucketOwner"])
    call.body = _file(form, policy, first, ended, blocks)
    return _answer(call, fields, await offer.handler(call))


def _refuse_other_credentials(call: Call) -> None:
    if "authorization" in call.headers or "X-Amz-" in call.request.query_string:
        raise S3Error(
            "InvalidArgument",
            "Only one auth mechanism allowed; a form is authenticated by its fields",
        )


async def _read_fields(form: Form, blocks: Blocks) -> tuple[list[memoryview], bool]:
    """Read until the file begins. The bytes of it that came along, and whether the body ended."""
    async for wire, last in blocks:
        found = [piece for chunk in wire for piece in form.feed(chunk)]
        if last:
            form.finish()
        if form.file_begun:
            return found, last
    raise AssertionError("the blocks of a body end with a last one")


def _authenticate(call: Call, fields: Mapping[str, str]) -> PostPolicy | None:
    """Find out who the form is from and hold it to the policy that it was given; None if nobody
    signed it."""
    call.authentication, claim = call.door.authenticator.authenticate_form(fields)
    if claim is None:
        return None
    policy = PostPolicy.read(claim.policy_document)
    # The bucket is in the address; a field of that name says nothing.
    policy.check({**fields, "bucket": call.bucket}, datetime.now(UTC))
    return policy


def _headers_of(fields: Mapping[str, str]) -> dict[str, str]:
    """The headers of the PutObject that means the same."""
    # The file's end is known when it comes, as with a body in HTTP chunks.
    headers = {"transfer-encoding": "chunked"}
    for name, value in fields.items():
        if name == "tagging":
            headers["x-amz-tagging"] = _tags(value)
        elif name in _HEADERS:
            headers[_HEADERS[name]] = value
        elif name.startswith("x-amz-") and name not in _NOT_HEADERS:
            headers[name] = value
    for name, value in headers.items():
        # What is kept as a header must be able to leave as one.
        if not _HEADER_NAME.fullmatch(name) or _CONTROL.search(value):
            raise S3Error("InvalidArgument", ArgumentName=name[:64], ArgumentValue=value[:64])
    return headers


def _tags(document: str) -> str:
    """The tags of a `tagging` field as x-amz-tagging has them. MalformedXML."""
    assert _TAGGING is not None
    tagging = read_document(document.encode("utf-8"), _TAGGING.members["Tagging"])
    return urlencode([(tag["Key"], tag["Value"]) for tag in tagging["TagSet"]])


async def _file(
    form: Form,
    policy: PostPolicy | None,
    first: list[memoryview],
    ended: bool,
    blocks: Blocks,
) -> Blocks:
    """The bytes of the file, block by block. EntityTooLarge, EntityTooSmall by the policy, the
    latter before the last block is handed out: nothing may be committed then."""
    size_bytes_max = PUT_BYTES_MAX if policy is None else policy.size_bytes_max
    size_bytes = 0
    pieces = first
    while True:
        size_bytes += sum(map(len, pieces))
        if size_bytes > size_bytes_max:
            raise S3Error(
                "EntityTooLarge",
                ProposedSize=str(size_bytes),
                MaxSizeAllowed=str(size_bytes_max),
            )
        if ended:
            break
        yield [bytes(piece) for piece in pieces], False
        wire, ended = await anext(blocks)
        pieces = [piece for chunk in wire for piece in form.feed(chunk)]
        if ended:
            form.finish()
    if policy is not None and size_bytes < policy.size_bytes_min:
        raise S3Error(
            "EntityTooSmall",
            ProposedSize=str(size_bytes),
            MinSizeAllowed=str(policy.size_bytes_min),
        )
    yield [bytes(piece) for piece in pieces], True


def _answer(call: Call, fields: Mapping[str, str], put: web.StreamResponse) -> web.StreamResponse:
    """The answer that the form asks for, with what PutObject's says of the new object."""
    headers = {
        name: value
        for name, value in put.headers.items()
        if name.lower() == "etag" or name.lower().startswith("x-amz-")
    }
    key = call.key.decode("utf-8")
    redirect = fields.get("success_action_redirect", fields.get("redirect"))
    if redirect is not None and _is_url(redirect):
        told = {"bucket": call.bucket, "key": key, "etag": headers["ETag"]}
        separator = "&" if "?" in redirect else "?"
        headers["Location"] = f"{redirect}{separator}{urlencode(told, quote_via=quote)}"
        return call.answer(303, headers)
    path = call.request.raw_path.partition("?")[0].rstrip("/")
    headers["Location"] = (
        f"{call.request.scheme}://{call.request.headers.get('Host', '')}{path}/{quote(key)}"
    )
    match fields.get("success_action_status"):
        case "200":
            return call.answer(200, headers)
        case "201":
            headers["Content-Type"] = "application/xml"
            return call.answer(201, headers, _document(call, headers))
        case _:
            return call.answer(204, headers)


def _is_url(text: str) -> bool:
    """Whether a browser can be sent there. "If Amazon S3 cannot interpret the URL, it acts as if
    the field is not present." """
    if not text.isascii() or not text.isprintable() or " " in text:
        return False
    try:
        parts = urlsplit(text)
    except ValueError:
        return False
    return parts.scheme in ("http", "https") and bool(parts.netloc)


def _document(call: Call, headers: Mapping[str, str]) -> bytes:
    root = Element("PostResponse")
    for name, text in (
        ("Location", headers["Location"]),
        ("Bucket", call.bucket),
        ("Key", call.key.decode("utf-8")),
        ("ETag", headers["ETag"]),
    ):
        SubElement(root, name).text = text
    document: bytes = tostring(root, encoding="UTF-8", xml_declaration=True)
    return document
