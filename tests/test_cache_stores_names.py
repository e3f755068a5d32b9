"""Pure parts of the stores: names of keys, metadata of attributes."""

from __future__ import annotations

import stat

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from cache.records import Kind
from cache.stores import attributes, posix_names, s3_keys
from cache.stores.base import StoredAttributes

# S3 keys ----------------------------------------------------------------------------------------

_awkward = st.lists(
    st.sampled_from(
        [b"\x80", b"\xbf", b"\xc3", b"\xa9", b"\xed\xa0\x80", b"\xef\xbf\xbd", b"\xef\xbf\xbe",
         b"\xf4\x8f\xbf\xbf", b"\xf4\x8f\xbf\xbe", b"\xf5", b"\xff", b"a", b"/", b"\x7f", b"\0"]
    ),
    max_size=8,
).map(b"".join)  # fmt: skip
_any_bytes = st.one_of(_awkward, st.binary(max_size=12))


@given(key=_any_bytes)
@example(key=b"caf\xe9")
def test_s3_key_escape_is_reversible_and_text(key: bytes) -> None:
    text = s3_keys.to_text(key)
    assert s3_keys.to_bytes(text) == key
    assert not set(text) & {"\ufffe", "\uffff"}
    text.encode()  # no surrogates


@given(first=_any_bytes, second=_any_bytes)
def test_s3_key_escape_keeps_the_byte_order(first: bytes, second: bytes) -> None:
    escaped = (s3_keys.to_text(first).encode(), s3_keys.to_text(second).encode())
    assert (first < second) == (escaped[0] < escaped[1])


@given(
    text=st.text(alphabet=st.characters(codec="utf-8", exclude_characters="\ufffe\uffff\U0010ffff"))
)
def test_utf8_keys_are_themselves(text: str) -> None:
    assert s3_keys.to_text(text.encode()) == text


@pytest.mark.parametrize("clients", [100, 1900, 2000, 2040, 2048])
def test_metadata_of_clients_has_room_before_our_own(clients: int) -> None:
    wanted = StoredAttributes(
        mode=0o640, uid=1, gid=2, mtime_ns=5, s3_etag="a-1", origin="b-1-1",
        metadata={"name": "v" * (clients - 4)},
    )  # fmt: skip
    fields = attributes.to_object(wanted, 10, None, tagging=True)
    assert sum(len(name) + len(value) for name, value in fields.metadata.items()) <= 2048
    assert fields.metadata["name"] == "v" * (clients - 4)
    assert ("forebay-origin" in fields.metadata) == (clients < 1950)


@given(prefix=_any_bytes, rest=_any_bytes)
def test_s3_prefix_text_begins_every_key_of_the_prefix(prefix: bytes, rest: bytes) -> None:
    assert s3_keys.to_text(prefix + rest).startswith(s3_keys.prefix_text(prefix))


# Paths ------------------------------------------------------------------------------------------

