"""The chore that does what the lifecycle rules of buckets say.

What a rule means is in `s3api/lifecycle_rules.py`. An object goes only if it is, inside the commit
that removes it, still the one that was looked at. Objects are read in pages, so memory is bounded;
what cannot be removed now (the store does not answer) is tried again in the next round.

In a versioned bucket an object that expires leaves a delete marker, as any deletion does. A
noncurrent version's age counts from when the next newer one was made; what object lock protects
stays.
"""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass

from cache.errors import (
    CacheError,
    NoSuchKey,
    NotSupported,
    ObjectLocked,
    PreconditionFailed,
)
from cache.publishing import Object
from cache.records import Bucket
from cache.version_listing import ListedVersion
from cache.versions import NULL, Leaf, is_versioned
from cache.volume import Volume
from s3api import lifecycle_rules
from s3api.lifecycle_rules import Rule, after_days, age_since_ns

log = logging.getLogger(__name__)

_PAGE = 500


class Lifecycle:
    """Blocking; for one thread of the mover."""

    def __init__(self, volume: Volume, day_s: int) -> None:
        """day_s: seconds of a day of the rules."""
        self._volume = volume
        self._day_s = day_s

    @property
    def every_s(self) -> float:
        """A pause between rounds that keeps what is due within a small part of a day."""
        return min(3600.0, self._day_s / 8)

    def run_once(self) -> int:
        """Apply the rules of every bucket; how much was removed."""
        removed = 0
        for bucket in self._volume.buckets.list():
            text = bucket.settings.get(lifecycle_rules.DOCUMENT)
            if text is None:
                continue
            for rule in lifecycle_rules.enabled_rules(text):
                try:
                    count = self._apply(bucket, rule)
                except CacheError as exc:
                    log.warning("lifecycle of %s, rule %r: %s", bucket.name, rule.id, exc)
                    continue
                if count:
                    log.info("lifecycle of %s, rule %r: %d removed", bucket.name, rule.id, count)
                removed += count
        return removed

    def _apply(self, bucket: Bucket, rule: Rule) -> int:
        removed = 0
        if rule.expires:
            removed += self._expire(bucket, rule)
        if is_versioned(bucket) and _is_about_versions(rule):
            removed += self._expire_versions(bucket, rule)
        if rule.abort_days is not None:
            removed += self._abort(bucket, rule, rule.abort_days)
        return removed

    def _expire(self, bucket: Bucket, rule: Rule) -> int:
        """Remove current objects whose time has come."""
        objects = self._volume.objects
        removed = 0
        after = b""
        while True:
            page = objects.list(bucket.name, prefix=rule.filter.prefix, after=after, limit=_PAGE)
            for entry in page.entries:
                if isinstance(entry, Object) and self._is_due(rule, entry):
                    removed += self._remove(bucket, rule, entry.key)
            if not page.truncated:
                return removed
            after = page.last

    def _is_due(self, rule: Rule, found: Object) -> bool:
        end_ns = rule.expiry_ns(age_since_ns(found), self._day_s)
        return end_ns is not None and end_ns <= time.time_ns()

    def _remove(self, bucket: Bucket, rule: Rule, key: bytes) -> bool:
        """Remove an object if the rule is about it: its tags are looked at now."""

        def check(current: Object | None) -> None:
            if (
                current is None
                or current.is_marker
                or not (
                    rule.filter.fits(key, current.size, current.attributes.tags)
                    and self._is_due(rule, current)
                )
            ):
                raise PreconditionFailed("lifecycle")

        try:
            self._volume.objects.delete(bucket.name, key, check)
        except (NoSuchKey, PreconditionFailed):
            return False
        except NotSupported as exc:  # bytes under a key that ends in `/`, older than versioning
            log.warning("lifecycle of %s, rule %r: %s", bucket.name, rule.id, exc)
            return False
        return True

    def _expire_versions(self, bucket: Bucket, rule: Rule) -> int:
        """Remove noncurrent versions whose time has come, and delete markers that are left over."""
        objects = self._volume.objects
        removed = 0
        history: _History | None = None
        after, after_version = b"", None
        while True:
            page = objects.list_versions(
                bucket.name,
                prefix=rule.filter.prefix,
                after=after,
                after_version=after_version,
                limit=_PAGE,
            )
            for entry in page.entries:
                if not isinstance(entry, ListedVersion):
                    continue
                found = entry.object
                if history is None or history.key != found.key:
                    removed += self._remove_marker(bucket, rule, history)
                    history = _History(found.key, found, entry.is_latest and found.is_marker)
                    continue
                if self._is_version_due(rule, history, found):
                    removed += self._remove_version(bucket, found)
                history.pass_by(found)
            if not page.truncated:
                return removed + self._remove_marker(bucket, rule, history)
            after, after_version = page.last_key, page.last_version

    def _is_version_due(self, rule: Rule, history: _History, found: Object) -> bool:
        if rule.noncurrent_days is None or history.noncurrent_count < rule.newer_noncurrent:
            return False
        end_ns = after_days(_made_ns(history.newer), rule.noncurrent_days, self._day_s)
        return end_ns <= time.time_ns() and rule.filter.fits(
            found.key, found.size, found.attributes.tags
        )

    def _remove_marker(self, bucket: Bucket, rule: Rule, history: _History | None) -> bool:
        """Remove a delete marker that is all there is of its key."""
        if history is None or not history.is_marker or history.noncurrent_count:
            return False
        marker = history.newer
        if not rule.filter.fits(marker.key, 0, {}):
            return False
        end_ns = rule.expiry_ns(_made_ns(marker), self._day_s)
        due = end_ns is not None and end_ns <= time.time_ns()
        return (rule.removes_markers or due) and self._remove_version(bucket, marker)

    def _remove_version(self, bucket: Bucket, found: Object) -> bool:
        try:
            self._volume.objects.delete(bucket.name, found.key, version_id=found.version_id)
        except (NoSuchKey, ObjectLocked):
            return False
        return True

    def _abort(self, bucket: Bucket, rule: Rule, days: int) -> int:
        """Abort uploads that were begun too long ago."""
        uploads = self._volume.uploads
        old = [
            upload
            for upload in uploads.list(bucket.name)
            if upload.key.startswith(rule.filter.prefix)
            and after_days(upload.initiated_ns, days, self._day_s) <= time.time_ns()
        ]
        for upload in old:
            uploads.abort(upload)
        return len(old)


@dataclass(slots=True)
class _History:
    """The versions of one key, as they are passed by from the newest on."""

    key: bytes
    newer: Object
    """The one before: its making made the next one noncurrent."""
    is_marker: bool
    """The newest is a delete marker."""
    noncurrent_count: int = 0

    def pass_by(self, found: Object) -> None:
        self.newer = found
        self.noncurrent_count += 1


def _is_about_versions(rule: Rule) -> bool:
    return rule.noncurrent_days is not None or rule.removes_markers or rule.expires


def _made_ns(found: Object) -> int:
    """When a version was made: its id says it, but for the null version's."""
    if found.version_id in (None, NULL):
        return found.modified_ns
    return Leaf(b"", found.version_id or "", is_marker=False).made_ns
