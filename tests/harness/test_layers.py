"""The law of the house: who may import whom."""

import ast
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
LAYERS = [
    ["errors"],
    ["masking"],
    ["atomic"],
    ["config"],
    ["cluster"],
    ["trainer"],
    ["run"],
    ["outcomes"],
    ["record"],
    ["pace"],
    ["arms"],
    ["store"],
    ["pack"],
    ["dunnett", "fits", "statistics"],
    ["verdict", "power", "sequential", "mixture", "launches", "pairs"],
    ["ab"],
    ["relay", "turns"],
    ["sweep", "worktree", "dependencies"],
    ["draft"],
    ["resolve"],
    ["attempt", "replicates", "budget"],
    ["schedule", "allowance"],
    ["study"],
    ["plan_table", "live"],
    ["effects", "comparison", "time_to_target", "attribution"],
    ["paired_core"],
    ["report"],
    ["search"],
    ["ledger"],
    ["logs"],
    ["margins", "fairness", "judgement", "answers", "summary"],
    ["baseline"],
    ["gate"],
    ["full"],
    ["doctor"],
    ["drift", "drift_report"],
    ["commands", "compare", "banking", "gating", "searching", "tuning", "launching"],
    ["options"],
    ["gate_cli"],
    ["ci"],
    ["cli"],
    ["__main__"],
]
PLACE = {name: place for place, names in enumerate(LAYERS) for name in names}
FOREIGN = {"torch", "model"}


def imports(path: Path) -> set[str]:
    """Every module a file imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def modules() -> list[Path]:
    return sorted((ROOT / "harness").rglob("*.py"))


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(ROOT)))
def test_harness_imports_neither_torch_nor_the_trainer(path):
    assert not {name for name in imports(path) if name.partition(".")[0] in FOREIGN}


def test_the_trainer_does_not_import_the_harness():
    for path in (ROOT / "model").rglob("*.py"):
        assert not {name for name in imports(path) if name.partition(".")[0] == "harness"}, path


def test_every_file_of_the_harness_has_its_layer():
    names = {path.stem for path in (ROOT / "harness").glob("*.py")} - {"__init__"}
    folders = {path.parent.name for path in (ROOT / "harness").glob("*/__init__.py")} - {"fake"}
    assert names | folders == set(PLACE)


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_go_from_later_layers_to_earlier_ones(path):
    relative = path.relative_to(ROOT / "harness")
    layer = relative.parts[0].removesuffix(".py")
    used = {name.split(".")[1] for name in imports(path) if name.startswith("harness.")}
    used = {name for name in used if name in PLACE and name != layer}
    if layer == "fake":
        assert used <= {"errors", "atomic"}
    elif layer != "__init__":
        assert all(PLACE[name] <= PLACE[layer] for name in used), used


def test_help_imports_no_heavy_library():
    code = (
        "import sys; import harness.cli, harness.__main__; "
        "print([m for m in ('numpy', 'scipy', 'pyarrow', 'pandas', 'plotly', 'torch', 'ruamel', "
        "'optuna', 'sqlalchemy') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


def test_the_map_of_the_package_names_every_file_in_the_order_of_the_layers():
    import harness

    named = [
        line.split()[0] for line in (harness.__doc__ or "").splitlines() if line[:4] == " " * 4
    ]
    assert named == [name for layer in LAYERS for name in layer if name != "__main__"]


@pytest.mark.parametrize("package", ["ci", "cluster", "full", "gate"])
def test_inside_a_package_imports_go_from_later_files_to_earlier_ones(package):
    name = f"harness.{package}"
    lines = (importlib.import_module(name).__doc__ or "").splitlines()
    order = [line.split()[0] for line in lines if line[:4] == " " * 4]
    folder = ROOT / "harness" / package
    assert sorted(order) == sorted(path.stem for path in folder.glob("*.py") if path.stem[0] != "_")
    for path in (folder / f"{file}.py" for file in order):
        used = {each.split(".")[2] for each in imports(path) if each.startswith(f"{name}.")}
        assert all(order.index(file) < order.index(path.stem) for file in used), path
