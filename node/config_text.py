"""Where the text of a configuration comes from: a file, or what is embedded here.

A text remembers what its file was: the supervisor hands it to its children, which then read the
very same configuration, whatever has become of the file meanwhile.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import msgspec

from node.errors import ConfigError
from node.tables import is_private

FILE_VARIABLE = "FOREBAY_CONFIG"
"""Environment variable that names the file when --config does not."""

DEMO_TOML = """\
# What a node runs with when no file is named: everything under ./forebay-demo.
[cache]
state_dir = "forebay-demo/state"
capacity_bytes = "4GiB"

[stores.local]
type = "posix"
path = "forebay-demo/store"
creatable = true

[mount]
path = "forebay-demo/mnt"
"""


class ConfigText(msgspec.Struct, frozen=True):
    toml: str
    source: str  # the file as the operator named it
    base: str  # the directory that relative paths are relative to
    private: bool  # only its owner can read the file
    demo: bool = False
    mount: dict[str, Any] = {}
    """What mount(8) was told: takes the place of what the table [mount] says."""

    def with_mount(self, settings: dict[str, Any]) -> ConfigText:
        return msgspec.structs.replace(self, mount=settings)


def find(path: Path | None) -> ConfigText:
    """The file's text; without a path that of $FOREBAY_CONFIG, else the embedded one, whose paths
    are relative to the working directory. ConfigError if the file cannot be read."""
    if path is None and (named := os.environ.get(FILE_VARIABLE)):
        path = Path(named)
    if path is None:
        here = str(Path.cwd())
        return ConfigText(DEMO_TOML, "embedded configuration", here, private=True, demo=True)
    try:
        base = str(path.absolute().parent)
        return ConfigText(path.read_text(), str(path), base, private=is_private(path))
    except OSError as exc:
        raise ConfigError(f"{path}: cannot be read: {exc.strerror}") from exc
    except UnicodeDecodeError as exc:
        raise ConfigError(f"{path}: is not UTF-8 text (byte {exc.start})") from exc
