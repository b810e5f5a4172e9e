"""Optuna's storage, sampler and pruner: opened by their own names, or refused with what to do.

SQLite inside the store, one file a search, so that `pack` carries it; or any server by URL, for
workers on several machines. A trial sends a heartbeat while it runs; one that stays silent is
failed by whoever begins the next trial, and put in line again. The only file that knows what
Optuna's storages raise. A URL may hold a password: it is never printed.
"""

import gc
import inspect
import random
import time
import warnings
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from harness import files
from harness.config.yaml_schema import nearest
from harness.errors import HarnessError, StoreError, StudyFileError
from harness.redact import redact_text
from harness.results.record import Identity
from harness.results.store import Store

if TYPE_CHECKING:
    from optuna import Study
    from optuna.pruners import BasePruner
    from optuna.samplers import BaseSampler
    from optuna.storages import BaseStorage
    from optuna.trial import FrozenTrial

HEARTBEAT_S = 5
GRACE_S = 30  # this long without a heartbeat, and a trial's worker is taken for dead
LOCKED_S = 60.0  # how long a SQLite file may be held by another writer
OPENINGS = 10  # of a storage whose tables others make at the same time
MADE_MEANWHILE = ("already exists", "alembic_version", "pg_type_typname", "pg_class_relname")
"""In what databases say of a table, or the one row of a table, that another made a moment ago."""
FINGERPRINT = "search"  # the study's attribute that says which search it is
EXTRA = "pip install 'speedrun-harness[search]'"
PACKAGES = {  # that Optuna imports when such a part proposes or prunes first, and not before
    "CmaEsSampler": ("cmaes",),
    "GPSampler": ("scipy", "torch"),
    "QMCSampler": ("scipy",),
    "WilcoxonPruner": ("scipy",),
}


def import_optuna() -> Any:
    """Optuna, without its own log. Raises StoreError where it is not installed."""
    try:
        import optuna
    except ImportError as error:
        raise StoreError(
            "",
            "optuna, which proposes the trials",
            f"no package {error.name}",
            f"Install the extra: {EXTRA}",
        ) from error
    optuna.logging.set_verbosity(optuna.logging.ERROR)  # what it would say is said by the harness
    return optuna


def sqlite_path(store: Store, name: str) -> Path:
    """Where a search lies that has no other storage."""
    return store.root / "searches" / f"{name}.sqlite"


def url_of(store: Store, name: str, url: str | None) -> str:
    """The URL of a search's storage, as SQLAlchemy reads it."""
    if url is None:
        path = sqlite_path(store, name)
        with files.disk_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
        return f"sqlite:///{path.resolve()}"
    # of the drivers for PostgreSQL, psycopg is the one that the extra installs
    for scheme in ("postgresql://", "postgres://"):
        if url.startswith(scheme):
            return "postgresql+psycopg://" + url.removeprefix(scheme)
    return url


@contextmanager
def open_storage(
    url: str, *, heartbeat_s: int = HEARTBEAT_S, grace_s: int = GRACE_S
) -> "Iterator[BaseStorage]":
    """The storage behind a URL, its tables made where it is new, closed at the end.

    It keeps in memory what it has read of trials that have ended, for all who use it: thousands
    take seconds to read. Raises StoreError, for whatever it says no to meanwhile too.
    """
    optuna = import_optuna()
    sqlite = url.startswith("sqlite")
    with storage_errors(url):

        def opened() -> Any:
            return optuna.storages.RDBStorage(
                url,
                engine_kwargs={"connect_args": {"timeout": LOCKED_S}} if sqlite else None,
                heartbeat_interval=heartbeat_s,
                grace_period=grace_s,
                heartbeat_stale_trial_callback=retry_later,
            )

        with _experimental_is_fine():
            storage = _opened_beside_others(opened)
        try:
            yield optuna.storages.get_storage(storage)
        finally:
            storage.remove_session()
            storage.engine.dispose()


def _opened_beside_others(opened: Callable[[], Any]) -> Any:
    """A storage, opened again where another command makes the same tables at the same time.

    Optuna looks which are missing and then makes them, and the slower of two is told no.
    """
    from sqlalchemy.exc import DatabaseError

    for left in reversed(range(OPENINGS)):
        try:
            return opened()
        except DatabaseError as error:
            if not left or not any(part in str(error.orig) for part in MADE_MEANWHILE):
                raise
        time.sleep(random.uniform(0.02, 0.2))  # so that they do not meet again
    raise AssertionError("unreachable")


