"""Operations on a bucket's website document, and what the document means. Serving is `site.py`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from aiohttp import web

from s3api.errors import S3Error
from s3api.operations import Call, offers
from s3api.parsing import read_kept
from s3api.subresources import delete_document, get_document, put_document

DOCUMENT = "website"
_RULES_MAX = 50
_PROTOCOLS = ("http", "https")


@offers("PutBucketWebsite", "ContentMD5 WebsiteConfiguration")
async def put_bucket_website(call: Call) -> web.StreamResponse:
    return await put_document(call, DOCUMENT, check_document)


@offers("GetBucketWebsite")
async def get_bucket_website(call: Call) -> web.StreamResponse:
    return get_document(call, DOCUMENT, "NoSuchWebsiteConfiguration")


@offers("DeleteBucketWebsite")
async def delete_bucket_website(call: Call) -> web.StreamResponse:
    return await delete_document(call, DOCUMENT)


# ------------------------------------------------------------------------------------ its meaning


@dataclass(frozen=True, slots=True)
class Redirect:
    """Where a request is sent; None: where it came from."""

    host: str | None
    protocol: str | None
    status: int = 301
    key_prefix: str | None = None
    key: str | None = None

    def location(self, key: str, prefix: str) -> str:
        """The key that is asked for instead."""
        if self.key is not None:
            return self.key
        if self.key_prefix is not None:
            return self.key_prefix + key.removeprefix(prefix)
        return key


@dataclass(frozen=True, slots=True)
class RoutingRule:
    prefix: str
    error_status: int | None
    redirect: Redirect

    def fits(self, key: str, error_status: int | None) -> bool:
        """error_status: of the answer that would be given; None before it is known."""
        return key.startswith(self.prefix) and self.error_status == error_status


@dataclass(frozen=True, slots=True)
class Website:
    index: str
    error_key: str | None
    redirect_all: Redirect | None
    rules: Sequence[RoutingRule]


@lru_cache(256)
def website_of(text: bytes) -> Website:
    """The meaning of a kept document."""
    values = read_kept(text, "PutBucketWebsite")
    everything = values.get("RedirectAllRequestsTo")
    return Website(
        index=values.get("IndexDocument", {}).get("Suffix", ""),
        error_key=values.get("ErrorDocument", {}).get("Key"),
        redirect_all=None
        if everything is None
        else Redirect(everything["HostName"], everything.get("Protocol")),
        rules=[_rule(rule) for rule in values.get("RoutingRules", ())],
    )


def _rule(values: Mapping[str, Any]) -> RoutingRule:
    condition, redirect = values.get("Condition", {}), values["Redirect"]
    status = condition.get("HttpErrorCodeReturnedEquals")
    return RoutingRule(
        prefix=condition.get("KeyPrefixEquals", ""),
        error_status=None if status is None else int(status),
        redirect=Redirect(
            host=redirect.get("HostName"),
            protocol=redirect.get("Protocol"),
            status=int(redirect.get("HttpRedirectCode", 301)),
            key_prefix=redirect.get("ReplaceKeyPrefixWith"),
            key=redirect.get("ReplaceKeyWith"),
        ),
    )


# ---------------------------------------------------------------------------- what Amazon refuses


def check_document(values: dict[str, Any]) -> None:
    everything = values.get("RedirectAllRequestsTo")
    if everything is not None:
        if len(values) > 1:
            raise S3Error(
                "InvalidArgument",
                "RedirectAllRequestsTo cannot be provided in conjunction with other Routing Rules.",
            )
        _check_protocol(everything)
        return
    suffix = values.get("IndexDocument", {}).get("Suffix")
    if suffix is None:
        raise S3Error(
            "InvalidArgument",
            "A value for IndexDocument Suffix must be provided if RedirectAllRequestsTo is empty",
        )
    if not suffix or "/" in suffix:
        raise S3Error("InvalidArgument", "The IndexDocument Suffix is not well formed")
    if values.get("ErrorDocument", {"Key": "x"})["Key"] == "":
        raise S3Error("InvalidArgument", "The ErrorDocument Key is not well formed")
    rules = values.get("RoutingRules", ())
    if len(rules) > _RULES_MAX:
        raise S3Error(
            "InvalidRequest",
            f"The number of routing rules must not exceed the allowed limit of {_RULES_MAX} rules.",
        )
    for rule in rules:
        _check_rule(rule)


def _check_protocol(redirect: Mapping[str, str]) -> None:
    if redirect.get("Protocol", "http") not in _PROTOCOLS:
        raise S3Error(
            "InvalidRequest",
            "Invalid protocol, protocol can be http or https. If not defined the protocol will be"
            " selected automatically.",
        )


def _check_rule(rule: Mapping[str, Any]) -> None:
    condition, redirect = rule.get("Condition"), rule["Redirect"]
    if condition is not None:
        if not condition:
            raise S3Error(
                "InvalidRequest",
                "Condition cannot be empty. To redirect all requests without a condition, the"
                " condition element shouldn't be present.",
            )
        status = condition.get("HttpErrorCodeReturnedEquals", "404")
        if not _is_status(status, "45"):
            raise S3Error(
                "InvalidRequest",
                f"The provided HTTP error code ({status[:16]}) is not valid. Valid codes are 4XX"
                " or 5XX.",
            )
    if not redirect:
        raise S3Error("MalformedXML")
    _check_protocol(redirect)
    if "ReplaceKeyPrefixWith" in redirect and "ReplaceKeyWith" in redirect:
        raise S3Error(
            "InvalidRequest", "You can only define ReplaceKeyPrefix or ReplaceKey but not both."
        )
    status = redirect.get("HttpRedirectCode", "301")
    if not _is_status(status, "3") or status == "300":
        raise S3Error(
            "InvalidRequest",
            f"The provided HTTP redirect code ({status[:16]}) is not valid. Valid codes are 3XX"
            " except 300.",
        )


def _is_status(text: str, first: str) -> bool:
    return len(text) == 3 and text.isascii() and text.isdecimal() and text[0] in first
