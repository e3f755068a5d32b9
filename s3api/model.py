"""Amazon's own description of S3, as botocore ships it, compiled into tables.

Decides which operation a request means, and knows for each operation the members of its input and
output: where each travels (path, query, header, XML) and of what type it is. Parsing of members is
in `parsing.py`, writing of answers in `serialising.py`. Which operations Forebay offers is decided
by the modules that implement them; here every operation of the model is known by name, so that a
request for one that is not offered is answered by its name and never taken for another.

Immutable after import; callable from any thread.
"""

from __future__ import annotations

import gzip
from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib.resources import files

import msgspec

from s3api.errors import S3Error, not_implemented

XML_NAMESPACE = "http://s3.amazonaws.com/doc/2006-03-01/"


@dataclass(frozen=True, slots=True)
class Member:
    """One member of a structure. `location` is "" for an element of the XML body."""

    name: str
    wire_name: str
    shape: str
    location: str
    flattened: bool
    attribute: bool


@dataclass(frozen=True, slots=True, eq=False)
class Shape:
    """A type of the model. `members` of structures, `element` of lists."""

    name: str
    kind: str  # structure, list, map, string, integer, long, boolean, timestamp, blob
    members: Mapping[str, Member]
    required: frozenset[str]
    payload: str | None
    element: str | None
    element_wire_name: str
    flattened: bool
    timestamp_format: str | None
    enum: frozenset[str]


@dataclass(frozen=True, slots=True, eq=False)
class Operation:
    """One operation of S3 and what tells its requests from others' on the same resource."""

    name: str
    method: str
    level: str  # "service", "bucket" or "key"
    status: int
    input: Shape | None
    output: Shape | None
    selectors: frozenset[str]
    """Query parameters that must be present: `name` or `name=value`."""
    header_selectors: frozenset[str]
    """Headers, in lower case, that must be present: CopyObject is a PutObject with one."""
    subresources: frozenset[str]
    """The query parameters that only this kind of operation has: `uploads`, `partNumber` …"""
    query_names: frozenset[str]
    """Every query parameter the operation knows, sub-resources included."""


POST_OBJECT = Operation(
    name="PostObject",
    method="POST",
    level="bucket",
    status=204,
    input=None,
    output=None,
    selectors=frozenset(),
    header_selectors=frozenset(),
    subresources=frozenset(),
    query_names=frozenset(),
)
"""The one operation that Amazon's model lacks: an upload by a browser's form."""

ASSUME_ROLE = replace(POST_OBJECT, name="AssumeRoleWithWebIdentity", level="service", status=200)
"""Of Amazon's STS, at the same endpoint."""

SELF_PROVING = (POST_OBJECT, ASSUME_ROLE)
"""Operations whose body says who asks: nobody is authenticated before it is read."""


class _Reference(msgspec.Struct, rename="camel"):
    """A shape's use in botocore's document. What is said for people (four fifths of its bytes) is
    in none of these types, and never becomes an object."""

    shape: str
    location_name: str | None = None
    location: str = ""
    flattened: bool = False
    xml_attribute: bool = False


class _RawShape(msgspec.Struct, rename="camel"):
    type: str
    members: dict[str, _Reference] = {}
    required: list[str] = []
    payload: str | None = None
    member: _Reference | None = None
    flattened: bool = False
    timestamp_format: str | None = None
    enum: list[str] = []


class _Http(msgspec.Struct, rename="camel"):
    method: str
    request_uri: str
    response_code: int = 200


class _RawOperation(msgspec.Struct):
    http: _Http
    input: _Reference | None = None
    output: _Reference | None = None
    deprecated: bool = False
    endpoint: msgspec.Raw = msgspec.Raw()


class _Document(msgspec.Struct):
    shapes: dict[str, _RawShape]
    operations: dict[str, _RawOperation] = {}


class _Extras(msgspec.Struct):
    """What botocore puts over Amazon's document."""

    merge: _Document


