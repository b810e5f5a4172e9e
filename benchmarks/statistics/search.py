"""What a search costs and how often it errs, on the FakeTrainer's landscape of known optimum.

    python -m benchmarks.statistics.search pruning, or:

    pruning  [--repeats 10]    GPU seconds to an equal best value
    overhead [--trials 30]     what a trial costs beside its trainer
    past     [--trials 5000]   opening and reporting what was found
    winners  [--repeats 10]    whole searches: what they confirm
    flat     [--repeats 10]    the same where there is nothing to find

`pruning` draws from the trainer's formula without starting it, in simulated GPU seconds, with the
very samplers and pruners of a search. The others are whole commands.
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
from harness.search.trial import TrialResult, told

ROOT = Path(__file__).parents[2]
STEPS, EVERY = 60, 5
SETTINGS = {"dial.steps": STEPS, "eval.every_steps": EVERY, "windows": "SSSL"}
LOST_STEPS = 2  # that a run goes on after it was given up
TRIAL_S = 60.0  # the length of a trial that an overhead is a share of
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
    """One search's best values, in the order in which they were found."""

    trials: int = 0
    gpu_s: float = 0.0
    best: float = float("inf")

    def take(self, value: float | None, gpu_s: float) -> None:
        self.trials, self.gpu_s = self.trials + 1, self.gpu_s + gpu_s
        if value is not None:
            self.best = min(self.best, value)


