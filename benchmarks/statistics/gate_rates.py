"""Measures the error rates of whole gates: the gate's own code on simulated measurements.

    python -m benchmarks.statistics.gate_rates [--gates 10000] [--out FILE]

Plans, runs in portions within a budget, takes interim looks, decides, and continues in a second
session after a slowdown in the first: everything of a gate but the trainers. The SD of the noise
model is drawn too, with its degrees of freedom; where the noise model has no row, the baseline and
earlier sessions supply it, as in a real gate. Each gate of a cell has a seed of its own, so that a
test can repeat the first hundred of each cell: their counts are stored beside those of all
(benchmarks/records/gate_rates.json), and become a part of docs/operating-characteristics.md.
"""

import argparse
import itertools
import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np

from benchmarks.statistics.decisions import percent
from harness.comparison.noise_model import NoiseModel, NoiseRow
from harness.gate import history, planning
from harness.gate.ab_interleaved import WINDOWS, AbLaunch
from harness.gate.baseline import Baseline, BaselineEntry
from harness.gate.measurement import MeasurementLoop, launch_row, speed_margin
from harness.gate.noise_sources import with_baseline_rows
from harness.gate.request import GateRequest
from harness.gate.result import (
    SPEED,
    Evidence,
    GatePlan,
    GateResult,
    PartPlan,
    Rule,
    SideIdentity,
)
from harness.metrics import METRICS, SPEEDRUN_LOSS_SD_NATS
from harness.results.recipe import NoiseScope, noise_scope, recipe_scale
from harness.results.record import SESSION_GAP_S, Identity, Record
from harness.results.record import LaunchInfo as Started
from harness.stats.spending import Reading

ALPHA = 0.05
HARMS = (0.0, 0.5, 1.0, 2.0)  # in margins
RULES: tuple[Rule, ...] = ("group_sequential", "always_valid")
SEED_RULES: dict[Rule, str] = {"group_sequential": "looks", "always_valid": "open"}
NOISE_DF = 60
STORED_RUNS = 8  # of the baseline
FEW = 4  # too few for a row of the noise model: the noise is that of the runs of both sides
NOISE_MODEL, OWN, OWN_FEW = f"noise model, {NOISE_DF} df", "own", f"own, {FEW} stored"
NOISE = {"launches": (NOISE_MODEL, OWN), "replicates": (NOISE_MODEL, OWN, OWN_FEW)}
BUDGET = {"launches": 8, "replicates": 16}  # each takes one unit of time
FIRST = 100  # gates of each cell that are also counted separately
MARGIN_BPB = 0.001
LOSS_MARGIN_NATS = METRICS["val_loss"].margin.value
SPEED_MARGIN = METRICS["tokens_per_s"].margin.value
RUN_SD = MARGIN_BPB * SPEEDRUN_LOSS_SD_NATS / LOSS_MARGIN_NATS
LAUNCH_SD, WINDOW_SD = 0.0013, 0.0015  # of logarithms: one launch, one ABBA segment inside it
RECORDS = Path(__file__).parents[1] / "records" / "gate_rates.json"
GPU = KEY = "simulated"
OUTCOMES = ("pass", "inconclusive", "regression")


class Cell(msgspec.Struct, frozen=True, kw_only=True):
    """One kind of gate, and the true harm."""

    evidence: Evidence
    noise: str
    rule: Rule
    harm: float

    @property
    def name(self) -> str:
        """The seed of its gates; keeps the terms of the first stored table, so that its counts
        stay reproducible."""
        noise = self.noise.replace("noise model", "ledger")
        return f"{self.evidence}, {noise}, {SEED_RULES[self.rule]}, {self.harm:g}"


class Counted(msgspec.Struct, frozen=True, kw_only=True):
    """The outcomes of the gates of a cell, their runs, and how many took a second session."""

    cell: Cell
    gates: int
    outcomes: dict[str, int]
    first: dict[str, int]  # the outcomes of the first FIRST gates
    bought: int
    second_sessions: int

    def share(self, outcome: str) -> float:
        """The share of gates with this outcome."""
        return self.outcomes[outcome] / self.gates


