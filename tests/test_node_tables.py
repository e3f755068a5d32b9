"""One TOML table into one dataclass: what is accepted, and what each mistake is answered with."""

from __future__ import annotations

import enum
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest

from node.errors import ConfigError, ExitCode
from node.tables import Place, format_size, parse_size, read


class Colour(enum.StrEnum):
    RED = "red"
    GREEN = "green"


@dataclass(frozen=True)
class Disk:
    path: Path
    capacity_bytes: int | None = None


@dataclass(frozen=True)
class Example:
    name: str = "x"
    size_bytes: int = 1
    share: float = 0.5
    on: bool = False
    colour: Colour = Colour.RED
    policy: Literal["lru", "fifo"] = "lru"
    disks: tuple[Disk, ...] = ()
    disk: Disk | None = None
    modes: dict[str, int] = field(default_factory=dict)
    age: Literal["never"] | float = "never"
    password: str = field(default="", repr=False)

    def __post_init__(self) -> None:
        if not 0 < self.share <= 1:
            raise ValueError(f"share must be above 0 and at most 1, not {self.share}")


def place(tmp_path: Path, *, private: bool = True) -> Place:
    return Place("node.toml", tmp_path, private=private, table="example")


def read_toml(tmp_path: Path, text: str, *, private: bool = True) -> Example:
    values: dict[str, Any] = tomllib.loads(text)
    return read(Example, values, place(tmp_path, private=private))


def test_every_type_is_read(tmp_path: Path) -> None:
    example = read_toml(
        tmp_path,
        """
        name = "n"
        size_bytes = "256MiB"
        share = 1
        on = true
        colour = "green"
        policy = "fifo"
        disks = [{path = "a", capacity_bytes = 5}, {path = "/b"}]
        disk = {path = "c"}
        modes = {one = 1}
        age = 30
        password = "secret"
        """,
    )
    assert example == Example(
        name="n",
        size_bytes=256 << 20,
        share=1.0,
        on=True,
        colour=Colour.GREEN,
        policy="fifo",
        disks=(Disk(tmp_path / "a", 5), Disk(Path("/b"))),
        disk=Disk(tmp_path / "c"),
        modes={"one": 1},
        age=30.0,
        password="secret",
    )


def test_defaults_stand_for_what_is_left_out(tmp_path: Path) -> None:
    assert read_toml(tmp_path, "") == Example()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("nmae = 'n'", "[example] nmae: unknown key; did you mean name?"),
        ("size = 4", "[example] size: unknown key; did you mean size_bytes?"),
        ("zzz = 4", "[example] zzz: unknown key; known here: age, colour,"),
        ("name = 4", "[example] name: must be a string, not 4"),
        ("on = 1", "[example] on: must be true or false, not 1"),
        ("size_bytes = true", "[example] size_bytes: must be a size, not true"),
        ("size_bytes = '4 ells'", "[example] size_bytes: must be a size such as"),
        ("share = 'half'", '[example] share: must be a number, not "half"'),
        ("share = 2.0", "[example] share: must be above 0 and at most 1, not 2.0"),
        ("colour = 'gren'", 'must be one of "red", "green", not "gren"; did you mean "green"?'),
        ("policy = 'lfu'", '[example] policy: must be one of "lru", "fifo", not "lfu"'),
        ("disks = 4", "[example] disks: must be a list, not 4"),
        ("disks = [{path = 'a'}, {paht = 'b'}]", "[example.disks[2]] path: is missing"),
        ("disks = [{path = 'a', cap = 3}]", "[example.disks[1]] cap: unknown key"),
        ("disk = {}", "[example.disk] path: is missing; add it"),
        ("disk = {path = 4}", "[example.disk] path: must be a path, not 4"),
        ("age = 'often'", '[example] age: must be one of "never" or a number, not "often"'),
        ("modes = {one = 'x'}", "[example.modes] one: must be a whole number"),
    ],
)
def test_a_mistake_names_file_table_and_key(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read_toml(tmp_path, text)
    assert str(caught.value).startswith("node.toml: ")
    assert message in str(caught.value)
    assert caught.value.code is ExitCode.CONFIGURATION


def test_a_secret_is_read_from_its_own_file(tmp_path: Path) -> None:
    file = tmp_path / "password"
    file.write_text("s3cret\n")
    file.chmod(0o600)
    assert read_toml(tmp_path, "password_file = 'password'").password == "s3cret"


def test_a_secret_that_others_can_read_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "password"
    file.write_text("s3cret\n")
    file.chmod(0o640)
    with pytest.raises(ConfigError, match=r"\[example\] password_file: .*chmod 600"):
        read_toml(tmp_path, "password_file = 'password'")
    with pytest.raises(ConfigError, match=r"\[example\] password: .*others can read") as caught:
        read_toml(tmp_path, "password = 's3cret'", private=False)
    assert "s3cret" not in str(caught.value)


def test_a_secret_comes_from_one_place(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="password_file: excludes password"):
        read_toml(tmp_path, "password = 'a'\npassword_file = 'b'")
    with pytest.raises(ConfigError, match=r"password_file: cannot read .*missing"):
        read_toml(tmp_path, "password_file = 'missing'")


@pytest.mark.parametrize(
    ("text", "size_bytes"),
    [
        ("0", 0),
        ("4096", 4096),
        ("256MiB", 256 << 20),
        ("1.5 GiB", 3 << 29),
        ("2 TB", 2 * 10**12),
        ("7k", None),
        ("-1", None),
        ("", None),
        ("1 MiB/s", None),
    ],
)
def test_sizes(text: str, size_bytes: int | None) -> None:
    if size_bytes is None:
        with pytest.raises(ValueError, match="must be a size"):
            parse_size(text)
    else:
        assert parse_size(text) == size_bytes
        assert parse_size(format_size(size_bytes)) == size_bytes
