"""What a search shares between its commands: user attributes of its Optuna study."""

import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, TypeVar

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
OBJECTIVE = "objective"
BASE_NOISE = "base_noise"
BASE_FAILURE = "base_failure"
CONFIRMATION = "confirmation"


class BaseFailure(msgspec.Struct, frozen=True, kw_only=True):
    """When and why the base failed; `at` is Unix time in seconds."""

    at: float
    reason: str


class SearchState:
    """The shared state of one search, read from the storage whenever it is used."""

    def __init__(self, study: "Study") -> None:
        self.study = study

    def _read(self, key: str, kind: type[T]) -> T | None:
        value = self.study.user_attrs.get(key)
        return None if value is None else msgspec.convert(value, kind)

    def _write(self, key: str, value: Any) -> None:
        self.study.set_user_attr(key, msgspec.to_builtins(value))

    def trials(self) -> "list[FrozenTrial]":
        """All trials, not copied."""
        return self.study.get_trials(deepcopy=False)

    # which search it is

    def set_fingerprint(self, fingerprint: dict[str, Any]) -> None:
        """Stores which search this is, if the study is new."""
        if not self.study.user_attrs and not self.trials():
            self._write(FINGERPRINT, fingerprint)

    def check_fingerprint(self, fingerprint: dict[str, Any], ignore: tuple[str, ...] = ()) -> None:
        """Raises StoreError if another search has this name."""
        stored = self.study.user_attrs.get(FINGERPRINT)
        storage.check_same_search(self.study, stored, fingerprint, ignore)

    @property
    def base_identity(self) -> Identity:
        """The identity of the base that the search began with."""
        return msgspec.convert(self.study.user_attrs[FINGERPRINT]["base"], Identity)

    # the base

    @property
    def noise(self) -> BaseNoise | None:
        """The noise of the base; None until the base has run."""
        return self._read(BASE_NOISE, BaseNoise)

    @property
    def objective(self) -> Objective | None:
        """The objective; None until the base has run."""
        return self._read(OBJECTIVE, Objective)

    @property
    def base_failure(self) -> BaseFailure | None:
        """Why the base failed when it was run last; None if it did not."""
        return self._read(BASE_FAILURE, BaseFailure)

    def save_objective(self, objective: Objective) -> None:
        self._write(OBJECTIVE, objective)

    def save_noise(self, noise: BaseNoise) -> None:
        self._write(BASE_NOISE, noise)

    @contextmanager
    def base_failure_saved(self, url: str) -> Iterator[None]:
        """Stores an error of the base for the workers that wait for it. A stop is no error."""
        if self.base_failure is not None:
            self._write(BASE_FAILURE, None)
        try:
            yield
        except StopStudy:
            raise
        except Exception as error:
            reason = error.got if isinstance(error, HarnessError) else repr(error)
            with suppress(StoreError), storage.storage_errors(url):
                self._write(BASE_FAILURE, BaseFailure(at=time.time(), reason=reason))
            raise

    # the confirmation

    @property
    def confirmation(self) -> Confirmation | None:
        """The last complete confirmation; None if there is none."""
        return self._read(CONFIRMATION, Confirmation)

    def save_confirmation(self, confirmation: Confirmation) -> None:
        self._write(CONFIRMATION, confirmation)
