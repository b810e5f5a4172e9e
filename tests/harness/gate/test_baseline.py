"""Baselines: append-only files of replicates that detect edits and refuse by field."""

import json

import msgspec
import pytest

from harness.comparison.noise_model import NoiseModel, NoiseRow
from harness.errors import UsageError
from harness.gate import baseline, promotion
from harness.gate.baseline import BaselineError, ReplicateSet
from harness.results.record import Identity, LaunchInfo, Record
from harness.results.store import Store

NO_ROWS = NoiseModel([])
NOISE_MODEL = NoiseModel(
    [
        NoiseRow(
            scale="fake 10M parameters, 20M tokens",
            metric="val_loss",
            gpu="H100",
            source="seed",
            sd=0.0014,
            df=50,
            runs=60,
            groups=10,
            origin="measured",
        )
    ]
)


def run(seed: int, loss: float | None = 3.2, gpu: str = "H100", **identity: object) -> Record:
    ids = {"config_id": "c", "code_id": "k", "data_id": "d", "protocol": 1, **identity}
    return Record(
        plan_id=f"plan{seed}",
        attempt="first",
        trainer="fake",
        seed=seed,
        identity=msgspec.convert(ids, Identity),
        status="completed",
        metrics={"val_loss": loss, "tokens_per_s": 1000.0},
        steps=20,
        tokens=20_000_000,
        derived={"parameters_total": 10_000_000, "tokens": 20_000_000, "steps": 20},
        tricks={},
        environment={"gpus": [{"name": gpu}], "environment_id": "e"},
        environment_id="e",
        boot_id="b",
        concurrent_runs=0,
        started_at=1.0,
        ended_at=2.0,
        wall_s=1.0,
        trainer_s=1.0,
        gpus=1,
        launch=LaunchInfo(),
    )


def stored(root, records, after=None, why="because"):
    config = {"dial": {"depth": 4}}
    replicates = ReplicateSet(records=records, trainer="fake", config=config)
    return baseline.append(root, "small", replicates, why=why, after=after)


def test_a_baseline_is_stored_by_hardware_and_protocol_and_reads_back(tmp_path):
    made, path = stored(tmp_path, [run(1), run(2)])
    assert path == tmp_path / "h100x1" / "1" / "small.json"
    assert baseline.find(tmp_path, "small") == baseline.find(tmp_path, "h100x1/1/small") == made


def test_a_new_entry_becomes_current_and_keeps_the_old_one(tmp_path):
    first, _ = stored(tmp_path, [run(1), run(2)])
    both, _ = stored(tmp_path, [run(3), run(4)], after=first, why="a better schedule")
    found = baseline.find(tmp_path, "small")
    assert found == both
    assert found.entries[0] == first.now
    assert found.now.why == "a better schedule"
    assert found.now.previous == first.now.hash


def test_a_name_in_use_is_refused(tmp_path):
    stored(tmp_path, [run(1), run(2)])
    with pytest.raises(BaselineError, match="accept"):
        stored(tmp_path, [run(3), run(4)])


def edited(path, change):
    value = json.loads(path.read_text())
    change(value)
    path.write_text(json.dumps(value))


def rehashed(entry, **changes):
    entry.update(changes)
    entry["hash"] = baseline.content_hash(entry)


@pytest.mark.parametrize(
    "change",
    [
        lambda value: value["entries"][0]["records"][0]["metrics"].update(val_loss=3.3),
        lambda value: value["entries"][0].update(why="another reason"),
        lambda value: value["entries"][0]["config"].update(seed=2),
        lambda value: value["entries"].pop(0),
        lambda value: value.update(protocol=2),
        lambda value: rehashed(value["entries"][0], why="another reason"),
        lambda value: rehashed(value["entries"][1], number=3),
    ],
    ids=[
        *("a metric", "the reason", "the configuration", "an entry taken out", "the key"),
        *("an entry with a hash of its own", "a number with a hash of its own"),
    ],
)
def test_an_edit_by_hand_is_detected(tmp_path, change):
    first, path = stored(tmp_path, [run(1), run(2)])
    stored(tmp_path, [run(3), run(4)], after=first)
    edited(path, change)
    with pytest.raises(BaselineError, match="restore it from git"):
        baseline.read(path)


