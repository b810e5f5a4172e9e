"""The measurements of a table of tricks as lines of JSON: one a trick, appended when it ends.

A line is a `Session` (one call of `benchmarks.speed.toggles`: base, machine and the known spread
between launches) or a `Row` (one trick, measured or failed). Each line is flushed at once, so that
a killed call loses only the trick that it was measuring; the next call drops half a line at the end
of the file. Of two rows with one name the later one counts.

A file belongs to one base on one code and one kind of device; another one is refused.
"""

import math
import os
import statistics
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec

from benchmarks.speed.toggles.plan import Toggle
from harness.errors import UsageError
from harness.files import disk_errors
from harness.runner.stepper import Reply
from harness.stats.ab_noise import log_ratio

Pair = tuple[float, float]  # the base's, the toggle's
PLACES = (0, 3), (1, 2)  # of the base and of the toggle in an A B B A


class Noise(msgspec.Struct, frozen=True, kw_only=True):
    """The noise model's s_launch: SD of ln(step time) between two launches of one process."""

    sd: float
    df: float
    origin: str


class Session(msgspec.Struct, frozen=True, kw_only=True, tag="session"):
    """One call of the command."""

    base: str
    set: list[str]
    config_id: str
    code_id: str
    synthetic: bool
    seconds: float
    planned: list[str]
    """Names of all requested tricks."""
    device: str
    environment_id: str
    torch: str | None
    kernel_plan: dict[str, str]
    batch_tokens: int
    noise: Noise | None
    """Null: the noise model has no row for launches on this device."""


class Row(msgspec.Struct, frozen=True, kw_only=True, tag="row", omit_defaults=True):
    """One toggle beside the base, in one launch. Pairs are (base, toggle)."""

    name: str
    trick: str
    on_in_base: bool
    at_step: int = 0
    also: dict[str, bool] = {}
    failed: str | None = None
    ratios: list[float] = []
    """ln(seconds a token), the toggle's minus the base's; one for each A B B A."""
    left_out: int = 0
    """Windows in which something was compiled."""
    tokens_per_s: Pair | None = None
    peak_memory_bytes: Pair | None = None
    loader_wait_share: Pair | None = None
    sm_clock_mhz: Pair | None = None
    kernels: dict[str, tuple[str | None, str | None]] = {}
    """The operations whose kernels differ."""
    compile_s: float | None = None
    environment_id: str | None = None


def failed_row(toggle: Toggle, reason: str) -> Row:
    """A toggle that could not be measured, on one line why."""
    return Row(
        name=toggle.name,
        trick=toggle.trick,
        on_in_base=toggle.on_in_base,
        at_step=toggle.at_step,
        also=toggle.also,
        failed=" ".join(reason.split()),
    )


def row_of(toggle: Toggle, base: Reply, other: Reply, windows: Sequence[Sequence[Reply]]) -> Row:
    """The row of a trick, from both ready messages and the four turns of each ABBA segment."""
    whole = [window for window in windows if not any(turn["recompiled"] for turn in window)]
    if not whole:
        return failed_row(toggle, "something was compiled in every window")
    tokens = float(base["batch_tokens"]), float(other["batch_tokens"])
    sides = [[turn for window in whole for turn in (window[i] for i in at)] for at in PLACES]
    plans = base["kernel_plan"], other["kernel_plan"]
    places = dict.fromkeys([*plans[0], *plans[1]])
    return Row(
        name=toggle.name,
        trick=toggle.trick,
        on_in_base=toggle.on_in_base,
        at_step=toggle.at_step,
        also=toggle.also,
        ratios=[round(_log_ratio(window, tokens), 6) for window in whole],
        left_out=len(windows) - len(whole),
        tokens_per_s=_pair(each / _step_s(side) for each, side in zip(tokens, sides, strict=True)),
        peak_memory_bytes=_pair(max(turn["peak_memory_bytes"] for turn in side) for side in sides),
        loader_wait_share=_pair(_wait_share(side) for side in sides),
        sm_clock_mhz=_clocks(sides),
        kernels={
            place: (plans[0].get(place), plans[1].get(place))
            for place in places
            if plans[0].get(place) != plans[1].get(place)
        },
        compile_s=round(other["compile_s"], 1),
        environment_id=other["environment_id"],
    )


def _pair(values: Iterator[float]) -> tuple[float, float]:
    base, toggle = (float(f"{value:.6g}") for value in values)
    return base, toggle


