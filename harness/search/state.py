"""What a search shares between its commands: user attributes of its Optuna study."""

import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import msgspec

from harness.errors import HarnessError, StoreError
from harness.results.record import Identity
from harness.search import storage
from harness.search.base import BaseNoise
from harness.search.confirm import Confirmation
from harness.search.objective import Objective
from harness.study.budget_limits import StopStudy

if TYPE_CHECKING:
    from optuna import Study
    from optuna.trial import FrozenTrial

T = TypeVar("T")
FINGERPRINT = "fingerprint"


class BaseFailure(msgspec.Struct, frozen=True, kw_only=True):
    """When and why the base failed; `at` is Unix time in seconds."""

    at: float
    reason: str


class Attribute(Generic[T]):
    """A value that is read from the storage, and written to it; None if it has none."""

    def __init__(self, key: str, kind: type[T]) -> None:
        self.key, self.kind = key, kind

    def __get__(self, state: "SearchState", owner: object) -> T | None:
        value = state.study.user_attrs.get(self.key)
        return None if value is None else msgspec.convert(value, self.kind)

    def __set__(self, state: "SearchState", value: T | None) -> None:
        state.study.set_user_attr(self.key, msgspec.to_builtins(value))


class SearchState:
    """The shared state of one search."""

    objective = Attribute("objective", Objective)
    noise = Attribute("base_noise", BaseNoise)  # stored once the base has run
    base_failure = Attribute("base_failure", BaseFailure)  # of its last run
    confirmation = Attribute("confirmation", Confirmation)  # the last complete one

    def __init__(self, study: "Study") -> None:
        self.study = study

    def trials(self) -> "list[FrozenTrial]":
        """All trials, not copied."""
        return self.study.get_trials(deepcopy=False)

    def set_fingerprint(self, fingerprint: dict[str, Any]) -> None:
        """Stores which search this is, if the study is new."""
        if not self.study.user_attrs and not self.trials():
            self.study.set_user_attr(FINGERPRINT, fingerprint)

    def check_fingerprint(self, fingerprint: dict[str, Any], ignore: tuple[str, ...] = ()) -> None:
        """Raises StoreError if the stored search has another space, base or objective.

        `ignore`: parts of the base's identity that may differ.
        """
        name, stored = self.study.study_name, self.study.user_attrs.get(FINGERPRINT)
        hint = "Give this search another name under `search:`, or another --store or --storage."
        if stored is None:
            expected = "a search that this version of the harness began"
            got = "one of an older version, or a study that is no search"
            raise StoreError(name, expected, got, hint)
        found = _differences(_without(stored, ignore), _without(fingerprint, ignore))
        if found:
            got = "a different search: " + "; ".join(found[:4]) + (", ..." if found[4:] else "")
            raise StoreError(name, "the search that is stored under this name", got, hint)

    @property
    def base_identity(self) -> Identity:
        """The identity of the base that the search began with."""
        return msgspec.convert(self.study.user_attrs[FINGERPRINT]["base"], Identity)

    @contextmanager
    def base_failure_saved(self, url: str) -> Iterator[None]:
        """Stores an error of the base for the workers that wait for it. A stop is no error."""
        if self.base_failure is not None:
            self.base_failure = None
        try:
            yield
        except StopStudy:
            raise
        except Exception as error:
            reason = error.got if isinstance(error, HarnessError) else repr(error)
            with suppress(StoreError), storage.storage_errors(url):
                self.base_failure = BaseFailure(at=time.time(), reason=reason)
            raise


def _without(fingerprint: dict[str, Any], parts: tuple[str, ...]) -> dict[str, Any]:
    base = {part: value for part, value in fingerprint["base"].items() if part not in parts}
    return {**fingerprint, "base": base}


def _differences(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """Where two fingerprints differ, one text for each field."""
    found = []
    for part in {**before, **now}:
        old, new = before.get(part), now.get(part)
        if isinstance(old, dict) and isinstance(new, dict):
            found += [f"{part}: {text}" for text in _differences(old, new)]
        elif old != new:
            found.append(f"{part} was {old!r}, is {new!r}")
    return found
