"""Every metric of the S3 door: name, unit, labels, meaning. `docs/metrics.md` lists the same."""

from __future__ import annotations

from functools import lru_cache

from prometheus_client import Counter, Gauge, Histogram

REQUESTS = Counter(
    "forebay_s3_requests",
    "Answered requests; code is the S3 error code, or OK",
    ["operation", "code"],
)
REQUEST_SECONDS = Histogram(
    "forebay_s3_request_seconds",
    "Time from a request's headers to the last byte of its answer",
    ["operation"],
    buckets=(0.0005, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0),
)
RECEIVED_BYTES = Counter("forebay_s3_received_bytes", "Payload bytes of PutObject and UploadPart")
SENT_BYTES = Counter("forebay_s3_sent_bytes", "Object bytes sent in answers to GetObject")
LOST_LOG_RECORDS = Counter(
    "forebay_s3_lost_log_records", "Lines of server access logs that could not be delivered"
)
CONNECTIONS = Gauge("forebay_s3_connections", "Open client connections of this process")


# Amazon's operations and error codes, so their number is bounded. Asking a metric for the one with
# these labels takes longer than counting.


@lru_cache(4096)
def requests_of(operation: str, code: str) -> Counter:
    return REQUESTS.labels(operation, code)


@lru_cache(256)
def request_seconds_of(operation: str) -> Histogram:
    return REQUEST_SECONDS.labels(operation)
