"""An encrypted body: plaintext cut into frames, each sealed with AES-256-GCM.

    sealed part:  header (32 bytes), then frames
    header:       magic `FBS1`, u32 number of the part (0: not of a multipart upload), 24 random
                  bytes of salt
    frame:        64 KiB of plaintext (the last of a part: 0 to 64 KiB), then a tag of 16 bytes

Every part has a key of its own, HKDF-SHA256 of the object's data key and the part's salt, so that
a number that counts frames can be the nonce: 11 bytes of frame number, one byte that is 1 in the
last frame. The header is authenticated with every frame. So a frame that was changed, moved, taken
from elsewhere or cut off does not open. This is the STREAM construction (Hoang, Reyhanitabar,
Rogaway, Vizar 2015) as Tink's streaming encryption uses it.

A part of no bytes has one empty frame, so sizes map one to one, and a range of the plaintext to a
range of frames. Blocking (CPU and disk); one thread at a time for each object here.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator, Sequence
from typing import Generic, NamedTuple, Protocol, TypeVar

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from cache.errors import SealBroken
from cache.snapshot import Snapshot, chunks

FRAME_BYTES = 64 << 10
_TAG_BYTES = 16
_SEALED_FRAME_BYTES = FRAME_BYTES + _TAG_BYTES
_MAGIC = b"FBS1"
_HEADER = struct.Struct(">4sI24s")
KEY_BYTES = 32

Block = bytes | bytearray | memoryview


def sealed_size(size_bytes: int) -> int:
    """Bytes that a part of so many bytes takes once it is sealed."""
    frames = max(1, -(-size_bytes // FRAME_BYTES))
    return _HEADER.size + size_bytes + frames * _TAG_BYTES


def plain_size(sealed_bytes: int) -> int:
    """The inverse of sealed_size. SealBroken for a size that no part has."""
    body = sealed_bytes - _HEADER.size
    size_bytes = body - -(-body // _SEALED_FRAME_BYTES) * _TAG_BYTES
    if body <= 0 or size_bytes < 0 or sealed_size(size_bytes) != sealed_bytes:
        raise SealBroken(f"{sealed_bytes} bytes are no sealed body")
    return size_bytes


def derive(secret: bytes, salt: bytes, purpose: bytes) -> bytes:
    """A key for one purpose, from which neither the secret nor another purpose's key follows."""
    return HKDF(SHA256(), KEY_BYTES, salt, b"forebay " + purpose).derive(secret)


class _Cipher:
    """Seals and opens the frames of one part."""

    def __init__(self, data_key: bytes, header: bytes) -> None:
        self._header = header
        _, _, salt = _HEADER.unpack(header)
        self._aead = AESGCM(derive(data_key, salt, b"frames"))

    def seal(self, frame: int, plain: Block, *, last: bool) -> bytes:
        return self._aead.encrypt(_nonce(frame, last), plain, self._header)

    def open(self, frame: int, sealed: Block, *, last: bool) -> bytes:
        try:
            return self._aead.decrypt(_nonce(frame, last), sealed, self._header)
        except InvalidTag as exc:
            raise SealBroken(f"frame {frame} does not open") from exc


def _nonce(frame: int, last: bool) -> bytes:
    return frame.to_bytes(11, "big") + (b"\1" if last else b"\0")


class Writer(Protocol):
    """`cache.writers.ObjectWriter` or `cache.parts.PartWriter`."""

    def write(self, chunk: bytes | bytearray | memoryview) -> None: ...
    def abort(self) -> None: ...


W = TypeVar("W", bound=Writer)


