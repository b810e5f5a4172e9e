"""probe.json: all findings so far, complete after every phase.

During a phase the file has a finding with severity `error` for it, so that a killed process leaves
the phase in which it ended. Rank 0 writes it, by rename.
"""

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from model.diagnostics.finding import Finding, as_json, check
from model.diagnostics.probe.facts import Machine, SumTime, Work

NAME = "probe.json"


class Report:
    """The findings of all ranks, and their file on rank 0."""

    def __init__(self, folder: Path | None, ranks: int) -> None:
        """Null for `folder`: write nothing. Raises OSError where the folder cannot be written."""
        self._path = None if folder is None else folder / NAME
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
        self.findings: list[Finding] = []
        self._value: dict[str, Any] = {
            **{"ranks": ranks, "complete": False, "findings": [], "gpus": [], "cpus": []},
            **dict.fromkeys(("links", "driver", "cuda", "nccl", "torch")),
            **{"backends": {}, "all_reduce": []},
        }

    def begin(self, phase: str) -> None:
        self._write([*self.findings, _unfinished(phase, "still running, or killed")])

    def end(self, phase: str, reason: str) -> None:
        """End the probe early."""
        self.add([_unfinished(phase, reason)])
        self._write(self.findings)

    def finish(self) -> None:
        self._value["complete"] = True
        self._write(self.findings)

    def add(self, findings: Iterable[Finding]) -> None:
        self.findings.extend(findings)

    def add_machines(self, seen: Mapping[int, Machine]) -> None:
        ranks = [seen[rank] for rank in sorted(seen)]
        self._value["gpus"] = [
            {"rank": each.rank, "node": each.node, **asdict(each.gpu)}
            for each in ranks
            if each.gpu is not None
        ]
        self._value["cpus"] = [
            {"rank": each.rank, "node": each.node, **each.cpu}
            for each in ranks
            if each.cpu is not None
        ]
        known = next((each for each in ranks if each.versions is not None), None)
        self._value.update({} if known is None else known.versions or {})
        self._value["backends"] = next((each.kernels for each in ranks if each.kernels), {})
        self._value["links"] = next((each.links for each in ranks if each.links), None)

    def add_measurements(self, worked: Mapping[int, Work]) -> None:
        for entry in [*self._value["gpus"], *self._value["cpus"]]:
            each = worked.get(entry["rank"])
            if each is not None:
                rates = {"matmul_tflops": each.matmul_tflops, "copy_gb_s": each.copy_gb_s}
                state = {} if each.state is None else asdict(each.state)
                entry.update({**state, **rates})

    def add_all_reduce(self, sums: Sequence[SumTime]) -> None:
        self._value["all_reduce"] = [asdict(each) for each in sums]

    def _write(self, findings: Sequence[Finding]) -> None:
        if self._path is None:
            return
        part = self._path.with_name(f".{NAME}.part")
        with part.open("w", encoding="utf-8") as file:
            json.dump({**self._value, "findings": as_json(findings)}, file, indent=1)
            file.flush()
            os.fsync(file.fileno())
        part.rename(self._path)


def _unfinished(phase: str, reason: str) -> Finding:
    return check(
        "probe",
        ok=False,
        expected="a probe that runs to its end",
        got=f"ended while {phase}: {reason}",
        hint="Read its output, and re-run it.",
    )
