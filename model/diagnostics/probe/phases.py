"""The phases of a probe in their order, for one rank: meet, look, work, sum.

Every rank goes through all phases that it can; rank 0 says after each one who goes on, so that no
rank waits in a collective for one that will not come. A phase that does not end in its time is
given up: the findings so far stand in the file already.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from model.config import Config
from model.config.derive import Derived
from model.diagnostics.finding import Finding, judged
from model.diagnostics.probe import checks as judge
from model.diagnostics.probe.all_reduce import WrongSum, sums
from model.diagnostics.probe.facts import Seen, Sum, Worked
from model.diagnostics.probe.measurement import failed, look, work
from model.diagnostics.probe.rendezvous import Board, meet
from model.diagnostics.probe.report import Report
from model.diagnostics.probe.shutdown import ProbeStopped
from model.distributed.ranks import Ranks
from model.system.timeouts import TimedOut, with_timeout

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, kw_only=True)
class Limits:
    """How long each phase may take before it is given up."""

    meet_s: float = 120.0
    look_s: float = 180.0
    """An import of kernel packages from a cold disk takes a minute."""
    work_s: float = 60.0
    sum_s: float = 120.0
    slack_s: float = 10.0
    """Others may begin and end a phase so much later."""


PATIENT = Limits()


class ProbePhases:
    """One rank's way through a probe."""

    def __init__(
        self,
        config: Config,
        derived: Derived,
        ranks: Ranks,
        out: Path,
        limits: Limits = PATIENT,
    ) -> None:
        """Raises OSError where rank 0 cannot write into `out`."""
        self.config, self.derived, self.ranks, self.limits = config, derived, ranks, limits
        self.report = Report(out if ranks.rank == 0 else None, ranks.count)
        self.hangs = False
        """Whether a thread is left behind that nothing can end."""
        self._phase = ""

    def run(self) -> bool:
        """Whether the probe came to its end, whatever it found."""
        try:
            self._all_phases()
        except ProbeStopped as told:
            self.hangs = True  # a phase was under way
            self.report.end(self._phase, str(told))
            return False
        except (RuntimeError, TimedOut) as error:  # the store is gone, or was never there
            self.hangs = self.hangs or isinstance(error, TimedOut)
            why = str(error) or "no answer"
            self.report.end(self._phase, f"the ranks' store: {why}")
            return self.ranks.rank > 0  # which has nothing to write, and only followed
        self.report.finish()
        return True

    def _all_phases(self) -> None:
        self._begin("ranks meet")
        limits = self.limits
        board = with_timeout(
            lambda: meet(self.ranks, limits.meet_s), limits.meet_s + limits.slack_s
        )
        self._begin("ranks look at their machines")
        device, seen = self._look(board)
        self.report.add_machines(seen)
        asked = self.config.system.device
        self.report.add(judge.of_machines(asked, self.ranks.count, seen))
        able = [rank for rank, each in seen.items() if each.device is not None]
        going = self._agreed(board, "go", able)
        if not going or (self.ranks.rank not in going and self.ranks.rank > 0):
            return  # rank 0 goes on for the others, whatever it lacks
        self._begin("ranks work")
        worked = self._work(board, device, going)
        self.report.add_measurements(worked)
        self.report.add(judge.of_work(seen, worked))
        well = [rank for rank, each in worked.items() if each.problem is None]
        if not self.ranks.alone:
            self._begin("ranks sum")
            self._sum(board, device, seen, self._agreed(board, "sum", well))

    def _look(self, board: Board) -> "tuple[torch.device | None, dict[int, Seen]]":
        device, limit_s = None, self.limits.look_s
        try:
            own, device = with_timeout(lambda: look(self.config, self.derived, self.ranks), limit_s)
        except TimedOut:
            self.hangs = True
            own = Seen(rank=self.ranks.rank, findings=(_silent(limit_s),))
        everyone, limit_s = range(self.ranks.count), limit_s + self.limits.slack_s
        texts = board.round("seen", own.to_json(), everyone, limit_s)
        return device, {rank: Seen.from_json(text) for rank, text in sorted(texts.items())}

    def _work(
        self, board: Board, device: "torch.device | None", going: list[int]
    ) -> dict[int, Worked]:
        own, limit_s = Worked(problem="no device"), self.limits.work_s
        try:
            if device is not None:
                own = with_timeout(lambda: work(self.config, device), limit_s)
        except TimedOut:
            self.hangs = True
            own = Worked(problem=f"no end in {limit_s:.0f} s")
        texts = board.round("worked", own.to_json(), going, limit_s + self.limits.slack_s)
        return {rank: Worked.from_json(text) for rank, text in sorted(texts.items())}

    def _sum(
        self,
        board: Board,
        device: "torch.device | None",
        seen: dict[int, Seen],
        well: list[int],
    ) -> None:
        """The last phase: what goes wrong in it is its finding, on whatever rank."""
        done: list[Sum] = []
        everyone = range(self.ranks.count)
        problems = {rank: "has nothing to sum with" for rank in everyone if rank not in well}
        if device is not None and not problems:
            own = self._try_sums(board, device, done)
            limit_s = self.limits.sum_s + self.limits.slack_s
            texts = board.round("summed", own or "", everyone, limit_s)
            problems = {rank: texts.get(rank, "no answer") for rank in everyone}
        said = {rank: problem for rank, problem in problems.items() if problem}
        nodes, links = {each.node for each in seen.values()}, seen[min(seen)].links
        self.report.add_all_reduce(done)
        problem = judge.by_rank(said, everyone) if said else None
        self.report.add(judge.of_sums(links, len(nodes), done, problem))

    def _try_sums(self, board: Board, device: "torch.device", done: list[Sum]) -> str | None:
        """What keeps this rank's sums from coming to their end."""
        limit_s = self.limits.sum_s
        try:
            with_timeout(lambda: sums(self.ranks, device, board, limit_s, done.append), limit_s)
        except TimedOut:
            self.hangs = True
            return f"no end in {limit_s:.0f} s, after {len(done)} sizes"
        except WrongSum as error:
            self.hangs = True  # its connections may wait for the others
            return str(error)
        except RuntimeError as error:  # a rank is gone, or a link does not work
            self.hangs = True
            return failed(error).got
        return None

    def _agreed(self, board: Board, name: str, own: list[int]) -> list[int]:
        """Who goes on, as rank 0 says it; nobody where it is gone."""
        said = board.agreed(name, json.dumps(own), self.limits.look_s + self.limits.slack_s)
        return [] if said is None else list(json.loads(said))

    def _begin(self, phase: str) -> None:
        self._phase = phase
        self.report.begin(phase)


def _silent(limit_s: float) -> Finding:
    return judged(
        "GPU",
        ok=False,
        expected="one that answers and works",
        got=f"no answer in {limit_s:.0f} s",
        hint="The driver or the GPU hangs: look for Xid lines in dmesg, reset it or take another "
        "machine.",
    )
