"""The chore that does what the lifecycle rules of buckets say.

What a rule means is in `s3api/lifecycle_rules.py`. An object goes only if it is, inside the commit
that removes it, still the one that was looked at. Objects are read in pages, so memory is bounded;
what cannot be removed now (the store does not answer) is tried again in the next round.
"""

from __future__ import annotations

import logging
import time

from cache.errors import CacheError, NoSuchKey, PreconditionFailed
from cache.publishing import Object
from cache.records import Bucket
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
            if current is None or not (
                rule.filter.fits(key, current.size, current.attributes.tags)
                and self._is_due(rule, current)
            ):
                raise PreconditionFailed("lifecycle")

        try:
            self._volume.objects.delete(bucket.name, key, check)
        except (NoSuchKey, PreconditionFailed):
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
