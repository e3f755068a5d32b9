"""One TOML table read into one dataclass: names, types, units, secrets.

The dataclasses stand beside the code that reads them, in any package, and know nothing of TOML.
What this module needs to know of a setting it takes from the field itself:

- the key in the file is the field's name, its type hint is the type;
- an int whose name ends in `_bytes` may be written as "256MiB";
- a field with repr=False is a secret: never shown, and `NAME_file` is accepted in its place, the
  path of a file that only its owner can read;
- a range, or a pair of settings that exclude each other, is checked by the dataclass's own
  __post_init__, which raises ValueError with a message that begins with the field's name.

Every mistake is a ConfigError that names file, table and key. Pure but for reading secret files.
"""

from __future__ import annotations

import dataclasses
import difflib
import enum
import re
import stat
import types
import typing
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from node.errors import ConfigError
from node.logs import HIDDEN

D = TypeVar("D")

_SIZE_UNITS = {
    "": 1, "B": 1,
    "K": 2**10, "KiB": 2**10, "kB": 10**3, "KB": 10**3,
    "M": 2**20, "MiB": 2**20, "MB": 10**6,
    "G": 2**30, "GiB": 2**30, "GB": 10**9,
    "T": 2**40, "TiB": 2**40, "TB": 10**12,
}  # fmt: skip
_SIZE = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]*)\s*")


@dataclass(frozen=True, slots=True)
class Place:
    """Where in which file a value stands, for messages and for relative paths."""

    source: str  # the file, as the operator named it
    base: Path  # what relative paths are relative to
    private: bool  # only its owner can read the file, so a secret may stand in it
    table: str = ""  # "cache", "stores.main", "buckets[2]"

    def under(self, table: str) -> Place:
        path = f"{self.table}.{table}" if self.table else table
        return dataclasses.replace(self, table=path)

    def error(self, key: str, message: str) -> ConfigError:
        table = f"[{self.table}] " if self.table else ""
        return ConfigError(f"{self.source}: {table}{key}: {message}")


def read(kind: type[D], values: Mapping[str, Any], place: Place, *, also: Iterable[str] = ()) -> D:
    """The dataclass `kind` from the table `values`. ConfigError on anything that does not fit.

    `also`: further keys that the table may hold, and the caller has read already.
    """
    hints = typing.get_type_hints(kind)
    fields = {f.name: f for f in dataclasses.fields(kind) if f.init}  # type: ignore[arg-type]
    values = dict(values)
    arguments: dict[str, Any] = {}
    for name, field in fields.items():
        if is_secret(field):
            _take_secret(values, name, place)
        if name in values:
            arguments[name] = _convert(values.pop(name), hints[name], place, name)
        elif _is_required(field):
            alternative = f" (or {name}_file)" if is_secret(field) else ""
            raise place.error(name, f"is missing; add it{alternative}")
    if values:
        raise unknown_key(next(iter(values)), [*accepted_keys(kind), *also], place)
    try:
        return kind(**arguments)
    except ValueError as exc:
        raise _range_error(str(exc), fields, place) from exc


def accepted_keys(kind: type) -> list[str]:
    """Every key that the table of `kind` may hold."""
    keys = []
    for field in dataclasses.fields(kind):
        if field.init:
            keys += [field.name, f"{field.name}_file"] if is_secret(field) else [field.name]
    return keys


def unknown_key(key: str, known: Iterable[str], place: Place) -> ConfigError:
    """The error for a key nobody reads, with the known key that looks most like it."""
    known = sorted(set(known))
    close = difflib.get_close_matches(key, known, n=1, cutoff=0.6)
    # "capacity" for "capacity_bytes": too far apart for difflib, but plainly what was meant.
    close = close or [name for name in known if name.startswith(f"{key}_")][:1]
    advice = f"did you mean {close[0]}?" if close else f"known here: {', '.join(known)}"
    return place.error(key, f"unknown key; {advice}")


