"""One table of S3 errors, and one from the cache's errors to them.

Every refusal that leaves the S3 door is an `S3Error`; its code decides the HTTP status and the
message here, in `CODES`. What the cache raises is translated by `from_cache`, in `CACHE_CODES`:
a test walks the tree of `cache.errors` and fails on a class that the table does not know.
Codes, statuses and messages follow Amazon's list of error responses.
"""

from __future__ import annotations

import errno
import re

from cache import errors as cache_errors

CODES: dict[str, tuple[int, str]] = {
    "AccessControlListNotSupported": (400, "The bucket does not allow ACLs"),
    "AccessDenied": (403, "Access Denied"),
    "AccessForbidden": (403, "Access forbidden"),
    "AuthorizationHeaderMalformed": (
        400,
        "The authorization header that you provided is not valid.",
    ),
    "AuthorizationQueryParametersError": (
        400,
        "Error parsing the X-Amz-Credential parameter; the query authentication is incomplete.",
    ),
    "BadDigest": (
        400,
        (
            "The Content-MD5 or checksum value that you specified did not match what the server"
            " received."
        ),
    ),
    "BadRequest": (400, "An error occurred when parsing the HTTP request."),
    "BucketAlreadyExists": (
        409,
        (
            "The requested bucket name is not available. The bucket namespace is shared by all"
            " users of the system. Specify a different name and try again."
        ),
    ),
    "BucketAlreadyOwnedByYou": (
        409,
        "The bucket that you tried to create already exists, and you own it.",
    ),
    "BucketNotEmpty": (409, "The bucket you tried to delete is not empty."),
    "ConditionalRequestConflict": (
        409,
        (
            "The conditional request cannot succeed due to a conflicting operation against this"
            " resource."
        ),
    ),
    "EntityTooLarge": (400, "Your proposed upload exceeds the maximum allowed object size."),
    "EntityTooSmall": (
        400,
        "Your proposed upload is smaller than the minimum allowed object size.",
    ),
    "ExpiredToken": (400, "The provided token has expired."),
    "IncompleteBody": (
        400,
        "You did not provide the number of bytes specified by the Content-Length HTTP header.",
    ),
    "InternalError": (500, "We encountered an internal error. Please try again."),
    "IllegalVersioningConfigurationException": (
        400,
        "The versioning configuration specified in the request is invalid.",
    ),
    "InvalidAccessKeyId": (
        403,
        "The AWS access key ID that you provided does not exist in our records.",
    ),
    "InvalidArgument": (400, "Invalid Argument"),
    "InvalidBucketAclWithObjectOwnership": (
        400,
        "Bucket cannot have ACLs set with ObjectOwnership's BucketOwnerEnforced setting",
    ),
    "InvalidBucketName": (400, "The specified bucket is not valid."),
    "InvalidBucketState": (
        409,
        "The request is not valid with the current state of the bucket.",
    ),
    "InvalidChunkSizeError": (
        403,
        "Only the last chunk is allowed to have a size less than 8192 bytes",
    ),
    "InvalidDigest": (400, "The Content-MD5 or checksum value that you specified is not valid."),
    "InvalidEncryptionAlgorithmError": (
        400,
        "The Encryption request you specified is not valid. Supported value: AES256.",
    ),
    "InvalidLocationConstraint": (400, "The specified location (Region) constraint is not valid."),
    "InvalidPolicyDocument": (
        400,
        "The content of the form does not meet the conditions specified in the policy document.",
    ),
    "InvalidObjectState": (403, "The operation is not valid for the object's storage class."),
    "InvalidPart": (
        400,
        (
            "One or more of the specified parts could not be found. The part might not have been"
            " uploaded, or the specified entity tag might not have matched the part's entity tag."
        ),
    ),
    "InvalidPartNumber": (416, "The requested partnumber is not satisfiable"),
    "InvalidPartOrder": (
        400,
        (
            "The list of parts was not in ascending order. Parts list must be specified in order"
            " by part number."
        ),
    ),
    "InvalidRange": (416, "The requested range is not satisfiable"),
    "InvalidRedirectLocation": (
        400,
        "The website redirect location must have a prefix of 'http://' or 'https://' or '/'.",
    ),
    "InvalidRequest": (400, "Invalid Request"),
    "InvalidStorageClass": (400, "The storage class you specified is not valid."),
    "InvalidTag": (400, "The tag provided was not a valid tag."),
    "InvalidTargetBucketForLogging": (
        400,
        (
            "The target bucket for logging does not exist, is not owned by you, or does not have"
            " the appropriate grants for the log-delivery group."
        ),
    ),
    "InvalidToken": (400, "The provided token is malformed or otherwise not valid."),
    "InvalidURI": (400, "Couldn't parse the specified URI."),
    "KMS.NotFoundException": (
        400,
        ("The request was rejected because the specified entity or resource could not be found."),
    ),
    "KeyTooLongError": (400, "Your key is too long."),
    "MalformedACLError": (
        400,
        "The XML that you provided was not well formed or did not validate against our schema.",
    ),
    "MalformedPolicy": (400, "Policies must be valid JSON and the first byte must be '{'"),
    "MalformedPOSTRequest": (
        400,
        "The body of your POST request is not well-formed multipart/form-data.",
    ),
    "MalformedTrailerError": (
        400,
        (
            "The request contained trailing data that was not well-formed or did not conform to our"
            " published schema."
        ),
    ),
    "MalformedXML": (
        400,
        ("The XML that you provided was not well formed or did not validate against our schema."),
    ),
    "MaxMessageLengthExceeded": (400, "Your request was too large."),
    "MaxPostPreDataLengthExceededError": (
        400,
        "Your POST request fields preceding the upload file were too large.",
    ),
    "MetadataTooLarge": (
        400,
        "Your metadata headers exceed the maximum allowed metadata size.",
    ),
    "MethodNotAllowed": (405, "The specified method is not allowed against this resource."),
    "MissingContentLength": (411, "You must provide the Content-Length HTTP header."),
    "MissingSecurityHeader": (400, "Your request is missing a required header."),
    "NoSuchBucket": (404, "The specified bucket does not exist"),
    "NoSuchBucketPolicy": (404, "The bucket policy does not exist"),
    "NoSuchCORSConfiguration": (404, "The CORS configuration does not exist"),
    "NoSuchKey": (404, "The specified key does not exist."),
    "NoSuchConfiguration": (404, "The specified configuration does not exist."),
    "NoSuchLifecycleConfiguration": (404, "The lifecycle configuration does not exist"),
    "NoSuchTagSet": (404, "The TagSet does not exist"),
    "NoSuchPublicAccessBlockConfiguration": (
        404,
        "The public access block configuration was not found",
    ),
    "NoSuchUpload": (
        404,
        (
            "The specified multipart upload does not exist. The upload ID may be invalid, or the"
            " upload may have been aborted or completed."
        ),
    ),
    "NoSuchVersion": (404, "The specified version does not exist."),
    "NoSuchObjectLockConfiguration": (
        404,
        "The specified object does not have a ObjectLock configuration.",
    ),
    "ObjectLockConfigurationNotFoundError": (
        404,
        "Object Lock configuration does not exist for this bucket.",
    ),
    "NotImplemented": (
        501,
        "A header or query you provided implies functionality that is not implemented.",
    ),
    "NotModified": (304, "Not Modified"),
    "NoSuchWebsiteConfiguration": (
        404,
        "The specified bucket does not have a website configuration",
    ),
    "OwnershipControlsNotFoundError": (404, "The bucket ownership controls were not found"),
    "PreconditionFailed": (
        412,
        "At least one of the preconditions that you specified did not hold.",
    ),
    "ReplicationConfigurationNotFoundError": (
        404,
        "The replication configuration was not found",
    ),
    "RequestHeaderSectionTooLarge": (
        400,
        "Your request header section exceeds the maximum allowed request header section size.",
    ),
    "RequestTimeTooSkewed": (
        403,
        "The difference between the request time and the server's time is too large.",
    ),
    "RequestTimeout": (
        400,
        (
            "Your socket connection to the server was not read from or written to within the"
            " timeout period."
        ),
    ),
    "ServerSideEncryptionConfigurationNotFoundError": (
        404,
        "The server side encryption configuration was not found",
    ),
    "ServiceUnavailable": (503, "Service is unable to handle request."),
    "SignatureDoesNotMatch": (
        403,
        (
            "The request signature that the server calculated does not match the signature that"
            " you provided. Check your secret access key and signing method."
        ),
    ),
    "SlowDown": (503, "Please reduce your request rate."),
    "UnexpectedContent": (400, "This request contains unsupported content."),
    "UnresolvableGrantByEmailAddress": (
        400,
        "The email address that you provided does not match any account on record.",
    ),
    "XAmzContentSHA256Mismatch": (
        400,
        "The provided 'x-amz-content-sha256' header does not match what was computed.",
    ),
}

