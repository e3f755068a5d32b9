"""`docs/configuration.md`, made from the dataclasses: every key with type, default and meaning.

The meaning of a setting is the string that follows its field in the source, so that code and page
cannot differ; `tests/test_node_config.py` fails while the committed page is not what page() makes.
Also the writer of TOML for `forebay check-config`; Python's library has only a reader.
"""

from __future__ import annotations

import ast
import dataclasses
import inspect
import json
import textwrap
import typing
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from cache.config import BucketConfig, CacheConfig, CacheDirectory, PrefixMode
from fuse.config import MountConfig
from node.config_text import DEMO_TOML
from node.logs import LogConfig
from node.stores import COMMON_KEYS, KINDS
from node.supervisor_config import SupervisorConfig
from node.tables import describe_type, is_secret, plain
from s3api.config import AuthConfig, GatewayConfig

_HEAD = """\
# Configuration

One TOML file, named by `--config FILE` or by `FOREBAY_CONFIG`. Without one the node runs with the
[embedded configuration](#the-embedded-configuration). `forebay check-config` checks a file and
prints it with every default filled in.

An unknown key, a wrong type, a value out of range or two settings that exclude each other stop the
start, with file, table and key named. Relative paths are relative to the file's directory.

Sizes (keys that end in `_bytes`) are numbers of bytes or strings such as `"256MiB"`; other units
are the last word of the key (`_s`, `_ms`, `_kb`). A secret `NAME` may be given as `NAME_file`, the
path of a file that only its owner can read (mode 0600); a configuration that holds a secret itself
must have that mode too. Secrets are never printed or logged.

<!-- Generated from the dataclasses: forebay check-config --markdown > docs/configuration.md -->
"""


@dataclass(frozen=True, slots=True)
class Section:
    """One table of the file."""

    heading: str
    about: str
    kind: type


def sections() -> Iterator[Section]:
    """The tables in the order of the page."""
    yield Section("[cache]", "The cache on this machine.", CacheConfig)
    yield Section("[[cache.directories]]", "One for each cache disk.", CacheDirectory)
    for name, load in KINDS.items():
        heading = f'[stores.NAME] with type = "{name}"'
        yield Section(heading, "A store; buckets refer to it by NAME.", load())
    yield Section("[[buckets]]", "A place in a store that is offered as a bucket.", BucketConfig)
    yield Section("[[buckets.prefixes]]", "Another write mode for some keys.", PrefixMode)
    yield Section("[s3]", "The S3 endpoint.", GatewayConfig)
    yield Section("[auth]", "Who may use the S3 endpoint.", AuthConfig)
    yield Section("[mount]", "The mount. Without this table there is none.", MountConfig)
    yield Section("[node]", "The processes of the node.", SupervisorConfig)
    yield Section("[log]", "What is logged to stderr.", LogConfig)


def page() -> str:
    """The whole page."""
    parts = [_HEAD]
    for section in sections():
        parts.append(f"## `{section.heading}`\n\n{section.about}\n")
        rows = ["| key | type | default | meaning |", "|---|---|---|---|"]
        if section.heading.startswith("[stores."):
            rows += [_row(*key) for key in COMMON_KEYS]
        rows += _rows(section.kind)
        parts.append("\n".join(rows) + "\n")
    parts.append(f"## The embedded configuration\n\n```toml\n{DEMO_TOML}```\n")
    return "\n".join(parts)


def meanings(kind: type) -> dict[str, str]:
    """The sentence behind each field, from the class's source."""
    (tree,) = ast.parse(textwrap.dedent(inspect.getsource(kind))).body
    assert isinstance(tree, ast.ClassDef)
    found = {}
    for statement, after in zip(tree.body, tree.body[1:], strict=False):
        if (
            isinstance(statement, ast.AnnAssign)
            and isinstance(statement.target, ast.Name)
            and isinstance(after, ast.Expr)
            and isinstance(after.value, ast.Constant)
            and isinstance(after.value.value, str)
        ):
            found[statement.target.id] = " ".join(after.value.value.split())
    return found


def _rows(kind: type) -> Iterator[str]:
    hints = typing.get_type_hints(kind)
    said = meanings(kind)
    names = {field.name for field in dataclasses.fields(kind)}
    for field in dataclasses.fields(kind):
        if field.init:
            file = f"{field.name}_file"
            or_file = f"` or `{file}" if is_secret(field) and file not in names else ""
            name = field.name + or_file
            type_words = describe_type(hints[field.name], field.name)
            yield _row(name, type_words, _default(field), said.get(field.name, ""))


def _row(key: str, kind: str, default: str, meaning: str) -> str:
    cells = (cell.replace("|", "\\|") for cell in (f"`{key}`", kind, default, meaning))
    return f"| {' | '.join(cells)} |"


def _default(field: dataclasses.Field[Any]) -> str:
    if field.default_factory is not dataclasses.MISSING:
        return "none"
    if field.default is dataclasses.MISSING:
        return "*required*"
    if field.default in (None, (), ""):
        return "none"
    return f"`{_value(plain(field.default, field.name), field.name)}`"


def as_toml(tables: Mapping[str, Any], path: str = "") -> str:
    """TOML of nested plain values; what is None is left out, as a file would."""
    lines = []
    inner = ""
    for key, value in tables.items():
        name = f"{path}.{key}" if path else key
        if isinstance(value, Mapping):
            inner += as_toml(value, name)
        elif isinstance(value, list) and value and all(isinstance(v, Mapping) for v in value):
            inner += "".join(f"[[{name}]]\n{_flat(element)}\n" for element in value)
        elif value is not None:
            lines.append(f"{key} = {_value(value, key)}")
    head = f"[{path}]\n" if path and lines else ""
    own = "\n".join(lines)
    return f"{head}{own}\n\n{inner}" if own else inner


def _flat(table: Mapping[str, Any]) -> str:
    return "".join(f"{k} = {_value(v, k)}\n" for k, v in table.items() if v is not None)


def _value(value: Any, key: str = "") -> str:
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{k} = {_value(v, k)}" for k, v in value.items()) + " }"
    if key.endswith("_mode") and isinstance(value, int):
        return f"0o{value:03o}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_value(element) for element in value) + "]"
    # A JSON string, number or truth value is one of TOML as well.
    return json.dumps(value, ensure_ascii=False)
