"""POSIX and S3 attributes as S3 object metadata: the one mapping, pure.

What we write is what s3fs-fuse and rclone read:

    mode    decimal, with the file type (s3fs): 33188 is a regular file 0644
    uid, gid, rdev    decimal
    mtime   seconds, and nine digits of nanoseconds unless they are zero. rclone takes the
            fraction as a decimal fraction, s3fs as a count of nanoseconds: nine digits say the
            same to both.
    forebay-etag    `<ETag> <size> <mtime>`: the ETag S3 clients know, where the store's own
            differs. It holds only while size and mtime are those: s3fs keeps metadata it does not
            know when it replaces the bytes.
    forebay-checksums    `<record> <size> <mtime>`: checksums and sizes of parts as S3 clients
            know them. Bound to size and mtime as the ETag is.
    forebay-origin    `<node>-<inode>-<revision> <size> <mtime>`: which version of ours the bytes
            are. Bound to size and mtime as the ETag is.
    forebay-tags    the tags, URL-encoded, on servers without object tagging
    forebay-NAME    what Forebay itself keeps (OWN_NAMES)
    forebay-meta-forebay-…    a client's own metadata that begins with `forebay-`: it must not be
            taken for ours

A symlink is an object whose body is the target and whose mode says S_IFLNK, a directory a
zero-byte object `name/` of type application/x-directory, a FIFO, socket or device a zero-byte
object with its type in mode (and rdev): all as s3fs does. rclone's `name.rclonelink` files are
its own convention and stay plain files here.

What we read besides: mode in octal with the file type, as rclone's --metadata writes it (33188 is
100644 there; the type bits tell which it is), and any number of fraction digits of mtime.

ETag and checksums that are known only after the object's metadata had to be said (multipart
uploads) are tags of the same names and values, on servers that have tags: these can be added
without copying the object. Where ten tags are a client's own, they are not kept.

Metadata values are ASCII on the wire; anything else travels as an RFC 2047 encoded word, as AWS
returns it.
"""

from __future__ import annotations

import base64
import binascii
import re
import stat
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from email.errors import HeaderParseError
from email.header import decode_header, make_header
from urllib.parse import parse_qsl, urlencode

from cache.records import Kind
from cache.stores.base import OWN_NAMES, StoredAttributes

DIRECTORY_TYPE = "application/x-directory"
DEFAULT_TYPE = "binary/octet-stream"
"""What S3 answers for an object that was stored without a content type."""

_OURS = "forebay-"
_CLIENTS = "forebay-meta-"
_ETAG = "forebay-etag"
_CHECKSUMS = "forebay-checksums"
_ORIGIN = "forebay-origin"
_TAGS = "forebay-tags"
_PERMISSIONS = 0o7777

TAGS_MAX = 10
_TAG_VALUE_MAX = 256

METADATA_BYTES_MAX = 2048
"""Names and values of an object's metadata together, on S3; more is refused (MetadataTooLarge)."""
POSIX_NAMES = frozenset({"mode", "uid", "gid", "mtime", "rdev"})
"""Names of metadata that say what the file itself has."""
_DISPENSABLE = (_ORIGIN, _CHECKSUMS, _ETAG, "gid", "uid", "mtime", "mode")
"""In the order in which they are left out. What is bound to mtime goes before it."""

_TYPE_BITS = {
    Kind.FILE: stat.S_IFREG,
    Kind.DIRECTORY: stat.S_IFDIR,
    Kind.SYMLINK: stat.S_IFLNK,
    Kind.FIFO: stat.S_IFIFO,
    Kind.SOCKET: stat.S_IFSOCK,
    Kind.CHARACTER_DEVICE: stat.S_IFCHR,
    Kind.BLOCK_DEVICE: stat.S_IFBLK,
}
_KINDS = {bits: kind for kind, bits in _TYPE_BITS.items()}

_MTIME = re.compile(r"(-?)(\d{1,12})(?:\.(\d+))?", re.ASCII)
_NUMBER = re.compile(r"\d{1,10}", re.ASCII)
_PLAIN_VALUE = re.compile(r"[!-~](?:[ -~]*[!-~])?", re.ASCII)


def kind_of(mode: int) -> Kind:
    """The kind that the type bits of an st_mode say; FILE where they say nothing known."""
    return _KINDS.get(stat.S_IFMT(mode), Kind.FILE)


def type_bits(kind: Kind) -> int:
    """S_IFREG, S_IFDIR … for a kind."""
    return _TYPE_BITS[kind]


