"""A bucket as a page for people: `GET /BUCKET?browser=true` (`s3.browser`), as Apache Ozone has it.

It is ListObjects with the delimiter `/` in other clothes, and who may list may see it; `prefix`,
`marker` and `max-keys` mean what they mean there. The page links to the objects, the prefixes and
the next page, and holds no script. Links are not signed: a browser follows those that everybody
may, or that a proxy in front signs.

Pure; callable from any thread.
"""

from __future__ import annotations

from html import escape
from urllib.parse import quote, urlencode

from aiohttp import web

from cache.listing import CommonPrefix, Listing
from cache.publishing import Object
from s3api.documents import iso8601
from s3api.operations import Call
from s3api.parsing import split_query
from s3api.uploads_shown import ShownUpload

DELIMITER = b"/"
_HEADERS = {
    "Content-Type": "text/html; charset=utf-8",
    # Names are other people's: should one ever get through the escaping, it must do nothing.
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
}


def wants_page(call: Call) -> bool:
    """Whether a ListObjects is to be answered so. Where it is off, the parameter means nothing, as
    on Amazon."""
    if not call.door.config.browser or call.target.directory is not None:
        return False
    return split_query(call.request.raw_path.partition("?")[2]).get("browser") == "true"


def answer_page(
    call: Call, prefix: bytes, page: Listing[Object] | Listing[Object | ShownUpload]
) -> web.Response:
    """The page of a listing."""
    place = f"{call.bucket}/{_text(prefix)}"
    rows = [_row(call, prefix, entry) for entry in page.entries]
    if prefix:
        above = prefix[: prefix.rstrip(b"/").rfind(b"/") + 1]
        rows.insert(0, _cells(_listing_link(above), "..", "", ""))
    following = ""
    if page.truncated:
        link = _listing_link(prefix, marker=page.last)
        following = f'<p><a href="{escape(link)}">Next page</a></p>\n'
    body = (
        "<!DOCTYPE html>\n"
        f'<html lang="en">\n<head><meta charset="utf-8"><title>{escape(place)}</title></head>\n'
        f"<body>\n<h1>{escape(place)}</h1>\n"
        "<table>\n<tr><th>Name</th><th>Bytes</th><th>Modified</th></tr>\n"
        f"{''.join(rows)}</table>\n{following}</body>\n</html>\n"
    )
    return call.answer(headers=_HEADERS, body=body.encode("utf-8", "replace"))


def _row(call: Call, prefix: bytes, entry: Object | ShownUpload | CommonPrefix) -> str:
    name = _text(entry.key[len(prefix) :]) or "."
    if isinstance(entry, CommonPrefix):
        return _cells(_listing_link(entry.key), name, "", "")
    link = _object_link(call, entry.key)
    return _cells(link, name, str(entry.size), iso8601(entry.modified_ns))


def _cells(link: str, name: str, size: str, modified: str) -> str:
    return (
        f'<tr><td><a href="{escape(link)}">{escape(name)}</a></td>'
        f"<td>{size}</td><td>{modified}</td></tr>\n"
    )


def _listing_link(prefix: bytes, **more: bytes) -> str:
    """Relative, so that it is right however the request named the bucket."""
    return "?" + urlencode({"browser": "true", "prefix": prefix, **more})


def _object_link(call: Call, key: bytes) -> str:
    """Slashes are quoted, too: browsers take `..` out of paths, and a key that begins with a slash
    for the name of another host."""
    path = call.request.raw_path.partition("?")[0].rstrip("/")
    return f"{path}/{quote(key, safe='')}"


def _text(key: bytes) -> str:
    return key.decode("utf-8", "replace")