@dataclass(frozen=True, kw_only=True)
class End:
    """How one gate ended."""

    outcome: str
    bought: int
    sessions: int


class Drawn:
    """Simulated measurements: a `MeasurementSource` of `harness.gate.measurement`."""

    def __init__(self, rng: np.random.Generator, harm: float) -> None:
        self.rng, self.harm = rng, harm
        self.launches: list[AbLaunch] = []
        self.runs: list[Record] = []
        self.base_runs: list[Record] = []

    def launch(self) -> None:
        """Two processes, each with its own speed, and ABBA segments that scatter about it."""
        own = self.harm * math.log1p(SPEED_MARGIN) + self.rng.normal(0, math.sqrt(2) * LAUNCH_SD)
        ratios = own + self.rng.normal(0, WINDOW_SD, WINDOWS)
        self.launches.append(launched(len(self.launches) + 1, ratios.tolist()))

    def run(self) -> None:
        """One run of the candidate, on the seed after the baseline's."""
        bpb = 1.0 + self.harm * MARGIN_BPB + self.rng.normal(0, RUN_SD)
        self.runs.append(record(STORED_RUNS + len(self.runs) + 1, bpb))

    def has_time(self, part: PartPlan) -> bool:
        """Every run and every launch takes one unit of time."""
        return len(self.launches) + len(self.runs) < BUDGET[part.evidence]


def cells() -> Iterator[Cell]:
    """Every cell of the table."""
    for evidence, kinds in NOISE.items():
        for noise, rule, harm in itertools.product(kinds, RULES, HARMS):
            yield Cell(evidence=evidence, noise=noise, rule=rule, harm=harm)


def counted(cell: Cell, gates: int) -> Counted:
    """The gates of a cell."""
    ends = [gate(cell, number) for number in range(gates)]
    return Counted(
        cell=cell,
        gates=gates,
        outcomes=_tally(ends),
        first=_tally(ends[:FIRST]),
        bought=sum(end.bought for end in ends),
        second_sessions=sum(end.sessions > 1 for end in ends),
    )


def _tally(ends: list[End]) -> dict[str, int]:
    found = Counter(end.outcome for end in ends)
    return {outcome: found[outcome] for outcome in OUTCOMES}


def gate(cell: Cell, number: int) -> End:
    """One gate; an unconfirmed slowdown is measured again in a second session."""
    rng = np.random.default_rng([number, *cell.name.encode()])
    stored = baseline(rng, FEW if cell.noise == OWN_FEW else STORED_RUNS)
    known = noise_model(rng) if cell.noise == NOISE_MODEL else NoiseModel([])
    request = GateRequest(
        baseline=stored,
        alpha=ALPHA,
        rule=cell.rule,
        margins={"val_bpb": MARGIN_BPB},
        budget_s=float(BUDGET[cell.evidence]),
    )
    first, bought = _session(cell, request, known, rng, [])
    if not any(one.unconfirmed for one in first.metrics):
        return End(outcome=first.outcome, bought=bought, sessions=1)
    second, more = _session(cell, request, known, rng, [first])
    return End(outcome=second.outcome, bought=bought + more, sessions=2)


def _session(
    cell: Cell,
    request: GateRequest,
    noise_model: NoiseModel,
    rng: np.random.Generator,
    before: list[GateResult],
) -> tuple[GateResult, int]:
    """One session of a gate, and its number of runs or launches. Uses the sessions before it."""
    noise_model = with_baseline_rows(noise_model, request.baseline, before)
    reading = Reading(alpha=ALPHA, seen=history.readings(before, KEY, cell.evidence))
    planned = _planned(cell, request, noise_model, reading)
    source = Drawn(rng, cell.harm)
    loop = MeasurementLoop(request, bench(), noise_model, source)
    if planning.why_no_decision(planned) is None:
        loop.run(planned)
    bare = _bare(request, planned, source, session=len(before))
    return history.conclude(bare, loop.metrics, before), len(source.launches) + len(source.runs)


