"""The noise model: its arithmetic, which row is found, its file, the rows that ship."""

import importlib.util
import math
import os
from pathlib import Path

import msgspec
import numpy as np
import pytest

from harness.comparison.margins import default_margin
from harness.comparison.noise_model import (
    MEASURED_DF,
    SHIPPED,
    NoiseModel,
    NoiseModelError,
    NoiseRow,
    as_csv,
    host_spread,
    measured_rows,
    missing_rows,
    read_rows,
)
from harness.results.core_answers import CoreSettings
from harness.results.recipe import NoiseScope, recipe_scale
from harness.results.record import Identity, LaunchInfo, Record
from harness.stats.decision import KnownSd

ROOT = Path(__file__).resolve().parents[3]
NOISE = ROOT / ".." / "shared" / "noise"
DERIVED = {"sizes": {"layers": 8}, "tokens": 63e6, "parameters_total": 126e6}


def row(**changes) -> NoiseRow:
    fields = {
        "scale": "s",
        "metric": "val_loss",
        "gpu": "H100",
        "source": "seed",
        "sd": 0.001,
        "df": 20,
        "runs": 21,
        "groups": 1,
        "origin": "shipped",
    }
    return NoiseRow(**{**fields, **changes})


def made(seed=1, config="c", host="h", start=0.0, attempt="a", **metrics) -> Record:
    return Record(
        plan_id=f"{config}{seed}",
        attempt=attempt,
        trainer="native",
        seed=seed,
        identity=Identity(config_id=config, code_id="k", data_id="d", protocol=1),
        status="completed",
        metrics=metrics,
        steps=240,
        tokens=63_000_000,
        derived=DERIVED,
        tricks={},
        environment={"gpus": [{"name": "H100"}]},
        environment_id=host,
        boot_id=host,
        concurrent_runs=0,
        started_at=start,
        ended_at=start + 60,
        wall_s=60,
        trainer_s=60,
        gpus=1,
        launch=LaunchInfo(),
    )


def found(records, metric, source):
    rows = [r for r in measured_rows(records) if (r.metric, r.source) == (metric, source)]
    assert len(rows) <= 1
    return rows[0] if rows else None


def test_soft_core_has_a_margin_of_two_sds_from_six_runs_on():
    values = np.random.default_rng(0).normal(0.1, 0.004, 6)
    records = [made(seed, core=0.2, core_soft=float(v)) for seed, v in enumerate(values)]
    for n, margin in ((5, None), (6, pytest.approx(2 * values.std(ddof=1)))):
        noise_model = NoiseModel(measured_rows(records[:n]))
        row = noise_model.find(recipe_scale(records[0]), "core_soft", "H100", "seed")
        found = default_margin("core_soft", row, False)
        assert (found.value if found else None) == margin
        assert any("core_soft" in line for line in missing_rows(records[:n])) == (n < 6)
    assert default_margin("core", row, False) is None


def test_scores_of_two_bundles_are_no_replicates_and_their_losses_are():
    records = [
        msgspec.structs.replace(made(seed, core=value, val_loss=3.0 + value), core=settings)
        for bundle, shift in (("a", 0.1), ("b", 0.9))
        for settings in [
            CoreSettings(
                bundle=bundle,
                tokenizer="t",
                max_per_task=None,
                long_prompts="full",
                baselines="v1",
            )
        ]
        for seed, value in enumerate((shift, shift + 0.01), start=1 + 10 * (bundle == "b"))
    ]
    assert found(records, "core", "seed").df == 2
    assert found(records, "core", "seed").sd == pytest.approx(0.01 / math.sqrt(2))
    assert found(records, "val_loss", "seed").df == 3


def test_seeds_are_pooled_over_configurations_and_repeats_are_kept_apart():
    records = [made(seed, "c", val_loss=v) for seed, v in ((1, 3.0), (2, 3.2))]
    records += [made(seed, "e", val_loss=v) for seed, v in ((1, 5.0), (2, 5.4), (3, 5.2))]
    records += [made(1, "c", attempt="b", start=90.0, val_loss=3.01)]
    seeds = found(records, "val_loss", "seed")
    squares = 2 * 0.1**2 + 2 * 0.2**2
    assert (seeds.df, seeds.runs, seeds.groups) == (3, 5, 2)
    assert seeds.sd == pytest.approx(math.sqrt(squares / 3))
    repeats = found(records, "val_loss", "nondeterminism")
    assert (repeats.df, repeats.sd) == (1, pytest.approx(0.01 / math.sqrt(2)))
    assert (seeds.scale, seeds.gpu) == ("native d8, 63M tokens", "any GPU")


