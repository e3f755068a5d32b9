"""What Amazon says of versions, as simply as can be: the model that ours is held against."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class Kept:
    """One version: `null` or an id, its bytes, None for a delete marker."""

    version_id: str
    body: bytes | None


@dataclass
class VersionedBucket:
    """Versions of each key, newest first."""

    status: str = ""
    keys: dict[bytes, list[Kept]] = field(default_factory=dict)

    def put(self, key: bytes, body: bytes | None, version_id: str) -> None:
        """version_id: what the bucket under test said; ignored unless versioning is enabled."""
        versions = self.keys.setdefault(key, [])
        if self.status != "Enabled":
            version_id = "null"
            versions[:] = [v for v in versions if v.version_id != "null"]
        versions.insert(0, Kept(version_id, body))

    def delete(self, key: bytes, marker_id: str) -> None:
        if self.status:
            self.put(key, None, marker_id)
        else:
            self.keys.pop(key, None)

    def delete_version(self, key: bytes, version_id: str) -> None:
        versions = self.keys.get(key, [])
        versions[:] = [v for v in versions if v.version_id != version_id]

    def get(self, key: bytes) -> bytes | None:
        versions = self.keys.get(key)
        return versions[0].body if versions else None

    def listed(self) -> list[tuple[bytes, str, bool, bool]]:
        """(key, id, is latest, is marker) in the order of ListObjectVersions."""
        return [
            (key, version.version_id, number == 0, version.body is None)
            for key, versions in sorted(self.keys.items())
            for number, version in enumerate(versions)
        ]
