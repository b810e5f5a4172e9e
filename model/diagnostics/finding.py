"""What was found before a job starts: expected, got, what to do about it, and how much it matters.

A finding is an error that has not happened yet, or the word that it will not: `model.doctor` and
`model.doctor --probe` give lists of them, and whoever starts the job decides by `severity` alone.
What is as it should be stands in the list too, so that a reader sees what was looked at. No torch.
"""

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any, Literal

from model.errors import ModelError

Severity = Literal["error", "warning", "info"]


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One thing that was looked at."""

    what: str
    """A short noun phrase, the same whenever the same thing is looked at."""
    ok: bool
    expected: str
    got: str
    hint: str | None
    """Null where nothing has to be done."""
    severity: Severity
    """`error`: the job cannot run, or not as asked for; `warning`: it can, at a price that the
    finding names; `info`: as it should be."""

    def as_json(self) -> dict[str, Any]:
        """Plain values, as the verbs print them."""
        return asdict(self)


def judged(
    what: str,
    *,
    ok: bool,
    expected: str,
    got: str,
    hint: str,
    otherwise: Severity = "error",
) -> Finding:
    """A finding with its hint, and `otherwise` for its severity, only where it is not `ok`."""
    return Finding(
        what=what,
        ok=ok,
        expected=expected,
        got=got,
        hint=None if ok else hint,
        severity="info" if ok else otherwise,
    )


def told(what: str, *, expected: str, got: str) -> Finding:
    """Something that is as it should be, or that nobody has to judge."""
    return judged(what, ok=True, expected=expected, got=got, hint="")


def of_error(what: str, error: ModelError, severity: Severity = "error") -> Finding:
    """What an error would say once the job had begun; the place it concerns goes into `got`."""
    where = f"{error.path}: " if error.path else ""
    return judged(
        what,
        ok=False,
        expected=error.expected,
        got=where + error.got,
        hint=error.hint,
        otherwise=severity,
    )


def as_json(findings: Iterable[Finding]) -> list[dict[str, Any]]:
    """A list of findings in plain values."""
    return [finding.as_json() for finding in findings]