def wrong_choice(value: Any, choices: Iterable[Any]) -> str:
    """What is wrong with a value that is none of the choices, with the one most like it."""
    choices = [str(choice) for choice in choices]
    close = difflib.get_close_matches(str(value), choices, n=1)
    advice = f'; did you mean "{close[0]}"?' if close else ""
    spelled = ", ".join(f'"{choice}"' for choice in choices)
    if value is None:
        return f"is missing; must be one of {spelled}"
    return f"must be one of {spelled}, not {_spell(value)}{advice}"


def is_secret(field: dataclasses.Field[Any]) -> bool:
    """Secrets are the fields that a dataclass keeps out of its repr, unless they hold tables."""
    return field.init and not field.repr


def parse_size(text: str) -> int:
    """Bytes of "256MiB", "1.5 GB" or "4096". ValueError if it is none of these."""
    match = _SIZE.fullmatch(text)
    unit = _SIZE_UNITS.get(match[2]) if match else None
    if match is None or unit is None:
        raise ValueError(f'must be a size such as "256MiB" or 4096, not "{text}"')
    return int(float(match[1]) * unit) if "." in match[1] else int(match[1]) * unit


def format_size(size_bytes: int) -> str:
    """The shortest exact spelling that parse_size() reads back."""
    for unit in ("TiB", "GiB", "MiB", "KiB"):
        if size_bytes and size_bytes % _SIZE_UNITS[unit] == 0:
            return f"{size_bytes // _SIZE_UNITS[unit]}{unit}"
    return str(size_bytes)


def is_private(path: Path) -> bool:
    """True if only its owner has any access to the file."""
    return not path.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO)


def plain(value: Any, key: str = "") -> Any:
    """Tables and values as a file would hold them: no classes, secrets hidden."""
    if dataclasses.is_dataclass(value):
        return {
            field.name: HIDDEN
            if is_secret(field) and getattr(value, field.name)
            else plain(getattr(value, field.name), field.name)
            for field in dataclasses.fields(value)
        }
    if isinstance(value, Mapping):
        return {name: plain(element) for name, element in value.items()}
    if isinstance(value, tuple):
        return [plain(element) for element in value]
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, enum.Enum):
        return value.value
    if key.endswith("_bytes") and isinstance(value, int):
        size = format_size(value)
        return value if size.isdecimal() else size
    return value


def secrets_in(value: Any) -> Iterator[str]:
    """Every secret in a dataclass and in those that it holds."""
    if dataclasses.is_dataclass(value):
        for field in dataclasses.fields(value):
            inner = getattr(value, field.name)
            if is_secret(field) and isinstance(inner, str) and inner:
                yield inner
            yield from secrets_in(inner)
    elif isinstance(value, Mapping):
        for element in value.values():
            yield from secrets_in(element)
    elif isinstance(value, tuple):
        for element in value:
            yield from secrets_in(element)


def _is_required(field: dataclasses.Field[Any]) -> bool:
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING


def _take_secret(values: dict[str, Any], name: str, place: Place) -> None:
    """Put the content of `NAME_file` in the place of `NAME`."""
    key = f"{name}_file"
    if key not in values:
        if values.get(name) and not place.private:
            raise place.error(
                name,
                f"a secret in a file that others can read; chmod 600 it, or move the secret "
                f"into a file of its own and name that in {key}",
            )
        return
    if name in values:
        raise place.error(key, f"excludes {name}; keep one of them")
    path = _path(values.pop(key), place, key)
    try:
        if not is_private(path):
            raise place.error(key, f"a secret that others can read; chmod 600 {path}")
        values[name] = path.read_text().strip()
    except (OSError, UnicodeDecodeError) as exc:
        raise place.error(key, f"cannot read {path}: {exc}") from exc