def test_launches_of_one_session_and_hosts_are_two_variances():
    rng, records, clock = np.random.default_rng(0), [], 0.0
    for host in range(60):
        level = rng.normal(0, 0.01)
        for seed in range(4):
            value = 5e5 * math.exp(level + rng.normal(0, 0.001))
            place = {"host": f"h{host}", "attempt": f"h{host}"}
            records.append(made(seed, **place, start=clock, tokens_per_s=value))
            clock += 70
    launches = found(records, "tokens_per_s", "launch")
    assert launches.df == 180
    assert launches.sd == pytest.approx(0.001, rel=0.15)
    hosts = found(records, "tokens_per_s", "host")
    assert hosts.df == 59
    assert hosts.sd == pytest.approx(0.01, rel=0.25)


def test_hosts_that_do_not_differ_beyond_their_launches_have_no_variance():
    rng = np.random.default_rng(1)
    groups = [rng.normal(0, 0.001, (2, 8)).tolist() for _ in range(40)]
    assert host_spread(groups)["sd"] < 0.0004
    assert host_spread([[[1.0, 2.0]]]) == {}


def test_runs_that_failed_or_stand_alone_make_no_row():
    failed = msgspec.structs.replace(made(2, val_loss=9.0), status="failed")
    assert measured_rows([made(1, val_loss=3.0), failed]) == []


def test_an_own_row_replaces_the_prior_one_from_five_degrees_of_freedom_on():
    prior, thin, enough = (
        row(),
        row(origin="measured", df=4, sd=9.0),
        row(origin="measured", df=5, sd=2.0),
    )
    assert NoiseModel([prior, thin]).find("s", "val_loss", "H100", "seed") == prior
    assert NoiseModel([prior, enough]).find("s", "val_loss", "H100", "seed") == enough
    assert NoiseModel([thin]).find("s", "val_loss", "H100", "seed") is None


def test_a_speed_needs_the_very_gpu_and_a_loss_is_that_of_the_recipe():
    loss = NoiseModel([row(gpu="any GPU")])
    assert loss.find("s", "val_loss", "B", "seed") == loss.find("s", "val_loss", None, "seed")
    speed = NoiseModel([row(metric="train_time_s", source="launch", gpu="A")])
    assert speed.find("s", "train_time_s", "B", "launch") is None
    assert speed.find("s", "train_time_s", "A", "launch") is not None


def test_losses_of_two_gpus_are_one_row():
    records = [made(seed, "c", val_loss=v) for seed, v in ((1, 3.0), (2, 3.2))]
    records += [
        msgspec.structs.replace(
            made(seed, "e", val_loss=v), environment={"gpus": [{"name": "A100"}]}
        )
        for seed, v in ((1, 5.0), (2, 5.4))
    ]
    assert found(records, "val_loss", "seed").df == 2


def test_a_row_of_other_recipes_predicts_with_fewer_df_than_it_has():
    assert row(predictive_df=8.0, df=800).known == KnownSd(sd=0.001, df=8.0)
    assert row(df=6, origin="measured").known == KnownSd(sd=0.001, df=6)


def test_configurations_whose_runs_follow_each_other_by_seed_have_a_correlation():
    rng = np.random.default_rng(3)
    common = rng.normal(0, 0.01, 12)
    values = {name: 3 + common + rng.normal(0, 0.001, 12) for name in "cde"}
    records = [
        made(seed, name, val_loss=float(value[seed]))
        for name, value in values.items()
        for seed in range(12)
    ]
    pairs = [np.corrcoef(values[a], values[b])[0, 1] for a, b in ("cd", "ce", "de")]
    assert found(records, "val_loss", "seed").correlation == pytest.approx(np.mean(pairs))
    alone = [record for record in records if record.identity.config_id == "c"]
    assert found(alone, "val_loss", "seed").correlation is None


@pytest.mark.parametrize(
    "wrong", [("t", "val_loss", "seed"), ("s", "val_bpb", "seed"), ("s", "val_loss", "host")]
)
def test_noise_of_something_else_is_never_taken(wrong):
    scale, metric, source = wrong
    assert NoiseModel([row()]).find(scale, metric, "H100", source) is None


