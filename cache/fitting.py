"""Whether a store can keep what is attached to an object.

Asked before the index takes it: what a store refuses for its size it refuses for ever, and a name
that waits for that would hold its bytes here, and its writer would never hear of it. Pure.
"""

from __future__ import annotations

from cache.records import ObjectAttributes
from cache.stores.base import Store
from cache.uploading import uploaded_attributes

_ANYWHERE_BYTES = 1024
"""So much fits into every store, with what else is kept there."""


def check_fits(store: Store, attributes: ObjectAttributes) -> None:
    """AttributeTooLarge if the store cannot keep all of them."""
    texts = (attributes.headers, attributes.metadata, attributes.tags, attributes.own)
    size = sum(len(name) + len(value) for each in texts for name, value in each.items())
    # Percent-encoded, base64: what is kept may be longer than what was said.
    if 4 * (size + len(attributes.acl) + len(attributes.owner)) > _ANYWHERE_BYTES:
        store.check_attributes(uploaded_attributes(attributes))
