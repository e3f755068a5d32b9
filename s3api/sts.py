"""AssumeRoleWithWebIdentity: an OpenID Connect token in exchange for temporary access keys.

The one operation of Amazon's STS that is offered, at the endpoint itself, in `auth.mode = "oidc"`:
clients that cannot send a bearer token sign with what they get here. There are no roles: the keys
are those of the user that the token means, and RoleArn is not looked at beyond its form. A session
policy is refused, since it would have to narrow what the keys allow.

The query protocol and the errors are those of the STS API reference. Runs on the event loop.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl
from xml.etree.ElementTree import Element, SubElement, tostring

from aiohttp import web

from cache.keys import AccessKey
from s3api.config import TOKEN_BYTES_MAX
from s3api.errors import S3Error
from s3api.operations import Call, offers
from s3api.receiving import BLOCK_BYTES, wire_blocks

if TYPE_CHECKING:
    from s3api.oidc import Subject, Tokens

_NAMESPACE = "https://sts.amazonaws.com/doc/2011-06-15/"
_BODY_BYTES_MAX = 2 * TOKEN_BYTES_MAX
_ROLE = re.compile(r"arn:[\w-]*:iam::[0-9]*:role/[\w+=,.@/-]{1,512}")
_SESSION = re.compile(r"[\w+=,.@-]{2,64}")
_SESSION_S_MIN = 900
_KNOWN = {
    "Action", "DurationSeconds", "RoleArn", "RoleSessionName", "Version", "WebIdentityToken",
}  # fmt: skip


class StsError(Exception):
    """A refusal with STS's code."""

    def __init__(self, code: str, message: str, status: int = 400) -> None:
        self.code, self.message, self.status = code, message, status
        super().__init__(f"{code}: {message}")


@offers("AssumeRoleWithWebIdentity")
async def assume_role_with_web_identity(call: Call) -> web.StreamResponse:
    tokens = call.door.authenticator.tokens
    if tokens is None:
        raise S3Error("MethodNotAllowed", Method="POST", ResourceType="SERVICE")
    try:
        answer = await _assume(call, tokens)
    except StsError as error:
        return _xml(call, _error(error, call.request_id), error.status)
    return _xml(call, answer, 200)


async def _assume(call: Call, tokens: Tokens) -> Element:
    values = _check(await _read(call))
    session_s_max = call.door.authenticator.session_s_max
    duration_s = _duration_s(values.get("DurationSeconds", ""), session_s_max)
    token = values["WebIdentityToken"]
    try:
        await tokens.prepare(token)
        subject = tokens.verify(token)
    except S3Error as error:
        raise StsError(*_REFUSALS[error.code]) from None
    key = await call.threads.metadata(call.volume.keys.create_temporary, subject.user, duration_s)
    return _answer(call, values, subject, key)


_REFUSALS = {
    "ExpiredToken": ("ExpiredTokenException", "Token is expired"),
    "InvalidToken": ("InvalidIdentityToken", "The web identity token could not be validated"),
    "ServiceUnavailable": (
        "IDPCommunicationError",
        "The identity provider could not be reached to verify the token",
    ),
}


async def _read(call: Call) -> dict[str, str]:
    """The parameters in the body. ValidationError if one occurs twice, or there is too much."""
    body = b""
    async for wire, _ in wire_blocks(call, BLOCK_BYTES):
        body += b"".join(wire)
        if len(body) > _BODY_BYTES_MAX:
            raise StsError("ValidationError", "The request is too large")
    try:
        pairs = parse_qsl(body.decode("ascii"), keep_blank_values=True, errors="strict")
    except ValueError:  # UnicodeDecodeError among them
        raise StsError("ValidationError", "The request is not form-encoded") from None
    values = dict(pairs)
    if len(values) != len(pairs):
        raise StsError("ValidationError", "A parameter occurs more than once")
    return values


def _check(values: dict[str, str]) -> dict[str, str]:
    action = values.get("Action", "")
    if action != "AssumeRoleWithWebIdentity":
        raise StsError("InvalidAction", f"Could not find operation {action[:64]!r}")
    unknown = values.keys() - _KNOWN
    if unknown:
        raise StsError("ValidationError", f"{', '.join(sorted(unknown))[:256]}: not supported here")
    if not values.get("WebIdentityToken"):
        raise StsError("ValidationError", "WebIdentityToken is missing")
    if not _ROLE.fullmatch(values.get("RoleArn", "")):
        raise StsError("ValidationError", "RoleArn is not the ARN of a role")
    if not _SESSION.fullmatch(values.get("RoleSessionName", "")):
        raise StsError("ValidationError", "RoleSessionName has 2 to 64 letters, digits or +=,.@-_")
    return values


def _duration_s(text: str, longest_s: int) -> int:
    if not text:
        return min(3600, longest_s)
    if text.isascii() and text.isdecimal() and len(text) < 8:
        seconds = int(text)
        if _SESSION_S_MIN <= seconds <= longest_s:
            return seconds
    raise StsError(
        "ValidationError", f"DurationSeconds must be from {_SESSION_S_MIN} to {longest_s}"
    )


def _answer(call: Call, values: Mapping[str, str], subject: Subject, key: AccessKey) -> Element:
    root = Element("AssumeRoleWithWebIdentityResponse", xmlns=_NAMESPACE)
    result = SubElement(root, "AssumeRoleWithWebIdentityResult")
    session = values["RoleSessionName"]
    role = values["RoleArn"].partition(":role/")[2]
    _add(result, "SubjectFromWebIdentityToken", subject.subject)
    _add(result, "Audience", subject.audience)
    _add(result, "Provider", call.door.authenticator.issuer)
    user = SubElement(result, "AssumedRoleUser")
    _add(user, "Arn", f"arn:aws:sts::000000000000:assumed-role/{role}/{session}")
    _add(user, "AssumedRoleId", f"{key.access_key}:{session}")
    credentials = SubElement(result, "Credentials")
    _add(credentials, "AccessKeyId", key.access_key)
    _add(credentials, "SecretAccessKey", key.secret)
    _add(credentials, "SessionToken", key.token)
    expires = datetime.fromtimestamp(key.expires_ns // 10**9, UTC)
    _add(credentials, "Expiration", f"{expires:%Y-%m-%dT%H:%M:%SZ}")
    _add(SubElement(root, "ResponseMetadata"), "RequestId", call.request_id)
    return root


def _error(error: StsError, request_id: str) -> Element:
    root = Element("ErrorResponse", xmlns=_NAMESPACE)
    inner = SubElement(root, "Error")
    _add(inner, "Type", "Sender")
    _add(inner, "Code", error.code)
    _add(inner, "Message", error.message)
    _add(root, "RequestId", request_id)
    return root


def _add(parent: Element, name: str, text: str) -> None:
    SubElement(parent, name).text = text


def _xml(call: Call, root: Element, status: int) -> web.StreamResponse:
    headers = {"Content-Type": "text/xml", "Cache-Control": "no-store"}
    return call.answer(status, headers, tostring(root, encoding="UTF-8", xml_declaration=True))