def _planned(
    cell: Cell, request: GateRequest, noise_model: NoiseModel, reading: Reading
) -> GatePlan:
    terms = planning.PlanOptions(reading=reading, rule=cell.rule, budget_s=request.budget_s)
    if cell.evidence == "launches":
        part = planning.plan_speed(
            launch_row(bench(), noise_model), speed_margin(request), 1.0, terms
        )
    else:
        assert request.baseline is not None
        records = request.baseline.now.records
        part = planning.plan_quality(records, noise_model, request.margins, False, 1.0, terms)
    return GatePlan(parts=[part], budget_s=request.budget_s, alpha=ALPHA)


def _bare(request: GateRequest, planned: GatePlan, source: Drawn, session: int) -> GateResult:
    began = session * 10 * SESSION_GAP_S
    side = SideIdentity(code_id="", config_id="")
    return GateResult(
        key=KEY,
        number=session + 1,
        outcome="inconclusive",
        reason="",
        alpha=request.alpha,
        claim="ml",
        a=side,
        b=side,
        metrics=[],
        plan=planned,
        launches=source.launches,
        scale=recipe_scale(record(1, 1.0)),
        device=GPU,
        started_at=began,
        ended_at=began + SESSION_GAP_S,
    )


# --- measurements, and what is stored before a gate -----------------------------------------------


def launched(number: int, ratios: list[float], waits: float = 0.0) -> AbLaunch:
    """A launch with these log ratios; `waits`: the loader's share of B's steps."""
    return AbLaunch(
        number=number,
        ratios=ratios,
        step_s=(1.0, math.exp(math.fsum(ratios) / len(ratios))),
        batch_tokens=(1.0, 1.0),
        loader_wait_share=(0.0, waits),
        peak_memory_bytes=(None, None),
        compile_s=(None, None),
        seconds=1.0,
    )


def record(seed: int, bpb: float) -> Record:
    """A completed run that ended at this loss."""
    return Record(
        plan_id=str(seed),
        attempt="a",
        trainer="simulated",
        seed=seed,
        identity=Identity(config_id="c", code_id="c", data_id="d", protocol=1),
        status="completed",
        metrics={"val_bpb": bpb},
        steps=1,
        tokens=1,
        derived={"sizes": {"layers": 8}, "tokens": 1},
        tricks={},
        environment={"gpus": [{"name": GPU}]},
        environment_id="e",
        boot_id="b",
        concurrent_runs=0,
        started_at=0.0,
        ended_at=1.0,
        wall_s=1.0,
        trainer_s=1.0,
        gpus=1,
        launch=Started(),
    )


def baseline(rng: np.random.Generator, runs: int = STORED_RUNS) -> Baseline:
    """Replicates without harm, drawn at random."""
    values = 1.0 + rng.normal(0, RUN_SD, runs)
    entry = BaselineEntry(
        number=1,
        why="",
        evidence=None,
        trainer="simulated",
        config={},
        commit=None,
        records=[record(seed, float(bpb)) for seed, bpb in enumerate(values, start=1)],
        stored_at=0.0,
        previous=None,
    )
    return Baseline(name="simulated", gpu=GPU, gpus=1, protocol=1, entries=[entry])


def bench() -> NoiseScope:
    """The scale and device of all simulated launches and runs."""
    return noise_scope(record(1, 1.0))


def noise_model(rng: np.random.Generator, df: int = NOISE_DF) -> NoiseModel:
    """Rows whose SDs are estimates with `df` degrees of freedom."""
    scale = recipe_scale(record(1, 1.0))
    assert scale is not None
    off = math.sqrt(rng.chisquare(df) / df)
    rows = (("val_bpb", "seed", RUN_SD), (SPEED, "launch", LAUNCH_SD))
    return NoiseModel(
        NoiseRow(
            scale=scale,
            metric=metric,
            gpu=GPU,
            source=source,  # type: ignore[arg-type]
            sd=off * sd,
            df=df,
            runs=df + 1,
            groups=1,
            origin="measured",
        )
        for metric, source, sd in rows
    )


# --- the table ------------------------------------------------------------------------------------


