"""The error table: complete, and its documents well-formed."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from xml.dom import minidom

import pytest

from cache import errors as cache_errors
from s3api.errors import CACHE_CODES, CODES, S3Error, error_document, from_cache, xml_text


def tree(kind: type[cache_errors.CacheError]) -> Iterator[type[cache_errors.CacheError]]:
    yield kind
    for below in kind.__subclasses__():
        if below.__module__ == cache_errors.__name__:
            yield from tree(below)


@pytest.mark.parametrize("kind", list(tree(cache_errors.CacheError)))
def test_every_error_of_the_cache_has_a_code(kind: type[cache_errors.CacheError]) -> None:
    assert CACHE_CODES[kind] in CODES


def test_the_table_knows_nothing_that_the_cache_lacks() -> None:
    assert set(CACHE_CODES) == set(tree(cache_errors.CacheError))


@pytest.mark.parametrize("kind", list(tree(cache_errors.CacheError)))
def test_temporary_errors_are_answered_as_such(kind: type[cache_errors.CacheError]) -> None:
    count = len(inspect.signature(kind).parameters) if "__init__" in kind.__dict__ else 0
    keyed = issubclass(kind, (cache_errors.NoSuchKey, cache_errors.NoSuchVersion))
    error = kind(*[b"x" if keyed else "x", "x"][:count])
    translated = from_cache(error)
    if kind.temporary:
        assert translated.status == 503
        assert "Retry-After" in translated.headers


def test_details_of_the_store_stay_inside() -> None:
    refused = cache_errors.StoreRefused("https://store.example/secret-path")
    document = error_document(from_cache(refused), resource="/b/k", request_id="1", host_id="2")
    assert b"secret-path" not in document


def test_documents_hold_what_clients_look_for() -> None:
    error = S3Error("NoSuchKey", Key='a<b>\x01&"\r\n\ud800')
    text = error_document(error, resource="/b/a", request_id="R1", host_id="H1").decode()
    assert text.startswith('<?xml version="1.0" encoding="UTF-8"?>\n<Error><Code>NoSuchKey</Code>')
    assert "<Key>a&lt;b&gt;&#x1;&amp;&quot;&#xd;\n?</Key>" in text
    assert "<Resource>/b/a</Resource><RequestId>R1</RequestId><HostId>H1</HostId>" in text


def test_texts_survive_xml() -> None:
    text = 'é <&> "quoted" \t\n 漢字'
    parsed = minidom.parseString(f"<a>{xml_text(text)}</a>".encode())
    assert parsed.documentElement.firstChild.data == text
