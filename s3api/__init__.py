"""The S3 door: an HTTP endpoint on aiohttp, translating S3 operations to `cache.volume`.

Any number of processes. It never imports `fuse`; what it needs from the node is handed to it.
"""
