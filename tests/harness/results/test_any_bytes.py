"""Run directories and archives of any content: a record, or an error and nothing outside."""

import contextlib
import io
import json
import tarfile
from pathlib import Path

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from harness.errors import HarnessError, StoreError
from harness.results.archive import unpack
from harness.results.record import (
    Identity,
    LaunchInfo,
    ProcessEnd,
    RunPlan,
    collect_record,
    curve_table,
)
from harness.results.run_files import EventTail
from harness.results.store import Store
from tests.fixtures.damaged import ODD, damaged

EVENTS = "".join(
    json.dumps(event) + "\n"
    for step in range(1, 4)
    for event in (
        {"event": "phase", "name": "train", "seconds": 1.5},
        {"event": "step", "step": step, "tokens": 10, "loss": 3.0, "train_time_s": 1.0},
        {"event": "evaluation", "step": step, "val_loss": 3.0, "val_bpb": 1.0},
        {"event": "core", "core": 0.1},
        {"event": "ranks", "compute_s": [0.1, None]},
    )
)
RESULT = json.dumps(
    {"status": "completed", "steps": 3, "tokens": 30, "metrics": {"val_bpb": 1.0, "val_loss": 3.0}}
)
ENVIRONMENT = json.dumps({"gpus": [{"name": "H100"}], "environment_id": "e", "torch": "2.11"})
PLAN = RunPlan(
    plan_id="a" * 16,
    attempt="20261128-120000-1",
    trainer="fake",
    seed=1,
    identity=Identity(config_id="c", code_id="k", data_id="d", protocol=1),
    derived={"steps": 3},
    tricks={"muon": True},
    launch=LaunchInfo(study="s", arm="base", block=1),
    started_at=1.0,
    boot_id="b",
)
LAUNCH = msgspec.json.encode(PLAN).decode()
FILES = {"events.jsonl": EVENTS, "result.json": RESULT, "environment.json": ENVIRONMENT}
ENDED = ProcessEnd(returncode=0, cause=None, ended_at=2.0, trainer_s=1.0)

bounded = settings(
    max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("any")


def new(folder: Path) -> Path:
    path = folder / str(sum(1 for _ in folder.iterdir()))
    path.mkdir()
    return path


@bounded
@given(data=st.data(), name=st.sampled_from([*FILES, "log.txt", "core.parquet"]))
def test_a_run_directory_of_any_bytes_becomes_a_record(folder, data, name):
    run_dir = new(folder)
    for known, text in FILES.items():
        (run_dir / known).write_text(text)
    (run_dir / name).write_bytes(data.draw(damaged(FILES.get(name, "a line\n"))))
    record = collect_record(run_dir, PLAN, ENDED)
    assert record.status in ("completed", "diverged", "out_of_memory", "interrupted", "failed")
    assert msgspec.json.decode(msgspec.json.encode(record), type=type(record)) == record
    table = curve_table(run_dir)
    assert table is None or table.column_names[0] == "step"
    tail = EventTail(run_dir / "events.jsonl")
    tail.read()
    assert isinstance(tail.progress.step, int)


# --- archives -------------------------------------------------------------------------------------


def record_bytes(folder: Path) -> str:
    run_dir = new(folder)
    for known, text in FILES.items():
        (run_dir / known).write_text(text)
    return msgspec.json.encode(collect_record(run_dir, PLAN, ENDED)).decode()


NAMES = (
    f"records/{PLAN.plan_id}.json",
    f"plans/{PLAN.plan_id}/{PLAN.attempt}/launch.json",
    f"curves/{PLAN.plan_id}.parquet",
    "studies/s.json",
    "searches/s.sqlite",
    "full/job/forecast.json",
)
KINDS = (tarfile.REGTYPE, tarfile.REGTYPE, tarfile.SYMTYPE, tarfile.DIRTYPE, tarfile.FIFOTYPE)


@st.composite
def archives(draw, texts):
    """A tar with a few entries of a store, of which names, kinds and contents may be hostile."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as tar:
        for name in draw(st.lists(st.sampled_from(NAMES), min_size=1, max_size=3)):
            odd, where = draw(st.sampled_from(ODD)), draw(st.integers(0, 3 * len(name)))
            shown = name if where >= len(name) else name[:where] + odd + name[where:]
            entry = tarfile.TarInfo(shown.replace("\0", "")[:3000])
            content = draw(damaged(*texts)) if draw(st.booleans()) else texts[0].encode()
            entry.type, entry.linkname = draw(st.sampled_from(KINDS)), "/etc/hostname"
            entry.size = len(content) if entry.isreg() else 0
            tar.addfile(entry, io.BytesIO(content))
    data = file.getvalue()
    return data[: draw(st.one_of(st.just(len(data)), st.integers(0, len(data))))]


@bounded
@given(data=st.data())
def test_an_archive_of_any_bytes_is_refused_or_merged_and_writes_nothing_outside(folder, data):
    whole = record_bytes(folder)
    hostile = whole.replace(PLAN.plan_id, "../../EVIL"), whole.replace(PLAN.attempt, "../EVIL")
    outside = new(folder)
    (outside / "a.tar").write_bytes(data.draw(archives((whole, LAUNCH, *hostile))))
    store = Store(outside / "in" / "runs")
    with contextlib.suppress(HarnessError):
        unpack(outside / "a.tar", store)
    assert sorted(path.name for path in outside.iterdir()) == ["a.tar", "in"]
    assert [path.name for path in (outside / "in").iterdir()] == ["runs"]
    assert not list(store.root.glob(".unpack-*"))
    with contextlib.suppress(StoreError):
        for record in store.records():
            assert store.side_files(record).keys() <= {"curves", "core"}
