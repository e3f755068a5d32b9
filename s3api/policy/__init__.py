"""Policies in IAM's JSON: read and checked, matched against a request, found public or not.

Pure: no I/O, no clock, no index, nothing of HTTP. `documents.py` reads and checks, `evaluation.py`
decides, on `patterns.py` and `conditions.py`; `publicity.py` says whether a policy opens a bucket
to everybody. Follows "IAM JSON policy reference" in Amazon's IAM user guide and "Policies and
permissions in Amazon S3". Callable from any thread.
"""
