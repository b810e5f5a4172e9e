"""The result of `describe`: the anchors' counts, the dial's values, identities; it needs no
torch."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from model.config.resolve import resolve
from model.describe import catalogue_json, describe, main

ROOT = Path(__file__).parents[2]
SPEEDRUN = str(ROOT / "ablations" / "configs" / "speedrun.yaml")


def derived(**overrides: Any) -> dict[str, Any]:
    dotted = {name.replace("__", "."): value for name, value in overrides.items()}
    return describe("x", SPEEDRUN, dotted)["derived"]


def test_d24_has_nanochats_counts_to_the_parameter() -> None:
    d24 = derived(dial__depth=24)
    counts = d24["parameters"]
    assert counts["embedding"] == 50_331_648
    assert counts["value_tables"] == 603_979_776
    assert counts["head"] == 50_331_648
    assert counts["matrices"] == 679_478_976
    scalars = ("resid_scalars", "x0_scalars", "smear", "backout")
    assert sum(counts[label] for label in scalars) == 74
    assert d24["parameters_total"] == 1_384_122_122
    assert d24["flops_per_token"] == 4_775_225_616


def test_the_dial_gives_nanochats_batch_and_decay_at_d8_even_with_steps_by_hand() -> None:
    d8 = derived(dial__depth=8, dial__steps=240)
    assert d8["batch_tokens"] == 262_144
    assert d8["weight_decay"]["matrices"] == pytest.approx(0.5197, abs=5e-5)
    assert d8["tokens"] == 62_914_560


def test_the_dial_at_d12_is_the_reference_point() -> None:
    d12 = derived()
    assert d12["scaling_ratio"] == 1.0
    assert d12["batch_tokens"] == 2**19
    assert d12["sizes"]["windows"] == (512, 512, 512, 2048) * 3
    assert d12["learning_rates"]["embedding"] == pytest.approx(0.3)


def test_the_last_layer_always_sees_the_whole_context() -> None:
    assert derived(dial__depth=6)["sizes"]["windows"][-1] == 2048


def test_pins_reproduce_the_bases_derived_values_in_an_arm() -> None:
    base = describe("base", SPEEDRUN, {"dial.depth": 8})
    without = {"dial.depth": 8, "model.value_embeddings": None}
    own = describe("arm", SPEEDRUN, without)
    assert own["pins"]["dial.params"] != base["pins"]["dial.params"]
    pinned = describe("arm", SPEEDRUN, {**without, **base["pins"]})["derived"]
    for name in ("steps", "batch_tokens", "device_batch_rows", "warmup_steps"):
        assert pinned[name] == base["derived"][name]
    assert pinned["weight_decay"]["matrices"] == base["derived"]["weight_decay"]["matrices"]


def test_places_are_absolute_so_that_another_checkout_finds_them() -> None:
    paths = describe("x", SPEEDRUN, {})["data_paths"]
    assert set(paths) == {"data.cache_dir", "system.compile_cache_dir"}
    assert all(Path(path).is_absolute() for path in paths.values())


def test_faults_stand_in_errors_and_other_arms_are_described() -> None:
    items = [
        {"name": "good", "base": SPEEDRUN, "set": {}},
        {"name": "bad", "base": SPEEDRUN, "set": {"model.smeer": {}}},
    ]
    command = [sys.executable, "-m", "model.describe", "--batch"]
    done = subprocess.run(
        command, input=json.dumps(items), capture_output=True, text=True, cwd=ROOT, check=True
    )
    good, bad = json.loads(done.stdout)
    assert good["errors"] == []
    assert good["identity"]["config_id"]
    assert bad["config"] is None
    assert bad["errors"][0]["hint"] == "Did you mean smear?"


def test_text_form_lists_what_is_not_built(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([SPEEDRUN]) == 0
    out = capsys.readouterr().out
    assert "parameters_total" in out
    assert "not built yet: prefix_token_prediction, dynamic_head_composition" in out


def test_what_is_not_built_is_none_of_the_tricks_and_has_a_reason() -> None:
    catalogue = catalogue_json()
    assert not catalogue["not_built"].keys() & catalogue["tricks"].keys()
    for entry in catalogue["not_built"].values():
        assert all(entry[name] for name in ("summary", "source", "people", "reason"))


def test_a_faulty_configuration_exits_with_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([SPEEDRUN, "--set", "dial.depth=deep"]) == 2
    assert "expected a whole number; got 'deep'" in capsys.readouterr().err


def test_torch_free_modules_import_no_torch_numpy_or_pyarrow() -> None:
    config = (
        "reader checks catalogue shapes stages horizon derive identity schedules memory resolve"
    )
    modules = " ".join(f"config.{name}" for name in config.split())
    modules += " describe doctor errors system.compile_cache system.failure"
    imports = "; ".join(f"import model.{name}" for name in modules.split())
    heavy = ("torch", "numpy", "pyarrow", "tiktoken")
    check = f"import sys; print([name for name in {heavy} if name in sys.modules])"
    command = [sys.executable, "-c", f"{imports}; {check}"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.strip() == "[]"


def test_code_id_moves_with_python_files_and_with_nothing_else(tmp_path: Path) -> None:
    import shutil

    shutil.copytree(
        ROOT / "model", tmp_path / "model", ignore=shutil.ignore_patterns("__pycache__")
    )

    def code_id() -> str:
        command = [
            sys.executable,
            "-c",
            "from model.config.identity import code_id; print(code_id())",
        ]
        return subprocess.run(
            command, capture_output=True, text=True, cwd=tmp_path, check=True
        ).stdout

    before = code_id()
    (tmp_path / "model" / "README.md").write_text("text")
    assert code_id() == before
    gpt = tmp_path / "model" / "gpt.py"
    gpt.write_text(gpt.read_text() + "# a comment\n")
    assert code_id() != before


def test_resolve_raises_for_one_configuration() -> None:
    config, values = resolve(SPEEDRUN, {"dial.depth": 4})
    assert config.dial.depth == 4
    assert values.sizes.width == 256