def _log_ratio(window: Sequence[Reply], tokens: tuple[float, float]) -> float:
    """ln(seconds a token), the toggle's minus the base's."""
    first, second, third, fourth = (_step_s([turn]) for turn in window)
    return log_ratio(first, second, third, fourth) - math.log(tokens[1] / tokens[0])


def _step_s(turns: Sequence[Reply]) -> float:
    step_s = math.fsum(s for turn in turns for s in turn["step_s"])
    return step_s / sum(int(turn["steps"]) for turn in turns)


def _clocks(sides: Sequence[Sequence[Reply]]) -> Pair | None:
    """The median over turns; null where a turn has none."""
    clocks = [[turn["sm_clock_mhz"] for turn in side] for side in sides]
    if any(clock is None for side in clocks for clock in side):
        return None
    return _pair(statistics.median(side) for side in clocks)


def _wait_share(turns: Sequence[Reply]) -> float:
    waited_s = math.fsum(s for turn in turns for s in turn["loader_wait_s"])
    return waited_s / math.fsum(s for turn in turns for s in turn["step_s"])


class Rows:
    """The rows of one file, and the file itself."""

    def __init__(self, path: Path) -> None:
        """Reads what is there. Raises UsageError where it is no such file."""
        self.path = path
        self.sessions: list[Session] = []
        self._rows: dict[str, Row] = {}
        self._whole_bytes = 0  # of the file, without half a line at its end
        for line in self._lines():
            self._keep(line)

    @property
    def planned(self) -> list[str]:
        """Every requested trick, in the order of the calls."""
        return list(dict.fromkeys(name for session in self.sessions for name in session.planned))

    @property
    def rows(self) -> list[Row]:
        """Measured and failed ones, in the order in which they were planned."""
        return [self._rows[name] for name in self.planned if name in self._rows]

    @property
    def unmeasured(self) -> list[str]:
        """Names of the planned tricks without a row."""
        return [name for name in self.planned if name not in self._rows]

    @property
    def session(self) -> Session:
        """The latest."""
        return self.sessions[-1]

    @property
    def noise(self) -> Noise | None:
        """The latest that was known."""
        return next((each.noise for each in reversed(self.sessions) if each.noise), None)

    def require_same(self, config_id: str, code_id: str, synthetic: bool) -> None:
        """Raises UsageError where the file speaks of another base, other code or other batches."""
        for there in self.sessions:
            mine = {"config_id": config_id, "code_id": code_id, "synthetic": synthetic}
            for field, value in mine.items():
                if getattr(there, field) != value:
                    raise self._foreign(field, str(getattr(there, field)), str(value))

    def open(self, session: Session) -> None:
        """Begins a call. Raises UsageError where an earlier one ran on another kind of device."""
        for there in self.sessions:
            if there.device != session.device:
                raise self._foreign("device", there.device, session.device)
        self._append(session)

    def learn(self, noise: Noise | None) -> None:
        """Keeps what is known of launches by now, where that is more than before."""
        if noise not in (None, self.noise):
            self._append(msgspec.structs.replace(self.session, noise=noise))

    def add(self, row: Row) -> None:
        """Keeps a row, on the disk too. Raises DiskError."""
        self._append(row)

    def _append(self, line: Session | Row) -> None:
        text = msgspec.json.encode(line) + b"\n"
        with disk_errors(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("ab") as file:
                file.truncate(self._whole_bytes)
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
        self._whole_bytes += len(text)
        self._keep(line)

    def _keep(self, line: Session | Row) -> None:
        if isinstance(line, Session):
            self.sessions.append(line)
        else:
            self._rows[line.name] = line

    def _lines(self) -> Iterator[Session | Row]:
        if not self.path.exists():
            return
        for number, line in enumerate(self.path.read_bytes().splitlines(keepends=True), start=1):
            if not line.endswith(b"\n"):
                return  # a call was killed while it wrote
            try:
                yield msgspec.json.decode(line, type=Session | Row)
            except msgspec.DecodeError as error:
                raise UsageError(
                    f"{self.path}, line {number}",
                    "a line that this command wrote",
                    str(error),
                    "Name another file with --out.",
                ) from error
            self._whole_bytes += len(line)

    def _foreign(self, field: str, there: str, mine: str) -> UsageError:
        return UsageError(
            str(self.path),
            f"a file of the same {field} as this call's, {mine}",
            there,
            "Name another file with --out: the two are not one table.",
        )
