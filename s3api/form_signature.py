"""How a form proves who allowed it: the signature over its policy, in either of two ways.

- Signature Version 4: x-amz-algorithm, x-amz-credential, x-amz-date, x-amz-signature; what is
  signed is the base64 of the policy, with the key of the scope's day ("Authenticating Requests in
  Browser-Based Uploads Using POST", S3 API reference).
- Signature Version 2: AWSAccessKeyId, signature; HMAC-SHA1 of the same text. Only forms are taken
  so, never requests: a form's signature covers everything that the policy names, and there is no
  canonical form of it that two sides could see differently.

Pure; callable from any thread.
"""

from __future__ import annotations

import base64
import binascii
import hmac
from collections.abc import Mapping
from dataclasses import dataclass

from s3api import sigv4
from s3api.errors import S3Error


@dataclass(frozen=True, slots=True)
class FormClaim:
    """Who a form says that it is from, and the signature that is to prove it."""

    access_key: str
    policy: str  # base64, as it was signed
    signature: str
    scope: sigv4.Scope | None  # None: Signature Version 2
    token: str | None  # x-amz-security-token

    @property
    def policy_document(self) -> bytes:
        """InvalidPolicyDocument if it is not base64."""
        try:
            return base64.b64decode(self.policy, validate=True)
        except (binascii.Error, ValueError):
            raise S3Error("InvalidPolicyDocument", "Invalid Policy: not base64.") from None

    def verify(self, secret: str) -> None:
        """SignatureDoesNotMatch unless the secret gives this signature. Constant time."""
        if self.scope is not None:
            expected = sigv4.SigningKey.derive(secret, self.scope).sign(self.policy)
        else:
            digest = hmac.digest(secret.encode(), self.policy.encode(), "sha1")
            expected = base64.b64encode(digest).decode("ascii")
        if not hmac.compare_digest(expected.encode(), self.signature.encode()):
            raise S3Error("SignatureDoesNotMatch", AWSAccessKeyId=self.access_key)


_OF_A_CLAIM = ("policy", "x-amz-signature", "x-amz-credential", "signature", "awsaccesskeyid")


def read_form_claim(
    fields: Mapping[str, str], region: str | None, *, version_2: bool
) -> FormClaim | None:
    """The claim in a form's fields (names in lower case), None for an anonymous form.

    region: if set, the only one accepted in the scope. InvalidArgument for a part that is missing.
    """
    if not any(name in fields for name in _OF_A_CLAIM):
        return None
    second = {"awsaccesskeyid", "signature"} & fields.keys()
    fourth = {"x-amz-algorithm", "x-amz-credential", "x-amz-signature"} & fields.keys()
    if second and fourth:
        raise S3Error("InvalidArgument", "Only one auth mechanism allowed")
    if second and not version_2:
        raise S3Error(
            "InvalidRequest",
            "The authorization mechanism you have provided is not supported."
            " Please use AWS4-HMAC-SHA256.",
        )
    token = fields.get("x-amz-security-token")
    policy = _required(fields, "policy")
    if second or (version_2 and not fourth):
        access_key = _required(fields, "AWSAccessKeyId")
        return FormClaim(access_key, policy, _required(fields, "signature"), None, token)
    algorithm = _required(fields, "x-amz-algorithm")
    if algorithm != sigv4.ALGORITHM:
        raise S3Error(
            "InvalidArgument",
            f"X-Amz-Algorithm only supports {sigv4.ALGORITHM}",
            ArgumentName="x-amz-algorithm",
            ArgumentValue=algorithm[:64],
        )
    access_key, scope = sigv4.read_credential(
        _required(fields, "x-amz-credential"), "InvalidArgument"
    )
    if scope.service != "s3" or (region is not None and scope.region != region):
        raise S3Error(
            "InvalidArgument",
            "The Credential is for another region or service.",
            ArgumentName="x-amz-credential",
        )
    if _required(fields, "x-amz-date")[:8] != scope.date:
        raise S3Error(
            "InvalidArgument",
            "The Credential's date is not that of x-amz-date.",
            ArgumentName="x-amz-date",
        )
    return FormClaim(access_key, policy, _required(fields, "x-amz-signature"), scope, token)


def _required(fields: Mapping[str, str], name: str) -> str:
    value = fields.get(name.lower())
    if not value:
        raise S3Error(
            "InvalidArgument",
            f"Bucket POST must contain a field named '{name}'."
            "  If it is specified, please check the order of the fields.",
            ArgumentName=name,
            ArgumentValue="",
        )
    return value
