"""The simulated trainer has noise and effects of known size, identities and pins."""

import statistics

import pytest

from harness.errors import HarnessError
from harness.runner.fake_trainer import config as fake
from harness.runner.fake_trainer.describe import catalogue, describe
from harness.runner.fake_trainer.train import Curve

FULL = {
    "windows": "SSSL",
    "residual_scalars": True,
    "value_embeddings": True,
    "optimizer.matrices": "muon",
}


def final_losses(count: int, **overrides: object) -> list[float]:
    losses = []
    for seed in range(count):
        config = fake.load(None, {**FULL, "seed": seed, "dial.steps": 50, **overrides})
        losses.append(Curve(config, 0.0).loss(50))
    return losses


def test_the_noise_between_seeds_has_the_configured_size():
    sd = statistics.stdev(final_losses(400, **{"noise.loss_sd": 0.01}))
    assert sd == pytest.approx(0.01 * 0.95, rel=0.12)  # 95 % grown at the last step


def test_without_noise_the_effects_are_those_of_the_catalogue():
    still = {"noise.loss_sd": 0.0}
    (full,) = final_losses(1, **still)
    (without,) = final_losses(1, **still, **{"windows": None})
    assert without - full == pytest.approx(-fake.EFFECTS["windows"][0] * 0.95, rel=0.01)


def test_the_host_drifts_by_the_configured_size():
    config = fake.load(None, {"noise.host_drift": 0.05, "noise.speed_cv": 0.0})
    slow = Curve(config, now_s=900.0).step_s
    fast = Curve(config, now_s=2700.0).step_s
    assert slow / fast == pytest.approx(1.05 / 0.95)


def test_seed_and_pace_are_not_part_of_the_identity():
    plain = fake.identity(fake.load(None, {}))
    assert fake.identity(fake.load(None, {"seed": 7, "pace.sleep_ms": 5})) == plain
    assert fake.identity(fake.load(None, {"dial.depth": 5})) != plain
    assert fake.identity(fake.load(None, {"dial.depth": 4, "windows": None})) == plain


def test_pins_reproduce_the_derived_values_in_any_arm():
    base = fake.load(None, FULL)
    arm = fake.load(None, {**FULL, "value_embeddings": None, **fake.pins(base)})
    assert fake.derived(arm)["steps"] == fake.derived(base)["steps"]


@pytest.mark.parametrize("name", list(fake.CATALOGUE))
def test_every_catalogue_entry_turns_its_trick_on_and_off(name):
    entry = catalogue()["tricks"][name]
    needed = {"residual_scalars": True}
    for side in (True, False):
        values = entry["on" if side else "off"]
        assert fake.tricks(fake.load(None, {**needed, **values}))[name] is side


@pytest.mark.parametrize("word", ["off", "none", "false"])
def test_strings_for_off_are_rejected_with_a_hint(word):
    with pytest.raises(HarnessError, match="Write null"):
        fake.load(None, {"windows": word})


def test_describe_reports_a_trick_without_its_requirement():
    reply = describe({"name": "a", "base": None, "set": {"backout": True}})
    assert reply["errors"][0]["path"] == "backout"


def test_the_draws_stay_the_same_when_the_code_changes(monkeypatch):
    config = fake.load(None, {"seed": 1})
    before = Curve(config, None).loss(10), fake.identity(config)["code_id"]
    monkeypatch.setattr(fake, "code_id", lambda: "another")
    assert Curve(config, None).loss(10) == before[0]
    assert fake.identity(config)["code_id"] != before[1]


@pytest.mark.parametrize(
    "field", ["dial.depth", "dial.ratio", "dial.batch_tokens", "dial.steps", "optimizer.adamw_lr"]
)
@pytest.mark.parametrize("number", [0, -3, float("nan")])
def test_a_size_or_a_rate_that_no_run_has_is_refused(field, number):
    with pytest.raises(HarnessError, match=f"{field}: expected more than 0"):
        fake.load(None, {field: number})


def test_a_configuration_in_another_encoding_is_refused(tmp_path):
    (tmp_path / "c.yaml").write_bytes("seed: 1 # é".encode("latin-1"))
    with pytest.raises(HarnessError, match="expected UTF-8 text"):
        fake.load(tmp_path / "c.yaml", {})
