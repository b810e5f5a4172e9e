"""The compile cache: what hits, what misses, and that a broken one costs time and no more.

Each case is a process of its own, because variables, counters and loaded kernels are a process's.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from model.config.derive import derive
from model.config.reader import load_config
from model.distributed.ranks import ALONE
from model.distributed.step_status import StepStatus, StepStatusReduction
from model.distributed.stragglers import StragglerStatistics
from model.errors import MachineError
from model.runtime.compilation import CompileCounts
from model.runtime.run_dir import RunDirectory
from model.runtime.stop import Stop
from model.system.compile_cache import FOLDERS, CompileCache, folder_key
from model.system.sm_clock import Samples
from model.system.timing import Lap
from model.training import Training, _Step

ROOT = Path(__file__).parents[2]
VARIABLES = {"torch": "2.11.0+cu130", "triton": "3.6.0"}

# compiles a function with a backward pass, then runs it again, then with another shape
SCRIPT = """
import json, sys
import torch
from dataclasses import asdict
from model.runtime.compilation import Compilation
from model.config.reader import load_config
from model.errors import MachineError

torch.set_num_threads(1)
config = load_config(None, {"system.device": "cpu", "system.compile_cache_dir": sys.argv[1]})
compilation = Compilation.start(config, torch.device("cpu"))
weight = torch.ones(8, requires_grad=True)
function = torch.compile(lambda x: (x.sin() * weight).sum(), dynamic=False)
exec(sys.argv[2])
try:
    compilation.warm_up(lambda: function(torch.ones(8)).backward())
except MachineError as error:
    print(json.dumps(error.as_json()))
    sys.exit()
