"""The result of a check before a job: expected, got, hint and severity.

A finding is an error that has not happened yet, or the confirmation that it will not.
`model.doctor` and `model.doctor --probe` return lists of them, and the program that starts the job
decides by `severity` alone. Passed checks are listed too. No torch.
"""

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any, Literal

from model.errors import ModelError

Severity = Literal["error", "warning", "info"]


@dataclass(frozen=True, kw_only=True)
class Finding:
    """The result of one check."""

    what: str
    """A short noun phrase, always the same for a check."""
    ok: bool
    expected: str
    got: str
    hint: str | None
    severity: Severity
    """`error`: the job cannot run, or not as requested; `warning`: it can, at a cost that the
    finding names; `info`: passed."""

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def check(
    what: str,
    *,
    ok: bool,
    expected: str,
    got: str,
    hint: str,
    otherwise: Severity = "error",
) -> Finding:
    """A finding; unless `ok`, it has its hint, and `otherwise` as its severity."""
    return Finding(
        what=what,
        ok=ok,
        expected=expected,
        got=got,
        hint=None if ok else hint,
        severity="info" if ok else otherwise,
    )


def info(what: str, *, expected: str, got: str) -> Finding:
    """A passed check, or information without one."""
    return check(what, ok=True, expected=expected, got=got, hint="")


def from_error(what: str, error: ModelError, severity: Severity = "error") -> Finding:
    """A finding from an error that the job would raise; its field is part of `got`."""
    where = f"{error.path}: " if error.path else ""
    return check(
        what,
        ok=False,
        expected=error.expected,
        got=where + error.got,
        hint=error.hint,
        otherwise=severity,
    )


def as_json(findings: Iterable[Finding]) -> list[dict[str, Any]]:
    return [finding.as_json() for finding in findings]