def test_fields_that_another_version_has_or_lacks_are_no_edit(tmp_path):
    def of_another_version(value: dict) -> None:
        (entry,) = value["entries"]
        entry["new_field"] = 1
        del entry["records"][0]["signal"]
        entry["hash"] = baseline.content_hash(entry)

    _, path = stored(tmp_path, [run(1), run(2)])
    edited(path, of_another_version)
    assert baseline.read(path).now.seeds == [1, 2]


def test_an_empty_or_half_written_baseline_is_refused(tmp_path):
    _, path = stored(tmp_path, [run(1), run(2)])
    whole = path.read_text()
    edited(path, lambda value: value.update(entries=[]))
    with pytest.raises(BaselineError, match="empty"):
        baseline.read(path)
    with pytest.raises(BaselineError, match="restore it from git"):
        baseline.read(path.with_name("missing.json"))
    path.write_text(whole[: len(whole) // 2])
    with pytest.raises(BaselineError, match="restore it from git"):
        baseline.read(path)


@pytest.mark.parametrize("field", ["config_id", "code_id", "data_id", "protocol"])
def test_records_that_differ_are_refused_with_the_field(field):
    other = {field: 2 if field == "protocol" else "other"}
    with pytest.raises(BaselineError, match=f"^{field}: "):
        baseline.check_records([run(1), run(2, **other)], NO_ROWS)


def test_records_of_two_kinds_of_gpu_are_refused():
    with pytest.raises(BaselineError, match=r"^gpu: "):
        baseline.check_records([run(1), run(2, gpu="A100")], NO_ROWS)


def test_one_run_is_a_baseline_only_where_the_noise_model_has_a_row():
    with pytest.raises(BaselineError, match=r"^n: .*replicates"):
        baseline.check_records([run(1)], NO_ROWS)
    baseline.check_records([run(1)], NOISE_MODEL)


def test_copies_under_different_seeds_are_refused():
    with pytest.raises(BaselineError, match="seeds 1, 2 and 3 have equal losses"):
        baseline.check_records([run(seed) for seed in (1, 2, 3)], NoiseModel([]))


def test_runs_without_a_quality_metric_are_refused():
    with pytest.raises(BaselineError, match=r"^metrics: "):
        baseline.check_records([run(1), run(2, loss=None)], NO_ROWS)


def test_runs_that_did_not_complete_are_refused():
    broken = msgspec.structs.replace(run(2), status="failed")
    with pytest.raises(BaselineError, match=r"^status: "):
        baseline.check_records([run(1), broken], NO_ROWS)


@pytest.mark.parametrize("field", ["config_id", "data_id", "protocol"])
def test_a_candidate_that_is_not_comparable_is_refused_with_the_field(tmp_path, field):
    made, _ = stored(tmp_path, [run(1), run(2)])
    other = run(1, **{field: 2 if field == "protocol" else "other"})
    with pytest.raises(BaselineError, match=f"^{field}: "):
        baseline.check_comparable(made, other.identity, own_settings=False)


def test_a_candidate_on_other_hardware_is_refused(tmp_path):
    made, _ = stored(tmp_path, [run(1), run(2)])
    with pytest.raises(BaselineError, match=r"^gpu: "):
        baseline.check_same_hardware(made, run(3, gpu="A100"))
    with pytest.raises(BaselineError, match=r"^gpus: "):
        baseline.check_same_hardware(made, msgspec.structs.replace(run(3), gpus=8))


def test_replicates_that_were_evidence_of_a_gate_cannot_be_promoted(tmp_path):
    made, _ = stored(tmp_path, [run(1), run(2)])
    with pytest.raises(BaselineError, match="in the baseline already"):
        baseline.check_fresh([run(2), run(3)], made, [])
    with pytest.raises(BaselineError, match="fresh"):
        baseline.check_fresh([run(3)], made, ["plan3/first"])
    baseline.check_fresh([run(3), run(4)], made, ["plan9/first"])


@pytest.mark.parametrize("name", ["", "../up", "a b", ".hidden"])
def test_a_name_that_cannot_be_a_file_name_is_wrong_usage(name):
    with pytest.raises(UsageError):
        baseline.check_name(name)


def accepted(tmp_path, seeds, shift):
    """What `baseline accept` does with runs whose losses are worse by `shift`, and whose accuracy,
    a metric of unknown direction, falls to a tenth."""
    records = [
        msgspec.structs.replace(one, metrics={**one.metrics, "accuracy": 0.05})
        for one in (run(seed, 3.2 + shift + seed % 3 / 1000 + seed / 10**6) for seed in seeds)
    ]
    replicates = ReplicateSet(records=records, trainer="fake", config={})
    return promotion.accept(
        tmp_path, "small", replicates, Store(tmp_path / "runs"), NO_ROWS, why="better"
    )


def test_an_undecided_promotion_is_decided_at_the_next_reading_with_more_runs(tmp_path):
    first = [run(seed, 3.2 + seed % 3 / 1000 + seed / 10**6) for seed in (1, 2, 3, 4)]
    first = [
        msgspec.structs.replace(one, metrics={**one.metrics, "accuracy": 0.5}) for one in first
    ]
    stored(tmp_path, first)
    rules = []
    for seeds in (range(11, 14), range(11, 14), range(11, 16)):
        result = accepted(tmp_path, seeds, 0.0009)
        assert result.reason is not None
        (loss,) = result.evidence.metrics
        rules.append(loss.rule)
        assert (loss.metric, loss.outcome) == ("val_loss", "inconclusive")
    assert ["reading 1" in rule for rule in rules] == [True, True, False]
    assert "reading 2, 0.001 of alpha 0.01" in rules[2]


def test_replicates_that_are_worse_are_stored_only_on_request(tmp_path):
    first = [run(seed, 3.2 + seed % 3 / 1000 + seed / 10**6) for seed in (1, 2, 3, 4)]
    made, path = stored(tmp_path, first)
    worse = ReplicateSet(
        records=[run(seed, 3.3 + seed % 3 / 1000 + seed / 10**6) for seed in range(11, 15)],
        trainer="fake",
        config={"dial": {"depth": 5}},
    )
    store = Store(tmp_path / "runs")
    refused = promotion.accept(tmp_path, "small", worse, store, NO_ROWS, why="new")
    assert (refused.stored, refused.path, refused.exit_code) == (None, None, 10)
    assert refused.evidence.outcome == "regression"
    assert "add --allow-regression" in refused.reason
    assert baseline.read(path) == made
    taken = promotion.accept(
        tmp_path, "small", worse, store, NO_ROWS, why="new", allow_regression=True
    )
    assert (taken.path, taken.exit_code, taken.reason) == (path, 0, None)
    assert baseline.read(path).now == taken.stored.now
    assert taken.evidence == taken.stored.now.evidence
    assert (taken.evidence.alpha, taken.evidence.outcome) == (0.01, "regression")


def test_an_undecided_promotion_advises_more_runs(tmp_path):
    stored(tmp_path, [run(seed, 3.2 + seed % 3 / 1000 + seed / 10**6) for seed in range(1, 31)])
    result = accepted(tmp_path, (31, 32), 0.0)
    (loss,) = result.evidence.metrics
    assert f"about {loss.more_runs} more runs, accepted with these" in result.reason
    assert (result.stored, result.path, result.exit_code) == (None, None, 3)


@pytest.mark.parametrize("source", ["study/base", "{folder}:study/base"])
def test_runs_of_a_baseline_come_from_a_store(tmp_path, source):
    with pytest.raises(UsageError, match="as STORE:STUDY/ARM"):
        promotion.replicates_of_arm(source.format(folder=tmp_path))


@pytest.mark.parametrize(("why", "kept"), [("", "the first of this name"), ("a GPU", "a GPU")])
def test_a_first_entry_has_a_reason(tmp_path, why, kept):
    records = [run(1, 3.2), run(2, 3.201)]
    replicates = ReplicateSet(records=records, trainer="fake", config={}, commit="c")
    found = promotion.record(tmp_path, "small", replicates, NO_ROWS, why=why)
    assert (found.stored.now.why, found.stored.now.commit, found.exit_code) == (kept, "c", 0)
    assert found.path == tmp_path / "h100x1" / "1" / "small.json"
    with pytest.raises(UsageError):
        promotion.record(tmp_path, "../small", replicates, NO_ROWS, why=why)
