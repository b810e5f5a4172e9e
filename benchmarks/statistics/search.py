"""What a search costs and how often it is wrong, with the FakeTrainer's known optimum.

    python -m benchmarks.statistics.search PART [--repeats 10] [--trials N]

    pruning    GPU-seconds to an equal best value
    overhead   seconds that a trial takes beside its trainer; 30 trials
    past       seconds to open and report a large search; 5000 trials
    winners    what complete searches confirm; 40 trials
    flat       the same without any effect; 20 trials

`pruning` evaluates the trainer's formula in this process, in simulated GPU-seconds, with the
samplers and pruners of a search. The other parts run the command `harness search`.
"""

import argparse
import itertools
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import optuna

from harness import files
from harness.config.search_file import SAMPLER
from harness.results.store import Store
from harness.runner.fake_trainer import config as fake
from harness.runner.fake_trainer.train import Curve, bits_per_byte
from harness.search import storage
from harness.search.samplers import create_pruner
from harness.search.trial import RESULT, TrialResult, result_of

ROOT = Path(__file__).parents[2]
STEPS, EVERY = 60, 5
SETTINGS = {"dial.steps": STEPS, "eval.every_steps": EVERY, "windows": "SSSL"}
LOST_STEPS = 2  # steps that a run makes after it was pruned
TRIAL_S = 60.0  # the trial length for which the overhead is given as a percentage
SEARCH = """\
search: {name}
trainer: fake
base: base.yaml
set: {{bowl.curvature: {curvature}, dial.steps: {steps}, eval.every_steps: {every}}}
space:
  bowl.x: {{float: [-1, 1]}}
  bowl.y: {{float: [-1, 1]}}
budget: {{trials: {trials}}}
seed: {seed}
base_seeds: [{seed}, {second}, {third}]
confirm: {{best: 3, seeds: {seeds}}}
"""
BASE = "dial: {depth: 2, batch_tokens: 4096}\nresidual_scalars: true\n"


# --- pruning: simulated, without a process --------------------------------------------------------


@dataclass
class Spent:
    """The trials, GPU-seconds and best value of one search so far."""

    trials: int = 0
    gpu_s: float = 0.0
    best: float = float("inf")

    def add(self, value: float | None, gpu_s: float) -> None:
        self.trials, self.gpu_s = self.trials + 1, self.gpu_s + gpu_s
        if value is not None:
            self.best = min(self.best, value)


def _sampler(setting: str | dict[str, Any], seed: int) -> optuna.samplers.BaseSampler:
    """A sampler by its name, or by a mapping of `name` and arguments."""
    arguments = {"name": setting} if isinstance(setting, str) else dict(setting)
    made: optuna.samplers.BaseSampler = getattr(optuna.samplers, arguments.pop("name"))(
        seed=seed, **arguments
    )
    return made