def make_study(storage: "BaseStorage", name: str, directions: list[str]) -> bool:
    """Makes the Optuna study of a search; False where it is there. Of many at once one makes it."""
    optuna = import_optuna()
    try:
        optuna.create_study(study_name=name, storage=storage, directions=directions)
    except optuna.exceptions.DuplicatedStudyError:
        return False
    return True


def retry_later(study: "Study", trial: "FrozenTrial") -> None:
    """Puts a trial whose worker died in line again, with the same point and nothing else."""
    study.enqueue_trial(trial.params, user_attrs={"retry_of": trial.number})


def fail_silent(study: "Study") -> None:
    """Fails the trials whose workers sent no heartbeat for long, and puts them in line again.

    Optuna passes over a trial that never sent one: its worker was killed between making it and
    beginning it, and everybody would wait for it for ever.
    """
    with _experimental_is_fine():
        import_optuna().storages.fail_stale_trials(study)
    for trial in _never_begun(study):
        try:
            study.tell(trial.number, state=import_optuna().trial.TrialState.FAIL)
        except ValueError:  # another worker was quicker
            continue
        retry_later(study, trial)


def _never_begun(study: "Study") -> "list[FrozenTrial]":
    """Trials that run, as the storage has it, longer than the grace and without a heartbeat."""
    from sqlalchemy import text

    storage: Any = study._storage
    server = getattr(storage, "_backend", storage)
    late = datetime.now() - timedelta(seconds=server.grace_period)
    states = (import_optuna().trial.TrialState.RUNNING,)
    running = [
        trial
        for trial in study.get_trials(deepcopy=False, states=states)
        if trial.datetime_start is not None and trial.datetime_start < late
    ]
    if not running:
        return []
    with server.engine.connect() as connection:
        begun = {
            row[0] for row in connection.execute(text("SELECT trial_id FROM trial_heartbeats"))
        }
    return [trial for trial in running if trial._trial_id not in begun]


@contextmanager
def storage_errors(url: str) -> Iterator[None]:
    """Turns what a storage can say no with into a StoreError that names it and the hint."""
    import_optuna()
    from optuna.exceptions import StorageInternalError
    from sqlalchemy.exc import ArgumentError, NoSuchModuleError, OperationalError, SQLAlchemyError

    def refuse(expected: str, error: Exception, hint: str) -> StoreError:
        told = str(getattr(error, "orig", None) or error).strip().splitlines()
        return StoreError(shown(url), expected, told[0] if told else "nothing", hint)

    try:
        yield
    except HarnessError:
        raise
    except (ArgumentError, NoSuchModuleError, ImportError) as error:
        raise refuse(
            "a storage such as postgresql://user@host/database",
            error,
            f"Correct --storage; its driver comes with the extra: {EXTRA}",
        ) from error
    except (OperationalError, SQLAlchemyError, StorageInternalError) as error:
        cause = error.__cause__ if isinstance(error, StorageInternalError) else error
        raise refuse(
            "a storage that answers",
            cause if isinstance(cause, Exception) else error,
            "See that it runs, may be reached and has room; the same command then goes on.",
        ) from error
    except RuntimeError as error:
        if "version" not in str(error):
            raise
        raise refuse(
            "a storage of this version of Optuna",
            error,
            "`optuna storage upgrade --storage URL` updates it (make a copy first), "
            "or install the version that wrote it.",
        ) from error


def shown(url: str) -> str:
    """A URL without its passwords."""
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError

    try:
        return redact_text(make_url(url).render_as_string(hide_password=True))
    except ArgumentError:
        return "--storage"


def open_study(
    storage: "BaseStorage",
    name: str,
    directions: list[str],
    fingerprint: dict[str, Any],
    sampler: "BaseSampler",
    pruner: "BasePruner",
) -> "Study":
    """The Optuna study of a search, made where it is new.

    Raises StoreError where another search has its name: one with another space, base or objective.
    """
    optuna = import_optuna()
    study: Study = optuna.create_study(
        study_name=name,
        storage=storage,
        directions=directions if name not in _names(storage) else None,
        sampler=sampler,
        pruner=pruner,
        load_if_exists=True,
    )
    if FINGERPRINT not in study.user_attrs:
        study.set_user_attr(FINGERPRINT, fingerprint)
    refuse_other(study, fingerprint)
    return study


