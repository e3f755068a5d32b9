"""Keys as paths of a file system, and back; pure.

A key's components are the path's, byte for byte, wherever a file system can hold them. Where it
cannot, the component is escaped; the path alone gives the key back:

    .fb~f<name>    a file or other leaf      .fb~d<name>    a directory
    .fb~l<piece>   a directory that holds the rest of a long name

`<name>` is the component with `%` as `%25` and NUL as `%00`. Escaped are: the empty component,
`.` and `..`, names with NUL, names that begin with `.fb~`, `.forebay-tmp` at the root, names over
255 bytes (cut into pieces of up to 200 bytes: `.fb~l<piece>/.fb~l<piece>/.fb~f<rest>`), and a leaf
beside a directory of the same name, which S3 allows and a file system does not: whichever comes
second is escaped. So a component has two forms, native and escaped, and a look-up tries both.

Names that begin with `.fb~` and are not such an escape were made by others; they have no key.
"""

from __future__ import annotations

PREFIX = b".fb~"
RESERVED = b".forebay-tmp"
"""The directory at the root for locks, temporary files and parts. It is never listed."""

NAME_BYTES_MAX = 255
_PIECE_BYTES = 200

Form = tuple[bytes, ...]
"""The names, one inside the other, that stand for one component: one, or more if it is long."""


def split_key(key: bytes) -> tuple[list[bytes], bytes, bool]:
    """(directories, leaf, is a directory marker): b"a/b/" -> ([b"a"], b"b", True)."""
    is_directory = key.endswith(b"/")
    *directories, leaf = (key[:-1] if is_directory else key).split(b"/")
    return directories, leaf, is_directory


def native_form(name: bytes, *, at_root: bool) -> Form | None:
    """The component as itself; None if a file system cannot hold it, or it is reserved."""
    if (
        name in (b"", b".", b"..")
        or len(name) > NAME_BYTES_MAX
        or b"\0" in name
        or name.startswith(PREFIX)
        or (at_root and name == RESERVED)
    ):
        return None
    return (name,)


def escaped_form(name: bytes, *, is_directory: bool) -> Form:
    """The component in its escaped form; every name has one."""
    kind = b"d" if is_directory else b"f"
    quoted = _quote(name)
    if len(PREFIX) + 1 + len(quoted) <= NAME_BYTES_MAX:
        return (PREFIX + kind + quoted,)
    leads: list[bytes] = []
    while len(quoted) > _PIECE_BYTES:
        cut = _PIECE_BYTES
        # An escape is three bytes and stays whole, so that each piece can be read alone.
        cut -= next((back for back in (1, 2) if quoted[cut - back : cut - back + 1] == b"%"), 0)
        leads.append(PREFIX + b"l" + quoted[:cut])
        quoted = quoted[cut:]
    return (*leads, PREFIX + kind + quoted)


def forms(name: bytes, *, is_directory: bool, at_root: bool) -> list[Form]:
    """Where a component may be found, in the order to look."""
    native = native_form(name, at_root=at_root)
    escaped = escaped_form(name, is_directory=is_directory)
    return [escaped] if native is None else [native, escaped]


def usual_path(key: bytes) -> bytes:
    """Where the key lies unless one of its components is beside another of the same name."""
    directories, leaf, is_directory = split_key(key)
    found: list[bytes] = []
    for depth, name in enumerate(directories):
        found += forms(name, is_directory=True, at_root=depth == 0)[0]
    found += forms(leaf, is_directory=is_directory, at_root=not directories)[0]
    return b"/".join(found)


def is_continuation(name: bytes) -> bool:
    """Whether this directory holds the rest of a long name."""
    return name.startswith(PREFIX + b"l")


def piece_of(name: bytes) -> bytes | None:
    """The bytes that a continuation directory adds to the name; None if it is not ours."""
    return _unquote(name[len(PREFIX) + 1 :]) if is_continuation(name) else None


def component_of(name: bytes, *, is_directory: bool, at_root: bool) -> bytes | None:
    """The component that an entry stands for; None if it stands for none (not ours, reserved)."""
    if at_root and name == RESERVED:
        return None
    if not name.startswith(PREFIX):
        return name
    if name[len(PREFIX) : len(PREFIX) + 1] != (b"d" if is_directory else b"f"):
        return None
    return _unquote(name[len(PREFIX) + 1 :])


def _quote(name: bytes) -> bytes:
    return name.replace(b"%", b"%25").replace(b"\0", b"%00")


def _unquote(quoted: bytes) -> bytes | None:
    """None unless it is exactly what _quote writes."""
    name = quoted.replace(b"%00", b"\0").replace(b"%25", b"%")
    return name if _quote(name) == quoted else None