CACHE_CODES: dict[type[cache_errors.CacheError], str] = {
    cache_errors.CacheError: "InternalError",
    cache_errors.NotFound: "NoSuchKey",
    cache_errors.NoSuchBucket: "NoSuchBucket",
    cache_errors.NoSuchKey: "NoSuchKey",
    cache_errors.DeleteMarkerFound: "NoSuchKey",
    cache_errors.NoSuchVersion: "NoSuchVersion",
    cache_errors.NoSuchInode: "NoSuchKey",
    cache_errors.NoSuchUpload: "NoSuchUpload",
    # Of an object that is there: its key file was lost. A key that a request names is answered
    # where it is read (encryption.py).
    cache_errors.NoSuchMasterKey: "InternalError",
    cache_errors.NoSuchAttribute: "InternalError",  # the mount's business, never S3's
    cache_errors.NoSuchUser: "InternalError",  # the command line's business
    cache_errors.NoSuchGroup: "InternalError",
    cache_errors.AlreadyExists: "InternalError",
    cache_errors.UserExists: "InternalError",
    cache_errors.BucketExists: "BucketAlreadyExists",
    cache_errors.NameExists: "InternalError",
    cache_errors.AttributeExists: "InternalError",
    cache_errors.NotEmpty: "InternalError",
    cache_errors.BucketNotEmpty: "BucketNotEmpty",
    cache_errors.NotADirectory: "InternalError",
    cache_errors.IsADirectory: "InternalError",
    cache_errors.NameTooLong: "KeyTooLongError",
    cache_errors.InvalidName: "InvalidURI",
    cache_errors.InvalidKey: "InvalidURI",
    cache_errors.CrossesBucket: "InternalError",
    cache_errors.NotPermitted: "AccessDenied",
    cache_errors.StoreNotCreatable: "AccessDenied",
    cache_errors.ObjectLocked: "AccessDenied",
    cache_errors.VersioningFixed: "InvalidBucketState",
    cache_errors.NotSupported: "NotImplemented",
    cache_errors.TooManyLinks: "InternalError",
    cache_errors.RenameIntoItself: "InternalError",
    cache_errors.AttributeTooLarge: "MetadataTooLarge",
    cache_errors.AttributeInvalid: "InternalError",
    cache_errors.AttributesFull: "InternalError",
    cache_errors.PreconditionFailed: "PreconditionFailed",
    cache_errors.InvalidPart: "InvalidPart",
    cache_errors.InvalidPartOrder: "InvalidPartOrder",
    cache_errors.PartTooSmall: "EntityTooSmall",
    # A retry of the client reads the new version whole.
    cache_errors.StaleContent: "ServiceUnavailable",
    cache_errors.ExtentCorrupt: "InternalError",
    cache_errors.SealBroken: "InternalError",
    cache_errors.SealedContent: "InternalError",  # the mount's business, never S3's
    cache_errors.OutOfSpace: "SlowDown",
    cache_errors.CacheFull: "SlowDown",
    cache_errors.DirtyLimit: "SlowDown",
    # Not temporary, yet 5xx: S3 has no code for a full server, and clients must not take it for
    # their own mistake.
    cache_errors.IndexFull: "ServiceUnavailable",
    cache_errors.DeadlineExceeded: "ServiceUnavailable",
    cache_errors.WouldWait: "ServiceUnavailable",  # the mount asks so, no gateway does
    cache_errors.FormatMismatch: "InternalError",
    cache_errors.StoreError: "ServiceUnavailable",
    cache_errors.StoreUnavailable: "ServiceUnavailable",
    cache_errors.StoreRefused: "AccessDenied",
    cache_errors.StoreFull: "SlowDown",
    cache_errors.StoreOverQuota: "SlowDown",
    cache_errors.StoreNotFound: "NoSuchKey",
    cache_errors.StoreChanged: "ServiceUnavailable",
    cache_errors.StoreCorrupt: "ServiceUnavailable",
}


