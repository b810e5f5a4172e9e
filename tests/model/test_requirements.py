"""What `model.doctor` finds before a job: data, tokenizer, bundle, disk, GPUs, whole and broken."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from model.config import Config
from model.config.resolve import resolve
from model.core.bundle import Bundle
from model.data.downloaded import DownloadedFiles, FileRecord
from model.data.prepare import prepare
from model.data.settings import DataSettings
from model.data.sources import GPT2_VOCAB_SIZE
from model.data.token_file import END_OF_TEXT
from model.describe import describe
from model.diagnostics.requirements import connectivity, data, disk, gpus, inventory, plan
from model.diagnostics.requirements import core_bundle as bundle
from model.doctor import main
from model.runtime.preflight import GIB, GpuFacts
from model.trainer import Trainer

from .core.conftest import write_bundle
from .data.conftest import token_file
from .data.hub import running

ROOT = Path(__file__).parents[2]
BASES = ROOT / "ablations" / "configs"
REAL_BUNDLE = ROOT.parent / "shared" / "core"
NOWHERE = "http://127.0.0.1:9"  # nothing listens on the discard port
H100 = GpuFacts(
    name="NVIDIA H100 80GB HBM3",
    capability=(9, 0),
    built_for=(),
    total_bytes=80 * GIB,
    free_bytes=79 * GIB,
    processes=(),
)
ROWS = 1000

Answer = dict[str, Any]


@pytest.fixture
def ask(
    tiny: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> Callable[..., Answer]:
    """The command's result for the tiny configuration with changes, in a run's directory."""

    def run(changes: dict[str, Any] | None = None, *options: str) -> Answer:
        settings = {**tiny, **(changes or {})}
        given = [f"--set={name}={json.dumps(value)}" for name, value in settings.items()]
        base = str(BASES / "gpt2_tiny_cpu.yaml")
        capsys.readouterr()
        main(["--config", base, "--out", str(tmp_path / "run"), *given, *options])
        answer: Answer = json.loads(capsys.readouterr().out)
        return answer

    return run


@pytest.fixture
def cache(tiny: dict[str, Any], tmp_path: Path) -> Path:
    """A cache of one's own in which the tiny text is prepared."""
    config, _ = resolve(str(BASES / "gpt2_tiny_cpu.yaml"), tiny)
    settings = DataSettings.from_config(config)
    prepare(settings, print)
    return Path(shutil.copytree(settings.cache, tmp_path / "cache"))


def found(answer: Answer, what: str) -> dict[str, Any]:
    (finding,) = [each for each in answer["findings"] if each["what"] == what]
    return dict(finding)