def simulated(
    seed: int,
    sampler: str | dict[str, Any],
    pruner: str,
    over: Callable[[Spent], bool],
    curvature: float = 0.05,
) -> Spent:
    """Trials of the formula until `over`; their best final bpb and their GPU seconds."""
    spent = Spent()
    study = optuna.create_study(
        study_name=f"{sampler} {seed}",  # Hyperband deals its brackets by it
        sampler=storage.sampler_of(sampler, seed, "benchmark"),
        pruner=storage.pruner_of(pruner, STEPS // EVERY, "benchmark"),
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
                spent.take(None, steps * curve.step_s)
                raise optuna.TrialPruned
        value = bits_per_byte(curve.loss(STEPS))
        spent.take(value, STEPS * curve.step_s)
        return value

    while not over(spent):
        study.optimize(one, n_trials=1)
    return spent


def pruning(repeats: int, trials: int = 60, most: int = 400) -> list[str]:
    """GPU seconds of the default search until it has what an unpruned random search ended with."""
    lines = [f"{'seed':>4} {'random':>24} {'random, pruned':>24} {'default':>24}"]
    shares: dict[str, list[float]] = {"random, pruned": [], "default": []}
    for seed in range(1, repeats + 1):
        whole = simulated(seed, "RandomSampler", "NopPruner", lambda s: s.trials >= trials)

        def reached(spent: Spent, goal: float = whole.best) -> bool:
            return spent.best <= goal or spent.trials >= most

        ways = {
            "random, pruned": simulated(seed, "RandomSampler", "HyperbandPruner", reached),
            "default": simulated(seed, dict(SAMPLER), "HyperbandPruner", reached),
        }
        cells = [_cell(whole, whole)]
        for way, spent in ways.items():
            cells.append(_cell(spent, whole))
            shares[way].append(spent.gpu_s / whole.gpu_s)
        lines.append(f"{seed:>4} " + " ".join(f"{cell:>24}" for cell in cells))
    for way, found in shares.items():
        median, worst = statistics.median(found), max(found)
        lines.append(f"{way}: median {median:.0%} of the GPU seconds, at most {worst:.0%}")
    return lines


def _cell(spent: Spent, whole: Spent) -> str:
    missed = "" if spent.best <= whole.best else " (not reached)"
    return f"{spent.gpu_s:,.0f} s, {spent.trials} trials{missed}"


# --- whole commands -------------------------------------------------------------------------------


class Folder:
    """A temporary folder with a base, a search of it, and a store."""

    def __init__(self, root: Path) -> None:
        self.root, self.store = root, Store(root / "runs")
        (root / "base.yaml").write_text(BASE)

    def write(self, name: str, seed: int, trials: int, curvature: float) -> Path:
        """A search file. Its seeds are its own: two repeats share no draw."""
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

    def search(self, path: Path, *words: str) -> tuple[str, float]:
        """What a command printed, and its seconds."""
        began = time.monotonic()
        command = [sys.executable, "-m", "harness", "search", str(path), *words]
        done = subprocess.run(
            [*command, "--store", str(self.store.root)], cwd=ROOT, capture_output=True, text=True
        )
        if done.returncode != 0:
            raise SystemExit(f"exit code {done.returncode}: {done.stdout[-2000:]}{done.stderr}")
        return done.stdout, time.monotonic() - began

    def report(self, name: str) -> Mapping[str, Any]:
        """report.json of a search."""
        found: Mapping[str, Any] = json.loads(
            (self.store.report_dir("search", name) / "report.json").read_bytes()
        )
        return found


def overhead(folder: Folder, trials: int) -> list[str]:
    """Seconds from the end of one trainer to the start of the next, in the mean."""
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
    """Seconds of a command that finds so many trials and records, with its report."""
    path = folder.write("past", 1, 4, 0.05)
    folder.search(path, "--no-html")
    _pretend(folder, "past", trials)
    path.write_text(path.read_text().replace("trials: 4", f"trials: {trials}"))
    folder.search(path, "--no-html")  # the second look is made, and the index of the store
    _, text_s = folder.search(path, "--no-html")
    _, page_s = folder.search(path)
    size = (folder.store.report_dir("search", "past") / "report.html").stat().st_size
    return [
        f"{trials} past trials and their records: {text_s:.1f} s with tables, {page_s:.1f} s with "
        f"the page ({size / 1e6:.1f} MB)"
    ]


def _pretend(folder: Folder, name: str, trials: int) -> None:
    """Copies of the search's real trials and records, at other points and under other ids."""
    with storage.open_storage(storage.url_of(folder.store, name, None)) as opened:
        study = storage.stored_study(opened, name)
        assert study is not None
        have = study.get_trials()
        model = next(trial for trial in reversed(have) if told(trial) and trial.values)
        answer = told(model)
        assert answer is not None
        record = folder.store.attempts(answer.plan_id or "")[0]
        new = []
        for number in range(len(have), trials):
            point = {"bowl.x": number / trials, "bowl.y": -number / trials}
            plan_id = files.digest([number], 16)
            new.append(_copied(model, answer, point, plan_id))
            copied = msgspec.structs.replace(record, plan_id=plan_id)
            target = folder.store.root / "records" / f"{plan_id}.json"
            target.write_bytes(msgspec.json.encode(copied))
        study.add_trials(new)


def _copied(
    model: optuna.trial.FrozenTrial, answer: TrialResult, point: dict[str, float], plan_id: str
) -> optuna.trial.FrozenTrial:
    copied = msgspec.structs.replace(answer, plan_id=plan_id, overrides=point)
    return optuna.create_trial(
        params=point,
        distributions=model.distributions,
        value=1.5 + 0.1 * point["bowl.x"],
        intermediate_values=model.intermediate_values,
        user_attrs={**model.user_attrs, "told": msgspec.to_builtins(copied)},
    )


def winners(folder: Folder, repeats: int, trials: int = 40) -> list[str]:
    """How far, in SDs of one run, what a search confirms is from the optimum."""
    sd_bpb = bits_per_byte(fake.DEFAULTS["noise"]["loss_sd"])
    lines = [f"{'seed':>4} {'trials':>6} {'confirmed':>9} {'from the optimum':>17}"]
    near = 0
    for seed in range(1, repeats + 1):
        name = f"winner-{seed}"
        folder.search(folder.write(name, seed, trials, 0.05), "--no-html")
        found = folder.report(name)
        best = _best_confirmed(found)
        away = None if best is None else _true_loss_bpb(best) / sd_bpb
        near += away is not None and away <= 1
        confirmed = sum(_survives(claim) for claim in found["claims"])
        told_away = "nothing" if away is None else f"{away:.2f} SD"
        lines.append(f"{seed:>4} {len(found['trials']):>6} {confirmed:>9} {told_away:>17}")
    return [*lines, f"{near} of {repeats} within one SD of the optimum"]


def flat(folder: Folder, repeats: int, trials: int = 20) -> list[str]:
    """How many searches confirm anything where every point is as good as the base."""
    lines, wrong = [], 0
    for seed in range(1, repeats + 1):
        name = f"flat-{seed}"
        folder.search(folder.write(name, seed, trials, 0.0), "--no-html")
        claims = folder.report(name)["claims"]
        confirmed = sum(_survives(claim) for claim in claims)
        wrong += confirmed > 0
        lines.append(f"{seed:>4}: {confirmed} of {len(claims)} candidates confirmed")
    return [*lines, f"{wrong} of {repeats} searches confirmed anything; nominal 2.5 %"]


def _survives(claim: Mapping[str, Any]) -> bool:
    return claim["confirm"] is not None and bool(claim["confirm"]["survives"])


def _best_confirmed(found: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The point of the confirmed candidate with the best estimate on held-out seeds."""
    kept = [claim for claim in found["claims"] if _survives(claim)]
    if not kept:
        return None
    best = min(kept, key=lambda claim: float(claim["confirm"]["effects"]["val_bpb"]["estimate"]))
    point: Mapping[str, Any] = best["pick"]["overrides"]
    return point


def _true_loss_bpb(point: Mapping[str, Any]) -> float:
    """What the formula says a point loses against the optimum."""
    axes = {path.rpartition(".")[2]: value for path, value in point.items()}
    return bits_per_byte(fake.bowl_loss({"bowl": {"curvature": 0.05, **axes}}))


def main() -> int:
    """The table of one part."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("part", choices=("pruning", "overhead", "past", "winners", "flat"))
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--trials", type=int)
    asked = parser.parse_args()
    storage.import_optuna()
    if asked.part == "pruning":
        print("\n".join(pruning(asked.repeats)))
        return 0
    with tempfile.TemporaryDirectory(prefix="search-") as root:
        folder = Folder(Path(root))
        parts: dict[str, Callable[[], list[str]]] = {
            "overhead": lambda: overhead(folder, asked.trials or 30),
            "past": lambda: past(folder, asked.trials or 5000),
            "winners": lambda: winners(folder, asked.repeats, asked.trials or 40),
            "flat": lambda: flat(folder, asked.repeats, asked.trials or 20),
        }
        print("\n".join(parts[asked.part]()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
