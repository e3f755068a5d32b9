"""The whole configuration: the embedded one, what no single table can know, and its page."""

from __future__ import annotations

import dataclasses
import tomllib
from pathlib import Path
from typing import Any

import pytest

from cache.records import WriteMode
from node import config_docs
from node.config import NodeConfig, effective, load, parse, secrets_of
from node.config_text import DEMO_TOML, FILE_VARIABLE, ConfigText
from node.errors import ConfigError

DOCS = Path(__file__).parent.parent / "docs"

BASE = """
[cache]
state_dir = "state"

[stores.main]
type = "posix"
path = "store"
"""


def config(tmp_path: Path, toml: str = BASE) -> NodeConfig:
    return parse(ConfigText(toml, "node.toml", str(tmp_path), private=True))


def test_the_embedded_configuration_keeps_everything_below_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv(FILE_VARIABLE, raising=False)
    demo = load(None)
    assert demo.cache.state_dir == tmp_path / "forebay-demo/state"
    assert demo.stores["local"].directory == tmp_path / "forebay-demo/store"
    assert demo.mount is not None
    assert demo.mount.path == tmp_path / "forebay-demo/mnt"
    assert demo.creatable_store == "local"
    assert (demo.s3.address, demo.s3.port) == ("127.0.0.1", 29998)
    assert demo.auth.mode == "auto"
    assert demo.text.demo


def test_a_file_is_found_by_option_and_by_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "etc" / "node.toml"
    file.parent.mkdir()
    file.write_text(BASE)
    assert load(file).cache.state_dir == tmp_path / "etc" / "state"
    monkeypatch.setenv(FILE_VARIABLE, str(file))
    assert load(None) == load(file)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"missing\.toml: cannot be read: No such file"):
        load(tmp_path / "missing.toml")
    (tmp_path / "binary.toml").write_bytes(b"\xff")
    with pytest.raises(ConfigError, match="is not UTF-8 text"):
        load(tmp_path / "binary.toml")


def test_buckets_and_their_modes(tmp_path: Path) -> None:
    found = config(
        tmp_path,
        BASE
        + """
[[buckets]]
name = "photos"
store = "main"
prefix = "p/"
write_mode = "write_back"
[[buckets.prefixes]]
prefix = "scratch/"
write_mode = "transient"
""",
    )
    (bucket,) = found.buckets
    assert bucket.write_mode is WriteMode.WRITE_BACK
    assert bucket.prefixes[0].write_mode is WriteMode.TRANSIENT