class Model:
    """The compiled service model."""

    def __init__(self, document: _Document) -> None:
        self.shapes = {name: _shape(name, raw) for name, raw in document.shapes.items()}
        self.operations: dict[str, Operation] = {}
        for name, raw in document.operations.items():
            # Deprecated twins share the request with their successors; operations with an
            # endpoint of their own (object lambda, directory buckets) are not of this one.
            if not (raw.deprecated or raw.endpoint or name in _ELSEWHERE):
                self.operations[name] = self._operation(name, raw)
        self.operations |= {operation.name: operation for operation in SELF_PROVING}
        # The most particular first. Kept apart: those without a sub-resource, which nearly every
        # request is for.
        self._routes: dict[tuple[str, str, bool], list[Operation]] = {}
        for operation in sorted(
            (each for each in self.operations.values() if each not in SELF_PROVING),
            key=lambda op: -len(op.selectors) - len(op.header_selectors),
        ):
            for asked in (True, False) if not operation.subresources else (True,):
                key = (operation.method, operation.level, asked)
                self._routes.setdefault(key, []).append(operation)
        self.subresources = frozenset().union(
            *(operation.subresources for operation in self.operations.values())
        )
        self.header_names = frozenset(
            member.wire_name.lower()
            for operation in self.operations.values()
            if operation.input is not None
            for member in operation.input.members.values()
            if member.location == "header"
        )

    def _operation(self, name: str, raw: _RawOperation) -> Operation:
        path, _, query = raw.http.request_uri.partition("?")
        shape = self.shapes[raw.input.shape] if raw.input is not None else None
        output = self.shapes[raw.output.shape] if raw.output is not None else None
        literals = frozenset(filter(None, query.split("&")))
        members = [] if shape is None else list(shape.members.values())
        required = [member for member in members if shape and member.name in shape.required]
        parameters = frozenset(m.wire_name for m in required if m.location == "querystring")
        headers = frozenset(
            m.wire_name.lower()
            for m in required
            if m.location == "header" and m.wire_name.startswith("x-amz-")
        )
        names = frozenset(literal.partition("=")[0] for literal in literals)
        return Operation(
            name=name,
            method=raw.http.method,
            level="key" if "{Key+}" in path else "bucket" if "{Bucket}" in path else "service",
            status=raw.http.response_code,
            input=shape,
            output=output,
            selectors=literals | parameters,
            header_selectors=headers - _NOT_SELECTING,
            # UploadPart has no word of its own in the URI: its required parameters are the words.
            subresources=names or parameters,
            query_names=names | {m.wire_name for m in members if m.location == "querystring"},
        )

    def route(
        self, method: str, level: str, query: Mapping[str, str], headers: Mapping[str, str]
    ) -> Operation:
        """The operation that a request means.

        query: decoded names and values; headers: names in any case. Raises NotImplemented for a
        sub-resource that nobody knows, MethodNotAllowed for one that has no such method: neither
        ever falls through to the plain operation of that method.
        """
        asked = self.subresources & query.keys()
        for operation in self._routes.get((method, level, bool(asked)), ()):
            # Most have no selectors: asked first, as the expressions behind it cost more than that.
            wanted = operation.header_selectors
            if wanted and not all(name in headers for name in wanted):
                continue
            selectors = operation.selectors
            if selectors and not all(_selected(selector, query) for selector in selectors):
                continue
            if asked <= operation.query_names:
                _refuse_unknown_subresource(operation, query)
                return operation
        if (method, level) == ("POST", "bucket") and not asked:
            _refuse_unknown_subresource(POST_OBJECT, query)
            return POST_OBJECT
        if (method, level) == ("POST", "service") and not asked:
            _refuse_unknown_subresource(ASSUME_ROLE, query)
            return ASSUME_ROLE
        raise S3Error("MethodNotAllowed", Method=method, ResourceType=level.upper())


_ELSEWHERE = {"ListDirectoryBuckets", "CreateSession", "WriteGetObjectResponse"}
_NOT_SELECTING = {"x-amz-object-attributes"}  # required, but its absence is an error of its own


def _refuse_unknown_subresource(operation: Operation, query: Mapping[str, str]) -> None:
    """A parameter without a value is how S3 spells a sub-resource."""
    for name, value in query.items():
        if not value and name not in operation.query_names and not name.lower().startswith("x-"):
            raise not_implemented(f"?{name[:64]}")


def _selected(selector: str, query: Mapping[str, str]) -> bool:
    name, equals, value = selector.partition("=")
    return query.get(name) == value if equals else name in query


def _shape(name: str, raw: _RawShape) -> Shape:
    element = raw.member
    return Shape(
        name=name,
        kind=raw.type,
        members={
            key: Member(
                name=key,
                wire_name=value.location_name or key,
                shape=value.shape,
                location=value.location,
                flattened=value.flattened,
                attribute=value.xml_attribute,
            )
            for key, value in raw.members.items()
        },
        required=frozenset(raw.required),
        payload=raw.payload,
        element=None if element is None else element.shape,
        element_wire_name=(element.location_name if element is not None else None) or "member",
        flattened=raw.flattened,
        timestamp_format=raw.timestamp_format,
        enum=frozenset(raw.enum),
    )


def _read_document() -> _Document:
    """Not by botocore's own loader: that brings its whole client, 15 MB and 0.1 s."""
    versions = files("botocore") / "data" / "s3"
    directory = max((found for found in versions.iterdir() if found.is_dir()), key=lambda d: d.name)
    packed = directory / "service-2.json.gz"
    text = gzip.decompress(packed.read_bytes()) if packed.is_file() else None
    document = msgspec.json.decode(
        text or (directory / "service-2.json").read_bytes(), type=_Document
    )
    extras = directory / "service-2.sdk-extras.json"
    if extras.is_file():
        document.shapes |= msgspec.json.decode(extras.read_bytes(), type=_Extras).merge.shapes
    return document


MODEL = Model(_read_document())
