"""Optuna's storage: opened by URL, shared by several workers, with errors a user can act on.

Without a URL a search is kept in one SQLite file in the store, so that `pack` carries it; workers
on several machines share a database server. A running trial sends a heartbeat. If heartbeats stop,
the next worker that looks marks the trial as failed and queues its point again. A URL may hold a
password, so it is printed only through `shown`.
"""

import gc
import random
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from harness import files
from harness.errors import HarnessError, StoreError
from harness.redact import redact_text
from harness.results.store import Store

if TYPE_CHECKING:
    from optuna import Study
    from optuna.storages import RDBStorage
    from optuna.trial import FrozenTrial

HEARTBEAT_S = 5
GRACE_S = 30  # a trial without a heartbeat for this long has lost its worker
LOCK_TIMEOUT_S = 60.0  # how long SQLite waits for another writer
OPEN_ATTEMPTS = 10
WORKER = "worker"  # user attribute of a trial: the process that runs it
RETRY_OF = "retry_of"  # user attribute of a trial: the number of the trial it repeats
START = "start"  # user attribute of the trial that was queued for the base
SURPLUS = "surplus"  # user attribute of a trial that began beyond the budget and was not run
EXTRA = "pip install 'speedrun-harness[search]'"


def import_optuna() -> Any:
    """Optuna with its own logging switched off. Raises StoreError if it is not installed."""
    try:
        import optuna
    except ImportError as error:
        raise StoreError(
            "", "the package optuna", f"no package {error.name}", f"Install the extra: {EXTRA}"
        ) from error
    optuna.logging.set_verbosity(optuna.logging.ERROR)  # the harness reports trials itself
    return optuna


@contextmanager
def allow_experimental() -> Iterator[None]:
    """Without Optuna's warnings about experimental classes: using them is our choice."""
    import_optuna()
    from optuna.exceptions import ExperimentalWarning

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        yield


def storage_url(store: Store, name: str, url: str | None) -> str:
    """The URL of a search's storage in SQLAlchemy's form."""
    if url is None:
        path = store.search_path(name)
        with files.disk_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
        return f"sqlite:///{path.resolve()}"
    # psycopg is the PostgreSQL driver that the extra installs
    for scheme in ("postgresql://", "postgres://"):
        if url.startswith(scheme):
            return "postgresql+psycopg://" + url.removeprefix(scheme)
    return url


@contextmanager
def open_storage(
    url: str, *, heartbeat_s: int = HEARTBEAT_S, grace_s: int = GRACE_S
) -> "Iterator[RDBStorage]":
    """The storage behind a URL; its tables are created if they are missing.

    Raises StoreError, also for storage errors inside the `with` block.
    """
    optuna = import_optuna()
    sqlite = url.startswith("sqlite")

    def connect() -> "RDBStorage":
        storage: RDBStorage = optuna.storages.RDBStorage(
            url,
            engine_kwargs={"connect_args": {"timeout": LOCK_TIMEOUT_S}} if sqlite else None,
            heartbeat_interval=heartbeat_s,
            grace_period=grace_s,
            heartbeat_stale_trial_callback=queue_again,
        )
        return storage

    with storage_errors(url):
        from sqlalchemy.exc import IntegrityError, OperationalError, ProgrammingError

        # Optuna creates missing tables without a lock. Of several commands that open a new
        # storage at the same moment, all but one may fail, and succeed when they try again.
        lost_race = (IntegrityError, OperationalError if sqlite else ProgrammingError)
        deadline = time.monotonic() + LOCK_TIMEOUT_S
        for left in reversed(range(OPEN_ATTEMPTS)):
            try:
                with allow_experimental():
                    storage = connect()
                break
            except lost_race:
                if not left or time.monotonic() > deadline:
                    raise
            time.sleep(random.uniform(0.02, 0.2))
        try:
            yield storage
        finally:
            storage.remove_session()
            storage.engine.dispose()


