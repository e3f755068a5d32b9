"""Which ETag a server shows for an object of parts, found out on a small one of our own.

What `s3_joined` has to have seen once would else be looked at behind the first large upload of each
process, by a HEAD for which some servers read all of it again: half a second for 256 MiB, in which
its client waits. The probe is made while the body arrives. Amazon's servers need none.
"""

from __future__ import annotations

import hashlib
import logging

from cache.errors import StoreError
from cache.stores.s3_client import store_errors
from cache.stores.s3_requests import ObjectRequests, probe_key, quoted, version_of
from cache.stores.s3_uploads import Multipart

log = logging.getLogger(__name__)

WORTH_BYTES = 64 << 20
"""Of an upload, from which on a HEAD behind it is worth a probe beside it."""
_BODY = b"Forebay looks how this server shows objects that were made of parts.\n"


def see_joined(requests: ObjectRequests) -> None:
    """Join an object of one part, look at it, remove it. Blocks. If the server refuses, what it
    does is seen behind the first upload."""
    key = probe_key()
    try:
        multipart = Multipart.create(requests, key, {})
        try:
            _see(requests, multipart, key)
        except BaseException:
            multipart.abort()
            raise
    except StoreError as exc:
        log.debug("how the server shows what was joined is not known: %s", exc)


def _see(requests: ObjectRequests, multipart: Multipart, key: bytes) -> None:
    tag = multipart.send(1, _BODY)
    address = requests.address(key)
    with store_errors("probe", key):
        answer = requests.client.complete_multipart_upload(
            **address,
            UploadId=multipart.upload_id,
            MultipartUpload={"Parts": [{"PartNumber": 1, "ETag": quoted(tag)}]},
        )
        shown = version_of(requests.client.head_object(**address))
        # Of a versioned bucket all of it, and not only the name.
        if version := answer.get("VersionId"):
            requests.client.delete_object(**address, VersionId=version)
        else:
            requests.client.delete_object(**address)
    md5 = hashlib.md5(_BODY, usedforsecurity=False).hexdigest()
    requests.joined_etags.learn(version_of(answer), [tag], md5, shown)
