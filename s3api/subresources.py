"""Documents of a bucket (`?cors`, `?lifecycle` …): put, get, delete.

A document is read and checked against the model, checked further by whoever offers it, and kept in
the bucket's settings as the XML that a GET of it answers with: what the client sent, in the model's
order, without what XML leaves open. `Buckets.change_settings` keeps it in the store, too.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from aiohttp import web

from s3api.documents import write_document
from s3api.errors import S3Error
from s3api.model import MODEL
from s3api.operations import Call
from s3api.parsing import payload_member
from s3api.receiving import read_document

Check = Callable[[dict[str, Any]], None]
"""Raises S3Error for a document that Amazon would refuse; may complete it in place."""


async def put_document(call: Call, name: str, check: Check) -> web.StreamResponse:
    """Keep the request's document under `name` in the bucket's settings."""
    member = payload_member(call.operation)
    assert member is not None, call.operation.name
    values = (await read_document(call)).get(member.name)
    if values is None:
        raise S3Error("MalformedXML")
    check(values)
    text = write_document(member.wire_name, MODEL.shapes[member.shape], values)
    await call.threads.metadata(call.volume.buckets.change_settings, call.bucket, {name: text})
    return call.document({})


def get_document(call: Call, name: str, missing: str) -> web.StreamResponse:
    """Answer with the document. missing: the code of the error when there is none."""
    text = call.access.bucket.settings.get(name)
    if text is None:
        raise S3Error(missing, BucketName=call.bucket)
    return call.answer(headers={"Content-Type": "application/xml"}, body=text)


async def delete_document(call: Call, name: str) -> web.StreamResponse:
    """Forget the document; that there is none is no error."""
    await call.threads.metadata(call.volume.buckets.change_settings, call.bucket, {name: None})
    return call.document({})