report = compilation.as_json()
compilation.take_report()
function(torch.ones(8)).backward()
assert compilation.take_report() is None
function(torch.ones(1, 8)).backward()
recompilation = asdict(compilation.take_report())
assert compilation.take_report() is None
print(json.dumps({**report, "recompilation": recompilation}))
"""


def compiled(cache_dir: Path, first: str = "", **environ: str) -> dict[str, Any]:
    """The report of a process that compiles with this cache; `first` is run before."""
    kept = {name: value for name, value in os.environ.items() if name not in FOLDERS}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(cache_dir), first],
        cwd=ROOT,
        env={**kept, **environ},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


needs_compiler = pytest.mark.skipif(
    not shutil.which("g++"), reason="Inductor's CPU code needs a C++ compiler, g++"
)


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """A cache that one process has filled, and the report of that process."""
    cache_dir = tmp_path_factory.mktemp("compile") / "cache"
    return cache_dir, compiled(cache_dir)


@pytest.fixture
def copy(filled: tuple[Path, dict[str, Any]], tmp_path: Path) -> Path:
    return shutil.copytree(filled[0], tmp_path / "cache")


@needs_compiler
@pytest.mark.slow
def test_a_first_process_misses_and_the_next_one_hits(
    filled: tuple[Path, dict[str, Any]], copy: Path
) -> None:
    cold, warm = filled[1], compiled(copy)
    assert (cold["result"], cold["hits"], cold["misses"]) == ("miss", 0, 2)
    assert (warm["result"], warm["hits"], warm["misses"]) == ("hit", 2, 0)
    assert cold["graphs"] == warm["graphs"] == 1
    assert warm["seconds"] > 0
    assert cold["faults"] == warm["faults"] == []
    assert cold["folder_key"] == warm["folder_key"]
    assert (copy / warm["folder_key"] / "inductor").is_dir()


@needs_compiler
@pytest.mark.slow
def test_compiling_again_is_news_with_its_reason(filled: tuple[Path, dict[str, Any]]) -> None:
    recompilation = filled[1]["recompilation"]
    assert recompilation["graphs"] == 1
    assert recompilation["seconds"] > 0
    assert "rank mismatch" in recompilation["reason"]


@needs_compiler
@pytest.mark.slow
def test_damaged_kernels_are_compiled_anew_and_deleted(copy: Path) -> None:
    cut_short(copy, "*.so")
    report = compiled(copy)
    assert report["result"] == "miss"
    assert str(copy) in report["faults"][0]
    assert not (copy / report["folder_key"]).exists()


@needs_compiler
@pytest.mark.slow
def test_entries_that_cannot_be_read_are_named_beside_the_miss(copy: Path) -> None:
    for kind in ("aotautograd", "fxgraph"):
        cut_short(copy, f"*/inductor/{kind}/**/*")
    report = compiled(copy)
    assert report["result"] == "miss"
    assert any("unable to load" in fault for fault in report["faults"])


@needs_compiler
@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="limits the size of files as Linux does")
def test_a_full_disk_is_an_error_with_a_hint(tmp_path: Path) -> None:
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000)); "
    ignore = "import signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)"
    report = compiled(tmp_path / "cache", limit + ignore)
    assert report["path"] == "system.compile_cache_dir"
    assert "disk space for compiled kernels" in report["expected"]
    assert "Free some disk space" in report["hint"]


def cut_short(folder: Path, pattern: str) -> None:
    """Half of every file, as a killed process or a full disk leaves them."""
    found = [path for path in folder.rglob(pattern) if path.is_file()]
    assert found, pattern
    for path in found:
        os.truncate(path, path.stat().st_size // 2)


def test_every_cache_is_moved_below_one_folder_and_the_users_own_is_left_alone(
    tmp_path: Path,
) -> None:
    environ = {"TRITON_CACHE_DIR": str(tmp_path / "mine")}
    cache = CompileCache(tmp_path / "cache", "key", environ)
    assert environ["TRITON_CACHE_DIR"] == str(tmp_path / "mine")
    assert cache.set_by_user == {"TRITON_CACHE_DIR": str(tmp_path / "mine")}
    assert environ["TORCHINDUCTOR_CACHE_DIR"] == str(tmp_path / "cache" / "key" / "inductor")
    assert environ["FLASH_ATTENTION_CUTE_DSL_CACHE_ENABLED"] == "1"
    assert set(FOLDERS) <= set(environ)


def test_a_folder_that_cannot_be_written_is_left_for_a_temporary_one(tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file")
    environ: dict[str, str] = {}
    cache = CompileCache(tmp_path / "cache", "key", environ)
    assert cache.is_temporary
    assert cache.was_empty
    assert "cannot be written" in cache.faults[0]
    assert not Path(environ["TORCHINDUCTOR_CACHE_DIR"]).is_relative_to(tmp_path)


def test_a_cache_of_the_users_that_is_left_is_not_deleted(tmp_path: Path) -> None:
    environ = {"TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "mine")}
    cache = CompileCache(tmp_path / "cache", "key", environ)
    cache.use_temporary("damaged")
    cache.discard_persistent()
    assert environ["TORCHINDUCTOR_CACHE_DIR"] != str(tmp_path / "mine")
    assert (tmp_path / "mine").is_dir()


def test_another_torch_triton_or_processor_has_another_folder() -> None:
    plain = folder_key(VARIABLES, "NVIDIA H100 80GB HBM3 sm90")
    assert "/" not in plain
    assert " " not in plain
    others = [
        folder_key({**VARIABLES, "torch": "2.13.0+cu130"}, "NVIDIA H100 80GB HBM3 sm90"),
        folder_key({**VARIABLES, "triton": "3.7.0"}, "NVIDIA H100 80GB HBM3 sm90"),
        folder_key(VARIABLES, "NVIDIA H200 sm90"),
    ]
    assert len({plain, *others}) == 4


def test_a_missing_temporary_folder_is_an_error_with_a_hint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import tempfile

    (tmp_path / "file").write_text("no folder can be made below this")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "file"))
    with pytest.raises(MachineError, match="Free some disk space"):
        CompileCache(tmp_path / "file", "key", {})


@pytest.mark.parametrize(
    ("counts", "result"),
    [
        (CompileCounts(graphs=1, hits=2), "hit"),
        (CompileCounts(graphs=1, misses=2), "miss"),
        (CompileCounts(graphs=1, bypasses=1), "miss"),
        (CompileCounts(graphs=2, hits=3, bypasses=1), "partial"),
        (CompileCounts(graphs=2, hits=1, misses=3), "partial"),
        (CompileCounts(graphs=1), "off"),
    ],
)
def test_a_hit_means_that_nothing_was_compiled(counts: CompileCounts, result: str) -> None:
    assert counts.result == result


def test_a_step_that_compiled_is_marked_and_is_no_measure_of_speed(
    tmp_path: Path, tiny: dict[str, Any], handlers_restored: None
) -> None:
    config = load_config(None, tiny)
    run = RunDirectory(tmp_path / "run")
    training = Training(config, derive(config), run, Stop(run, None))
    training.stragglers = StragglerStatistics(
        ALONE, torch.device("cpu"), Samples(), step=10, train_time_s=0.0
    )
    for number, seconds, compiled_s in ((11, 2.0, 0.0), (12, 32.5, 30.0), (13, 2.0, 0.0)):
        lap = Lap(100.0, 100.0 + seconds)
        call = StepStatusReduction(ALONE, torch.tensor(1.0), StepStatus())
        training._pending.append(_Step(number, call, lap, None, 0.0, 1.0, compiled_s))
    training._read_steps(0)
    run.finish("completed")
    steps = [json.loads(line) for line in (run.path / "events.jsonl").read_text().splitlines()]
    assert [step.get("recompiled") for step in steps] == [None, True, None]
    assert [step["step_s"] for step in steps] == [2.0, 2.5, 2.0]
    assert run.metrics["train_time_s"] == 6.5
    assert run.metrics["recompiled_steps"] == 1
    assert training.speeds.metrics(64) == {"tokens_per_s": 2 * 256 / 4.0}
