"""What is handed out: a wheel and an sdist that pip alone installs into a new environment, where `tolsey demo` runs."""

import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from native.compiled import MODULES

pytestmark = pytest.mark.package

ROOT = Path(__file__).resolve().parent.parent
SECONDS = 300


def run(*command: str | Path, cwd: Path, **more: str | Path) -> str:
    """Run a command that must end well, without this process's environment but with `more`; what it says."""
    env = {name: os.environ[name] for name in ("HOME", "LANG", "PATH", "TMPDIR") if name in os.environ}
    env |= {name: value for name, value in os.environ.items() if name.lower().endswith("_proxy")}
    env |= {name: value for name, value in os.environ.items() if name.startswith("PIP_")}
    env |= {name: str(value) for name, value in more.items()}
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
    kept = {path.relative_to(ROOT / "src").as_posix() for path in source}
    assert kept <= names
    compiled = {name.partition(".")[0].removeprefix("tolsey/") for name in names - kept}
    assert compiled in (set(), {*MODULES, "tolsey__mypyc"})
    assert "py3-none-any" not in built[0].name or not compiled


def test_what_the_container_is_built_from_is_enough_and_needs_no_compiler(tmp_path: Path) -> None:
    stage = (ROOT / "deploy/Containerfile").read_text().split("\nFROM ")[1]
    let_in = {line[1:] for line in (ROOT / "deploy/Containerfile.dockerignore").read_text().split() if line[0] == "!"}
    for line in stage.splitlines():
        if line.startswith("COPY "):
            *sources, _ = line.removeprefix("COPY ").split()
            assert let_in.issuperset(sources), line
            for source in sources:
                if (ROOT / source).is_dir():
                    shutil.copytree(ROOT / source, tmp_path / source, ignore=shutil.ignore_patterns("target", "*.so"))
                else:
                    shutil.copy(ROOT / source, tmp_path / source)
    bare = tmp_path / "bin"
    bare.mkdir()
    (bare / "python").symlink_to(sys.executable)
    run(sys.executable, "-m", "hatchling", "build", "-t", "wheel", "--directory", tmp_path, cwd=tmp_path, PATH=bare)
    assert [path.name.split("-", 2)[2] for path in tmp_path.glob("*.whl")] == ["py3-none-any.whl"]


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
    # Without a compiler in sight: that of the wheel has done its work, and the sdist must do without.
    install = ("-m", "pip", "install", "--quiet", "--disable-pip-version-check")
    run(bin / "python", *install, package, cwd=tmp_path, PATH=bin)
    run(bin / "python", "-m", "pip", "check", cwd=tmp_path)
    version = package.name.split("-")[1].removesuffix(".tar.gz")
    assert run(bin / "tolsey", "--version", cwd=tmp_path) == f"tolsey {version}\n"
    said = run(bin / "tolsey", "demo", cwd=tmp_path)
    assert "6. Where the money went" in said
    assert "budget_exhausted" in said
    assert sorted(path.name for path in tmp_path.iterdir()) == ["env"]
