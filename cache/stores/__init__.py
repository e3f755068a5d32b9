"""The stores a cache stands in front of: a directory or an S3 bucket, behind one contract.

`base` states the contract; what is kept in a store is plain objects and files that other
programs read and write too.
"""