def format_mtime(mtime_ns: int) -> str:
    """Seconds as both rclone and s3fs read them; see the module docstring."""
    sign = "-" if mtime_ns < 0 else ""
    seconds, nanoseconds = divmod(abs(mtime_ns), 10**9)
    return f"{sign}{seconds}.{nanoseconds:09d}" if nanoseconds else f"{sign}{seconds}"


def parse_mtime(text: str) -> int | None:
    """Nanoseconds since the epoch, exact (no float on the way); None if it is not a time."""
    match = _MTIME.fullmatch(text)
    if match is None:
        return None
    sign, seconds, fraction = match.groups()
    nanoseconds = int(seconds) * 10**9 + int((fraction or "0")[:9].ljust(9, "0"))
    return -nanoseconds if sign else nanoseconds


def parse_mode(text: str) -> int | None:
    """An st_mode from s3fs' decimal or rclone's octal notation; None if it is neither.

    Of a number that could be both (octal FIFOs and character devices) the decimal reading wins,
    because s3fs would read it so."""
    if _NUMBER.fullmatch(text) is None:
        return None
    if not text.startswith("0") or text == "0":
        decimal = int(text)
        if decimal <= _PERMISSIONS or _is_file_mode(decimal):
            return decimal
    try:
        octal = int(text, 8)
    except ValueError:
        return None
    return octal if octal <= _PERMISSIONS or _is_file_mode(octal) else None


def _is_file_mode(mode: int) -> bool:
    return stat.S_IFMT(mode) in _KINDS and mode == stat.S_IFMT(mode) | stat.S_IMODE(mode)


def encode_value(value: str) -> str:
    """A metadata value as it may stand in a header."""
    if not value or (_PLAIN_VALUE.fullmatch(value) and "=?" not in value):
        return value
    encoded = base64.b64encode(value.encode("utf-8", "surrogateescape")).decode("ascii")
    return f"=?UTF-8?B?{encoded}?="


def decode_value(value: str) -> str:
    """The inverse of encode_value, and of what other clients and AWS encode alike."""
    if "=?" not in value:
        return value
    try:
        return str(make_header(decode_header(value)))
    except (HeaderParseError, LookupError, UnicodeDecodeError, binascii.Error):
        return value  # it only looks like an encoded word: somebody's own text


@dataclass(frozen=True, slots=True)
class ObjectFields:
    """StoredAttributes as the parameters of an S3 request."""

    metadata: dict[str, str]
    content_type: str | None
    headers: dict[str, str]
    tagging: str
    """URL-encoded for x-amz-tagging; empty where there are no tags or no tagging."""


def to_object(
    attributes: StoredAttributes, size_bytes: int | None, store_etag: str | None, *, tagging: bool
) -> ObjectFields:
    """How an object with these attributes is stored.

    size_bytes None: not known yet, and so what is bound to it cannot be kept. store_etag: what the
    store is going to call these bytes, where that is known; the same ETag is not written twice.

    What a client attached comes first: where that leaves no room in METADATA_BYTES_MAX, what can
    be done without is left out."""
    metadata = {
        _CLIENTS + name if name.startswith(_OURS) else name: encode_value(value)
        for name, value in attributes.metadata.items()
    }
    metadata |= {_OURS + name: value for name, value in attributes.own.items()}
    bits = type_bits(attributes.kind)
    if attributes.mode is not None or attributes.kind not in (Kind.FILE, Kind.DIRECTORY):
        permissions = 0o777 if attributes.mode is None else attributes.mode & _PERMISSIONS
        metadata["mode"] = str(bits | permissions)
    if attributes.uid is not None:
        metadata["uid"] = str(attributes.uid)
    if attributes.gid is not None:
        metadata["gid"] = str(attributes.gid)
    if attributes.mtime_ns is not None:
        metadata["mtime"] = format_mtime(attributes.mtime_ns)
    if attributes.rdev:
        metadata["rdev"] = str(attributes.rdev)
    if size_bytes is not None:
        metadata |= _bound_fields(attributes, size_bytes, store_etag)
        if attributes.origin:
            metadata[_ORIGIN] = f"{attributes.origin} {size_bytes} {_time_of(attributes)}"
    tags = urlencode(dict(attributes.tags))
    if tags and not tagging:
        metadata[_TAGS] = tags
    if attributes.kind in (Kind.FILE, Kind.DIRECTORY):
        _make_room(metadata)
    content_type = attributes.content_type
    if attributes.kind == Kind.DIRECTORY:
        content_type = content_type or DIRECTORY_TYPE
    return ObjectFields(metadata, content_type, dict(attributes.headers), tags if tagging else "")


