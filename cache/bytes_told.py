"""Checksums and sizes of parts of an object as the store keeps them: what S3 clients are told of
its bytes, and nothing in the bytes says again.

One word, `TYPE:PARTS[:ALGORITHM:VALUE]…`: TYPE is FULL_OBJECT, COMPOSITE or empty, PARTS the sizes
of the parts of a multipart upload in order, `COUNTxBYTES` joined by `+`, or empty; VALUE as S3
shows it. The store believes it only while the object has the size and time that it was kept with.

Not kept: the checksums of single parts, which are as many as there are parts, sizes in more than
RUNS_MAX runs, and anything of an encrypted object. A checksum of its plaintext would let whoever
reads the store recognise what it is; the sizes of its parts are in its own record. Pure.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import groupby

import msgspec

from cache.records import ObjectAttributes

RUNS_MAX = 8
PARTS_MAX = 10_000

_ALGORITHM = re.compile(r"[A-Z0-9]{1,16}", re.ASCII)
_VALUE = re.compile(r"[A-Za-z0-9+/]{4,128}={0,2}(-\d{1,5})?", re.ASCII)
_RUN = re.compile(r"([1-9]\d{0,4})x(\d{1,13})", re.ASCII)
_TYPES = ("", "FULL_OBJECT", "COMPOSITE")


def bytes_told(attributes: ObjectAttributes) -> str | None:
    """The record; None where there is nothing to keep."""
    if "encryption" in attributes.own or not (attributes.checksums or attributes.part_sizes):
        return None
    fields = [attributes.checksum_type, _runs(attributes.part_sizes)]
    for algorithm, value in attributes.checksums.items():
        fields += [algorithm, value]
    return ":".join(fields)


def with_bytes_told(
    attributes: ObjectAttributes, record: str | None, size_bytes: int
) -> ObjectAttributes:
    """The attributes with what a record says of an object of size_bytes; what cannot be said of it,
    or not by us, is ignored."""
    fields = (record or "").split(":")
    kind, runs, *pairs = fields if len(fields) > 1 else ["?", ""]
    algorithms, values = pairs[::2], pairs[1::2]
    if (
        kind not in _TYPES
        or len(algorithms) != len(values)
        or not all(map(_ALGORITHM.fullmatch, algorithms))
        or not all(map(_VALUE.fullmatch, values))
    ):
        return attributes
    sizes = _sizes(runs)
    return msgspec.structs.replace(
        attributes,
        checksums=dict(zip(algorithms, values, strict=True)),
        checksum_type=kind,
        part_sizes=sizes if sum(sizes) == size_bytes else [],
    )


def _runs(sizes: Sequence[int]) -> str:
    runs = [(len(list(group)), size) for size, group in groupby(sizes)]
    if len(runs) > RUNS_MAX:
        return ""
    return "+".join(f"{count}x{size}" for count, size in runs)


def _sizes(text: str) -> list[int]:
    matches = [_RUN.fullmatch(run) for run in text.split("+")]
    runs = [(int(match[1]), int(match[2])) for match in matches if match is not None]
    if len(runs) != len(matches) or sum(count for count, _ in runs) > PARTS_MAX:
        return []
    return [size for count, size in runs for _ in range(count)]