def load(path: Path = RECORDS) -> list[Counted]:
    """The counts of every cell; none where there is no file."""
    if not path.exists():
        return []
    return msgspec.json.decode(path.read_bytes(), type=list[Counted])


def lines(found: list[Counted]) -> list[str]:
    """The counts as a section of the page in docs/."""
    gates, alpha = found[0].gates, 100 * ALPHA
    noise = f"{RUN_SD / MARGIN_BPB:g} margins"
    worst = [
        max(one.share(outcome) for one in found if one.cell.harm == harm)
        for harm, outcome in ((0.0, "regression"), (1.0, "pass"))
    ]
    shown = [
        percent(one.second_sessions / one.gates)
        for one in found
        if one.cell.evidence == "launches" and one.cell.harm == 0
    ]
    bound = ALPHA + 2 * math.sqrt(ALPHA * (1 - ALPHA) / gates)
    return [
        "",
        "## Whole gates: pass / inconclusive / regression, in %",
        "",
        f"{gates:,} gates a cell by `python -m benchmarks.statistics.gate_rates`: the gate's own",
        "plan, runs, looks, decisions and second session, on simulated measurements.",
        f"Quality: a baseline of {STORED_RUNS} runs, SD of one run {noise}, at most "
        f"{BUDGET['replicates']} runs of the candidate.",
        f"Speed: SD of one launch {100 * LAUNCH_SD:g} %, of one ABBA segment "
        f"{100 * WINDOW_SD:g} %, margin {100 * SPEED_MARGIN:g} %,",
        f"at most {BUDGET['launches']} launches",
        "a session; a slowdown counts once a second session confirms it.",
        "The SD of the noise model is drawn as well, with its degrees of freedom; `own`: its only",
        f"rows are those of the baseline's runs and earlier launches; {FEW} runs yield no row.",
        "In brackets: the mean number of launches or runs of a gate, over its sessions.",
        "",
        "| metric | noise | rule | " + " | ".join(f"harm {harm:g}" for harm in HARMS) + " |",
        "|---|---|---|" + "---|" * len(HARMS),
        *_rows(found),
        "",
        f"Worst cells: a regression without harm {percent(worst[0])} %; a pass at a harm of one "
        f"margin {percent(worst[1])} %;",
        f"alpha plus two standard errors is {percent(bound)} %, alpha {alpha:g} %. Without harm, a "
        "first session",
        f"shows a slowdown in {min(shown)} to {max(shown)} % of the gates on speed.",
    ]


def _rows(found: list[Counted]) -> Iterator[str]:
    rows: dict[tuple[str, str, str], list[str]] = {}
    for one in found:
        trio = " / ".join(percent(one.share(outcome)) for outcome in OUTCOMES)
        unit = "launches" if one.cell.evidence == "launches" else "runs"
        shown = f"{trio} ({one.bought / one.gates:.1f} {unit})"
        key = (one.cell.evidence, one.cell.noise, one.cell.rule)
        rows.setdefault(key, []).append(shown)
    for (evidence, noise, rule), cells_of in rows.items():
        what = "speed" if evidence == "launches" else "quality"
        label = rule.replace("_", "-")
        yield f"| {what} | {noise} | {label} | {' | '.join(cells_of)} |"


def main() -> None:
    """Simulates every cell and stores the counts; re-run the same command to resume."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--gates", type=int, default=10_000)
    parser.add_argument("--out", type=Path, default=RECORDS)
    arguments = parser.parse_args()
    part = arguments.out.with_suffix(".part")
    done = {one.cell: one for one in load(part) if one.gates == arguments.gates}
    for cell in cells():
        if cell not in done:
            done[cell] = counted(cell, arguments.gates)
            part.write_bytes(_text(done))
        print(cell.name, done[cell].outcomes, flush=True)
    part.unlink(missing_ok=True)
    arguments.out.write_bytes(_text(done))


def _text(done: dict[Cell, Counted]) -> bytes:
    found = [done[cell] for cell in cells() if cell in done]
    return msgspec.json.format(msgspec.json.encode(found), indent=1) + b"\n"


if __name__ == "__main__":
    main()
