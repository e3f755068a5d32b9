"""What the kernel is told when the cache says no: one table from error classes to errno.

Every class of cache/errors.py has its own line, also where it inherits; a test walks the tree.
The tables of the two doors are twins: s3api/errors.py is the other one.
"""

from __future__ import annotations

import errno

from cache import errors

ERRNO: dict[type[errors.CacheError], int] = {
    errors.CacheError: errno.EIO,
    errors.NotFound: errno.ENOENT,
    errors.NoSuchBucket: errno.ENOENT,
    errors.NoSuchKey: errno.ENOENT,
    errors.NoSuchUser: errno.ENOENT,
    errors.NoSuchGroup: errno.ENOENT,
    errors.DeleteMarkerFound: errno.ENOENT,
    errors.NoSuchVersion: errno.ENOENT,
    # The kernel asked for a number whose inode is gone, replaced through the other door. ESTALE
    # makes it walk the path once more (path_lookup's LOOKUP_REVAL); ENOENT would be final.
    errors.NoSuchInode: errno.ESTALE,
    errors.NoSuchUpload: errno.ENOENT,
    errors.NoSuchMasterKey: errno.EIO,  # the S3 door's business
    errors.NoSuchAttribute: errno.ENODATA,
    errors.AlreadyExists: errno.EEXIST,
    errors.BucketExists: errno.EEXIST,
    errors.UserExists: errno.EEXIST,
    errors.NameExists: errno.EEXIST,
    errors.AttributeExists: errno.EEXIST,
    errors.NotEmpty: errno.ENOTEMPTY,
    errors.BucketNotEmpty: errno.ENOTEMPTY,
    errors.NotADirectory: errno.ENOTDIR,
    errors.IsADirectory: errno.EISDIR,
    errors.NameTooLong: errno.ENAMETOOLONG,
    # A name or a key that cannot exist: Linux's own file systems answer EINVAL (vfat, cifs).
    errors.InvalidName: errno.EINVAL,
    errors.InvalidKey: errno.EINVAL,
    errors.CrossesBucket: errno.EXDEV,  # mv(1) then copies and deletes
    errors.NotPermitted: errno.EPERM,
    errors.StoreNotCreatable: errno.EPERM,
    errors.ObjectLocked: errno.EPERM,
    errors.VersioningFixed: errno.EPERM,
    errors.NotSupported: errno.ENOTSUP,
    errors.TooManyLinks: errno.EMLINK,
    errors.RenameIntoItself: errno.EINVAL,
    errors.AttributeTooLarge: errno.E2BIG,  # setxattr(2) on each of these three
    errors.AttributeInvalid: errno.EINVAL,
    errors.AttributesFull: errno.ENOSPC,
    # Conditions and parts belong to S3 requests; none can come up here.
    errors.PreconditionFailed: errno.EIO,
    errors.InvalidPart: errno.EIO,
    errors.InvalidPartOrder: errno.EIO,
    errors.PartTooSmall: errno.EIO,
    # As NFS says it: the file you opened is there no more, open it again.
    errors.StaleContent: errno.ESTALE,
    errors.ExtentCorrupt: errno.EIO,
    errors.SealBroken: errno.EIO,
    errors.SealedContent: errno.EACCES,
    errors.OutOfSpace: errno.ENOSPC,
    errors.CacheFull: errno.ENOSPC,
    errors.DirtyLimit: errno.ENOSPC,
    errors.IndexFull: errno.ENOSPC,
    errors.DeadlineExceeded: errno.ETIMEDOUT,
    errors.WouldWait: errno.EAGAIN,  # never leaves a handler: it goes on in a thread
    errors.FormatMismatch: errno.EIO,
    errors.StoreError: errno.EIO,
    errors.StoreUnavailable: errno.EIO,
    # Debatable: a refusal is mostly one of rights, so EACCES leads the operator to the store's
    # credentials; EIO would look like a broken disk.
    errors.StoreRefused: errno.EACCES,
    errors.StoreFull: errno.ENOSPC,
    errors.StoreOverQuota: errno.EDQUOT,
    errors.StoreNotFound: errno.ENOENT,
    errors.StoreChanged: errno.ESTALE,
    errors.StoreCorrupt: errno.EIO,
}


def errno_of(error: errors.CacheError) -> int:
    """The errno of the error's class, or of the nearest class above it that the table knows."""
    return next(ERRNO[kind] for kind in type(error).__mro__ if kind in ERRNO)
