"""The POSIX door: a pyfuse3 mount on trio, translating kernel requests to `cache.volume`.

One process. It never imports `s3api`; what it needs from the node is handed to it.
"""
