"""What the command line of `harness gate` fixes, and whether it makes sense."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, get_args

import msgspec

from harness.comparison.exchange import ExchangeRate
from harness.config.yaml_schema import parse_choice
from harness.errors import UsageError
from harness.gate.ab_mode import AbOption
from harness.gate.baseline import Baseline
from harness.gate.result import SPEED, Claim, Rule
from harness.metrics import COSTS, LOSSES, QUALITY
from harness.runner import environment

EvaluateWith = Literal["base", "candidate"]
DECIDED = (*QUALITY, SPEED, *COSTS)  # each has a known direction


class GateRequest(msgspec.Struct, frozen=True, kw_only=True):
    """The options of a gate. `candidate_set`: overrides of the candidate alone."""

    baseline: Baseline | None = None
    config: Path | None = None
    trainer: str = "native"
    set: Mapping[str, Any] = {}
    candidate_set: Mapping[str, Any] = {}
    head: str | None = None
    base: str | None = None
    claim: Claim = "ml"
    alpha: float = 0.05
    margins: Mapping[str, float] = {}
    budget_s: float | None = None
    price_usd_per_hour: float | None = None
    confirm: bool = True  # a slowdown counts once a second session shows it
    rule: Rule = "group_sequential"
    ab: AbOption = "auto"
    env: environment.EnvMode | None = None
    exchange: ExchangeRate | None = None  # of loss for time; None: the shipped one of the recipe
    targets: Mapping[str, float] = {}  # that the mean of a side has to be beyond
    target_p: float = 0.01  # a target is met with a p below this
    run_timeout_s: float = 3600.0
    sandbox: bool = False  # trainers run in a container
    evaluate_with: EvaluateWith = "candidate"  # whose code evaluates final checkpoints


def parse_claim(text: str) -> Claim:
    """The value of --claims. Raises UsageError."""
    hint = (
        "refactor: equal losses; systems: equal quality and more speed; ml: no harm in any metric."
    )
    claim: Claim = parse_choice(text, get_args(Claim), "--claims", hint)
    return claim


def parse_evaluate_with(text: str) -> EvaluateWith:
    """The value of --evaluate-with. Raises UsageError."""
    hint = "base: the base's code evaluates the candidate's final checkpoint; candidate: its own."
    choice: EvaluateWith = parse_choice(text, get_args(EvaluateWith), "--evaluate-with", hint)
    return choice


def check_request(request: GateRequest) -> None:
    """Raises UsageError where the options do not define what to compare, or never end."""
    has_base = request.base is not None or bool(request.candidate_set)
    if request.baseline is None and request.config is None:
        raise _wrong_usage("a baseline or a configuration file", "none")
    if request.baseline is not None and request.config is not None:
        raise _wrong_usage("a baseline or a configuration file, not both", "both")
    if request.baseline is None and not has_base:
        raise _wrong_usage("something to compare: --baseline, --base or --candidate-set", "none")
    if request.claim != "ml" and not has_base:
        raise _wrong_usage(
            f"--base or --candidate-set with --claims {request.claim}, which compares two versions",
            "none",
        )
    if request.sandbox and request.env == "isolated":
        raise UsageError(
            "--env isolated",
            "a sandbox for all code of the candidate",
            "packages that are built outside of it",
            "Install them yourself and pass --env current, or leave --sandbox out.",
        )
    for option, names, allowed in (
        ("--margin", request.margins, DECIDED),
        ("--target", request.targets, QUALITY),
    ):
        for name in names:
            if name not in allowed:
                raise UsageError(
                    f"{option} {name}",
                    f"a metric that a gate decides: {', '.join(allowed)}",
                    repr(name),
                    "Other metrics have no outcome in a gate.",
                )
            _check_measured(request, f"{option} {name}", name, has_base)
    if request.rule == "always_valid" and request.budget_s is None:
        raise UsageError(
            "--always-valid",
            "--budget-minutes beside it",
            "no budget",
            "Set a budget, or leave --always-valid out to use three planned looks.",
        )


def _check_measured(request: GateRequest, option: str, name: str, has_base: bool) -> None:
    """Raises UsageError for an option of a metric that this gate will not measure: a margin would
    change nothing, and the default margins of others would decide."""
    expected, hint = "", "Leave the option out, or add what the metric needs."
    if name not in QUALITY:
        expected = "" if has_base else "--base or --candidate-set, which compare it"
    elif request.evaluate_with == "base" and name not in LOSSES:
        expected = "one of the losses, which --evaluate-with base measures"
    elif request.claim == "refactor" or (request.baseline is None and request.base is None):
        expected = "--baseline or --base, and a claim other than refactor, which compare it"
    elif request.baseline is not None:
        records = request.baseline.now.records
        if any(record.metrics.get(name) is None for record in records):
            expected = f"a metric that the runs of {request.baseline.place} have"
    if expected:
        raise UsageError(option, expected, repr(name), hint)


def _wrong_usage(expected: str, got: str) -> UsageError:
    hint = "For example: harness gate --baseline NAME --base main --head my-branch."
    return UsageError("harness gate", expected, got, hint)