def test_a_job_with_all_requirements_passes_without_torch(
    tiny: dict[str, Any], cache: Path, tmp_path: Path
) -> None:
    settings = {**tiny, "data.cache_dir": str(cache)}
    given = [f"--set={name}={json.dumps(value)}" for name, value in settings.items()]
    options = ["--config", str(BASES / "gpt2_tiny_cpu.yaml"), "--ranks", "2", *given]
    script = "import sys; from model.doctor import main; main(sys.argv[1:])"
    check = "print('torch' in sys.modules, file=sys.stderr)"
    command = [sys.executable, "-c", f"{script}; {check}", *options, "--out", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stderr.strip() == "False"
    answer = json.loads(done.stdout)
    assert [each for each in answer["findings"] if not each["ok"]] == []
    assert answer["planned_tokens"] == 3 * 256
    assert answer["data"]["data_id"] is not None
    assert "x 2" in found(answer, "batch")["got"]
    assert "CORE bundle" not in [finding["what"] for finding in answer["findings"]]


def test_a_faulty_configuration_has_the_errors_of_describe(
    tiny: dict[str, Any], ask: Callable[..., Answer]
) -> None:
    answer = ask({}, "--ranks", "3")
    described = describe("x", str(BASES / "gpt2_tiny_cpu.yaml"), tiny, ranks=3)
    assert answer["errors"] == described["errors"] != []
    assert [finding["severity"] for finding in answer["findings"]] == ["error"]
    assert answer["checkpoint_bytes"] is None


def test_text_without_tokens_is_a_warning_with_a_hint(
    ask: Callable[..., Answer], tmp_path: Path
) -> None:
    shards = found(ask({"data.cache_dir": str(tmp_path / "none")}), "data shards")
    assert shards["severity"] == "warning"
    assert "model.data prepare" in shards["hint"]


@pytest.mark.parametrize("cut", [True, False])
def test_a_token_shard_that_was_cut_or_is_gone_stops_the_job(
    ask: Callable[..., Answer], cache: Path, cut: bool
) -> None:
    shard = next(cache.glob("*/shards/*.tokens"))
    if cut:
        os.truncate(shard, shard.stat().st_size - 1)
    else:
        shard.unlink()
    shards = found(ask({"data.cache_dir": str(cache)}), "data shards")
    assert shards["severity"] == "error"
    assert str(shard) in shards["got"]


def test_a_changed_byte_is_found_where_every_byte_is_compared(
    ask: Callable[..., Answer], cache: Path
) -> None:
    shard = max(cache.glob("*/shards/*.tokens"), key=lambda path: path.stat().st_size)
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 1
    shard.write_bytes(content)
    shards = found(ask({"data.cache_dir": str(cache)}, "--hashes"), "data shards")
    assert shards["severity"] == "error"
    assert "SHA-256" in shards["expected"]


def test_text_that_is_read_twice_warns(ask: Callable[..., Answer], cache: Path) -> None:
    answer = ask({"data.cache_dir": str(cache), "dial.steps": 100_000})
    epochs = found(answer, "epochs")
    assert epochs["severity"] == "warning"
    assert "cropped" in epochs["got"]
    assert found(ask({"data.cache_dir": str(cache)}), "epochs")["ok"]


def test_prepared_tokens_of_another_vocabulary_stop_the_job(
    ask: Callable[..., Answer], cache: Path
) -> None:
    home = next(cache.glob("*/manifest.json")).parent
    changes = {"data.cache_dir": str(cache), "data.source": str(home), "model.vocab_size": 640}
    tokenizer = found(ask(changes), "tokenizer")
    assert tokenizer["severity"] == "error"
    assert tokenizer["hint"].startswith("Set model.vocab_size: 512")


def test_a_tokenizer_file_that_is_missing_stops_the_job(
    ask: Callable[..., Answer], tmp_path: Path
) -> None:
    changes = {"data.tokenizer": str(tmp_path / "t.json"), "data.cache_dir": str(tmp_path / "none")}
    assert found(ask(changes), "tokenizer")["severity"] == "error"


def climbmix(cache: Path, mirror: str = NOWHERE) -> DataSettings:
    return DataSettings(
        source="climbmix",
        train_files=2,
        vocab_size=32_768,
        context_tokens=2048,
        validation_rows=4,
        cache_dir=str(cache),
        mirror=mirror,
    )


def checked_data(settings: DataSettings, seen: inventory.Inventory) -> dict[str, Any]:
    _, derived = resolve(str(BASES / "speedrun.yaml"), {"dial.depth": 12})
    return {finding.what: finding for finding in data.findings(settings, derived, seen)}


def test_shards_that_are_missing_stop_a_job_without_network_and_count_for_the_disk(
    tmp_path: Path,
) -> None:
    settings = climbmix(tmp_path)
    seen = inventory.take_inventory(settings, ROWS)
    findings = checked_data(settings, seen)
    assert seen.missing == ["shard_00000.parquet", "shard_00001.parquet", "shard_06542.parquet"]
    assert findings["data shards"].severity == "warning"
    assert findings["download"].severity == "error"
    assert "no connection" in findings["download"].got
    assert findings["epochs"].severity == "warning"
    assert "data.train_files" in str(findings["epochs"].hint)
    full = replace(seen, cache_free_bytes=seen.coming_bytes - 1)
    assert checked_data(settings, full)["room for data"].severity == "error"


def test_shards_that_a_server_has_are_no_reason_to_stop(tmp_path: Path) -> None:
    with running() as hub:
        hub.files["shard_00000.parquet"] = b"PAR1 text PAR1"
        settings = climbmix(tmp_path, hub.url)
        assert checked_data(settings, inventory.take_inventory(settings, ROWS))["download"].ok
        assert connectivity.why_not(f"{hub.url}/shard_00009.parquet") == "HTTP 404 Not Found"


def test_downloads_that_were_cut_stop_the_job_with_and_without_a_record(tmp_path: Path) -> None:
    settings = climbmix(tmp_path)
    downloaded_files = DownloadedFiles(tmp_path, "climbmix")
    names = ("shard_00000.parquet", "shard_00001.parquet", "shard_06542.parquet")
    downloaded_files.folder.mkdir(parents=True)
    for name in names:
        downloaded_files.path(name).write_bytes(b"PAR1 whole PAR1")
    assert inventory.take_inventory(settings, ROWS).faults == ()
    downloaded_files.write_record(names[0], FileRecord(bytes=99, sha256="0" * 64, published=True))
    downloaded_files.path(names[1]).write_bytes(b"PAR1 who")
    seen = inventory.take_inventory(settings, ROWS)
    assert [Path(fault.path).name for fault in seen.faults] == [names[0], names[1]]
    finding = checked_data(settings, seen)["data shards"]
    assert finding.severity == "error"
    assert "99 bytes" in finding.expected
    assert names[1] in finding.got


def test_a_truncated_file_of_tokens_is_found_by_its_header(tmp_path: Path) -> None:
    folder = tmp_path / "tokens"
    folder.mkdir()
    for name in ("a.bin", "b.bin"):
        token_file(folder / name, [END_OF_TEXT, 1, 2, 3])
    settings = replace(
        climbmix(tmp_path),
        source=str(folder),
        train_files=None,
        tokenizer="gpt2",
        vocab_size=GPT2_VOCAB_SIZE,
    )
    assert inventory.take_inventory(settings, ROWS).faults == ()
    os.truncate(folder / "a.bin", (folder / "a.bin").stat().st_size - 2)
    (fault,) = inventory.take_inventory(settings, ROWS).faults
    assert fault.path.endswith("a.bin")


def core(folder: Path | None) -> Config:
    changes = {"core": {}} if folder is None else {"core": {"bundle": str(folder)}}
    return resolve(str(BASES / "speedrun.yaml"), changes)[0]


def test_a_bundle_of_ones_own_warns_and_a_broken_line_in_it_stops(tmp_path: Path) -> None:
    folder = write_bundle(tmp_path / "bundle")
    (own,) = bundle.findings(core(folder), tmp_path)
    assert (own.what, own.severity) == ("CORE bundle", "warning")
    file = next((folder / "eval_data").rglob("*.jsonl"))
    file.write_bytes(file.read_bytes()[:-9])
    (broken,) = bundle.findings(core(folder), tmp_path)
    assert broken.severity == "error"
    assert f"{file}:" in broken.got
    file.unlink()
    (gone,) = bundle.findings(core(folder), tmp_path)
    assert (gone.severity, "no such file" in gone.got) == ("error", True)


def test_core_of_fewer_examples_than_shots_stops_the_job(tmp_path: Path) -> None:
    folder = write_bundle(tmp_path / "bundle")
    shots = max(task.shots for task in Bundle(folder).tasks)
    for most, severity in ((shots, "error"), (shots + 1, "info")):
        changes = {"core": {"bundle": str(folder), "max_per_task": most}}
        config = resolve(str(BASES / "speedrun.yaml"), changes)[0]
        _, cut = bundle.findings(config, tmp_path)
        assert (cut.what, cut.severity) == ("CORE examples", severity)


def test_an_archive_of_the_bundle_that_was_cut_stops_the_job(tmp_path: Path) -> None:
    archive = tmp_path / "downloads" / "core" / "eval_bundle.zip"
    archive.parent.mkdir(parents=True)
    archive.write_bytes(b"PK\3\4 and no more")
    (cut,) = bundle.findings(core(None), tmp_path)
    assert (cut.severity, "Delete it" in str(cut.hint)) == ("error", True)


def test_the_published_bundle_is_known_by_its_hashes(tmp_path: Path) -> None:
    if not REAL_BUNDLE.exists():
        pytest.skip(f"no CORE data at {REAL_BUNDLE}")
    (published,) = bundle.findings(core(REAL_BUNDLE), tmp_path)
    assert published.ok


@pytest.mark.parametrize("base", ["speedrun_tiny_cpu", "gpt2_tiny_cpu"])
def test_a_checkpoint_has_the_estimated_size(base: str) -> None:
    wide = {"dial.depth": 2, "dial.batch_tokens": 512, "model.width": 256, "system.threads": 1}
    config, derived = resolve(str(BASES / f"{base}.yaml"), wide)
    trainer = Trainer(config, derived, torch.device("cpu"))
    rows = derived.batch_tokens // derived.sizes.context
    trainer.step(0, torch.zeros(rows, derived.sizes.context + 1, dtype=torch.int64))
    written = sum(
        tensor.numel() * tensor.element_size() for tensor in tensors(trainer.state_dict())
    )
    assert disk.checkpoint_bytes(config, derived) == pytest.approx(written, rel=0.01)


def tensors(state: Any) -> list[Tensor]:
    if isinstance(state, Tensor):
        return [state]
    inner = state.values() if isinstance(state, dict) else state if isinstance(state, list) else ()
    return [tensor for value in inner for tensor in tensors(value)]


def test_a_disk_without_room_for_the_checkpoints_that_are_kept_stops_the_job(
    tmp_path: Path,
) -> None:
    changes = {"dial.depth": 12, "checkpoint.every_steps": 500}
    config, derived = resolve(str(BASES / "speedrun.yaml"), changes)
    space = disk.DiskSpace.of(config, derived, tmp_path / "a" / "b", cache=tmp_path)
    assert (space.place, space.copies) == (tmp_path, config.checkpoint.keep + 1)
    enough = replace(space, free_bytes=3 * space.checkpoint_bytes)
    assert [finding.severity for finding in disk.findings(enough)] == ["info", "info"]
    for full in (replace(enough, data_bytes=1), replace(enough, free_bytes=10**9)):
        assert [finding.severity for finding in disk.findings(full)] == ["info", "error"]


def test_checkpoints_that_lie_there_already_need_no_room_again(tmp_path: Path) -> None:
    config, derived = resolve(str(BASES / "speedrun.yaml"), {"checkpoint.every_steps": 500})
    (tmp_path / "checkpoints" / "step-00000500").mkdir(parents=True)
    space = disk.DiskSpace.of(config, derived, tmp_path, cache=tmp_path)
    assert space.copies == config.checkpoint.keep


def test_the_drivers_gpus_are_those_that_a_job_may_see(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = tmp_path / "nvidia-smi"
    rows = [f"{n}, GPU-{n}, NVIDIA H200, 9.0, 143771, {143000 + n}" for n in range(3)]
    lines = "\n".join([*rows, "3, GPU-3, NVIDIA H200, 9.0, [N/A], [N/A]"])
    apps = "GPU-2, 4711, 1024, python"
    answer = f"case \"$1\" in *gpu=*) echo '{lines}';; *) echo '{apps}';; esac"
    command.write_text(f"#!/bin/sh\n{answer}\n")
    command.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,0")
    config, _ = resolve(str(BASES / "speedrun.yaml"), {})
    seen = gpus.visible(config)
    assert [gpu.free_bytes // 2**20 for gpu in seen] == [143_002, 143_000]
    assert [len(gpu.processes) for gpu in seen] == [1, 0]
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    assert len(gpus.visible(config)) == 3
    assert gpus.visible(replace(config, system=replace(config.system, device="cpu"))) == []


def on(count: int, gpu: GpuFacts, **changes: Any) -> dict[str, Any]:
    named = {name.replace("__", "."): value for name, value in changes.items()}
    config, derived = resolve(str(BASES / "speedrun.yaml"), named, ranks=8)
    return {f.what: f for f in gpus.findings(config, derived, [gpu] * count, 8)}


def test_gpus_are_judged_before_a_rank_takes_one() -> None:
    assert {finding.severity for finding in on(8, H100).values()} == {"info"}
    assert on(4, H100)["GPUs"].severity == "error"
    small = on(8, replace(H100, total_bytes=16 * GIB, free_bytes=15 * GIB))["memory"]
    assert (small.severity, "device_batch_rows" in str(small.hint)) == ("error", True)
    assert on(8, replace(H100, free_bytes=40 * GIB))["other processes"].severity == "error"
    assert on(8, replace(H100, capability=(7, 5)))["precision"].severity == "error"


def test_a_machine_without_a_driver_warns_where_gpus_are_requested() -> None:
    assert on(0, H100)["GPUs"].ok
    assert on(0, H100, system__device="cuda")["GPUs"].severity == "warning"
    assert on(0, H100, system__device="cpu")["memory"].ok


def test_a_warm_up_that_outlasts_the_run_warns() -> None:
    for steps, ok in ((100, True), (40, False)):
        changes = {"dial.steps": steps, "schedule.warmup_steps": 40}
        config, derived = resolve(str(BASES / "speedrun.yaml"), changes)
        (horizon,) = [f for f in plan.findings(config, derived) if f.what == "horizon"]
        assert horizon.ok is ok
