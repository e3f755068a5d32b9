"""Every metric of the cache: name, unit, labels, meaning. `docs/metrics.md` lists the same."""

from __future__ import annotations

from prometheus_client import Counter, Histogram

COMMIT_SECONDS = Histogram(
    "forebay_index_commit_seconds",
    "Time of one synced index commit",
    buckets=(0.0001, 0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 1.0),
)
COMMIT_BATCH = Histogram(
    "forebay_index_commit_changes",
    "Changes that shared one commit",
    buckets=(1, 2, 4, 8, 16, 32, 64, 128),
)
FETCHED_BYTES = Counter("forebay_fetched_bytes", "Bytes read from the stores")
PERSISTED_BYTES = Counter("forebay_persisted_bytes", "Bytes written to the stores")
PERSIST_FAILURES = Counter("forebay_persist_failures", "Attempts to persist a name that failed")
EVICTED_BYTES = Counter("forebay_evicted_bytes", "Clean bytes dropped from the cache")
MOVED_BYTES = Counter("forebay_moved_bytes", "Bytes rewritten to free a segment")
CORRUPT_EXTENTS = Counter(
    "forebay_corrupt_extents", "Extents whose checksum did not match", ["state"]
)
FORGET_TIMEOUTS = Counter(
    "forebay_forget_timeouts", "Commits whose change the mount did not confirm in time"
)