def late_tags(
    attributes: StoredAttributes, size_bytes: int, store_etag: str, begun: StoredAttributes | None
) -> dict[str, str]:
    """All tags of a new object, if some have to be added: what is bound to its size, and was not
    said in its metadata when it was `begun` (None: nothing of it was)."""
    late = _bound_fields(attributes, size_bytes, store_etag)
    if begun is not None:
        late = dict(late.items() - _bound_fields(begun, size_bytes, None).items())
    late = {name: value for name, value in late.items() if len(value) <= _TAG_VALUE_MAX}
    if not late or len(attributes.tags) + len(late) > TAGS_MAX:
        return {}
    return dict(attributes.tags) | late


def _bound_fields(
    attributes: StoredAttributes, size_bytes: int, store_etag: str | None
) -> dict[str, str]:
    bound_to = f"{size_bytes} {_time_of(attributes)}"
    fields = {}
    if attributes.s3_etag and attributes.s3_etag != store_etag:
        fields[_ETAG] = f"{attributes.s3_etag} {bound_to}"
    if attributes.checksums:
        fields[_CHECKSUMS] = f"{attributes.checksums} {bound_to}"
    return fields


def _time_of(attributes: StoredAttributes) -> str:
    return "-" if attributes.mtime_ns is None else format_mtime(attributes.mtime_ns)


def _make_room(metadata: dict[str, str]) -> None:
    """Leave out what a file can do without until the rest fits."""
    for name in _DISPENSABLE:
        if sum(len(n) + len(value) for n, value in metadata.items()) <= METADATA_BYTES_MAX:
            return
        metadata.pop(name, None)


def from_object(
    key: bytes,
    *,
    size_bytes: int,
    store_etag: str,
    metadata: Mapping[str, str],
    content_type: str | None,
    headers: Mapping[str, str],
    tags: Mapping[str, str],
) -> StoredAttributes:
    """What an object of the store is; the symlink's target is left to the caller to read.

    Values of the POSIX names that are not numbers are somebody's own metadata and stay there."""
    rest = {name.lower(): decode_value(value) for name, value in metadata.items()}
    raw_mtime = rest.get("mtime", "-")
    mode = _take(rest, "mode", parse_mode)
    kind = kind_of(mode) if mode is not None else Kind.FILE
    if key.endswith(b"/"):
        kind = Kind.DIRECTORY
    elif kind == Kind.DIRECTORY:
        kind = Kind.FILE  # only a key that ends in / is a directory
    stored_tags = dict(tags)
    if _TAGS in rest:
        stored_tags.update(parse_qsl(rest.pop(_TAGS), keep_blank_values=True))
    if content_type == DEFAULT_TYPE or (kind == Kind.DIRECTORY and content_type == DIRECTORY_TYPE):
        content_type = None
    etag, checksums = (
        _bound(said or added, size_bytes, raw_mtime)
        for said, added in (
            (rest.pop(name, ""), stored_tags.pop(name, "")) for name in (_ETAG, _CHECKSUMS)
        )
    )
    origin = _bound(rest.pop(_ORIGIN, ""), size_bytes, raw_mtime)
    own = {name: rest.pop(_OURS + name) for name in OWN_NAMES if _OURS + name in rest}
    rest = {name.removeprefix(_CLIENTS): value for name, value in rest.items()}
    return StoredAttributes(
        kind=kind,
        mode=None if mode is None else mode & _PERMISSIONS,
        uid=_take(rest, "uid", _parse_number),
        gid=_take(rest, "gid", _parse_number),
        mtime_ns=_take(rest, "mtime", parse_mtime),
        rdev=_take(rest, "rdev", _parse_number) or 0,
        content_type=content_type,
        headers=dict(headers),
        metadata=rest,
        tags=stored_tags,
        s3_etag=etag or store_etag,
        own=own,
        checksums=checksums,
        origin=origin,
    )


def _take(metadata: dict[str, str], name: str, parse: Callable[[str], int | None]) -> int | None:
    """The parsed value, removed from the metadata; None, and left there, if it does not parse."""
    text = metadata.get(name)
    value = None if text is None else parse(text)
    if value is not None:
        del metadata[name]
    return value


def _parse_number(text: str) -> int | None:
    return int(text) if _NUMBER.fullmatch(text) else None


def _bound(text: str, size_bytes: int, mtime: str) -> str | None:
    """The first word, if the others are this size and time."""
    parts = text.split(" ")
    return parts[0] if parts[1:] == [str(size_bytes), mtime] else None
