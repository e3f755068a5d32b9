"""A form that a browser sends: multipart/form-data, its fields and the one file in it.

`Form` is fed bytes as they arrive and gives back the bytes of the file among them; the fields
before the file are small, bounded and kept, what comes after it is read and ignored, as Amazon does
("POST Object", S3 API reference). The file itself is never held. What the fields mean is for
`posting.py`.

The grammar is that of RFC 7578, parsed by python-multipart. No I/O; one form is used from one
thread at a time.
"""

from __future__ import annotations

import logging

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from s3api.errors import S3Error

FIELDS_BYTES_MAX = 20 << 10
"""Names, headers and values of all fields before the file, as on Amazon; and of what follows it."""

# It warns of every malformed form, which is news about the client and not about this node.
logging.getLogger("python_multipart").setLevel(logging.ERROR)


class Form:
    """One form on its way in. `fields` is whole once `file_begun`."""

    def __init__(self, content_type: str) -> None:
        """content_type: of the request. PreconditionFailed if that is no form, MalformedPOSTRequest
        without a boundary that can be one."""
        kind, options = parse_options_header(content_type)
        if kind != b"multipart/form-data":
            raise S3Error(
                "PreconditionFailed",
                Condition="Bucket POST must be of the enclosure-type multipart/form-data",
            )
        boundary = options.get(b"boundary", b"")
        if not 1 <= len(boundary) <= 70:  # RFC 2046, 5.1.1
            raise S3Error("MalformedPOSTRequest")
        self.fields: dict[str, str] = {}
        """Values by name in lower case; without the file."""
        self.file_name = ""
        """What the client calls the file, without directories."""
        self.file_begun = False
        self.file_ended = False
        self._parser = MultipartParser(
            boundary,
            {
                "on_part_begin": self._part_begins,
                "on_header_field": self._header_name_goes_on,
                "on_header_value": self._header_value_goes_on,
                "on_header_end": self._header_ends,
                "on_headers_finished": self._headers_end,
                "on_part_data": self._part_goes_on,
                "on_part_end": self._part_ends,
            },
        )
        self._headers: dict[bytes, bytes] = {}
        self._header_name = b""
        self._header_value = b""
        self._name = ""
        self._value = bytearray()
        self._beside_bytes = 0  # names and values on this side of the file
        self._wire_beside_bytes = 0  # whole blocks on this side of it
        self._file_parts: list[memoryview] = []

    def feed(self, wire: bytes) -> list[memoryview]:
        """The bytes of the file in the next bytes of the body, as views into them.

        MalformedPOSTRequest; MaxPostPreDataLengthExceededError when the fields are too large."""
        was_ended = self.file_ended
        try:
            self._parser.write(wire)
        except FormParserError:
            raise S3Error("MalformedPOSTRequest") from None
        # Beside what is counted below there is what the parser passes over without a word.
        if was_ended or not self.file_begun:
            self._wire_beside_bytes += len(wire)
            self._check_beside(self._wire_beside_bytes)
        found, self._file_parts = self._file_parts, []
        return found

    def finish(self) -> None:
        """The body has ended. MalformedPOSTRequest if the file has not, InvalidArgument if there
        is none."""
        if not self.file_begun:
            raise S3Error(
                "InvalidArgument",
                "POST requires exactly one file upload per request.",
                ArgumentName="file",
                ArgumentValue="0",
            )
        if not self.file_ended:
            raise S3Error("MalformedPOSTRequest")

    # -------------------------------------------------------------- what the parser comes across

    def _part_begins(self) -> None:
        self._headers = {}
        self._value.clear()

    def _header_name_goes_on(self, data: bytes, start: int, stop: int) -> None:
        self._count(stop - start)
        self._header_name += data[start:stop]

    def _header_value_goes_on(self, data: bytes, start: int, stop: int) -> None:
        self._count(stop - start)
        self._header_value += data[start:stop]

    def _header_ends(self) -> None:
        name = self._header_name.lower()
        if name in self._headers:
            raise S3Error("MalformedPOSTRequest")
        self._headers[name] = self._header_value
        self._header_name = self._header_value = b""

    def _headers_end(self) -> None:
        if self.file_ended:
            return
        kind, options = parse_options_header(self._headers.get(b"content-disposition", b""))
        if kind != b"form-data" or not options.get(b"name"):
            raise S3Error("MalformedPOSTRequest")
        # Names of fields are the same in any case: Content-Type, content-type.
        self._name = _text(options[b"name"]).lower()
        if self._name == "file":
            # Some browsers once sent the whole path.
            self.file_name = _text(options.get(b"filename", b"")).replace("\\", "/")
            self.file_name = self.file_name.rpartition("/")[2]
            self.file_begun = True
        elif self._name in self.fields:
            # Two layers could take different ones.
            raise S3Error(
                "InvalidArgument",
                "A field of the form occurs more than once.",
                ArgumentName=self._name[:64],
            )

    def _part_goes_on(self, data: bytes, start: int, stop: int) -> None:
        if self.file_begun and not self.file_ended:
            self._file_parts.append(memoryview(data)[start:stop])
            return
        self._count(stop - start)
        if not self.file_ended:
            self._value += data[start:stop]

    def _part_ends(self) -> None:
        if self.file_begun:
            if not self.file_ended:
                self.file_ended = True
                self._beside_bytes = self._wire_beside_bytes = 0
        else:
            self.fields[self._name] = _text(bytes(self._value))

    def _count(self, count: int) -> None:
        self._beside_bytes += count
        self._check_beside(self._beside_bytes)

    def _check_beside(self, count: int) -> None:
        if count > FIELDS_BYTES_MAX:
            raise S3Error(
                "MalformedPOSTRequest" if self.file_ended else "MaxPostPreDataLengthExceededError"
            )


def _text(raw: bytes) -> str:
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        raise S3Error("MalformedPOSTRequest", "A field of the form is not UTF-8.") from None
