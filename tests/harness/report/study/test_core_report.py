"""CORE in the report of a study: the same tables in the terminal, in HTML and in JSON."""

import io
import json
import re

import msgspec
import pytest
from rich.console import Console

from harness.report.export import document_json
from harness.report.html import as_html
from harness.report.study.content import load
from harness.report.study.document import build
from harness.report.terminal import print_document
from harness.results import core_answers
from harness.runner.fake_trainer import config as fake
from harness.runner.fake_trainer import core

NAME = "synthetic"
TRUE = {"no_muon": (0.034, 0.06), "no_windows": (-0.0008, -0.05)}
SKILL = {"no_muon": -0.5}


@pytest.fixture
def answered(synthetic, tmp_path):
    """A study of two arms whose runs evaluated CORE; settings of single arms on request."""

    def save(seeds=(1,), settings=None):
        made = synthetic(true=TRUE, seeds=seeds, horizons=(1.0,))
        files = {}
        for index, record in enumerate(made.records):
            arm = record.launch.arm
            own = {"plant.skill": SKILL.get(arm, 0.0), **(settings or {}).get(arm, {})}
            config = fake.load(None, {"core.examples": 80, "seed": 50 + record.seed, **own})
            found = core.answers(config, 4.8)
            path = tmp_path / f"{record.plan_id}.parquet"
            core.write(path, config, found)
            files[record.plan_id] = path.read_bytes()
            made.records[index] = msgspec.structs.replace(
                record,
                core=core_answers.read(path).settings,
                metrics={**record.metrics, **core.metrics(found)},
            )
        store = made.save(tmp_path / "store")
        (store.root / "core").mkdir()
        for plan_id, content in files.items():
            (store.root / "core" / f"{plan_id}.parquet").write_bytes(content)
        return store

    return save


def _terminal(store) -> str:
    console = Console(width=200, file=io.StringIO(), color_system=None)
    print_document(console, build(load(store, NAME)))
    return console.file.getvalue()


def _json(store):
    return json.loads(document_json(build(load(store, NAME))))["core"]


def test_every_format_has_the_tasks_of_the_base_and_the_changes_of_each_arm(answered):
    store = answered()
    shown, markup = _terminal(store), as_html(build(load(store, NAME)))
    found = _json(store)
    for task in found["base"]["tasks"]:
        cells = [f"{task[name]:.4f}" for name in ("accuracy", "accuracy_se")]
        assert re.search(f"{task['name']} .*{'.*'.join(cells)}", shown)
        assert re.search(
            "\\s*".join(f'<td class="\\w+ neutral">{cell}</td>' for cell in cells), markup
        )
    harmed = found["arms"]["no_muon"]
    assert any(task["marked"] for task in harmed["tasks"])
    assert not any(task["marked"] for task in found["arms"]["no_windows"]["tasks"])
    for total in harmed["totals"]:
        change = f"{total['estimate']:+.4f}".replace("-", "\N{MINUS SIGN}")
        assert change in shown
        assert change in markup
        assert total["high"] < 0
    assert "variation between seeds is not included" in " ".join(shown.split())


def test_an_arm_that_was_evaluated_differently_has_the_field_instead_of_an_effect(answered):
    store = answered(settings={"no_windows": {"core.long_prompts": "crop_left"}})
    content = load(store, NAME)
    (arm,) = (arm for arm in content.attribution.arms if arm.name == "no_windows")
    assert "core.long_prompts" in arm.effects["core"].missing
    assert arm.effects["val_bpb"].missing is None
    assert "no_windows: not compared in CORE: core.long_prompts" in _terminal(store)


def test_several_seeds_are_averaged_and_the_wide_interval_includes_their_noise(answered):
    noisy = {arm: {"noise.skill_sd": 1.0} for arm in ("base", "no_muon")}
    found = _json(answered(seeds=(1, 2, 3), settings=noisy))
    assert found["base"]["runs"] == 3
    for total in found["arms"]["no_muon"]["totals"]:
        assert total["wide_high"] - total["wide_low"] > total["high"] - total["low"]
    assert found["arms"]["no_muon"]["p"] is None


def test_a_study_without_core_has_no_such_table(synthetic, tmp_path):
    store = synthetic(true=TRUE, horizons=(1.0,)).save(tmp_path / "store")
    assert _json(store) is None
    assert "by task" not in _terminal(store)
