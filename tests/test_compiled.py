"""What is compiled says the same as what is read: what mypyc makes something else of does not occur there."""

import ast
import importlib
import shutil
from collections import Counter
from pathlib import Path

import pytest

import tolsey
from native.compiled import MODULES, compiler_name
from tests.swarm import ROOT

SOURCE = ROOT / "src/tolsey"


@pytest.mark.parametrize("module", MODULES)
def test_nothing_means_something_else_compiled(module: str) -> None:
    tree = ast.parse((SOURCE / f"{module}.py").read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            # Two handlers with one name share a variable, of the first one's type.
            names = Counter(each.name for each in ast.walk(node) if isinstance(each, ast.ExceptHandler) and each.name)
            types = {
                ast.dump(each.type)
                for each in ast.walk(node)
                if isinstance(each, ast.ExceptHandler) and each.name and each.type is not None
            }
            assert len(types) <= 1 or max(names.values()) == 1, f"{module}: {node.name} uses one name twice"
        if isinstance(node, ast.ClassDef):
            # What stands in the head of a class beside its bases is dropped.
            kept = {"gc"}
            assert {each.arg for each in node.keywords} <= kept, f"{module}: {node.name}"


def test_it_is_compiled_where_it_is_to_be() -> None:
    package = Path(tolsey.__file__).parent
    if package.parent.name != ".compiled":
        pytest.skip("this is the source as it is; see `make test-compiled`")
    if shutil.which(compiler_name()) is None:
        pytest.skip("there is no C compiler")
    for module in MODULES:
        name = f"tolsey.{module.replace('/', '.')}"
        assert str(importlib.import_module(name).__file__).endswith(".so"), name
