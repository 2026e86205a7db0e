"""Compiles what is in the way of every call with mypyc: the same Python, as C (docs/decisions/0038).

`python native/compiled.py FOLDER` puts what is compiled into FOLDER, at the paths of the package.
"""

import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

SOURCE = Path(__file__).resolve().parent.parent / "src"
MODULES = (
    "audit/seal",
    "gateway/clearing",
    "gateway/counting",
    "gateway/ended",
    "gateway/fast_call",
    "gateway/fast_path",
    "gateway/funds",
    "gateway/log",
    "gateway/native",
    "gateway/plan",
    "gateway/plans",
    "gateway/record",
    "gateway/remembered",
    "gateway/settling",
    "gateway/tallying",
    "ledger/books",
    "ledger/events",
    "ledger/observing",
    "ledger/rules",
    "ledger/tallies",
    "ledger/windows",
    "pricing/answers",
    "pricing/llm",
    "pricing/models",
    "pricing/tariff",
    "pricing/usage",
    "store/book",
    "store/embedded",
    "store/kernel_sync",
    "store/owners",
    "store/postgres_rows",
    "store/revocations",
    "store/sealing",
    "store/sealing_postgres",
    "store/sealing_sqlite",
    "store/sqlite",
    "store/sqlite_accounts",
    "store/sqlite_entries",
    "store/sqlite_file",
    "store/sqlite_rows",
    "units",
)
"""All that a call on the fast path runs through, but for modules with classes that mypyc makes others of (msgspec's),
for `token/`, which agents import by itself, and for what else it is made of; and of the PostgreSQL ledger what can be,
as mypyc has no asynchronous generators.
"""


def compiler_name() -> str:
    """The C compiler that would be called, which need not be there."""
    named: str = os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc"
    return named.split(maxsplit=1)[0]


def compile_into(folder: Path) -> list[Path]:
    """Compile into a folder; what is there then, each by its path in it. Nothing where that cannot be done, for want
    of a compiler or of mypyc; a line says so.
    """
    compiler = compiler_name()
    if shutil.which(compiler) is None:
        sys.stderr.write(f"tolsey is not compiled: there is no {compiler}\n")
        return []
    command = [sys.executable, __file__, os.fspath(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - ourselves
    if done.returncode:
        sys.stderr.write(f"tolsey is not compiled:\n{(done.stderr or done.stdout).strip()[-2000:]}\n")
        return []
    return sorted(path.relative_to(folder) for path in folder.rglob("*.so"))


def _compile(folder: Path) -> None:
    from mypyc.build import mypycify
    from setuptools import Distribution  # type: ignore[import-untyped]  # it has no types

    folder = folder.resolve()
    with tempfile.TemporaryDirectory() as name:
        # mypy takes the names of modules from where they are, and leaves its C there.
        shutil.copytree(SOURCE / "tolsey", Path(name, "tolsey"), ignore=shutil.ignore_patterns("*.so", "__pycache__"))
        os.chdir(name)
        extensions = mypycify(
            # What the package needs is not there where a wheel is built.
            ["--ignore-missing-imports", *(f"tolsey/{module}.py" for module in MODULES)],
            opt_level="3",
            debug_level="0",
            group_name="tolsey",
        )
        distribution = Distribution({"name": "tolsey", "ext_modules": extensions})
        command = distribution.get_command_obj("build_ext")
        command.build_lib, command.build_temp = os.fspath(folder), "objects"
        command.ensure_finalized()
        command.run()


if __name__ == "__main__":
    _compile(Path(sys.argv[1]))
