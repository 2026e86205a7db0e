"""What is handed out: a wheel and an sdist that pip alone installs into a new environment, where `tolsey demo` runs."""

import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

pytestmark = pytest.mark.package

ROOT = Path(__file__).resolve().parent.parent
SECONDS = 300


def run(*command: str | Path, cwd: Path) -> str:
    """Run a command that must end well, without this process's environment; what it says."""
    env = {name: os.environ[name] for name in ("HOME", "LANG", "PATH", "TMPDIR") if name in os.environ}
    env |= {name: value for name, value in os.environ.items() if name.lower().endswith("_proxy")}
    env |= {name: value for name, value in os.environ.items() if name.startswith("PIP_")}
    done = subprocess.run(
        [*map(str, command)], cwd=cwd, env=env, capture_output=True, text=True, check=False, timeout=SECONDS
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The wheel and the sdist."""
    folder = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "hatchling", "build", "--directory", folder, cwd=ROOT)
    (wheel,), (sdist,) = folder.glob("*.whl"), folder.glob("*.tar.gz")
    return wheel, sdist


def test_the_wheel_has_the_package_and_nothing_else(built: tuple[Path, Path]) -> None:
    with zipfile.ZipFile(built[0]) as wheel:
        names = {name for name in wheel.namelist() if ".dist-info/" not in name}
    source = {path for path in (ROOT / "src/tolsey").rglob("*") if path.is_file() and "__pycache__" not in path.parts}
    assert names == {path.relative_to(ROOT / "src").as_posix() for path in source}


def test_the_sdist_can_be_tested_and_read(built: tuple[Path, Path]) -> None:
    with tarfile.open(built[1]) as sdist:
        names = {name.partition("/")[2] for name in sdist.getnames()}
    wanted = {"Makefile", "LICENSE", "README.md", "pyproject.toml", "requirements-dev.lock", "tests/conftest.py"}
    assert wanted <= names
    assert not [name for name in names if name.startswith((".", "data/")) and name not in (".gitignore", "")]


@pytest.mark.parametrize("which", ["wheel", "sdist"])
def test_pip_alone_installs_it_and_the_demo_runs(built: tuple[Path, Path], which: str, tmp_path: Path) -> None:
    package = built[which == "sdist"]
    run(sys.executable, "-m", "venv", tmp_path / "env", cwd=tmp_path)
    bin = tmp_path / "env/bin"  # noqa: A001 - what the folder is called
    run(bin / "python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check", package, cwd=tmp_path)
    run(bin / "python", "-m", "pip", "check", cwd=tmp_path)
    version = package.name.split("-")[1].removesuffix(".tar.gz")
    assert run(bin / "tolsey", "--version", cwd=tmp_path) == f"tolsey {version}\n"
    said = run(bin / "tolsey", "demo", cwd=tmp_path)
    assert "6. Where the money went" in said
    assert "budget_exhausted" in said
    assert sorted(path.name for path in tmp_path.iterdir()) == ["env"]