class S3Error(Exception):
    """A refusal with Amazon's code. `fields` become elements of the error document, `headers`
    go on the response; neither may hold what the client is not allowed to know."""

    def __init__(
        self,
        code: str,
        message: str | None = None,
        /,
        *,
        headers: dict[str, str] | None = None,
        **fields: str,
    ) -> None:
        self.code = code
        self.status, default = CODES[code]
        self.message = message or default
        self.headers = headers or {}
        self.fields = fields
        super().__init__(f"{code}: {self.message}")


def from_cache(error: cache_errors.CacheError) -> S3Error:
    """The S3 error that a client sees for an error of the cache. Details of the store or of the
    disk stay in the log."""
    for kind in type(error).__mro__:
        code = CACHE_CODES.get(kind)
        if code is not None:
            break
    else:  # unreachable: CacheError itself is in the table
        code = "InternalError"
    match error:
        case cache_errors.NoSuchBucket():
            return S3Error(code, BucketName=error.bucket)
        case cache_errors.BucketExists():
            return S3Error(code, BucketName=error.bucket)
        case cache_errors.NoSuchKey() | cache_errors.NoSuchVersion():
            return _missing(code, error)
        case cache_errors.NoSuchUpload():
            return S3Error(code, UploadId=error.upload_id)
        case cache_errors.PreconditionFailed():
            return S3Error(code, Condition=error.condition)
        case _ if CODES[code][0] == 503:
            return S3Error(code, headers={"Retry-After": "1"})
        case _:
            return S3Error(code)