def refuse_other(study: "Study", fingerprint: dict[str, Any], *, but: Collection[str] = ()) -> None:
    """Raises StoreError where a stored search is not the one of this fingerprint.

    `but`: parts of the base's identity that may differ.
    """
    known = study.user_attrs.get(FINGERPRINT, fingerprint)
    if found := differences(_without(known, but), _without(fingerprint, but)):
        raise StoreError(
            study.study_name,
            "the search of this name as it is stored",
            "another one: " + "; ".join(found[:4]) + (", ..." if found[4:] else ""),
            "Give this one another name under `search:`, or another --store or --storage.",
        )


def _without(fingerprint: dict[str, Any], parts: Collection[str]) -> dict[str, Any]:
    if not parts:
        return fingerprint
    base = {part: value for part, value in fingerprint["base"].items() if part not in parts}
    return {**fingerprint, "base": base}


def base_of(study: "Study") -> Identity:
    """The base that a stored search began with."""
    return msgspec.convert(study.user_attrs[FINGERPRINT]["base"], Identity)


def _names(storage: "BaseStorage") -> set[str]:
    return {study.study_name for study in storage.get_all_studies()}


def stored_study(storage: "BaseStorage", name: str) -> "Study | None":
    """The Optuna study of that name with its trials, to be read; None where there is none."""
    if name not in _names(storage):
        return None
    study: Study = import_optuna().load_study(study_name=name, storage=storage)
    with _uncollected():
        study.get_trials(deepcopy=False)  # read once; the storage keeps those that have ended
    return study


@contextmanager
def _uncollected() -> Iterator[None]:
    """Without the garbage collector, which takes as long over thousands of trials as reading them.

    They are some twenty objects each that all stay, and it looks through them again and again.
    """
    on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if on:
            gc.enable()


def differences(known: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """Where two fingerprints differ, in words."""
    found = []
    for part in {**known, **now}:
        before, after = known.get(part), now.get(part)
        if isinstance(before, dict) and isinstance(after, dict):
            found += [f"{part}: {text}" for text in differences(before, after)]
        elif before != after:
            found.append(f"{part} was {before!r}, is {after!r}")
    return found


def sampler_of(asked: str | dict[str, Any], seed: int, where: str) -> "BaseSampler":
    """A sampler by Optuna's own name and arguments. Raises StudyFileError."""
    optuna = import_optuna()
    sampler: BaseSampler = _made(optuna.samplers, "Sampler", asked, f"{where}: sampler", seed=seed)
    return sampler


def pruner_of(asked: str | dict[str, Any], evaluations: int, where: str) -> "BasePruner":
    """A pruner by Optuna's own name and arguments; `evaluations`: how many a whole run makes.

    A resource is one evaluation. Unless the file says otherwise a run is not looked at before a
    ninth of its own: at the very start of training the order says little of the end. A run with one
    evaluation alone has nothing to be pruned by. Raises StudyFileError.
    """
    optuna = import_optuna()
    pruner: BasePruner = _made(
        optuna.pruners,
        "Pruner",
        asked,
        f"{where}: pruner",
        min_resource=max(1, evaluations // 9),
        max_resource=max(1, evaluations),
    )
    return pruner if evaluations > 1 else optuna.pruners.NopPruner()


def _made(module: Any, kind: str, asked: str | dict[str, Any], where: str, **ours: Any) -> Any:
    """An object of one of a module's classes: the file's arguments over ours, where it has them."""
    given = {"name": asked} if isinstance(asked, str) else dict(asked)
    name = str(given.pop("name", ""))
    known = [one for one in module.__all__ if one.endswith(kind) and not one.startswith("Base")]
    if name not in known:
        raise StudyFileError(
            where,
            "one of " + ", ".join(known),
            repr(name),
            nearest(name, known) or "Name one of these; its arguments stand beside `name`.",
        )
    if lacking := [one for one in PACKAGES.get(name, ()) if find_spec(one) is None]:
        raise StudyFileError(
            where,
            f"the packages of Optuna's {name}",
            "no package " + ", ".join(lacking),
            f"pip install {' '.join(lacking)}, or name another of: {', '.join(known)}.",
        )
    build: Callable[..., Any] = getattr(module, name)
    takes = inspect.signature(build).parameters
    try:
        with _experimental_is_fine():
            return build(**{key: ours[key] for key in ours if key in takes} | given)
    except (TypeError, ValueError) as error:
        raise StudyFileError(
            where,
            f"arguments of Optuna's {name}",
            str(error),
            "Its arguments are " + ", ".join(takes) + ".",
        ) from error


@contextmanager
def _experimental_is_fine() -> Iterator[None]:
    """Optuna warns of its newer parts; which of them are used here is our choice, not a user's."""
    import_optuna()
    from optuna.exceptions import ExperimentalWarning

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        yield
