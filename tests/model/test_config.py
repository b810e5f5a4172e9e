"""Faulty configurations: each gives the field, what was expected, what was there and what to do."""

import json
from pathlib import Path
from typing import Any

import pytest

from model.config import Config
from model.config.derive import derive
from model.config.identity import config_id
from model.config.reader import load_config, parse_overrides, parse_yaml
from model.config.resolve import resolve
from model.errors import ConfigErrors

BASES = Path(__file__).parents[2] / "ablations" / "configs"


def faults(base: Path | None = None, **overrides: Any) -> str:
    """The message for overrides written with __ in place of dots."""
    dotted = {name.replace("__", "."): value for name, value in overrides.items()}
    with pytest.raises(ConfigErrors) as caught:
        resolve(str(base) if base else None, dotted)
    return str(caught.value)


def test_unknown_key_names_the_nearest_known_one() -> None:
    assert "Did you mean context_tokens?" in faults(model__context_token=64)
    assert "Did you mean optimizer?" in faults(optimiser__clip=1.0)


def test_unknown_key_without_a_near_one_lists_the_known() -> None:
    assert "Known keys: depth, ratio, steps" in faults(dial__xyzzy=1)


@pytest.mark.parametrize(
    ("path", "value", "expected"),
    [
        ("dial.depth", "twelve", "a whole number"),
        ("dial.depth", 12.5, "a whole number"),
        ("dial.depth", True, "a whole number"),
        ("dial.ratio", "correction", "a number"),
        ("model.bias", 1, "true or false"),
        ("model.norm", "batchnorm", "one of layernorm, rmsnorm"),
        ("dial", 4, "a mapping"),
        ("model.softcap", 15, "a mapping of Softcap fields"),
        ("dial.depth", None, "a whole number"),
    ],
)
def test_wrong_type_names_field_and_kind(path: str, value: object, expected: str) -> None:
    message = faults(**{path.replace(".", "__"): value})
    assert path in message
    assert expected in message


@pytest.mark.parametrize("value", ["off", "none", "false", False, "no"])
def test_other_values_for_off_are_refused_with_null_as_hint(value: object) -> None:
    assert "Write model.smear: null." in faults(model__smear=value)


@pytest.mark.parametrize("value", ["on", True])
def test_other_values_for_on_are_refused_with_a_mapping_as_hint(value: object) -> None:
    assert "Write model.smear: {} for its defaults." in faults(model__smear=value)


