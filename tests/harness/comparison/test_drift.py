"""The drift watch finds steps, ignores noise, and refuses short histories."""

import builtins
import json

import msgspec
import numpy as np
import pytest

from harness import errors
from harness.comparison import drift
from harness.comparison.drift import alarms, steps_in, watch
from harness.errors import HarnessError
from harness.results.record import Identity, LaunchInfo, Record

NIGHT_S = 86400.0
LOSS_SD, SPEED_CV = 0.0014, 0.0013


def nights(losses, speeds=None, **changed) -> list[Record]:
    """A record a night, the metrics as given."""
    speeds = np.full(len(losses), 1e5) if speeds is None else speeds
    first = Record(
        plan_id="p", attempt="a", trainer="fake", seed=1,
        identity=Identity(config_id="c", code_id="old", data_id="d", protocol=1),
        status="completed", metrics={}, steps=1, tokens=1, derived={}, tricks={},
        environment={"driver": "570", "gpus": [{"name": "H100"}]}, environment_id="e", boot_id="b",
        concurrent_runs=0, started_at=0.0, ended_at=1.0, wall_s=1.0, trainer_s=1.0, gpus=1,
        launch=LaunchInfo(),
    )  # fmt: skip
    return [
        msgspec.structs.replace(
            first,
            attempt=str(night),
            started_at=NIGHT_S * night,
            metrics={"val_loss": float(loss), "tokens_per_s": float(speed)},
            **changed,
        )
        for night, (loss, speed) in enumerate(zip(losses, speeds, strict=True))
    ]


def noise(count: int, seed: int = 1) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    losses = 3.28 + LOSS_SD * random.standard_normal(count)
    return losses, 1e5 * np.exp(SPEED_CV * random.standard_normal(count))


def of(found, metric):
    return next(one for one in found[0].metrics if one.metric == metric)


@pytest.mark.parametrize("count", [12, 30, 90])
def test_noise_alone_raises_an_alarm_at_most_as_often_as_promised(count):
    looks = 2000
    series = np.random.default_rng(count).standard_normal((looks, count))
    alarmed = sum(bool(steps_in(one)) for one in series)
    promised = looks * drift.ALPHA
    assert alarmed <= promised + 2 * np.sqrt(promised) + 1


@pytest.mark.parametrize("count", [20, 60])
def test_a_step_of_the_size_called_detectable_is_seen_nine_times_in_ten(count):
    looks = 400
    series = np.random.default_rng(count).standard_normal((looks, count))
    series[:, -7:] += drift.detectable_sds(count)
    seen = np.mean([bool(steps_in(one)) for one in series])
    assert seen >= drift.POWER - 3 * np.sqrt(0.09 / looks)


def test_a_planted_slowdown_is_dated_and_sized_and_what_changed_is_named():
    losses, speeds = noise(60)
    speeds[50:] *= 0.99
    records = nights(losses, speeds)
    for night in range(50, 60):
        newer = msgspec.structs.replace(records[night].identity, code_id="new")
        environment = {**records[night].environment, "driver": "575"}
        records[night] = msgspec.structs.replace(
            records[night], identity=newer, environment=environment
        )
    found = watch(records)
    ((drift, step),) = alarms(found)
    assert (drift.metric, step.n) == ("tokens_per_s", (50, 10))
    assert step.at == 50 * NIGHT_S
    assert step.low < np.log(0.99) < step.high < 0
    assert step.changed == ["code old -> new", "driver 570 -> 575"]
    assert of(found, "val_loss").steps == []


def test_a_step_for_the_better_is_reported_and_is_no_alarm():
    losses, speeds = noise(60)
    found = watch(nights(losses, np.where(np.arange(60) < 50, speeds, speeds * 1.02)))
    assert len(of(found, "tokens_per_s").steps) == 1
    assert alarms(found) == []


