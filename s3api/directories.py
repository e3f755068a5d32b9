"""Directories of a bucket as buckets of their own, `bucket:dir:subdir`, as Alluxio has them
(`s3.directories_as_buckets`).

Such a name is a way of writing keys and nothing else: before anything is decided about a request,
its keys, prefixes and markers become those of the bucket, so authentication, policies, ACLs, locks
and logs are about the bucket and the whole key. In an answer they lose the directory again. No name
leads out of the bucket: its parts are joined to the front of the key, and keys are no paths.

What is the bucket's own (its documents, making and removing it) is not to be had by such a name,
and no forms: what a form's policy says of a key would be said of its end only. Pure.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from s3api.errors import S3Error

SEPARATOR = ":"
LISTINGS = frozenset(
    {"HeadBucket", "ListMultipartUploads", "ListObjectVersions", "ListObjects", "ListObjectsV2"}
)
"""Operations of a bucket that are about the directory: it must be there."""
_OFFERED = LISTINGS | {"DeleteObjects", "GetBucketLocation", "GetBucketVersioning"}
_AFTER = {
    "ListObjects": "Marker",
    "ListObjectsV2": "StartAfter",
    "ListObjectVersions": "KeyMarker",
    "ListMultipartUploads": "KeyMarker",
}
"""The member that says behind which key a page begins."""
_SHOWN = frozenset(
    {"Key", "KeyMarker", "Marker", "NextKeyMarker", "NextMarker", "Prefix", "StartAfter"}
)
_BUCKET = frozenset({"Bucket", "Name"})


@dataclass(frozen=True, slots=True)
class Directory:
    """A directory that is asked for as a bucket."""

    name: str  # as it is written
    prefix: bytes  # of the keys in it; ends in `/`

    @classmethod
    def split(cls, name: str) -> tuple[str, Directory]:
        """The bucket, and the directory in it, that `bucket:dir:…` names. InvalidBucketName."""
        bucket, *parts = name.split(SEPARATOR)
        if any(not part or part in (".", "..") or "/" in part or "\0" in part for part in parts):
            raise S3Error("InvalidBucketName", BucketName=name)
        return bucket, cls(name, "".join(part + "/" for part in parts).encode())

    def check_offered(self, operation: str, level: str) -> None:
        """NotImplemented for what only a bucket has."""
        if level == "bucket" and operation not in _OFFERED:
            raise S3Error("NotImplemented", f"{operation}: {self.name} is a directory of a bucket")

    def inward(self, operation: str, values: Mapping[str, Any]) -> dict[str, Any]:
        """A request's members, about the bucket. The directory itself is none of its keys."""
        found = dict(values)
        after = _AFTER.get(operation)
        if after is None:
            return found
        front = self.prefix.decode()
        found["Prefix"] = front + found.get("Prefix", "")
        if found.get(after) or not found.get("VersionIdMarker"):
            found[after] = front + found.get(after, "")
        return found

    def outward(self, output: Mapping[str, Any]) -> dict[str, Any]:
        """What is answered, about the directory."""
        shown = self._shown(output)
        return shown | dict.fromkeys(_BUCKET & shown.keys(), self.name)

    def _shown(self, output: Mapping[str, Any]) -> dict[str, Any]:
        return {
            name: self._stripped(value) if name in _SHOWN else self._inner(name, value)
            for name, value in output.items()
        }

    def _inner(self, name: str, value: Any) -> Any:
        if isinstance(value, list) and name != "TagSet":  # whose keys are those of tags
            return [self._shown(each) if isinstance(each, dict) else each for each in value]
        return value

    def _stripped(self, value: Any) -> Any:
        """A key or prefix as it is, or in the encoding `url`."""
        if not isinstance(value, str):
            return value
        for front in (self.prefix.decode(), quote(self.prefix, safe="/*")):
            if value.startswith(front):
                return value[len(front) :]
        return value