def test_launches_of_a_recipe_without_a_row_are_judged_by_the_thickest_row_of_their_device():
    thin = row(scale="other", metric="step_ms", source="launch", sd=0.002, df=7)
    thick = row(scale="another", metric="train_time_s", source="launch", sd=0.0015, df=30)
    elsewhere = row(scale="third", metric="step_ms", gpu="A100", source="launch", df=500)
    noise_model, bench = NoiseModel([thin, thick, elsewhere]), NoiseScope(scale="s", device="H100")
    assert noise_model.of_launches("tokens_per_s", bench, "launch") == thick
    assert noise_model.of_launches("tokens_per_s", bench, "sequential") is None
    assert (
        noise_model.of_launches("tokens_per_s", NoiseScope(scale="s", device="L4"), "launch")
        is None
    )
    own = row(metric="tokens_per_s", source="launch", sd=0.003, df=MEASURED_DF, origin="measured")
    assert NoiseModel([*noise_model.rows, own]).of_launches("tokens_per_s", bench, "launch") == own


def test_what_is_missing_is_reported_with_what_it_takes():
    lines = missing_rows([made(seed, val_loss=3.0 + seed) for seed in (1, 2, 3)])
    assert lines == ["native d8, 63M tokens, val_loss: 2 df of 5; needs at least 3 more seeds"]
    assert missing_rows([made(seed, val_loss=3.0 + seed) for seed in range(MEASURED_DF + 1)]) == []


def test_a_noise_model_file_reads_as_it_was_written(tmp_path):
    rows = [
        row(note="a, b", predictive_df=7.5),
        row(metric="core", origin="measured", correlation=0.25),
    ]
    path = tmp_path / "noise.csv"
    path.write_text(as_csv(rows))
    assert read_rows(path) == rows


@pytest.mark.parametrize(
    "text", ["scale,metric\ns,val_loss\n", as_csv([row()]).replace("seed", "luck"), "\x00"]
)
def test_a_noise_model_file_that_was_edited_is_refused_with_its_line(tmp_path, text):
    path = tmp_path / "noise.csv"
    path.write_text(text if text != "\x00" else as_csv([row()]).replace("0.001", "small"))
    with pytest.raises(NoiseModelError, match="line 2"):
        read_rows(path)


def test_another_file_is_no_noise_model_without_rows(tmp_path):
    path = tmp_path / "noise.csv"
    path.write_text("hello\n")
    with pytest.raises(NoiseModelError, match="no columns scale"):
        read_rows(path)
    path.write_text(as_csv([]))
    assert read_rows(path) == []


@pytest.mark.parametrize(
    "content", [b"", b"scale,sd\n\xff,1\n", b"x" * 200_000, "scale".encode("utf-16")]
)
def test_a_file_that_is_no_table_is_no_noise_model(tmp_path, content):
    (tmp_path / "n.csv").write_bytes(content)
    with pytest.raises(NoiseModelError, match=r"n\.csv: expected a noise model file"):
        read_rows(tmp_path / "n.csv")


def test_a_noise_model_that_is_a_pipe_is_refused_and_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "n.csv")
    with pytest.raises(NoiseModelError, match="no regular file"):
        read_rows(tmp_path / "n.csv")


def test_the_rows_that_ship_are_as_large_as_is_known():
    noise_model = NoiseModel(read_rows(SHIPPED))
    loss = noise_model.find("gpt2-small", "val_loss", "NVIDIA H100 80GB HBM3", "seed")
    assert loss.sd == pytest.approx(0.0014, abs=0.0001)
    bpb = noise_model.find("nanochat d24", "val_bpb", None, "nondeterminism")
    assert bpb.sd < 0.0001
    assert loss.df > 600
    assert loss.known.df == pytest.approx(8, abs=0.5)
    assert all(known.origin == "shipped" and known.note for known in noise_model.rows)


@pytest.mark.skipif(not NOISE.is_dir(), reason="the replicated real runs are not on this machine")
def test_the_rows_that_ship_are_what_the_generator_writes():
    spec = importlib.util.spec_from_file_location(
        "shipped_noise", ROOT / "benchmarks" / "statistics" / "shipped_noise.py"
    )
    generator = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(generator)
    assert as_csv(generator.rows(NOISE)) == SHIPPED.read_text(encoding="utf-8")


def test_equal_losses_under_different_seeds_feed_no_sd():
    copies = [made(seed, val_loss=3.0) for seed in (1, 2, 3)]
    assert measured_rows(copies) == []
    (found,) = measured_rows([*copies, made(4, val_loss=3.002)])
    assert (found.df, found.sd) == (1, pytest.approx(0.002 / math.sqrt(2)))
