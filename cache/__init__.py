"""Everything below the protocols: names, contents, segments, the index and the store behind.

Blocking and thread-safe. No event loop, no HTTP and no FUSE is imported here; both doors, the
mount and the S3 endpoint, go through `cache.volume`.
"""
