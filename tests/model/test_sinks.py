"""Sinks mirror events and can do a run no harm. The real ones run where they are installed."""

import json
import struct
import sys
import threading
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from model.config.identity import config_id
from model.config.reader import load_config
from model.errors import MachineError
from model.runtime.run_dir import RunDirectory
from model.runtime.sinks import Mirror, open_sinks, scalars
from tests.fixtures import warm_python

ROOT = Path(__file__).parents[2]
ON = {
    "tensorboard": {"logging.tensorboard": True},
    "wandb": {"logging.wandb": {"mode": "offline"}},
}


class Kept:
    """A sink that keeps what it is shown, and fails at the third event if it shall."""

    def __init__(self, fails: bool) -> None:
        self.fails, self.shown, self.result = fails, [], None

    def show(self, event: Any) -> None:
        if self.fails and len(self.shown) == 2:
            raise OSError("no route to the sink")
        self.shown.append(event)

    def close(self, result: Any) -> None:
        self.result = result


def events_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (path / "events.jsonl").read_text().splitlines()]


def test_a_sink_is_shown_every_event_and_the_result(tmp_path: Path) -> None:
    run, sink = RunDirectory(tmp_path / "run"), Kept(fails=False)
    run.mirrors.append(Mirror("kept", lambda: sink, run))
    for step in range(50):
        run.event("step", step=step, loss=1.0)
    run.finish("completed")
    assert sink.shown == events_of(run.path)
    assert sink.result == json.loads((run.path / "result.json").read_text())


@pytest.mark.parametrize("opens", [True, False])
def test_a_failing_sink_leaves_an_event_and_the_run_continues(tmp_path: Path, opens: bool) -> None:
    def opener() -> Kept:
        if not opens:
            raise OSError("no route to the sink")
        return Kept(fails=True)

    run = RunDirectory(tmp_path / "run")
    run.mirrors.append(Mirror("kept", opener, run))
    for step in range(5):
        run.event("step", step=step)
    run.mirrors[0]._thread.join(10)
    run.event("step", step=5)
    assert run.finish("completed")
    events = events_of(run.path)
    assert [event["step"] for event in events if event["event"] == "step"] == list(range(6))
    (failed,) = [event for event in events if event["event"] == "sink_failed"]
    assert failed["sink"] == "kept"
    assert failed["reason"] == "OSError: no route to the sink"


def test_a_sink_that_hangs_makes_no_step_wait(tmp_path: Path) -> None:
    freed = threading.Event()

    class Hanging(Kept):
        def show(self, event: Any) -> None:
            freed.wait()

    run = RunDirectory(tmp_path / "run")
    run.mirrors.append(Mirror("hanging", lambda: Hanging(fails=False), run))
    for step in range(1000):
        run.event("step", step=step)
    assert not freed.is_set()
    assert len(events_of(run.path)) == 1000
    freed.set()
    assert run.finish("completed")


def test_curves_are_the_numbers_of_events_with_a_step() -> None:
    event = {"event": "step", "t": 1.0, "step": 3, "loss": 2, "recompiled": True, "mfu": None}
    assert scalars(event) == {"step/loss": 2.0}
    assert scalars({"event": "phase", "t": 1.0, "seconds": 2.0}) == {}


def test_sinks_are_no_part_of_an_identity() -> None:
    assert config_id(load_config(None, ON["tensorboard"])) == config_id(load_config(None))


@pytest.mark.parametrize("name", ON)
def test_a_missing_package_is_refused_with_a_hint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr("sys.path", [str(ROOT)])  # nothing is installed there
    monkeypatch.delitem(sys.modules, name, raising=False)
    run = RunDirectory(tmp_path / "run")
    with pytest.raises(MachineError) as caught:
        open_sinks(load_config(None, ON[name]), run)
    assert f"expected the package {name}" in str(caught.value)
    assert "pip install 'speedrun-harness[sinks]'" in caught.value.hint
    assert not run.mirrors
    run.finish("failed")


@pytest.mark.parametrize("name", ON)
def test_a_run_is_shown_in_a_sink_that_is_installed(
    tmp_path: Path, tiny: dict[str, Any], name: str
) -> None:
    if find_spec(name) is None:
        pytest.skip(f"{name} is not installed (the extra `sinks`)")
    out, base = tmp_path / "run", tmp_path / "base.yaml"
    base.write_text("seed: 1\n")
    command = ["-m", "model.train", "--config", str(base), "--out", str(out)]
    for path, value in {**tiny, **ON[name]}.items():
        command += ["--set", f"{path}={json.dumps(value)}"]
    done = warm_python.run(command)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "sink_failed" not in [event["event"] for event in events_of(out)], done.stderr
    losses = {e["step"]: e["loss"] for e in events_of(out) if e["event"] == "step"}
    shown = {"tensorboard": shown_in_tensorboard, "wandb": shown_in_wandb}[name](out)
    assert shown == pytest.approx(losses, abs=1e-5)


def shown_in_tensorboard(out: Path) -> dict[int, float]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(str(out / "tensorboard"))
    found.Reload()
    return {event.step: event.value for event in found.Scalars("step/loss")}


def shown_in_wandb(out: Path) -> dict[int, float]:
    from wandb.proto import wandb_internal_pb2

    (path,) = out.glob("wandb/offline-run-*/*.wandb")
    losses = {}
    for data in wandb_records(path.read_bytes()):
        record = wandb_internal_pb2.Record()
        record.ParseFromString(data)
        items = record.history.item
        row = {item.key or "/".join(item.nested_key): item.value_json for item in items}
        if "step/loss" in row:
            losses[record.history.step.num] = json.loads(row["step/loss"])
    return losses


def wandb_records(file: bytes) -> Iterator[bytes]:
    """The records of an offline file: LevelDB's log format, its header counted into block 0."""
    whole, first, last, block, at = 1, 2, 4, 32_768, 7
    parts = b""
    while at < len(file):
        if block - at % block < 7:  # no room for a header: the rest of the block is empty
            at += block - at % block
            continue
        length, kind = struct.unpack("<HB", file[at + 4 : at + 7])
        data = file[at + 7 : at + 7 + length]
        parts = data if kind in (whole, first) else parts + data
        if kind in (whole, last):
            yield parts
        at += 7 + length