class SealingWriter(Generic[W]):
    """Takes a body's plaintext and gives a writer its sealed form. finish() before the commit."""

    def __init__(self, writer: W, data_key: bytes, number: int = 0) -> None:
        self._writer = writer
        header = _HEADER.pack(_MAGIC, number, os.urandom(24))
        self._cipher = _Cipher(data_key, header)
        self._waiting = [header]
        # The frame that is being filled; a full one waits here, too: it may be the last.
        self._held = bytearray()
        self._frame = 0

    def write(self, chunk: Block) -> None:
        """As the writer's; the chunk may be reused afterwards."""
        view = memoryview(chunk)
        if self._held:
            room = FRAME_BYTES - len(self._held)
            self._held += view[:room]
            view = view[room:]
            if not view:
                return
            self._seal(self._held)
            self._held = bytearray()
        while len(view) > FRAME_BYTES:
            self._seal(view[:FRAME_BYTES])
            view = view[FRAME_BYTES:]
        self._held += view
        self._flush()

    def finish(self) -> W:
        """The body has ended: the writer, which has all of it, to be committed."""
        self._seal(self._held, last=True)
        self._flush()
        return self._writer

    def abort(self) -> None:
        self._writer.abort()

    def _seal(self, plain: Block, *, last: bool = False) -> None:
        self._waiting.append(self._cipher.seal(self._frame, plain, last=last))
        self._frame += 1

    def _flush(self) -> None:
        if self._waiting:
            self._writer.write(b"".join(self._waiting))
            self._waiting = []


class SealedPart(NamedTuple):
    """A part as it lies in an object."""

    number: int
    size_bytes: int  # of the plaintext


class Unsealed:
    """The plaintext of an object's snapshot: read as the snapshot is. The caller closes that."""

    def __init__(self, snapshot: Snapshot, data_key: bytes, parts: Sequence[SealedPart]) -> None:
        """SealBroken when the parts are not what the snapshot's size says."""
        self._snapshot = snapshot
        self._data_key = data_key
        self._parts = parts
        if sum(sealed_size(part.size_bytes) for part in parts) != snapshot.size:
            raise SealBroken(f"{snapshot.size} bytes are not what their parts take")

    def cached(self, start: int, stop: int) -> None:
        """No byte of it is on a disk."""

    def read(self, start: int, stop: int) -> bytes:
        """The bytes [start, stop) at once. Blocks, fetches."""
        return b"".join(self.pieces(start, stop))

    def pieces(self, start: int, stop: int) -> Iterator[bytes]:
        """The bytes [start, stop) in order, in pieces of about 1 MiB. Blocks, fetches. SealBroken,
        and what a snapshot raises."""
        plain = sealed = 0
        for part in self._parts:
            end = plain + part.size_bytes
            if start < end and plain < stop:
                yield from self._of_part(
                    part, sealed, max(start - plain, 0), min(stop, end) - plain
                )
            plain = end
            sealed += sealed_size(part.size_bytes)

    def _of_part(self, part: SealedPart, at: int, start: int, stop: int) -> Iterator[bytes]:
        """The bytes [start, stop) of a part that begins at byte `at` of the snapshot."""
        header = self._snapshot.read(at, at + _HEADER.size)
        magic, number, _ = _HEADER.unpack(header)
        if (magic, number) != (_MAGIC, part.number):
            raise SealBroken(f"byte {at} does not begin part {part.number}")
        cipher = _Cipher(self._data_key, header)
        final = max(0, part.size_bytes - 1) // FRAME_BYTES
        final_bytes = part.size_bytes - final * FRAME_BYTES + _TAG_BYTES
        frame, skip = divmod(start, FRAME_BYTES)
        left = stop - start
        first = at + _HEADER.size
        beyond = first + min(final, (stop - 1) // FRAME_BYTES) * _SEALED_FRAME_BYTES
        beyond += final_bytes if stop > final * FRAME_BYTES else _SEALED_FRAME_BYTES
        held = b""
        for chunk in chunks(self._snapshot, first + frame * _SEALED_FRAME_BYTES, beyond):
            held += chunk
            view = memoryview(held)
            opened = []
            while view and len(view) >= (final_bytes if frame == final else _SEALED_FRAME_BYTES):
                sealed = view[:_SEALED_FRAME_BYTES]
                opened.append(cipher.open(frame, sealed, last=frame == final))
                view = view[len(sealed) :]
                frame += 1
            held = bytes(view)
            if opened:
                piece = b"".join(opened)[skip : skip + left]
                skip = 0
                left -= len(piece)
                yield piece
        if left:
            raise SealBroken(f"part {part.number} ended early")
