"""The phases of a probe in their order, for one rank: connect, inspect, measure, all-reduce.

Every rank runs all phases that it can. After each, rank 0 broadcasts the ranks that continue, so
that no collective waits for a missing rank. A phase that exceeds its timeout is abandoned; the file
already has the earlier findings.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from model.config import Config
from model.config.derive import Derived
from model.diagnostics.finding import Finding, check
from model.diagnostics.probe import checks
from model.diagnostics.probe.all_reduce import WrongSum, sums
from model.diagnostics.probe.facts import Machine, SumTime, Work
from model.diagnostics.probe.measurement import gpu_failure, inspect_machine, measure
from model.diagnostics.probe.rendezvous import Rendezvous, connect
from model.diagnostics.probe.report import Report
from model.diagnostics.probe.shutdown import ProbeStopped
from model.distributed.ranks import Ranks
from model.system.timeouts import TimedOut, with_timeout

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, kw_only=True)
class Limits:
    """The timeout of each phase."""

    connect_s: float = 120.0
    inspect_s: float = 180.0
    """Importing kernel packages from a cold disk takes a minute."""
    work_s: float = 60.0
    sum_s: float = 120.0
    slack_s: float = 10.0
    """Added because other ranks may start and end a phase later."""


DEFAULT_LIMITS = Limits()


class ProbePhases:
    def __init__(
        self,
        config: Config,
        derived: Derived,
        ranks: Ranks,
        out: Path,
        limits: Limits = DEFAULT_LIMITS,
    ) -> None:
        """Raises OSError where rank 0 cannot write to `out`."""
        self.config, self.derived, self.ranks, self.limits = config, derived, ranks, limits
        self.report = Report(out if ranks.rank == 0 else None, ranks.count)
        self.hangs = False
        """Whether a hanging thread is left."""
        self._phase = ""

    def run(self) -> bool:
        """Run all phases; returns whether they ended, whatever was found."""
        try:
            self._all_phases()
        except ProbeStopped as reason:
            self.hangs = True  # a phase was running
            self.report.end(self._phase, str(reason))
            return False
        except (RuntimeError, TimedOut) as error:  # the store is unreachable
            self.hangs = self.hangs or isinstance(error, TimedOut)
            why = str(error) or "no answer"
            self.report.end(self._phase, f"the ranks' store: {why}")
            return self.ranks.rank > 0  # other ranks write no report
        self.report.finish()
        return True

    def _all_phases(self) -> None:
        self._begin("ranks connect")
        limits = self.limits
        rendezvous = with_timeout(
            lambda: connect(self.ranks, limits.connect_s), limits.connect_s + limits.slack_s
        )
        self._begin("ranks inspect their machines")
        device, seen = self._inspect(rendezvous)
        self.report.add_machines(seen)
        wanted = self.config.system.device
        self.report.add(checks.check_machines(wanted, self.ranks.count, seen))
        able = [rank for rank, each in seen.items() if each.device is not None]
        ranks = self._agree(rendezvous, "go", able)
        if not ranks or (self.ranks.rank not in ranks and self.ranks.rank > 0):
            return  # rank 0 continues even without a device
        self._begin("ranks measure")
        worked = self._work(rendezvous, device, ranks)
        self.report.add_measurements(worked)
        self.report.add(checks.check_work(seen, worked))
        well = [rank for rank, each in worked.items() if each.problem is None]
        if not self.ranks.alone:
            self._begin("ranks sum")
            self._sum(rendezvous, device, seen, self._agree(rendezvous, "sum", well))

    def _inspect(self, rendezvous: Rendezvous) -> "tuple[torch.device | None, dict[int, Machine]]":
        device, limit_s = None, self.limits.inspect_s
        try:
            own, device = with_timeout(
                lambda: inspect_machine(self.config, self.derived, self.ranks), limit_s
            )
        except TimedOut:
            self.hangs = True
            own = Machine(rank=self.ranks.rank, findings=(_silent(limit_s),))
        everyone, limit_s = range(self.ranks.count), limit_s + self.limits.slack_s
        texts = rendezvous.exchange("seen", own.to_json(), everyone, limit_s)
        return device, {rank: Machine.from_json(text) for rank, text in sorted(texts.items())}

    def _work(
        self, rendezvous: Rendezvous, device: "torch.device | None", ranks: list[int]
    ) -> dict[int, Work]:
        own, limit_s = Work(problem="no device"), self.limits.work_s
        try:
            if device is not None:
                own = with_timeout(lambda: measure(self.config, device), limit_s)
        except TimedOut:
            self.hangs = True
            own = Work(problem=f"no end in {limit_s:.0f} s")
        texts = rendezvous.exchange("worked", own.to_json(), ranks, limit_s + self.limits.slack_s)
        return {rank: Work.from_json(text) for rank, text in sorted(texts.items())}

    def _sum(
        self,
        rendezvous: Rendezvous,
        device: "torch.device | None",
        seen: dict[int, Machine],
        well: list[int],
    ) -> None:
        """The last phase; any rank's error becomes its finding."""
        done: list[SumTime] = []
        everyone = range(self.ranks.count)
        problems = {rank: "has no device for the sum" for rank in everyone if rank not in well}
        if device is not None and not problems:
            own = self._try_sums(rendezvous, device, done)
            limit_s = self.limits.sum_s + self.limits.slack_s
            texts = rendezvous.exchange("summed", own or "", everyone, limit_s)
            problems = {rank: texts.get(rank, "no answer") for rank in everyone}
        failed = {rank: problem for rank, problem in problems.items() if problem}
        nodes, links = {each.node for each in seen.values()}, seen[min(seen)].links
        self.report.add_all_reduce(done)
        problem = checks.by_rank(failed, everyone) if failed else None
        self.report.add(checks.check_sums(links, len(nodes), done, problem))

    def _try_sums(
        self, rendezvous: Rendezvous, device: "torch.device", done: list[SumTime]
    ) -> str | None:
        """This rank's error in the sums, or null."""
        limit_s = self.limits.sum_s
        try:
            with_timeout(
                lambda: sums(self.ranks, device, rendezvous, limit_s, done.append), limit_s
            )
        except TimedOut:
            self.hangs = True
            return f"no end in {limit_s:.0f} s, after {len(done)} sizes"
        except WrongSum as error:
            self.hangs = True  # its connections may wait for other ranks
            return str(error)
        except RuntimeError as error:  # a lost rank or a broken link
            self.hangs = True
            return gpu_failure(error).got
        return None

    def _agree(self, rendezvous: Rendezvous, name: str, own: list[int]) -> list[int]:
        """The ranks that continue, from rank 0; none where it is lost."""
        found = rendezvous.broadcast(
            name, json.dumps(own), self.limits.inspect_s + self.limits.slack_s
        )
        return [] if found is None else list(json.loads(found))

    def _begin(self, phase: str) -> None:
        self._phase = phase
        self.report.begin(phase)


def _silent(limit_s: float) -> Finding:
    return check(
        "GPU",
        ok=False,
        expected="one that responds and works",
        got=f"no answer in {limit_s:.0f} s",
        hint="The driver or the GPU hangs: look for Xid lines in dmesg, reset it or use another "
        "machine.",
    )