@contextmanager
def storage_errors(url: str) -> Iterator[None]:
    """Turns the errors of a storage into a StoreError with the storage's name and a hint."""
    import_optuna()
    from optuna.exceptions import StorageInternalError
    from sqlalchemy.exc import ArgumentError, NoSuchModuleError, SQLAlchemyError

    def store_error(expected: str, error: BaseException, hint: str) -> StoreError:
        lines = str(getattr(error, "orig", None) or error).strip().splitlines()
        return StoreError(shown(url), expected, lines[0] if lines else "no answer", hint)

    try:
        yield
    except HarnessError:
        raise
    except (ArgumentError, NoSuchModuleError, ImportError) as error:
        hint = f"Correct --storage. Its driver is in the extra: {EXTRA}"
        raise store_error("a URL such as postgresql://user@host/database", error, hint) from error
    except (SQLAlchemyError, StorageInternalError) as error:
        hint = (
            "Check that the database runs, can be reached and has free space, then re-run the "
            "same command to resume."
        )
        raise store_error("a storage that answers", error.__cause__ or error, hint) from error
    except RuntimeError as error:
        if "version" not in str(error):
            raise
        hint = (
            "Make a copy and run `optuna storage upgrade --storage URL`, or install the version "
            "of Optuna that wrote it."
        )
        raise store_error("a storage of this version of Optuna", error, hint) from error


def shown(url: str) -> str:
    """A URL without its passwords."""
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError

    try:
        return redact_text(make_url(url).render_as_string(hide_password=True))
    except ArgumentError:
        return "--storage"


def create_study(storage: "RDBStorage", name: str, directions: list[str]) -> "tuple[Study, bool]":
    """(The Optuna study of a search, whether this call created it)."""
    optuna = import_optuna()
    try:
        return optuna.create_study(study_name=name, storage=storage, directions=directions), True
    except optuna.exceptions.DuplicatedStudyError:
        return _load_study(storage, name), False


def stored_study(storage: "RDBStorage", name: str) -> "Study | None":
    """The Optuna study of that name; None if the storage has none."""
    if name not in import_optuna().get_all_study_names(storage):
        return None
    return _load_study(storage, name)


def _load_study(storage: "RDBStorage", name: str) -> "Study":
    """A study with its trials in memory, where Optuna keeps those that have ended.

    The garbage collector is off meanwhile, because it doubles the time to read thousands of trials
    (1,000 trials: 1.0 s with it, 0.55 s without).
    """
    study: Study = import_optuna().load_study(study_name=name, storage=storage)
    enabled = gc.isenabled()
    gc.disable()
    try:
        study.get_trials(deepcopy=False)
    finally:
        if enabled:
            gc.enable()
    return study


def queue_again(study: "Study", trial: "FrozenTrial") -> None:
    """Queues the point of a trial that lost its worker, without the attributes of that trial."""
    queued = trial.system_attrs.get("fixed_params") or {}  # it may have died before it used them
    study.enqueue_trial({**queued, **trial.params}, user_attrs={RETRY_OF: trial.number})


def fail_trial(study: "Study", trial: "FrozenTrial") -> bool:
    """Marks a running trial as failed and queues its point again; False if it has ended already."""
    from optuna.exceptions import UpdateFinishedTrialError
    from optuna.trial import TrialState

    try:
        study.tell(trial.number, state=TrialState.FAIL)
    except (UpdateFinishedTrialError, ValueError):  # another command was faster
        return False
    queue_again(study, trial)
    return True


def fail_stale_trials(study: "Study", grace_s: float = GRACE_S) -> None:
    """Marks trials without recent heartbeats as failed and queues their points again.

    Optuna ignores a trial that never sent a heartbeat because its worker was killed between
    creating and starting it. Such a trial has no `worker` attribute, which TrialRunner sets after
    heartbeats have begun.
    """
    from optuna.trial import TrialState

    with allow_experimental():
        import_optuna().storages.fail_stale_trials(study)
    requeue_lost_trials(study)
    latest = datetime.now() - timedelta(seconds=grace_s)
    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        started = trial.datetime_start
        if WORKER not in trial.user_attrs and started is not None and started < latest:
            fail_trial(study, trial)


def requeue_lost_trials(study: "Study") -> None:
    """Queues failed trials that no trial repeats: their command died before it queued them."""
    trials = study.get_trials(deepcopy=False)
    repeated = {trial.user_attrs.get(RETRY_OF) for trial in trials}
    for trial in trials:
        lost = trial.state.name == "FAIL" and SURPLUS not in trial.user_attrs
        if lost and trial.number not in repeated:
            queue_again(study, trial)