def test_a_field_of_a_trick_that_is_off_is_refused() -> None:
    assert "Switch it on first, for example --set model.windows={}" in faults(
        model__windows__pattern="SL"
    )


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        ({"model.width": 100}, "model.width: expected a multiple of head_width (64); got 100"),
        (
            {"model.windows": {"short_tokens": 4096}},
            "expected 1 to context_tokens (1024); got 4096",
        ),
        ({"model.windows": {"pattern": "SLX"}}, "letters S and L"),
        ({"model.windows": {}, "model.context_tokens": 64}, "at least 128 tokens"),
        ({"dial.batch_tokens": 1000}, "a multiple of context_tokens x ranks = 1024 x 1; got 1000"),
        ({"system.device_batch_rows": 7}, "a divisor of the 512 rows"),
        ({"dial.depth": 0}, "dial.depth: expected more than 0; got 0"),
        ({"model.smear": {"gate_channels": 5000}}, "1 to the width (768)"),
        ({"model.rotary": {}, "model.head_width": 3}, "even"),
        ({"optimizer.muon": {"orthogonalize": "polar_express", "iterations": 6}}, "1 to 5"),
        ({"optimizer.muon": {"momentum": 1.0}}, "optimizer.muon.momentum: expected 0 to below 1"),
        ({"optimizer.head.beta2": 1.5}, "optimizer.head.beta2: expected 0 to below 1; got 1.5"),
        ({"optimizer.norms.lr": -1.0}, "optimizer.norms.lr: expected 0 or more"),
        ({"optimizer.clip": 0.0}, "optimizer.clip: expected more than 0"),
        ({"schedule.warmdown": {"fraction": 65}}, "schedule.warmdown.fraction: expected 0 to 1"),
        ({"schedule.warmup_steps": -1}, "schedule.warmup_steps: expected 0 or more"),
        ({"model.softcap": {"cap": 0}}, "model.softcap.cap: expected more than 0"),
        ({"model.logit_rescale": {"scale": 0}}, "model.logit_rescale.scale: expected more than 0"),
        (
            {"model.softcap": {}, "model.logit_rescale": {}},
            "logit_rescale: expected softcap off; got softcap on. Set model.softcap: None.",
        ),
        (
            {"model.rotary": {"half": {}}, "model.head_width": 6},
            "model.head_width: expected a multiple of 4; got 6",
        ),
        ({"model.rotary": {"half": {"base": 0}}}, "model.rotary.half.base: expected more than 0"),
        (
            {"model.rotary": {}, "model.partial_key_offset": True},
            "partial_key_offset: expected half_rotary on; got half_rotary off",
        ),
        ({"model.paired_heads": {}}, "paired_heads: expected windows on; got windows off"),
        (
            {"model.paired_heads": {}, "model.windows": {}, "model.width": 192},
            "model.paired_heads: expected an even number of heads; got 3",
        ),
        (
            {"model.paired_heads": {}, "model.windows": {"pattern": "L"}},
            "model.paired_heads: expected a layer with a short window; got none",
        ),
        (
            {"model.paired_heads": {"every": 0}, "model.windows": {}},
            "model.paired_heads.every: expected 1 or more; got 0",
        ),
        (
            {"model.bigram_hash_embedding": {"sign_rows": 0}},
            "model.bigram_hash_embedding.sign_rows: expected 1 or more; got 0",
        ),
        (
            {"model.sparse_attention_gate": {"gate_channels": 0}},
            "model.sparse_attention_gate.gate_channels: expected 1 to the width (768); got 0",
        ),
        ({"model.xsa": {}}, "model.xsa: expected true or false; got {}"),
        ({"system.calibration_s": -1}, "system.calibration_s: expected 0 or more"),
        ({"data": "climbmix"}, "data.train_files: expected how many of the 6,542 training files"),
        ({"data.train_files": 0}, "data.train_files: expected at least 1 training file"),
        ({"data": "fineweb10B"}, "Set data.tokenizer: gpt2 and model.vocab_size: 50257."),
        ({"data.tokenizer": "gpt2"}, "model.vocab_size: expected 50,257 tokens"),
        ({"data.mirror": "/mnt"}, "data.mirror: expected an address that begins with http"),
    ],
)
def test_impossible_combinations_fail_before_anything_runs(
    overrides: dict[str, Any], expected: str
) -> None:
    with pytest.raises(ConfigErrors) as caught:
        resolve(None, overrides)
    assert expected in str(caught.value)


def test_all_faults_are_reported_at_once() -> None:
    message = faults(dial__depht=4, model__norm="x", optimizer__clip="high")
    assert len(message.splitlines()) == 3


def test_broken_yaml_names_the_file(tmp_path: Path) -> None:
    path = tmp_path / "broken.yaml"
    path.write_text("dial: {depth: 4\n")
    with pytest.raises(ConfigErrors, match=r"broken\.yaml: expected valid YAML"):
        load_config(path)
    path.write_text("- a list\n")
    with pytest.raises(ConfigErrors, match="expected a mapping of sections"):
        load_config(path)
    with pytest.raises(ConfigErrors, match="readable configuration file"):
        load_config(tmp_path / "absent.yaml")


def test_overrides_are_read_as_yaml_and_need_an_equals_sign() -> None:
    parsed = parse_overrides(["dial.depth=8", "model.smear=null", "model.windows={pattern: SL}"])
    assert parsed == {"dial.depth": 8, "model.smear": None, "model.windows": {"pattern": "SL"}}
    with pytest.raises(ConfigErrors, match="expected --set PATH=VALUE"):
        parse_overrides(["dial.depth"])


def test_overrides_are_left_as_they_were_given() -> None:
    given = {"model.rotary": {"base": 5e4}, "model.rotary.half": {}}
    config = load_config(None, given)
    assert config.model.rotary is not None
    assert config.model.rotary.half is not None
    assert given == {"model.rotary": {"base": 5e4}, "model.rotary.half": {}}


