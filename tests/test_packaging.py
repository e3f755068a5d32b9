"""What is installed is what was meant: the packages of the wheel, and the pinned dependencies.

`fuse`, `cache` and `node` are names that other projects use too, so a test must show that an
installed Forebay finds its own.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
TOP_LEVEL_PACKAGES = ("node", "fuse", "s3api", "cache")
REQUIREMENT_FILES = sorted(ROOT.glob("requirements*.txt"))


def packages_in_sources() -> set[str]:
    return {
        ".".join(init.parent.relative_to(ROOT).parts)
        for top_level in TOP_LEVEL_PACKAGES
        for init in (ROOT / top_level).rglob("__init__.py")
    }


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel built from a copy of the sources: setuptools would leave its build directory in the
    clone, and put what an earlier build left there into the wheel."""
    sources = tmp_path_factory.mktemp("sources")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, sources)
    # tests/ and bench/ would be found by a discovery that looked for them.
    for name in (*TOP_LEVEL_PACKAGES, "tests"):
        shutil.copytree(
            ROOT / name, sources / name, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info")
        )
    wheels = tmp_path_factory.mktemp("wheels")
    pip("wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(wheels), str(sources))
    (built,) = wheels.glob("forebay-*.whl")
    return built


def pip(*arguments: str) -> None:
    subprocess.run([sys.executable, "-m", "pip", "--quiet", *arguments], check=True)


def test_wheel_holds_every_package_and_nothing_else(wheel: Path) -> None:
    names = [Path(name) for name in zipfile.ZipFile(wheel).namelist()]
    modules = [name for name in names if not name.parts[0].endswith(".dist-info")]

    assert {".".join(name.parent.parts) for name in modules} == packages_in_sources()


def test_installed_wheel_finds_its_own_packages(wheel: Path, tmp_path: Path) -> None:
    environment = tmp_path / "environment"
    subprocess.run(
        [sys.executable, "-m", "venv", "--without-pip", str(environment)],
        check=True,
    )
    python = environment / "bin" / "python"
    pip("--python", str(python), "install", "--no-deps", "--no-index", str(wheel))
    # Dependencies come from this environment; its own editable Forebay does not come with them,
    # because .pth files count only in a directory that is itself a site directory.
    site_packages = Path(sysconfig.get_path("purelib", vars={"base": str(environment)}))
    (site_packages / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")

    names = sorted(packages_in_sources())
    script = f"import {', '.join(names)}\nfor name in {names!r}: print(eval(name).__file__)"
    printed = subprocess.run(
        [str(python), "-c", script],
        check=True,
        capture_output=True,
        text=True,
        cwd=ROOT,  # where the sources lie in wait
        env=os.environ | {"PYTHONSAFEPATH": "1"},
    ).stdout.splitlines()

    assert printed == [
        str(site_packages / name.replace(".", "/") / "__init__.py") for name in names
    ]
    assert os.access(environment / "bin" / "forebay", os.X_OK)


@pytest.mark.parametrize("path", REQUIREMENT_FILES, ids=lambda path: path.name)
def test_requirements_are_pinned_hashed_and_name_no_host(path: Path) -> None:
    text = path.read_text()

    assert "://" not in text
    assert not re.search(r"^\s*--(?!hash=sha256:[0-9a-f]{64}\b)", text, flags=re.MULTILINE)
    joined = text.replace("\\\n", " ")
    for line in joined.splitlines():
        if line.strip() and not line.lstrip().startswith("#"):
            assert re.match(r"[a-z0-9-]+==[^\s;]+ .*--hash=sha256:", line), line


def test_a_package_has_one_version_in_all_requirement_files() -> None:
    development = pinned(ROOT / "requirements-dev.txt")

    for path in REQUIREMENT_FILES:
        assert pinned(path).items() <= development.items(), path.name


def test_every_declared_dependency_is_pinned() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    groups = project["dependency-groups"]

    for declared, path in (
        (project["project"]["dependencies"], "requirements.txt"),
        (groups["build"], "requirements-build.txt"),
        (groups["dev"], "requirements-dev.txt"),
    ):
        names = {re.split(r"[\[<>=]", requirement)[0] for requirement in declared}
        assert names <= pinned(ROOT / path).keys(), path


def pinned(path: Path) -> dict[str, str]:
    """Name to version, as the file pins them."""
    return dict(re.findall(r"^([a-z0-9-]+)==(\S+)", path.read_text(), flags=re.MULTILINE))