_component = st.one_of(
    _awkward,
    st.sampled_from([b"", b".", b"..", b".fb~", b".fb~fa", b".fb~lx", b".forebay-tmp", b"%00"]),
    st.integers(240, 900).flatmap(
        lambda n: st.sampled_from([b"a" * n, b"%" * n, b"\0" * n, b"a%\0" * (n // 3)])
    ),
).map(lambda name: name.replace(b"/", b"_"))


@given(name=_component, is_directory=st.booleans(), at_root=st.booleans())
def test_path_forms_are_legal_and_reversible(
    name: bytes, is_directory: bool, at_root: bool
) -> None:
    for form in posix_names.forms(name, is_directory=is_directory, at_root=at_root):
        for part in form:
            assert 0 < len(part) <= 255
            assert part not in (b".", b"..", b".forebay-tmp") or not at_root
            assert not set(part) & set(b"/\0")
        lead = b""
        for part in form[:-1]:
            piece = posix_names.piece_of(part)
            assert piece is not None
            lead += piece
        last = posix_names.component_of(form[-1], is_directory=is_directory, at_root=at_root)
        assert last is not None
        assert lead + last == name


@pytest.mark.parametrize("name", [b".fb~", b".fb~q", b".fb~f%", b".fb~f%41", b".fb~dx"])
def test_names_that_are_no_escape_of_ours_stand_for_no_key(name: bytes) -> None:
    assert posix_names.component_of(name, is_directory=False, at_root=False) is None


# Attributes -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("33188", 0o100644),  # s3fs
        ("100644", 0o100644),  # rclone --metadata
        ("40755", 0o40755),
        ("120777", 0o120777),
        ("16877", 0o40755),
        ("41471", 0o120777),
        ("420", 0o644),
        ("0644", 0o644),
        ("0", 0),
        ("99999", None),
        ("rw-r--r--", None),
        ("", None),
        ("-1", None),
        ("٣٣١٨٨", None),
    ],
)
def test_modes_of_s3fs_and_rclone(text: str, expected: int | None) -> None:
    assert attributes.parse_mode(text) == expected


@given(mtime_ns=st.integers(-(10**20), 10**20))
@example(mtime_ns=-1)
@example(mtime_ns=1_700_000_000_000_000_000)
def test_mtime_is_exact(mtime_ns: int) -> None:
    assert attributes.parse_mtime(attributes.format_mtime(mtime_ns)) == mtime_ns


def test_mtime_is_nine_digits_so_that_s3fs_reads_nanoseconds() -> None:
    assert attributes.format_mtime(1_700_000_000_000_000_007) == "1700000000.000000007"
    assert attributes.format_mtime(1_700_000_000_000_000_000) == "1700000000"
    assert attributes.parse_mtime("1354040105.5") == 1_354_040_105_500_000_000  # rclone
    assert attributes.parse_mtime("2024-01-01T00:00:00Z") is None


@given(value=st.text(max_size=40))
@example(value="=?UTF-8?B?eA==?=")
@example(value=" padded ")
@example(value="line\nbreak")
def test_metadata_values_survive_headers(value: str) -> None:
    value = value.encode("utf-8", "replace").decode()
    encoded = attributes.encode_value(value)
    assert encoded.isascii()
    assert encoded == encoded.strip()
    assert encoded.isprintable()
    assert attributes.decode_value(encoded) == value


def _round_trip(wanted: StoredAttributes, size_bytes: int = 3) -> StoredAttributes:
    fields = attributes.to_object(wanted, size_bytes, "native", tagging=False)
    key = b"d/" if wanted.kind == Kind.DIRECTORY else b"f"
    return attributes.from_object(
        key,
        size_bytes=size_bytes,
        store_etag="native",
        metadata=fields.metadata,
        content_type=fields.content_type,
        headers=fields.headers,
        tags={},
    )


@pytest.mark.parametrize("kind", list(Kind))
def test_kinds_travel_in_the_mode(kind: Kind) -> None:
    wanted = StoredAttributes(kind=kind, mode=0o1755, s3_etag="native")
    assert _round_trip(wanted) == wanted
    written = attributes.to_object(wanted, 0, None, tagging=True).metadata["mode"]
    assert stat.S_IFMT(int(written)) == attributes.type_bits(kind)


def test_tags_are_kept_in_metadata_where_there_is_no_tagging() -> None:
    wanted = StoredAttributes(tags={"a": "1 & 2", "empty": ""}, s3_etag="native")
    assert _round_trip(wanted) == wanted


def test_etag_holds_only_for_the_size_and_mtime_it_was_stored_with() -> None:
    wanted = StoredAttributes(mtime_ns=5, s3_etag="abc-2")
    assert _round_trip(wanted).s3_etag == "abc-2"
    fields = attributes.to_object(wanted, 3, "native", tagging=True)
    for size_bytes, mtime in ((4, "0.000000005"), (3, "0.000000006")):
        found = attributes.from_object(
            b"f",
            size_bytes=size_bytes,
            store_etag="native",
            metadata={**fields.metadata, "mtime": mtime},
            content_type=None,
            headers={},
            tags={},
        )
        assert found.s3_etag == "native"


def test_metadata_that_only_looks_posix_stays_metadata() -> None:
    found = attributes.from_object(
        b"f",
        size_bytes=0,
        store_etag="e",
        metadata={"mode": "fast", "mtime": "yesterday", "uid": "root", "gid": "7"},
        content_type=None,
        headers={},
        tags={},
    )
    assert found.metadata == {"mode": "fast", "mtime": "yesterday", "uid": "root"}
    assert (found.mode, found.mtime_ns, found.uid, found.gid) == (None, None, None, 7)


@pytest.mark.parametrize(
    ("key", "path"),
    [
        (b"a/b", b"a/b"),
        (b"a/b/", b"a/b"),
        (b"a//b", b"a/.fb~d/b"),
        (b".forebay-tmp/x", b".fb~d.forebay-tmp/x"),
        (b"a/..", b"a/.fb~f.."),
    ],
)
def test_the_usual_path_of_a_key(key: bytes, path: bytes) -> None:
    assert posix_names.usual_path(key) == path