def simulated(
    seed: int,
    sampler: str | dict[str, Any],
    pruner: str,
    done: Callable[[Spent], bool],
    curvature: float = 0.05,
) -> Spent:
    """Trials of the formula until `done`, with their best final val_bpb and GPU-seconds."""
    spent = Spent()
    study = optuna.create_study(
        study_name=f"{sampler} {seed}",  # Hyperband assigns brackets by it
        sampler=_sampler(sampler, seed),
        pruner=create_pruner(pruner, STEPS // EVERY, "benchmark"),
    )

    def one(trial: optuna.Trial) -> float:
        point = {axis: trial.suggest_float(f"bowl.{axis}", -1, 1) for axis in ("x", "y")}
        overrides = {f"bowl.{axis}": value for axis, value in point.items()}
        config = fake.load(None, {**SETTINGS, "bowl.curvature": curvature, **overrides})
        curve = Curve({**config, "seed": seed}, None)
        for number in range(1, STEPS // EVERY + 1):
            trial.report(bits_per_byte(curve.loss(number * EVERY)), number)
            if number < STEPS // EVERY and trial.should_prune():
                steps = min(STEPS, number * EVERY + LOST_STEPS)
                spent.add(None, steps * curve.step_s)
                raise optuna.TrialPruned
        value = bits_per_byte(curve.loss(STEPS))
        spent.add(value, STEPS * curve.step_s)
        return value

    while not done(spent):
        study.optimize(one, n_trials=1)
    return spent


def pruning(repeats: int, trials: int = 60, most: int = 400) -> list[str]:
    """GPU-seconds of pruned searches until they reach the best of an unpruned random search."""
    lines = [f"{'seed':>4} {'random':>24} {'random, pruned':>24} {'default':>24}"]
    shares: dict[str, list[float]] = {"random, pruned": [], "default": []}
    for seed in range(1, repeats + 1):
        whole = simulated(seed, "RandomSampler", "NopPruner", lambda s: s.trials >= trials)

        def reached(spent: Spent, goal: float = whole.best) -> bool:
            return spent.best <= goal or spent.trials >= most

        variants = {
            "random, pruned": simulated(seed, "RandomSampler", "HyperbandPruner", reached),
            "default": simulated(seed, dict(SAMPLER), "HyperbandPruner", reached),
        }
        cells = [_cell(whole, whole)]
        for name, spent in variants.items():
            cells.append(_cell(spent, whole))
            shares[name].append(spent.gpu_s / whole.gpu_s)
        lines.append(f"{seed:>4} " + " ".join(f"{cell:>24}" for cell in cells))
    for name, values in shares.items():
        median, worst = statistics.median(values), max(values)
        lines.append(f"{name}: median {median:.0%} of the GPU-seconds, at most {worst:.0%}")
    return lines


def _cell(spent: Spent, whole: Spent) -> str:
    missed = "" if spent.best <= whole.best else " (not reached)"
    return f"{spent.gpu_s:,.0f} s, {spent.trials} trials{missed}"


# --- commands -------------------------------------------------------------------------------------


class Folder:
    """A temporary folder with a base, a search of it, and a store."""

    def __init__(self, root: Path) -> None:
        self.root, self.store = root, Store(root / "runs")
        (root / "base.yaml").write_text(BASE)

    def write(self, name: str, seed: int, trials: int, curvature: float) -> Path:
        """Writes a search file. No two repeats share a seed."""
        first = 1000 * seed
        text = SEARCH.format(
            name=name,
            curvature=curvature,
            steps=STEPS,
            every=EVERY,
            trials=trials,
            seed=first,
            second=first + 1,
            third=first + 2,
            seeds=[first + 100 + number for number in range(6)],
        )
        path = self.root / f"{name}.yaml"
        path.write_text(text)
        return path

    def search(self, path: Path, *options: str) -> tuple[str, float]:
        """The output of a command and its duration in seconds."""
        began = time.monotonic()
        command = [sys.executable, "-m", "harness", "search", str(path), *options]
        done = subprocess.run(
            [*command, "--store", str(self.store.root)], cwd=ROOT, capture_output=True, text=True
        )
        if done.returncode != 0:
            raise SystemExit(f"exit code {done.returncode}: {done.stdout[-2000:]}{done.stderr}")
        return done.stdout, time.monotonic() - began

    def report(self, name: str) -> Mapping[str, Any]:
        """report.json of a search."""
        report: Mapping[str, Any] = json.loads(
            (self.store.report_dir("search", name) / "report.json").read_bytes()
        )
        return report


def overhead(folder: Folder, trials: int) -> list[str]:
    """Mean seconds from the end of one trainer to the start of the next."""
    path = folder.write("overhead", 1, trials, 0.05)
    folder.search(path, "--no-html")
    records = [made for made in folder.store.records() if made.launch.study == "overhead"]
    made = [r for r in records if (r.launch.arm or "").startswith("trial")]
    between = [later.started_at - earlier.ended_at for earlier, later in itertools.pairwise(made)]
    inside = [record.wall_s - record.trainer_s for record in made]
    total = statistics.mean(between) + statistics.mean(inside)
    return [
        f"{len(made)} trials: {statistics.mean(between):.3f} s between two runs and "
        f"{statistics.mean(inside):.3f} s inside of one: {total:.3f} s a trial, "
        f"{total / TRIAL_S:.2%} of trials of {TRIAL_S:.0f} s",
    ]


def past(folder: Folder, trials: int) -> list[str]:
    """Seconds of a command that reads and reports that many existing trials and records."""
    path = folder.write("past", 1, 4, 0.05)
    folder.search(path, "--no-html")
    _add_copies(folder, "past", trials)
    path.write_text(path.read_text().replace("trials: 4", f"trials: {trials}"))
    folder.search(path, "--no-html")  # runs the confirmation and builds the index of the store
    _, text_s = folder.search(path, "--no-html")
    _, page_s = folder.search(path)
    size = (folder.store.report_dir("search", "past") / "report.html").stat().st_size
    return [
        f"{trials} past trials and their records: {text_s:.1f} s with tables, {page_s:.1f} s with "
        f"the page ({size / 1e6:.1f} MB)"
    ]


def _add_copies(folder: Folder, name: str, trials: int) -> None:
    """Adds copies of the search's trials and records, at other points and with other ids."""
    with storage.open_storage(storage.storage_url(folder.store, name, None)) as opened:
        study = storage.stored_study(opened, name)
        assert study is not None
        have = study.get_trials()
        model = next(trial for trial in reversed(have) if result_of(trial) and trial.values)
        result = result_of(model)
        assert result is not None
        record = folder.store.attempts(result.plan_id or "")[0]
        new = []
        for number in range(len(have), trials):
            point = {"bowl.x": number / trials, "bowl.y": -number / trials}
            plan_id = files.digest([number], 16)
            new.append(_copied(model, result, point, plan_id))
            copied = msgspec.structs.replace(record, plan_id=plan_id)
            target = folder.store.root / "records" / f"{plan_id}.json"
            target.write_bytes(msgspec.json.encode(copied))
        study.add_trials(new)


def _copied(
    model: optuna.trial.FrozenTrial, result: TrialResult, point: dict[str, float], plan_id: str
) -> optuna.trial.FrozenTrial:
    copied = msgspec.structs.replace(result, plan_id=plan_id, overrides=point)
    return optuna.create_trial(
        params=point,
        distributions=model.distributions,
        value=1.5 + 0.1 * point["bowl.x"],
        intermediate_values=model.intermediate_values,
        user_attrs={**model.user_attrs, RESULT: msgspec.to_builtins(copied)},
    )


def winners(folder: Folder, repeats: int, trials: int = 40) -> list[str]:
    """The distance of the best confirmed candidate from the optimum, in SDs of one run."""
    sd_bpb = bits_per_byte(fake.DEFAULTS["noise"]["loss_sd"])
    lines = [f"{'seed':>4} {'trials':>6} {'confirmed':>9} {'from the optimum':>17}"]
    near = 0
    for seed in range(1, repeats + 1):
        name = f"winner-{seed}"
        folder.search(folder.write(name, seed, trials, 0.05), "--no-html")
        report = folder.report(name)
        best = _best_confirmed(report)
        away = None if best is None else _true_loss_bpb(best) / sd_bpb
        near += away is not None and away <= 1
        confirmed = sum(map(_is_confirmed, report["candidates"]))
        distance = "nothing" if away is None else f"{away:.2f} SD"
        lines.append(f"{seed:>4} {len(report['trials']):>6} {confirmed:>9} {distance:>17}")
    return [*lines, f"{near} of {repeats} within one SD of the optimum"]


def flat(folder: Folder, repeats: int, trials: int = 20) -> list[str]:
    """How many searches confirm a candidate although every point is as good as the base."""
    lines, wrong = [], 0
    for seed in range(1, repeats + 1):
        name = f"flat-{seed}"
        folder.search(folder.write(name, seed, trials, 0.0), "--no-html")
        candidates = folder.report(name)["candidates"]
        confirmed = sum(map(_is_confirmed, candidates))
        wrong += confirmed > 0
        lines.append(f"{seed:>4}: {confirmed} of {len(candidates)} candidates confirmed")
    return [*lines, f"{wrong} of {repeats} searches confirmed anything; nominal 2.5 %"]


def _is_confirmed(one: Mapping[str, Any]) -> bool:
    return one["confirmation"] is not None and bool(one["confirmation"]["confirmed"])


def _best_confirmed(report: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The point of the confirmed candidate with the best estimate on held-out seeds."""
    confirmed = [one for one in report["candidates"] if _is_confirmed(one)]
    if not confirmed:
        return None
    best = min(
        confirmed, key=lambda one: float(one["confirmation"]["effects"]["val_bpb"]["estimate"])
    )
    point: Mapping[str, Any] = best["candidate"]["overrides"]
    return point


def _true_loss_bpb(point: Mapping[str, Any]) -> float:
    """The loss of a point above the optimum, by the formula."""
    axes = {path.rpartition(".")[2]: value for path, value in point.items()}
    return bits_per_byte(fake.bowl_loss({"bowl": {"curvature": 0.05, **axes}}))


def main() -> int:
    """Prints the table of one part."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("part", choices=("pruning", "overhead", "past", "winners", "flat"))
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--trials", type=int)
    options = parser.parse_args()
    storage.import_optuna()
    if options.part == "pruning":
        print("\n".join(pruning(options.repeats)))
        return 0
    with tempfile.TemporaryDirectory(prefix="search-") as root:
        folder = Folder(Path(root))
        parts: dict[str, Callable[[], list[str]]] = {
            "overhead": lambda: overhead(folder, options.trials or 30),
            "past": lambda: past(folder, options.trials or 5000),
            "winners": lambda: winners(folder, options.repeats, options.trials or 40),
            "flat": lambda: flat(folder, options.repeats, options.trials or 20),
        }
        print("\n".join(parts[options.part]()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
