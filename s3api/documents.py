"""XML documents of S3 requests and answers, driven by the shapes of the model.

Reading trusts nothing: no document type (so no entity but the five built in), a bounded depth,
only elements that the shape knows, each once unless it is a list. The size is bounded by whoever
reads the body. Anything else is MalformedXML.

Pure; callable from any thread.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import formatdate
from functools import cache, lru_cache
from typing import Any, NamedTuple
from xml.parsers import expat

from s3api.errors import S3Error, xml_text
from s3api.model import MODEL, XML_NAMESPACE, Member, Shape

DEPTH_MAX = 32
_XSI = "http://www.w3.org/2001/XMLSchema-instance"


@dataclass(slots=True)
class _Element:
    name: str
    attributes: dict[str, str]
    text: list[str] = field(default_factory=list)
    children: list[_Element] = field(default_factory=list)


def read_document(document: bytes, root: Member) -> dict[str, Any]:
    """The members of the payload structure `root` from its XML document.

    Timestamps stay text: who needs one parses it. Raises MalformedXML.
    """
    element = _parse(document)
    if element.name != root.wire_name:
        raise S3Error("MalformedXML")
    value = _read(element, MODEL.shapes[root.shape])
    if not isinstance(value, dict):
        raise S3Error("MalformedXML")
    return value


def _parse(document: bytes) -> _Element:
    parser = expat.ParserCreate(namespace_separator=" ")
    parser.buffer_text = True
    open_elements: list[_Element] = []
    roots: list[_Element] = []

    def start(name: str, attributes: dict[str, str]) -> None:
        if len(open_elements) >= DEPTH_MAX:
            raise S3Error("MalformedXML")
        namespace, _, local = name.rpartition(" ")
        if namespace not in ("", XML_NAMESPACE):
            raise S3Error("MalformedXML")
        element = _Element(local, attributes)
        (open_elements[-1].children if open_elements else roots).append(element)
        open_elements.append(element)

    def end(_name: str) -> None:
        open_elements.pop()

    def text(value: str) -> None:
        open_elements[-1].text.append(value)

    def refuse(*_: object) -> None:
        raise S3Error("MalformedXML")

    parser.StartElementHandler = start
    parser.EndElementHandler = end
    parser.CharacterDataHandler = text
    parser.StartDoctypeDeclHandler = refuse
    parser.EntityDeclHandler = refuse
    try:
        parser.Parse(document, True)
    except (expat.ExpatError, UnicodeDecodeError, ValueError, LookupError) as exc:
        # ValueError and LookupError: an encoding declaration that Python does not know.
        raise S3Error("MalformedXML") from exc
    return roots[0]


def _read(element: _Element, shape: Shape) -> Any:
    if shape.kind == "structure":
        return _read_structure(element, shape)
    if shape.kind == "list":
        return [
            _read(child, _element_shape(shape))
            for child in element.children
            if child.name == shape.element_wire_name or _malformed()
        ]
    if element.children:
        raise S3Error("MalformedXML")
    return read_scalar("".join(element.text), shape, "MalformedXML")


def _read_structure(element: _Element, shape: Shape) -> dict[str, Any]:
    by_wire_name = {_element_name(member): member for member in shape.members.values()}
    values: dict[str, Any] = {}
    for member in shape.members.values():
        if member.attribute:
            name = f"{_XSI} {member.wire_name.rpartition(':')[2]}"
            if name in element.attributes:
                values[member.name] = element.attributes[name]
    for child in element.children:
        found = by_wire_name.get(child.name)
        if found is None:
            raise S3Error("MalformedXML")
        child_shape = MODEL.shapes[found.shape]
        if child_shape.kind == "list" and (child_shape.flattened or found.flattened):
            values.setdefault(found.name, []).append(_read(child, _element_shape(child_shape)))
        elif found.name in values:
            raise S3Error("MalformedXML")
        else:
            values[found.name] = _read(child, child_shape)
    if not shape.required <= values.keys():
        raise S3Error("MalformedXML")
    return values


def _malformed() -> bool:
    raise S3Error("MalformedXML")


def _element_shape(shape: Shape) -> Shape:
    assert shape.element is not None, shape.name
    return MODEL.shapes[shape.element]


def _element_name(member: Member) -> str:
    """The element of a member; a flattened list's own name is that of each of its elements."""
    shape = MODEL.shapes[member.shape]
    flattened = shape.kind == "list" and (shape.flattened or member.flattened)
    if flattened and member.wire_name == member.name and shape.element_wire_name != "member":
        return shape.element_wire_name
    return member.wire_name