@pytest.mark.parametrize(
    ("toml", "message"),
    [
        ("cache = 1", "cache: must be a table: write [cache]"),
        ("[cach]", "cach: unknown key; did you mean cache?"),
        ("[cache", "is not TOML"),
        ("buckets = 4\n" + BASE, "buckets: must be a list of tables: write [[buckets]]"),
        (BASE + "[s3]\nport = 99999", "[s3] port: must be from 0 to 65535"),
        (BASE + "[s3]\nprot = 1", "[s3] prot: unknown key; did you mean port?"),
        (BASE + "[node]\ngateways = 0", "[node] gateways: must be from 1 to 256"),
        (BASE + "[log]\nlevel = 'loud'", '[log] level: must be one of "debug", "info"'),
        (
            BASE.replace("state_dir", "high_watermark = 2.0\nstate_dir"),
            "[cache] low_watermark: must be above 0 and below high_watermark",
        ),
        (
            BASE + "[stores.x]\ntype = 'ftp'\n",
            '[stores.x] type: must be one of "posix", "s3", not "ftp"',
        ),
        (BASE + "[stores.x]\npath = 'a'\n", "[stores.x] type: is missing"),
        (
            BASE + "[stores.x]\ntype = 'posix'\npath = 'a'\ncreateable = true\n",
            "[stores.x] createable: unknown key; did you mean creatable?",
        ),
        (
            BASE + "[[buckets]]\nname = 'b'\nstore = 'other'\n",
            "[buckets[1]] store: no table [stores.other]; stores in this file: main",
        ),
        (
            BASE + "[[buckets]]\nname = 'b'\nstore = 'main'\nwrite_mode = 'write_bck'\n",
            'did you mean "write_back"?',
        ),
        (
            BASE
            + "[[buckets]]\nname = 'b'\nstore = 'main'\nprefix = 'a/'\n"
            + "[[buckets]]\nname = 'b'\nstore = 'main'\nprefix = 'c/'\n",
            "[buckets[2]] name: b is taken by buckets[1]",
        ),
        (
            BASE
            + "[[buckets]]\nname = 'b'\nstore = 'main'\nprefix = 'a/'\n"
            + "[[buckets]]\nname = 'c'\nstore = 'main'\nprefix = 'a/b/'\n",
            "[buckets[2]] prefix: overlaps buckets[1]",
        ),
        (
            BASE.replace("type", "creatable = true\ntype")
            + "[stores.x]\ntype = 'posix'\npath = 'a'\ncreatable = true\n",
            "[stores.x] creatable: store main is creatable already",
        ),
        (
            BASE.replace("type", "creatable = true\ntype")
            + "[[buckets]]\nname = 'b'\nstore = 'main'\n",
            "[buckets[1]] prefix: is empty, but new buckets are made inside store main",
        ),
        (BASE + "[mount]\npath = 'store/mnt'\n", "[mount] path: "),
        (BASE + "[mount]\npath = '.'\n", "[mount] path: "),
        (
            BASE + "[auth]\nmode = 'simple'\n[s3]\naddress = '0.0.0.0'\n",
            '[auth] mode: "simple" checks no signature, and s3.address 0.0.0.0',
        ),
    ],
)
def test_a_mistake_stops_the_start_and_is_named(tmp_path: Path, toml: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        config(tmp_path, toml)
    assert str(caught.value).startswith("node.toml: ")
    assert message in str(caught.value)


@pytest.mark.parametrize(
    "tables",
    [
        "[s3]\naddress = '127.0.0.1'\n[auth]\nmode = 'simple'\n",
        "[s3]\naddress = '::1'\n[auth]\nmode = 'simple'\n",
        "[s3]\naddress = '0.0.0.0'\n[auth]\nmode = 'sigv4'\n",
        "[s3]\naddress = '0.0.0.0'\n[auth]\nmode = 'simple'\nallow_simple_remote = true\n",
    ],
)
def test_simple_authentication_is_for_this_machine_or_for_who_insists(
    tmp_path: Path, tables: str
) -> None:
    config(tmp_path, BASE + tables)


S3_STORE = """
[stores.far]
type = "s3"
bucket = "b"
endpoint_url = "http://127.0.0.1:9"
access_key = "AKIA"
secret_key = "very secret indeed"
"""


def test_secrets_are_never_shown(tmp_path: Path) -> None:
    found = config(tmp_path, BASE + S3_STORE)
    assert "very secret indeed" in list(secrets_of(found))
    assert "very secret indeed" not in repr(found)
    shown = effective(found)
    assert "very secret indeed" not in str(shown)
    assert shown["stores"]["far"]["secret_key"] == "***"


def test_the_effective_values_are_a_configuration_themselves(tmp_path: Path) -> None:
    found = config(tmp_path, BASE + "[mount]\npath = 'mnt'\n")
    again = config(tmp_path, config_docs.as_toml(effective(found)))
    assert dataclasses.replace(again, text=found.text) == found


def test_toml_is_written_as_it_is_read() -> None:
    tables: dict[str, Any] = {
        "a": {"text": 'quo"te\n', "none": None, "list": [1, 2], "file_mode": 0o644},
        "b": [{"x": 1, "inner": [{"y": True}]}, {"x": 2.5}],
        "c": {"d": {"e": "f"}},
    }
    read = tomllib.loads(config_docs.as_toml(tables))
    del tables["a"]["none"]
    assert read == tables
    assert tomllib.loads(DEMO_TOML)["stores"]["local"]["creatable"] is True


@pytest.mark.parametrize("section", list(config_docs.sections()), ids=lambda s: s.heading)
def test_every_setting_says_what_it_means(section: config_docs.Section) -> None:
    said = config_docs.meanings(section.kind)
    named = [field.name for field in dataclasses.fields(section.kind) if field.init]
    assert [name for name in named if not said.get(name)] == []


def test_the_configuration_page_is_current() -> None:
    page = (DOCS / "configuration.md").read_text()
    assert page == config_docs.page(), (
        "run: forebay check-config --markdown > docs/configuration.md"
    )