def _missing(code: str, error: cache_errors.NoSuchKey | cache_errors.NoSuchVersion) -> S3Error:
    """What is said of a key, or of a version of it, that is not there."""
    key = error.key.decode("utf-8", "replace")
    match error:
        case cache_errors.DeleteMarkerFound():
            headers = {"x-amz-delete-marker": "true", "x-amz-version-id": error.version_id}
            return S3Error(code, headers=headers, Key=key)
        case cache_errors.NoSuchVersion():
            return S3Error(code, Key=key, VersionId=error.version_id)
        case _:
            return S3Error(code, Key=key)


_EXHAUSTED = {errno.ENOSPC, errno.EDQUOT, errno.EMFILE, errno.ENFILE, errno.ENOMEM}


def from_os(error: OSError) -> S3Error:
    """The S3 error for one of the operating system: what is used up now may be there later."""
    if error.errno in _EXHAUSTED:
        return S3Error("SlowDown", headers={"Retry-After": "1"})
    return S3Error("InternalError")


def not_implemented(what: str) -> S3Error:
    """A feature of S3 that Forebay knows by name and does not offer."""
    return S3Error("NotImplemented", f"{what} is not implemented.", Header=what)


def error_document(error: S3Error, *, resource: str, request_id: str, host_id: str) -> bytes:
    """The XML body of an error response."""
    fields = {
        "Code": error.code,
        "Message": error.message,
        **error.fields,
        "Resource": resource,
        "RequestId": request_id,
        "HostId": host_id,
    }
    body = "".join(f"<{name}>{xml_text(value)}</{name}>" for name, value in fields.items())
    return f'<?xml version="1.0" encoding="UTF-8"?>\n<Error>{body}</Error>'.encode()


_REFERENCES = {code: f"&#x{code:x};" for code in range(0x20) if chr(code) not in "\t\n"}
_RARE = re.compile(r"[\x00-\x08\x0b-\x1f\ud800-\udfff]")


def xml_text(text: str) -> str:
    """Escape text for an element. Control characters, which XML 1.0 cannot hold, are written as
    references as Amazon does; a lone surrogate becomes a question mark."""
    text = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    # Not needed in a text, but Amazon does it, and some clients look for it.
    text = text.replace('"', "&quot;")
    if _RARE.search(text) is None:
        return text
    return text.encode("utf-8", "replace").decode("utf-8").translate(_REFERENCES)
