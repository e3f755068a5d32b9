"""What is kept beside an encrypted object: how its data key is wrapped, and how its parts lie.

Each object, or multipart upload, has a random data key that seals its frames (cache/frames.py).
The data key is wrapped under a secret: the client's key (SSE-C), a master key of this node (SSE-S3)
or a named one (SSE-KMS). The wrapped key and what else is needed to open the object again make a
record, text that goes with the object's own attributes under the name `encryption`, into the store,
too. No secret is in it. Whoever has the index, the cache and the store, but neither the client's
keys nor the node's key file, has no plaintext.

Pure, but for the random numbers.
"""

from __future__ import annotations

import enum
import hashlib
import hmac
import os
from collections.abc import Sequence

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from cache.errors import SealBroken
from cache.frames import KEY_BYTES, SealedPart, derive, plain_size, sealed_size
from cache.records import ObjectAttributes

OWN_NAME = "encryption"
_SALT_BYTES = 16
_RUNS_MAX = 100
"""Runs of parts in one record: it must fit beside a client's metadata in a store's 2 or 4 KiB."""


class Mode(enum.StrEnum):
    """Who holds the key that the data key is wrapped under."""

    CUSTOMER = "SSE-C"
    NODE = "SSE-S3"
    KMS = "SSE-KMS"


class Run(msgspec.Struct, array_like=True, frozen=True):
    """Parts of consecutive numbers and equal size."""

    number: int
    count: int
    size_bytes: int


class Encryption(msgspec.Struct, frozen=True, omit_defaults=True):
    """The record; see the module docstring."""

    mode: Mode
    wrapped: bytes = b""  # salt, then the data key sealed under the secret
    key: str = ""  # id of the master key
    version: int = 0  # of the master key
    context: bytes = b""  # SHA-256 of the KMS encryption context, if there was one
    bucket_key: bool = False  # asked for by the client; changes nothing here
    runs: list[Run] = []  # of a completed multipart upload
    layout: bytes = b""  # HMAC of the runs

    @classmethod
    def of(cls, attributes: ObjectAttributes) -> Encryption | None:
        """None for an object that is not encrypted. SealBroken for a record that cannot be read."""
        text = attributes.own.get(OWN_NAME)
        if text is None:
            return None
        try:
            return _decoder.decode(text)
        except msgspec.DecodeError as exc:
            raise SealBroken(f"the encryption record cannot be read: {exc}") from exc

    def onto(self, attributes: ObjectAttributes) -> ObjectAttributes:
        """The attributes with this record among them."""
        own = {**attributes.own, OWN_NAME: msgspec.json.encode(self).decode("ascii")}
        return msgspec.structs.replace(attributes, own=own)

    def parts(self, stored_bytes: int) -> list[SealedPart]:
        """The parts of a body that takes so many bytes."""
        if self.runs:
            return [
                SealedPart(number, run.size_bytes)
                for run in self.runs
                for number in range(run.number, run.number + run.count)
            ]
        return [SealedPart(0, plain_size(stored_bytes))] if stored_bytes else []

    def under(self, secret: bytes, data_key: bytes) -> Encryption:
        """The record with the data key wrapped under a secret, and bound to what it says."""
        salt = os.urandom(_SALT_BYTES)
        # The salt is fresh and so the key is used once: its nonce may be constant.
        sealer = AESGCM(derive(secret, salt, b"wrap"))
        wrapped = salt + sealer.encrypt(bytes(12), data_key, self._bound())
        return msgspec.structs.replace(self, wrapped=wrapped)

    def unwrap(self, secret: bytes) -> bytes:
        """The data key. SealBroken if it is not wrapped under this secret."""
        salt, sealed = self.wrapped[:_SALT_BYTES], self.wrapped[_SALT_BYTES:]
        try:
            return AESGCM(derive(secret, salt, b"wrap")).decrypt(bytes(12), sealed, self._bound())
        except (InvalidTag, ValueError) as exc:
            raise SealBroken("the key is another one") from exc

    def _bound(self) -> bytes:
        return f"{self.mode}\0{self.key}\0{self.version}\0".encode() + self.context

    def with_layout(self, parts: Sequence[SealedPart], layout_key: bytes) -> Encryption | None:
        """The record of an upload that is completed with these parts; None if their sizes differ
        in more places than a record can hold."""
        runs: list[Run] = []
        for part in parts:
            last = runs[-1] if runs else None
            if (
                last is not None
                and last.size_bytes == part.size_bytes
                and last.number + last.count == part.number
            ):
                runs[-1] = msgspec.structs.replace(last, count=last.count + 1)
            else:
                runs.append(Run(part.number, 1, part.size_bytes))
        if len(runs) > _RUNS_MAX:
            return None
        return msgspec.structs.replace(self, runs=runs, layout=_layout_mac(runs, layout_key))

    def check_layout(self, data_key: bytes) -> None:
        """SealBroken when parts were taken out of the record, or others put in."""
        if self.runs and not hmac.compare_digest(
            self.layout, _layout_mac(self.runs, layout_key(data_key))
        ):
            raise SealBroken("the parts are not those that the upload was completed with")


_decoder = msgspec.json.Decoder(Encryption)


def new_data_key() -> bytes:
    return os.urandom(KEY_BYTES)


def layout_key(data_key: bytes) -> bytes:
    """What the list of an upload's parts is signed with. An upload keeps it until it is completed,
    which SSE-C clients may do without their key."""
    return derive(data_key, b"", b"layout")


def _layout_mac(runs: Sequence[Run], key: bytes) -> bytes:
    return hmac.new(key, msgspec.json.encode(runs), hashlib.sha256).digest()


def concealed_etag(data_key: bytes, md5: str) -> str:
    """An ETag that looks like an MD5 and tells nothing of the bytes: of SSE-C and SSE-KMS."""
    return hmac.new(data_key, b"etag " + md5.encode(), hashlib.sha256).hexdigest()[:32]


def overhead(attributes: ObjectAttributes, stored_bytes: int) -> int:
    """How many of an object's stored bytes are not its client's; 0 for a plain one, and for a body
    that is not what its record describes (others replaced it in the store)."""
    try:
        record = Encryption.of(attributes)
        if record is None:
            return 0
        parts = record.parts(stored_bytes)
    except SealBroken:
        return 0
    plain = sum(part.size_bytes for part in parts)
    whole = sum(sealed_size(part.size_bytes) for part in parts)
    return stored_bytes - plain if whole == stored_bytes else 0


def with_part_sizes(attributes: ObjectAttributes, stored_bytes: int) -> ObjectAttributes:
    """The attributes of an object that was learned from the store, with the sizes of the parts
    that it was uploaded in, which only its record tells."""
    record = Encryption.of(attributes) if overhead(attributes, stored_bytes) else None
    if record is None or not record.runs:
        return attributes
    sizes = [part.size_bytes for part in record.parts(stored_bytes)]
    return msgspec.structs.replace(attributes, part_sizes=sizes)
