"""From an HTTP request to the members of an operation's input, as the model describes them.

The query string is split and decoded here, once. A member that travels in a header or in the query
is read into a plain value; one that the operation's implementation does not offer is refused by
name, so that nothing a client asks for is silently left out.

Pure; callable from any thread.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any
from urllib.parse import unquote_to_bytes

from s3api.documents import read_document, read_scalar
from s3api.errors import S3Error, not_implemented
from s3api.model import MODEL, Member, Operation

Input = dict[str, Any]
"""Members by the model's names (`MaxKeys`), each of the type its shape has."""

METADATA_PREFIX = "x-amz-meta-"
_ENCRYPTION = re.compile(r"x-amz-(copy-source-)?server-side-encryption", re.IGNORECASE)

ALWAYS_HARMLESS = frozenset(
    {
        "RequestPayer",  # concerns buckets that let the requester pay; there are none
        "ChecksumAlgorithm",  # says which checksum header or trailer follows; that one is read
        "OptionalObjectAttributes",  # RestoreStatus of archived objects; there are none
    }
)
"""Members that change nothing on a server without the feature they belong to, by Amazon's own
definition of them; clients send them unasked."""


def split_query(raw: str) -> dict[str, str]:
    """Decode a raw query string once. A name that occurs twice is refused: two layers could take
    different ones."""
    parameters: dict[str, str] = {}
    if not raw:
        return parameters
    for pair in raw.split("&"):
        if not pair:
            continue
        name, _, value = pair.partition("=")
        decoded = _unquote(name)
        if decoded in parameters:
            raise S3Error("InvalidArgument", ArgumentName=decoded[:64])
        parameters[decoded] = _unquote(value)
    return parameters


def _unquote(text: str) -> str:
    if "%" not in text and "+" not in text:
        return text
    try:
        return unquote_to_bytes(text.replace("+", " ")).decode("utf-8")
    except UnicodeDecodeError:
        raise S3Error("InvalidURI") from None


def read_input(
    operation: Operation,
    offers: frozenset[str],
    query: Mapping[str, str],
    headers: Iterable[tuple[str, str]],
) -> Input:
    """The members that travel in query and headers.

    offers: names of the members that the implementation honours. Raises NotImplemented for a
    member of the model that is not among them, InvalidArgument for a value of the wrong type.
    """
    values: Input = {}
    by_header, by_query, metadata = _tables(operation)
    for name, text in query.items():
        member = by_query.get(name)
        if member is not None:
            _take(values, member, text, offers)
        elif _ENCRYPTION.match(name):
            # Some presign what was to be a header: to leave it out would be to store plaintext.
            raise not_implemented(f"{name[:64]} in the query, and not as a header,")
    for name, text in headers:
        lower = name.lower()
        member = by_header.get(lower)
        if member is not None:
            _take(values, member, text, offers)
        elif metadata is not None and lower.startswith(METADATA_PREFIX):
            values.setdefault(metadata, {})[lower[len(METADATA_PREFIX) :]] = text
    return values


def _take(values: Input, member: Member, text: str, offers: frozenset[str]) -> None:
    if member.name not in offers:
        if member.name in ALWAYS_HARMLESS:
            return
        raise not_implemented(member.wire_name)
    try:
        values[member.name] = read_scalar(text, MODEL.shapes[member.shape], "InvalidArgument")
    except S3Error as error:
        raise S3Error(
            error.code,
            f"Argument {member.wire_name} is not valid",
            ArgumentName=member.wire_name,
            ArgumentValue=text[:256],
        ) from None


_Tables = tuple[dict[str, Member], dict[str, Member], str | None]
_tables_by_name: dict[str, _Tables] = {}


def _tables(operation: Operation) -> _Tables:
    """Members by header and by query name, and the member that takes the user's metadata."""
    tables = _tables_by_name.get(operation.name)
    if tables is None:
        members = operation.input.members.values() if operation.input is not None else ()
        tables = (
            {m.wire_name.lower(): m for m in members if m.location == "header"},
            {m.wire_name: m for m in members if m.location == "querystring"},
            next((m.name for m in members if m.location == "headers"), None),
        )
        _tables_by_name[operation.name] = tables
    return tables


def payload_member(operation: Operation) -> Member | None:
    """The member that the request's body is, if it is an XML document."""
    if operation.input is None or operation.input.payload is None:
        return None
    member = operation.input.members[operation.input.payload]
    return member if MODEL.shapes[member.shape].kind == "structure" else None


def read_payload(operation: Operation, document: bytes) -> Input:
    """The body's XML as a value of the payload member. MalformedXML, also for a required one that
    is empty."""
    member = payload_member(operation)
    assert member is not None, operation.name
    assert operation.input is not None, operation.name
    if not document.strip():
        if member.name in operation.input.required or operation.name in _BODY_REQUIRED:
            raise S3Error("MalformedXML")
        return {}
    return {member.name: read_document(document, member)}


def read_kept(document: bytes, operation: str) -> Input:
    """A document of a bucket as the members that `operation`, which puts it, reads."""
    member = payload_member(MODEL.operations[operation])
    assert member is not None, operation
    return read_document(document, member)


_BODY_REQUIRED = {"CompleteMultipartUpload"}
"""Where the model does not say that the body is required but Amazon insists."""
