"""The website endpoint: a bucket as a site of the web, for whoever may read it anonymously.

A request whose Host is `BUCKET.DOMAIN` (`s3.website_domain`) is one for a site: GET and HEAD only,
no credentials, errors as pages. What is asked for goes through the ordinary GetObject as nobody in
particular, so policies and ACLs decide; what the site adds is which key that is, and where the
browser is sent instead (userguide "Hosting a static website").
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from html import escape
from urllib.parse import quote

from aiohttp import web

from cache.errors import CacheError, NoSuchKey
from cache.publishing import Object
from s3api.auth import ANONYMOUS, Authentication
from s3api.errors import S3Error, from_cache
from s3api.keys import Target, check_bucket_requested, decode_key
from s3api.model import MODEL
from s3api.operations import OFFERED, Call, Door
from s3api.parsing import read_input
from s3api.sigv4 import UNSIGNED_PAYLOAD
from s3api.website import DOCUMENT, Redirect, Website, website_of

Admit = Callable[[Call], Awaitable[None]]
"""Raises AccessDenied unless the call's identity may do what it asks for."""

_METHODS = {"GET": "GetObject", "HEAD": "HeadObject"}
_NOBODY = Authentication(ANONYMOUS, UNSIGNED_PAYLOAD)


def site_of(host: str, domain: str | None) -> str | None:
    """The bucket whose site a Host header names; None: it names none. InvalidBucketName."""
    if domain is None:
        return None
    name = host.rsplit(":", 1)[0].lower()
    suffix = "." + domain.lower()
    return check_bucket_requested(name[: -len(suffix)]) if name.endswith(suffix) else None


class SiteRequest:
    """One request for a site."""

    def __init__(
        self,
        door: Door,
        admit: Admit,
        request: web.BaseRequest,
        request_id: str,
        headers: Mapping[str, str],
        added_headers: Mapping[str, str],
    ) -> None:
        self._door = door
        self._admit = admit
        self._request = request
        self._request_id = request_id
        self._headers = headers
        self._added_headers = added_headers

    async def answer(self, bucket: str, raw_path: str) -> web.StreamResponse:
        """S3Error and CacheError only for what the site cannot show a page for: page() can."""
        if self._request.method not in _METHODS:
            raise S3Error("MethodNotAllowed", Method=self._request.method, ResourceType="OBJECT")
        text = self._door.volume.buckets.get(bucket).settings.get(DOCUMENT)
        if text is None:
            raise S3Error("NoSuchWebsiteConfiguration", BucketName=bucket)
        site = website_of(text)
        asked = decode_key(raw_path[1:]).decode() if raw_path[1:] else ""
        if site.redirect_all is not None:
            return self._redirect(site.redirect_all, asked, "")
        for rule in site.rules:
            if rule.fits(asked, None):
                return self._redirect(rule.redirect, asked, rule.prefix)
        try:
            return await self._serve(site, bucket, asked)
        except (S3Error, CacheError) as exc:
            error = exc if isinstance(exc, S3Error) else from_cache(exc)
            if error.status in (304, 412, 416):
                raise
            return await self._answer_error(site, bucket, asked, error)

    async def _serve(self, site: Website, bucket: str, asked: str) -> web.StreamResponse:
        key = asked + site.index if not asked or asked.endswith("/") else asked
        call = self._call(bucket, key)
        try:
            await self._admit(call)
            found = await self._find(call)
        except (NoSuchKey, S3Error) as exc:
            missing = isinstance(exc, NoSuchKey) or exc.code in ("NoSuchKey", "AccessDenied")
            if missing and key == asked and await self._has_index(site, bucket, asked):
                return self._send_to(302, f"/{quote(asked)}/")
            raise
        redirect = found.attributes.own.get("redirect")
        if redirect is not None:
            return self._send_to(301, quote(redirect, safe="/:?#[]@!$&'()*+,;=%~"))
        return await OFFERED[call.operation.name].handler(call)

    async def _find(self, call: Call) -> Object:
        return await call.threads.metadata(call.volume.objects.get, call.bucket, call.key)

    async def _has_index(self, site: Website, bucket: str, asked: str) -> bool:
        """Whether there is a page below a name that lacks its `/`."""
        call = self._call(bucket, f"{asked}/{site.index}")
        try:
            await self._admit(call)
            await self._find(call)
        except (NoSuchKey, S3Error):
            return False
        return True

    def _call(self, bucket: str, key: str) -> Call:
        operation = MODEL.operations[_METHODS[self._request.method]]
        target = Target(bucket, key.encode())
        values = read_input(
            operation, OFFERED[operation.name].members, {}, _of_the_web(self._headers).items()
        )
        return Call(
            self._door,
            self._request,
            self._request_id,
            self._headers,
            operation,
            target,
            values,
            _NOBODY,
            self._added_headers,
        )

    # ------------------------------------------------------------------------------- redirects

    def _redirect(self, redirect: Redirect, asked: str, prefix: str) -> web.Response:
        protocol = redirect.protocol or ("https" if self._request.secure else "http")
        host = redirect.host or self._headers.get("host", "")
        return self._send_to(
            redirect.status, f"{protocol}://{host}/{quote(redirect.location(asked, prefix))}"
        )

    def _send_to(self, status: int, location: str) -> web.Response:
        return web.Response(status=status, headers={**self._added_headers, "Location": location})

    # ---------------------------------------------------------------------------------- errors

    async def _answer_error(
        self, site: Website, bucket: str, asked: str, error: S3Error
    ) -> web.StreamResponse:
        """By a routing rule, with the site's own page, or with one of ours."""
        for rule in site.rules:
            if rule.fits(asked, error.status):
                return self._redirect(rule.redirect, asked, rule.prefix)
        if site.error_key is None:
            raise error
        call = self._call(bucket, site.error_key)
        call.input = {}  # no part of the page, and no conditions on it
        call.status = error.status
        try:
            await self._admit(call)
            return await OFFERED[call.operation.name].handler(call)
        except (S3Error, CacheError):
            raise error from None


def _of_the_web(headers: Mapping[str, str]) -> dict[str, str]:
    """The headers that mean something to a site: Range and conditions."""
    return {
        name: value for name, value in headers.items() if name == "range" or name.startswith("if-")
    }


def page(error: S3Error, request_id: str, host_id: str) -> bytes:
    """An error as a browser shows it."""
    title = f"{error.status} {_reason(error.status)}"
    told = {"Code": error.code, "Message": error.message, **error.fields}
    told |= {"RequestId": request_id, "HostId": host_id}
    items = "".join(f"<li>{escape(name)}: {escape(text)}</li>\n" for name, text in told.items())
    return (
        f"<html>\n<head><title>{title}</title></head>\n<body>\n<h1>{title}</h1>\n"
        f"<ul>\n{items}</ul>\n<hr/>\n</body>\n</html>\n"
    ).encode("utf-8", "replace")


def _reason(status: int) -> str:
    return web.Response(status=status).reason or ""