def _convert(value: Any, hint: Any, place: Place, key: str) -> Any:
    origin = typing.get_origin(hint)
    if origin in (typing.Union, types.UnionType):
        return _convert_union(value, typing.get_args(hint), place, key)
    if origin is tuple:
        if not isinstance(value, list):
            raise place.error(key, f"must be a list, not {_spell(value)}")
        (item, _) = typing.get_args(hint)  # only tuple[X, ...] makes sense in a file
        return tuple(
            _convert(element, item, place, f"{key}[{number}]")
            for number, element in enumerate(value, start=1)
        )
    if origin in (dict, Mapping):
        (_, item) = typing.get_args(hint)
        if not isinstance(value, dict):
            raise place.error(key, "must be a table")
        return {
            name: _convert(element, item, place.under(key), name) for name, element in value.items()
        }
    if origin is typing.Literal:
        choices = typing.get_args(hint)
        if value not in choices:
            raise place.error(key, wrong_choice(value, choices))
        return value
    if dataclasses.is_dataclass(hint):
        if not isinstance(value, dict):
            raise place.error(key, f"must be a table, not {_spell(value)}")
        return read(typing.cast("type[Any]", hint), value, place.under(key))
    return _convert_scalar(value, hint, place, key)


def _convert_union(value: Any, kinds: tuple[Any, ...], place: Place, key: str) -> Any:
    """The first kind that fits; `X | None` is an X that may be left out."""
    kinds = tuple(kind for kind in kinds if kind is not types.NoneType)
    failures = []
    for kind in kinds:
        try:
            return _convert(value, kind, place, key)
        except ConfigError as exc:
            failures.append(exc)
    if len(failures) == 1:
        raise failures[0]
    choices = " or ".join(describe_type(kind) for kind in kinds)
    raise place.error(key, f"must be {choices}, not {_spell(value)}")


def _convert_scalar(value: Any, kind: Any, place: Place, key: str) -> Any:
    if isinstance(kind, type) and issubclass(kind, enum.Enum):
        try:
            return kind(value)
        except ValueError as exc:
            message = wrong_choice(value, [str(m.value) for m in kind])
            raise place.error(key, message) from exc
    if kind is Path:
        return _path(value, place, key)
    if kind is int and isinstance(value, str) and key.endswith("_bytes"):
        try:
            return parse_size(value)
        except ValueError as exc:
            raise place.error(key, str(exc)) from exc
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    # bool is an int to Python, and would pass for one.
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise place.error(key, f"must be {describe_type(kind, key)}, not {_spell(value)}")
    return value


def _path(value: Any, place: Place, key: str) -> Path:
    if not isinstance(value, str) or not value:
        raise place.error(key, f"must be a path, not {_spell(value)}")
    return place.base / Path(value).expanduser()


def describe_type(kind: Any, key: str = "") -> str:
    """The type in an operator's words: "a number", "true or false", "one of never, always"."""
    origin = typing.get_origin(kind)
    if origin in (typing.Union, types.UnionType):
        parts = [describe_type(k, key) for k in typing.get_args(kind) if k is not types.NoneType]
        return " or ".join(parts)
    if origin is typing.Literal:
        return "one of " + ", ".join(f'"{choice}"' for choice in typing.get_args(kind))
    if origin is tuple:
        return f"a list, each {describe_type(typing.get_args(kind)[0])}"
    if origin in (dict, Mapping):
        return f"a table, each {describe_type(typing.get_args(kind)[1])}"
    if dataclasses.is_dataclass(kind):
        return "a table"
    if isinstance(kind, type) and issubclass(kind, enum.Enum):
        return "one of " + ", ".join(f'"{member.value}"' for member in kind)
    if kind is int and key.endswith("_bytes"):
        return "a size"
    names = {bool: "true or false", int: "a whole number", float: "a number", str: "a string"}
    return names.get(kind, "a path" if kind is Path else str(kind))


def _range_error(message: str, fields: Mapping[str, Any], place: Place) -> ConfigError:
    """Name the key when the dataclass's ValueError begins with one of its fields."""
    name, _, rest = message.partition(" ")
    name = name.rstrip(":")
    return place.error(name, rest) if name in fields else place.error("(table)", message)


def _spell(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, dict):
        return "a table"
    if isinstance(value, list):
        return "a list"
    return f'"{value}"' if isinstance(value, str) else str(value)
