"""The house: who may import whom, what is packaged, what is public, how fast it starts."""

from __future__ import annotations

import ast
import subprocess
import sys
import time
import tomllib
from importlib import import_module
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LAYERS = ("spaces", "profilers", "cost_models", "search")
"""Each imports only from itself and from those before it; profilers see only the errors of spaces."""
MODULES = sorted(path for layer in LAYERS for path in (ROOT / layer).rglob("*.py"))


def imported_layers(path: Path) -> set[tuple[str, str]]:
    """Returns (layer, module) of every relative import that leaves the file's own layer."""
    found = set()
    package = path.relative_to(ROOT).parts[:-1]
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = ("hwnas", *package)[: len(package) + 2 - node.level]
            full = [*base[1:], *(node.module.split(".") if node.module else ())]
            for alias in node.names:
                inner = [*full, alias.name]
                is_module = ROOT.joinpath(*inner).with_suffix(".py").is_file() or ROOT.joinpath(*inner).is_dir()
                name = inner if is_module else full
                found.add((name[0], ".".join(name)))
    return {(layer, module) for layer, module in found if layer != package[0]}


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_folder_imports_only_from_those_above_it(path: Path) -> None:
    own = path.relative_to(ROOT).parts[0]
    for layer, module in imported_layers(path):
        assert layer in LAYERS[: LAYERS.index(own)], f"{path} imports {module}"
        if own == "profilers":
            assert module == "spaces.errors", f"{path} imports {module}: profilers see no architectures"


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_only_search_knows_optuna(path: Path) -> None:
    names = {
        name
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        for name in (
            [alias.name for alias in node.names]
            if isinstance(node, ast.Import)
            else [node.module or ""]
            if isinstance(node, ast.ImportFrom) and not node.level
            else []
        )
    }
    roots = {name.partition(".")[0] for name in names}
    assert "hwnas" not in roots, "inside the package imports are relative"
    if path.relative_to(ROOT).parts[0] != "search":
        assert "optuna" not in roots


def test_the_check_of_imports_sees_them() -> None:
    assert ("spaces", "spaces.errors") in imported_layers(ROOT / "profilers" / "child.py")
    assert ("profilers", "profilers.graph") in imported_layers(ROOT / "cost_models" / "features.py")


def test_every_package_is_listed() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["setuptools"]
    folders = {path.parent.relative_to(ROOT) for path in MODULES if path.name == "__init__.py"}
    expected = {"hwnas", *(".".join(("hwnas", *folder.parts)) for folder in folders)}
    assert set(settings["packages"]) == expected
    assert settings["package-dir"] == {
        name: "hwnas" if name == "hwnas" else "/".join(name.split(".")[1:]) for name in expected
    }


def test_every_folder_with_code_is_a_package() -> None:
    assert all((path.parent / "__init__.py").is_file() for path in MODULES)


def test_the_links_serve_type_checkers() -> None:
    for layer in LAYERS:
        assert (ROOT / "hwnas" / layer).is_symlink()
        assert (ROOT / "hwnas" / layer).resolve() == ROOT / layer


def test_files_that_are_not_code_are_packaged() -> None:
    data = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["setuptools"]["package-data"]
    for layer in LAYERS:
        for path in (ROOT / layer).rglob("*"):
            if path.is_file() and path.suffix not in (".py", ".pyc") and "__pycache__" not in path.parts:
                package = ".".join(("hwnas", *path.parent.relative_to(ROOT).parts))
                assert any(path.match(pattern) for pattern in data.get(package, [])), path


@pytest.mark.parametrize("name", ["hwnas", "hwnas.spaces", "hwnas.profilers", "hwnas.cost_models"])
def test_public_names_exist_once(name: str) -> None:
    module = import_module(name)
    assert len(module.__all__) == len(set(module.__all__))
    for public in module.__all__:
        assert getattr(module, public) is not None


@pytest.mark.parametrize(
    "path", [path for path in MODULES if path.name != "__init__.py"], ids=lambda path: str(path.relative_to(ROOT))
)
def test_every_module_says_what_is_public(path: Path) -> None:
    tree = ast.parse(path.read_text("utf-8"))
    assert ast.get_docstring(tree), f"{path} has no docstring"
    defined = {
        name
        for node in tree.body
        for name in (
            [node.name]
            if isinstance(node, ast.FunctionDef | ast.ClassDef)
            else [target.id for target in node.targets if isinstance(target, ast.Name)]
            if isinstance(node, ast.Assign)
            else []
        )
    }
    public: list[str] = next(
        (
            ast.literal_eval(node.value)
            for node in tree.body
            if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__"
        ),
        [],
    )
    imported = {
        alias.asname or alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    annotated = {
        node.target.id for node in tree.body if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)
    }
    assert set(public) <= defined | imported | annotated


def seconds_of(*command: str) -> float:
    """Returns the best of three runs, in seconds of processor time, so that a busy machine does not matter."""
    times = []
    for _ in range(3):
        code = (
            "import resource, subprocess, sys\n"
            "subprocess.run(sys.argv[1:], check=True, stdout=subprocess.DEVNULL)\n"
            "used = resource.getrusage(resource.RUSAGE_CHILDREN)\n"
            "print(used.ru_utime + used.ru_stime)"
        )
        done = subprocess.run([sys.executable, "-c", code, *command], check=True, capture_output=True, text=True)
        times.append(float(done.stdout))
    return min(times)


def modules_after(statement: str) -> set[str]:
    code = f"{statement}\nimport sys\nprint(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    return set(done.stdout.split())


HEAVY = {"torch", "optuna", "pandas", "plotly", "onnxruntime", "scipy", "sklearn", "numpy", "fvcore", "sqlalchemy"}


def test_importing_hwnas_is_fast_and_light() -> None:
    assert not modules_after("import hwnas") & HEAVY
    assert seconds_of(sys.executable, "-c", "import hwnas") < 0.3


def test_help_is_fast_and_light() -> None:
    assert seconds_of(sys.executable, "-m", "hwnas", "--help") < 0.7
    assert not modules_after("from hwnas.search.cli.entry import cli\ncli(['--help'], standalone_mode=False)") & HEAVY


def test_the_clock_of_these_tests_counts() -> None:
    start = time.monotonic()
    assert seconds_of(sys.executable, "-c", "sum(range(3_000_000))") > 0.01
    assert time.monotonic() - start < 60


def test_the_project_speaks_of_itself_alone() -> None:
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False).stdout.split()
    for name in listed:
        path = ROOT / name
        if path.suffix in {".py", ".md", ".toml", ".yaml", ".txt", ""} and path.is_file() and not path.is_symlink():
            text = path.read_text("utf-8", errors="replace")
            if path != Path(__file__):
                assert "/work/" not in text and "/root/" not in text, f"{name} names a path of one machine"
