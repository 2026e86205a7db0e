"""Builds the compiled wire into the package where there is cargo, and compiled modules into a wheel where there is a C
compiler; elsewhere the package is what it is without them.
"""

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from native.compiled import compile_into

NATIVE = Path(__file__).resolve().parent
BUILT = NATIVE / "target/release/libtolsey_wire.so"
PLACE = "src/tolsey/gateway/_wire.so"
COMPILED = "build/compiled"


class NativeHook(BuildHookInterface):  # type: ignore[type-arg]  # its parameter is the builder's config, which is not used
    """Adds the library to wheels and to the source tree of an editable installation."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Called by hatchling before it builds a wheel."""
        wire = build(Path(self.root) / PLACE)
        if wire:
            build_data["artifacts"].append(PLACE)
        # An editable installation is the source as it is: what was compiled would not change with it.
        if version != "standard":
            return
        folder = Path(self.root) / COMPILED
        shutil.rmtree(folder, ignore_errors=True)
        compiled = compile_into(folder)
        build_data["force_include"] |= {str(folder / path): str(path) for path in compiled}
        if wire or compiled:
            # The wire asks nothing of the interpreter, but runs on this kind of machine alone.
            python = f"cp{sys.version_info[0]}{sys.version_info[1]}"
            platform = sysconfig.get_platform().replace("-", "_").replace(".", "_")
            build_data["tag"] = f"{python}-{python}-{platform}" if compiled else f"py3-none-{platform}"
            build_data["pure_python"] = False


def build(place: Path) -> bool:
    """Build the library and put it into its place; False, with a line that says so, where that cannot be done."""
    cargo = shutil.which("cargo")
    if not sys.platform.startswith("linux") or cargo is None:
        return _without("it needs Linux and cargo, which is not there" if cargo is None else "it needs Linux")
    command = [cargo, "build", "--release", "--locked", "--manifest-path", str(NATIVE / "Cargo.toml")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - cargo, with our own file
    if done.returncode or not BUILT.exists():
        return _without(f"cargo could not build it:\n{done.stderr.strip()}")
    # In one step: a gateway that runs has the old one open.
    fresh = place.with_suffix(".new")
    shutil.copyfile(BUILT, fresh)
    os.replace(fresh, place)
    return True


def _without(why: str) -> bool:
    sys.stderr.write(f"tolsey is built without its compiled wire: {why}\n")
    return False
