"""Cross-origin requests: the CORS document of a bucket, preflights, and the headers of answers.

Which pages of the web a browser lets read an answer is said by headers of that answer. The first
rule of the bucket's document that fits origin, method and, in a preflight, all the headers that
are asked for decides (userguide "Using cross-origin resource sharing"). A preflight (OPTIONS) is
no operation of S3's model, carries no credentials, and says nothing of what the bucket holds.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from aiohttp import web

from cache.errors import CacheError
from cache.volume import Volume
from s3api.errors import S3Error
from s3api.operations import Call, offers
from s3api.parsing import read_kept
from s3api.subresources import delete_document, get_document, put_document

_DOCUMENT = "cors"
_RULES_MAX = 100
_ID_MAX = 255
_METHODS = ("GET", "PUT", "HEAD", "POST", "DELETE")
_VARY = "Origin, Access-Control-Request-Headers, Access-Control-Request-Method"


@offers("PutBucketCors", "CORSConfiguration ContentMD5")
async def put_bucket_cors(call: Call) -> web.StreamResponse:
    return await put_document(call, _DOCUMENT, check_document)


@offers("GetBucketCors")
async def get_bucket_cors(call: Call) -> web.StreamResponse:
    return get_document(call, _DOCUMENT, "NoSuchCORSConfiguration")


@offers("DeleteBucketCors")
async def delete_bucket_cors(call: Call) -> web.StreamResponse:
    return await delete_document(call, _DOCUMENT)


def check_document(values: dict[str, Any]) -> None:
    """InvalidRequest for rules that Amazon refuses."""
    rules = values["CORSRules"]
    if not 0 < len(rules) <= _RULES_MAX:
        raise S3Error("MalformedXML")
    for rule in rules:
        for method in rule["AllowedMethods"]:
            if method not in _METHODS:
                raise S3Error(
                    "InvalidRequest",
                    "Found unsupported HTTP method in CORS config. Unsupported method is"
                    f" {method[:64]}",
                )
        for name in ("AllowedOrigin", "AllowedHeader"):
            for value in rule.get(name + "s", ()):
                if value.count("*") > 1:
                    raise S3Error(
                        "InvalidRequest",
                        f'{name} "{value[:256]}" can not have more than one wildcard.',
                    )
        for value in rule.get("ExposeHeaders", ()):
            if "*" in value:
                raise S3Error(
                    "InvalidRequest",
                    f'ExposeHeader "{value[:256]}" contains wildcard. We currently do not support'
                    " wildcard for ExposeHeader.",
                )
        if len(rule.get("ID", "")) > _ID_MAX or rule.get("MaxAgeSeconds", 0) < 0:
            raise S3Error("InvalidRequest")


# ------------------------------------------------------------------------------------------ rules


@dataclass(frozen=True, slots=True)
class Rule:
    methods: Sequence[str]
    origins: Sequence[re.Pattern[str]]
    any_origin: bool
    headers: Sequence[re.Pattern[str]]
    exposed: Sequence[str]
    max_age_s: int | None

    def fits(self, origin: str, method: str, headers: Sequence[str]) -> bool:
        return (
            method in self.methods
            and (self.any_origin or any(each.fullmatch(origin) for each in self.origins))
            and all(any(each.fullmatch(name) for each in self.headers) for name in headers)
        )

    def answer(self, origin: str, headers: Sequence[str]) -> dict[str, str]:
        """The headers that let a page of this origin see the answer."""
        answer = {
            "Access-Control-Allow-Origin": "*" if self.any_origin else origin,
            "Access-Control-Allow-Methods": ", ".join(self.methods),
        }
        if headers:
            answer["Access-Control-Allow-Headers"] = ", ".join(headers)
        if self.exposed:
            answer["Access-Control-Expose-Headers"] = ", ".join(self.exposed)
        if self.max_age_s is not None:
            answer["Access-Control-Max-Age"] = str(self.max_age_s)
        if not self.any_origin:
            answer["Access-Control-Allow-Credentials"] = "true"
        return answer


@lru_cache(256)
def _rules(text: bytes) -> Sequence[Rule]:
    return [
        Rule(
            methods=rule["AllowedMethods"],
            origins=[_pattern(value, re.NOFLAG) for value in rule["AllowedOrigins"]],
            any_origin="*" in rule["AllowedOrigins"],
            headers=[_pattern(value, re.IGNORECASE) for value in rule.get("AllowedHeaders", ())],
            exposed=rule.get("ExposeHeaders", ()),
            max_age_s=rule.get("MaxAgeSeconds"),
        )
        for rule in read_kept(text, "PutBucketCors")["CORSRules"]
    ]


def _pattern(value: str, flags: re.RegexFlag) -> re.Pattern[str]:
    return re.compile(".*".join(re.escape(piece) for piece in value.split("*")), flags)


def _rules_of(volume: Volume, bucket: str) -> Sequence[Rule]:
    """None for a bucket that does not exist: that is the operation's to say, to who may know."""
    try:
        text = volume.buckets.get(bucket).settings.get(_DOCUMENT)
    except CacheError:
        return ()
    return () if text is None else _rules(text)


# --------------------------------------------------------------------------------------- requests


def answer_headers(
    volume: Volume, bucket: str, method: str, headers: Mapping[str, str]
) -> dict[str, str]:
    """What CORS adds to the answer to an actual request, an error too."""
    origin = headers.get("origin")
    if origin is None or not bucket:
        return {}
    rules = _rules_of(volume, bucket)
    # Browsers send it with preflights only; where others do, Amazon goes by it.
    method = headers.get("access-control-request-method", method)
    for rule in rules:
        if rule.fits(origin, method, ()):
            return rule.answer(origin, ()) | {"Vary": _VARY}
    return {"Vary": _VARY} if rules else {}


def preflight_headers(volume: Volume, bucket: str, headers: Mapping[str, str]) -> dict[str, str]:
    """The answer to a preflight. BadRequest if it is none, AccessForbidden if no rule fits."""
    origin = headers.get("origin")
    if not origin:
        raise S3Error("BadRequest", "Insufficient information. Origin request header needed.")
    method = headers.get("access-control-request-method", "")
    if method not in _METHODS:
        raise S3Error("BadRequest", f"Invalid Access-Control-Request-Method: {method[:64] or None}")
    asked = headers.get("access-control-request-headers", "").split(",")
    names = [name.strip().lower() for name in asked if name.strip()]
    rules = _rules_of(volume, bucket) if bucket else ()
    if not rules:
        raise S3Error("AccessForbidden", "CORSResponse: CORS is not enabled for this bucket.")
    for rule in rules:
        if rule.fits(origin, method, names):
            return rule.answer(origin, names) | {"Vary": _VARY}
    raise S3Error(
        "AccessForbidden",
        "CORSResponse: This CORS request is not allowed. This is usually because the evalution of"
        " Origin, request method / Access-Control-Request-Method or"
        " Access-Control-Request-Headers are not whitelisted by the resource's CORS spec.",
        Method=method,
    )