def test_an_old_step_and_one_inside_its_margin_are_no_alarms():
    losses, speeds = noise(60)
    slower = np.where(np.arange(60) < 30, speeds, speeds * 0.98)
    found = watch(nights(losses, slower))
    assert len(of(found, "tokens_per_s").steps) == 1
    assert alarms(found) == []
    assert len(alarms(found, recent=30)) == 1
    assert alarms(watch(nights(losses, slower), {"tokens_per_s": 0.1}), recent=30) == []


def test_one_bad_session_is_no_step():
    losses, speeds = noise(40)
    speeds[20] *= 0.5
    losses[39] += 1.0
    assert all(one.steps == [] for one in watch(nights(losses, speeds))[0].metrics)


def test_values_that_never_change_have_no_steps_and_an_exact_one_is_found():
    constant = np.full(30, 3.0)
    assert steps_in(constant) == []
    constant[20:] = 3.001
    assert steps_in(constant) == [20]


def test_too_few_sessions_are_reported_and_failed_ones_counted():
    losses, speeds = noise(11)
    records = nights(losses, speeds)
    broken = msgspec.structs.replace(records[-1], attempt="x", status="failed")
    (series,) = watch([*records, broken])
    assert (series.sessions, series.failed) == (11, 1)
    assert {one.missing for one in series.metrics} == {"11 sessions, 12 are needed"}


def test_sessions_of_another_configuration_seed_or_device_are_another_series():
    records = nights(*noise(6))
    other = msgspec.structs.replace(records[1].identity, config_id="other")
    records[1] = msgspec.structs.replace(records[1], identity=other)
    records[2] = msgspec.structs.replace(records[2], seed=2)
    records[3] = msgspec.structs.replace(records[3], environment={"gpus": [{"name": "A100"}]})
    assert [one.sessions for one in watch(records)] == [3, 1, 1, 1]


def test_a_session_without_the_metric_is_a_missing_one():
    losses, speeds = noise(20)
    records = nights(losses, speeds)
    records[5] = msgspec.structs.replace(records[5], metrics={})
    assert of(watch(records), "val_loss").sessions == 19


def test_without_ruptures_the_extra_is_named(monkeypatch):
    real = builtins.__import__

    def absent(name, *rest, **more):
        if name == "ruptures":
            raise ImportError(name)
        return real(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", absent)
    with pytest.raises(HarnessError, match=r"ruptures.*pip install 'speedrun-harness\[ci\]'"):
        steps_in(noise(20)[0])


@pytest.mark.parametrize(
    ("count", "slower", "code", "outcome", "answer"),
    [
        (40, 0.98, errors.REGRESSION, "regression", "a level became worse"),
        (40, 1.0, errors.PASS, "pass", "no level became worse"),
        (5, 1.0, errors.INCONCLUSIVE, "inconclusive", "too few sessions"),
        (0, 1.0, errors.INCONCLUSIVE, "inconclusive", "too few sessions"),
    ],
)
def test_the_command_prints_the_answer_first_and_exits_with_its_code(
    harness, store, tmp_path, count, slower, code, outcome, answer
):
    losses, speeds = noise(count)
    speeds[count - 8 :] *= slower
    for record in nights(losses, speeds):
        store.add(record, None)
    done = harness("drift", "--markdown", tmp_path / "drift.md")
    assert (done.returncode, done.stderr) == (code, "")
    assert done.stdout.startswith(f" {outcome.upper()}  {answer}")
    written = (tmp_path / "drift.md").read_text()
    assert f"{outcome}: {answer}" in written.splitlines()[0]
    if code == errors.REGRESSION:
        for shown in (done.stdout, written):
            assert "tokens_per_s −2." in shown or "tokens_per_s −1." in shown
            assert "n 32 before, 8 since" in shown
    if outcome == "inconclusive":
        line = "1 combination of configuration and seed" if count else "no completed runs"
        assert line in done.stdout
    (value,) = [json.loads(harness("drift", "--json").stdout)]
    assert (value["exit_code"], len(value["series"])) == (code, min(count, 1))


def test_a_margin_for_an_unknown_metric_is_wrong_usage(harness):
    assert harness("drift", "--margin", "speed=1").returncode == errors.USAGE