def test_a_bare_string_under_data_is_its_source_and_keeps_the_rest(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text("data: {order: file}\n")
    config = load_config(path, {"data": "some/folder"})
    assert (config.data.source, config.data.order) == ("some/folder", "file")


def test_extends_takes_the_other_file_first_and_keeps_label_settings(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("dial: {depth: 8}\noptimizer: {head: {lr: 0.5}}\n")
    (tmp_path / "b.yaml").write_text("extends: a.yaml\noptimizer: {head: {beta1: 0.5}}\n")
    config = load_config(tmp_path / "b.yaml")
    assert config.dial.depth == 8
    assert (config.optimizer.head.lr, config.optimizer.head.beta1) == (0.5, 0.5)


def test_a_partial_label_keeps_that_labels_own_defaults() -> None:
    settings = load_config(None, {"optimizer.value_tables": {"lr": 0.1}}).optimizer.value_tables
    assert (settings.lr, settings.beta1, settings.batch_scaled) == (0.1, 0.8, True)


def test_a_run_directorys_config_can_be_given_again(tmp_path: Path) -> None:
    from dataclasses import asdict

    config = load_config(BASES / "speedrun.yaml", {"seed": 5})
    path = tmp_path / "config.json"
    resolved = derive(config).as_json()
    path.write_text(json.dumps({"requested": asdict(config), "resolved": resolved}))
    assert load_config(path) == config


def test_another_source_by_its_name_leaves_the_number_of_files_of_the_old_one_behind() -> None:
    speedrun = load_config(BASES / "speedrun.yaml").data
    assert (speedrun.source, speedrun.train_files) == ("climbmix", 26)
    other = load_config(BASES / "speedrun.yaml", {"data": "some/folder"}).data
    assert (other.source, other.train_files) == ("some/folder", None)
    counted = load_config(BASES / "speedrun.yaml", {"data.train_files": 3, "data": "some/folder"})
    assert counted.data.train_files == 3


def test_config_id_ignores_seed_places_and_written_out_defaults() -> None:
    plain = config_id(Config())
    places = {"data.cache_dir": "/elsewhere", "system.compile_cache_dir": "/elsewhere"}
    same = {"seed": 9, **places, "dial.depth": 12, "model.smear": None}
    assert config_id(load_config(None, same)) == plain
    folders = [config_id(load_config(None, {"data": folder})) for folder in ("/a", "/b")]
    assert folders[0] == folders[1] != plain


@pytest.mark.parametrize(
    "overrides",
    [{"optimizer.clip": None}, {"model.smear": {}}, {"optimizer.muon": {}}, {"dial.steps": 5}],
)
def test_config_id_distinguishes_off_from_default_and_on_with_defaults_from_off(
    overrides: dict[str, Any],
) -> None:
    assert config_id(load_config(None, overrides)) != config_id(Config())


def test_every_field_has_a_sentence() -> None:
    import ast

    import model.config

    folder = Path(model.config.__file__).parent
    names = ("__init__", "architecture", "optimizer", "run", "schedule")
    files = [folder / f"{name}.py" for name in names]
    trees = [ast.parse(file.read_text(encoding="utf-8")) for file in files]
    sections = [node for tree in trees for node in tree.body if isinstance(node, ast.ClassDef)]
    assert {section.name for section in sections} == set(model.config.__all__)
    for section in sections:
        for field, after in zip(section.body, [*section.body[1:], None], strict=True):
            if isinstance(field, ast.AnnAssign):
                assert isinstance(after, ast.Expr), f"{section.name}.{ast.unparse(field.target)}"


def test_an_empty_folder_for_compiled_kernels_is_a_fault() -> None:
    from model.errors import ConfigErrors

    with pytest.raises(ConfigErrors, match=r"system\.compile_cache_dir: expected a folder"):
        derive(load_config(None, {"system.compile_cache_dir": ""}))


def test_the_value_of_an_option_is_taken_as_typed():
    read = parse_overrides(["a=/d/run #3/x", "b=3 # x", "c=5", "d=[1, 'x #y']", "e=null", "f=a: b"])
    assert read == {
        "a": "/d/run #3/x",
        "b": "3 # x",
        "c": 5,
        "d": [1, "x #y"],
        "e": None,
        "f": "a: b",
    }


@pytest.mark.parametrize(
    "text",
    [
        "a: &a [*a]",
        "a: " + "[" * 100 + "]" * 100,
        "a: &a [x, x, x, x, x, x, x, x]\nb: &b ["
        + "*a, " * 999
        + "x]\nc: &c ["
        + "*b, " * 999
        + "x]",
        "a: " + "9" * 5000,
    ],
    ids=["self", "deep", "bomb", "digits"],
)
def test_hostile_yaml_is_an_error_of_the_configuration(text):
    with pytest.raises(ConfigErrors):
        parse_yaml(text, "x.yaml")
    with pytest.raises(ConfigErrors):
        parse_overrides(["a=[1] # ]"])