def read_scalar(text: str, shape: Shape, refusal: str) -> Any:
    """A value of a scalar shape from its text, in XML, a header or the query.

    refusal: the S3 code when the text is not of that type.
    """
    match shape.kind:
        case "integer" | "long":
            digits = text.strip()
            # int() would also take underscores, other scripts' digits and megabytes of either.
            if not (digits.removeprefix("-").isdecimal() and digits.isascii() and len(digits) < 20):
                raise S3Error(refusal)
            return int(digits)
        case "boolean":
            if text.strip().lower() not in ("true", "false"):
                raise S3Error(refusal)
            return text.strip().lower() == "true"
        case _:
            return text


def write_document(root: str, shape: Shape, values: Mapping[str, Any]) -> bytes:
    """The XML document of an output structure: elements in the model's order, None left out."""
    parts = ['<?xml version="1.0" encoding="UTF-8"?>\n', f'<{root} xmlns="{XML_NAMESPACE}">']
    _write_members(parts, shape, values)
    parts.append(f"</{root}>")
    return "".join(parts).encode()


class _Written(NamedTuple):
    """How a member of a structure is written."""

    member: str
    name: str
    shape: Shape  # of a list: of what is in it
    is_list: bool
    around: str  # the element that a list's own are in; empty for none


@cache
def _written(shape: Shape) -> tuple[_Written, ...]:
    """Those of a structure, in the model's order: looked up once, not for each key of a listing."""
    found = []
    for member in shape.members.values():
        if member.location or member.attribute:
            continue
        of, name = MODEL.shapes[member.shape], _element_name(member)
        if of.kind != "list":
            found.append(_Written(member.name, name, of, False, ""))
        elif of.flattened or member.flattened:
            found.append(_Written(member.name, name, _element_shape(of), True, ""))
        else:
            inner = of.element_wire_name
            found.append(_Written(member.name, inner, _element_shape(of), True, name))
    return tuple(found)


@cache
def _attributes(shape: Shape) -> tuple[Member, ...]:
    return tuple(member for member in shape.members.values() if member.attribute)


def _write_members(parts: list[str], shape: Shape, values: Mapping[str, Any]) -> None:
    for member, name, of, is_list, around in _written(shape):
        value = values.get(member)
        if value is None:
            continue
        if around:
            parts.append(f"<{around}>")
        for each in value if is_list else (value,):
            if of.kind == "structure":
                _write_structure(parts, name, of, each)
            else:
                parts.append(f"<{name}>{xml_text(scalar_text(each, of))}</{name}>")
        if around:
            parts.append(f"</{around}>")


def _write_structure(parts: list[str], name: str, shape: Shape, values: Mapping[str, Any]) -> None:
    opening = name
    for member in _attributes(shape):
        if member.name in values:
            opening = f'{name} xmlns:xsi="{_XSI}" {member.wire_name}="{values[member.name]}"'
    parts.append(f"<{opening}>")
    _write_members(parts, shape, values)
    parts.append(f"</{name}>")


def scalar_text(value: Any, shape: Shape, timestamp_format: str = "iso8601") -> str:
    """A scalar as it travels. Timestamps are given in nanoseconds since 1970."""
    match shape.kind:
        case "boolean":
            return "true" if value else "false"
        case "timestamp":
            if (shape.timestamp_format or timestamp_format) == "rfc822":
                return http_date(value)
            return iso8601(value)
        case _:
            return str(value)


def iso8601(ns: int) -> str:
    """`2026-11-20T12:34:56.789Z`, as in S3's listings."""
    minute, ms = divmod(ns // 1_000_000, 60_000)
    return f"{_iso8601_minute(minute)}{ms // 1000:02}.{ms % 1000:03}Z"


@lru_cache(1024)
def _iso8601_minute(minute: int) -> str:
    """`2026-11-20T12:34:`. Kept, since what is listed together was often written together."""
    return f"{datetime.fromtimestamp(minute * 60, UTC):%Y-%m-%dT%H:%M:}"


def http_date(ns: int) -> str:
    """`Fri, 20 Nov 2026 12:34:56 GMT`; what is below a second is cut off, as S3 does."""
    return _http_date(ns // 1_000_000_000)


@lru_cache(1024)
def _http_date(seconds: int) -> str:
    return formatdate(seconds, usegmt=True)
