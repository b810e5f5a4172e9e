"""What the harness asks of a trainer and what a trainer replies: the types of every verb."""

from typing import Annotated, Any, Literal

import msgspec

from harness.results.record import Identity


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """One configuration to describe: a base file (None: the bare default) and overrides."""

    name: str
    base: str | None
    set: dict[str, Any]


class Fault(msgspec.Struct, frozen=True, kw_only=True):
    """One fault of a configuration, as the trainer reports it."""

    path: str = ""
    expected: str = ""
    got: str = ""
    hint: str = ""

    def __str__(self) -> str:
        return f"{self.path}: expected {self.expected}; got {self.got}"


class Description(msgspec.Struct, frozen=True, kw_only=True):
    """A trainer's reply about one configuration. With `errors`, the rest may be empty.

    `data_paths`: absolute paths, by field, for a run with another working directory.
    `text_tokens`: the tokens of all training text, where known.
    """

    name: str
    config: dict[str, Any] | None = None
    derived: dict[str, Any] | None = None
    pins: dict[str, Any] | None = None
    data_paths: dict[str, Any] = {}
    tricks: dict[str, bool] | None = None
    identity: Identity | None = None
    text_tokens: int | None = None
    package: str | None = None
    errors: list[Fault] = []


class Catalogue(msgspec.Struct, frozen=True, kw_only=True):
    """Every trick as the trainer prints it, and the fields that the harness may set."""

    tricks: dict[str, dict[str, Any]] = {}
    settable_fields: dict[str, str] = {}


class PreflightFinding(msgspec.Struct, frozen=True, kw_only=True):
    """One check before a job starts. An `error` keeps it from starting; the rest is reported."""

    what: str
    ok: bool
    expected: str
    got: str
    hint: str | None = None
    severity: Literal["error", "warning", "info"] = "error"


class Requirements(msgspec.Struct, frozen=True, kw_only=True):
    """What a job requires and whether it is there. `checkpoint_bytes`: the size of one
    checkpoint."""

    findings: list[PreflightFinding] = []
    checkpoint_bytes: int | None = None
    planned_tokens: int | None = None
    data: dict[str, Any] = {}


class Losses(msgspec.Struct, frozen=True, kw_only=True):
    """The losses of a checkpoint: nats per token and bits per byte, above zero."""

    val_loss: Annotated[float, msgspec.Meta(gt=0, lt=1e6)]
    val_bpb: Annotated[float, msgspec.Meta(gt=0, lt=1e6)]

    def as_metrics(self) -> dict[str, float]:
        """By the names of metrics."""
        return msgspec.structs.asdict(self)


class ProbeResult(msgspec.Struct, frozen=True, kw_only=True):
    """What the ranks of a job measured of themselves and of each other."""

    ranks: int
    findings: list[PreflightFinding] = []
    gpus: list[dict[str, Any]] = []
