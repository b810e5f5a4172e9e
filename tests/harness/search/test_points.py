"""Grids and quasi-random sequences: every point once, whatever workers do and whoever dies."""

import itertools

import optuna
import pytest
from optuna.trial import TrialState

from harness.errors import StudyFileError
from harness.search import storage
from harness.search.base import BaseNoise
from harness.search.samplers import create_sampler
from harness.search.space import Dimension
from harness.search.workers import SearchBudget

SPACE = "{bowl.x: {int: [0, 3]}, bowl.y: {choices: [a, b, c]}}"
GRID = "{name: GridSampler, search_space: {bowl.x: [0, 1, 2, 3], bowl.y: [a, b, c]}}"
POINTS = sorted(itertools.product(range(4), "abc"))
NOISE = BaseNoise(
    seeds=[1], values={}, mean={}, sd={}, evaluations=1, wall_s=1.0, gpus=0, environments=1
)
optuna.logging.set_verbosity(optuna.logging.ERROR)


class Worker:
    """A process of a search: a sampler of its own on the shared storage."""

    def __init__(self, file, shared, seed, start=None):
        self.file, self.study = file, optuna.load_study(study_name="s", storage=shared)
        with storage.allow_experimental():
            self.study.sampler = create_sampler(file, seed, "f", start)
        self.study.pruner = optuna.pruners.HyperbandPruner(1, 8)  # shows a sampler some trials only
        self.study.sampler.whole = self.study
        points = getattr(self.study.sampler, "size", None)
        extra = 1 if start else 0
        self.budget = SearchBudget(file, NOISE, 0.0, None, points and points + extra)

    def begin(self):
        """A trial that has begun and has no parameters yet; None where it is surplus."""
        trial = self.study.ask()
        if self.budget.is_surplus(self.study.get_trials(), trial.number):
            trial.set_user_attr(storage.SURPLUS, True)
            self.study.tell(trial, state=TrialState.FAIL)
            return None
        return trial

    def suggest(self, trial):
        fields = [Dimension(path=path, field=one) for path, one in self.file.space.items()]
        return tuple(one.suggest(trial) for one in fields)

    def finished(self):
        return self.budget.used_up(self.study.get_trials()) is not None

    def run(self):
        if not self.finished() and (trial := self.begin()) is not None:
            self.suggest(trial)
            self.study.tell(trial, 1.0)


@pytest.fixture
def shared():
    made = optuna.storages.InMemoryStorage()
    optuna.create_study(study_name="s", storage=made)
    return made


def completed(shared, *, unique=True):
    """The points of the trials that ended, in order of their numbers."""
    trials = optuna.load_study(study_name="s", storage=shared).get_trials()
    found = [tuple(one.params.values()) for one in trials if one.state == TrialState.COMPLETE]
    assert not unique or len(set(found)) == len(found)
    return found


def test_three_workers_share_the_points_of_a_grid(parsed, shared):
    file = parsed(space=SPACE, sampler=GRID, budget="{trials: 99}")
    workers = [Worker(file, shared, seed) for seed in (1, 2, 3)]
    while not all(worker.finished() for worker in workers):
        begun = [(worker, worker.begin()) for worker in workers]  # all at the same moment
        for worker, trial in reversed(begun):
            if trial is not None:
                worker.suggest(trial)
                worker.study.tell(trial, 1.0)
    assert sorted(completed(shared)) == POINTS


def test_a_resumed_grid_goes_on_in_its_order(parsed, shared):
    file = parsed(space=SPACE, sampler=GRID, budget="{trials: 12}")
    for seed in range(12):  # each trial by another command
        Worker(file, shared, seed).run()
    assert sorted(completed(shared)) == POINTS
    assert Worker(file, shared, 99).finished()


@pytest.mark.parametrize("suggested", [False, True])
@pytest.mark.parametrize("queued", [False, True])
def test_the_point_of_a_worker_that_died_is_run_by_another(parsed, shared, suggested, queued):
    file = parsed(space=SPACE, sampler=GRID, budget="{trials: 99}")
    dead, alive = Worker(file, shared, 1), Worker(file, shared, 2)
    for _ in range(3):
        lost = dead.begin()
        if suggested:
            dead.suggest(lost)
        alive.run()
        if queued:
            storage.fail_trial(alive.study, alive.study.get_trials()[lost.number])
        else:  # its command died between the two steps of fail_trial
            alive.study.tell(lost.number, state=TrialState.FAIL)
    for _ in range(20):
        storage.requeue_lost_trials(alive.study)
        alive.run()
    assert alive.finished()
    assert sorted(completed(shared)) == POINTS


def test_the_point_of_the_base_is_run_once_in_a_grid(parsed, shared):
    file = parsed(space=SPACE, sampler=GRID, budget="{trials: 99}")
    start = {"bowl.x": 2, "bowl.y": "b"}
    worker = Worker(file, shared, 1, start)
    worker.study.enqueue_trial(start, user_attrs={storage.START: True})
    worker.begin()  # and dies before it suggests anything
    storage.fail_trial(worker.study, worker.study.get_trials()[0])
    while not worker.finished():
        worker.run()
    assert sorted(completed(shared)) == POINTS


@pytest.mark.parametrize("sampler", ["QMCSampler", "{name: QMCSampler, qmc_type: halton}"])
@pytest.mark.parametrize("scramble", ["", "scramble: true"])
def test_quasi_random_points_are_those_of_one_sequence(parsed, shared, sampler, scramble):
    if scramble:
        name = sampler if sampler.startswith("{") else "{name: QMCSampler}"
        sampler = f"{name[:-1]}, {scramble}}}"
    file = parsed(
        space="{bowl.x: {float: [0, 1]}, bowl.y: {float: [1, 1000], log: true}}",
        sampler=sampler,
        budget="{trials: 16}",
    )
    alone = optuna.storages.InMemoryStorage()
    optuna.create_study(study_name="s", storage=alone)
    for _ in range(16):
        Worker(file, alone, 5).run()
    workers = [Worker(file, shared, seed) for seed in (1, 2, 3)]
    for number in range(24):
        workers[number % 3].run()
    together = completed(shared)
    assert together == completed(alone)
    assert len(together) == 16
    halves = [sum(x < 0.5 for x, _ in together), sum(y < 1000**0.5 for _, y in together)]
    assert all(6 <= number <= 10 for number in halves)


def test_six_workers_run_no_more_trials_than_the_budget_has(parsed, shared):
    file = parsed(sampler="RandomSampler", budget="{trials: 24}")
    workers = [Worker(file, shared, seed) for seed in range(6)]
    while not workers[0].finished():
        begun = [(worker, worker.begin()) for worker in workers]
        for worker, trial in begun:
            if trial is not None:
                worker.suggest(trial)
                worker.study.tell(trial, 1.0)
    assert len(completed(shared)) == 24
    begun = [worker.begin() for worker in workers]  # they checked the budget a moment before
    assert begun == [None] * 6


@pytest.mark.parametrize(
    ("space", "got"),
    [
        ("{bowl.x: [0, 1]}", "bowl.x"),
        ("{bowl.x: [0], bowl.y: [a], bowl.z: [1]}", "bowl.z"),
        ("{bowl.x: [0, 9], bowl.y: [a]}", "[9]"),
        ("{bowl.x: [0], bowl.y: [d]}", "['d']"),
        ("{bowl.x: [], bowl.y: [a]}", "[]"),
        ("{bowl.x: 3, bowl.y: [a]}", "int"),
        ("7", "int"),
    ],
)
def test_a_grid_that_does_not_fit_its_space_is_refused(parsed, space, got):
    sampler = f"{{name: GridSampler, search_space: {space}}}"
    with pytest.raises(StudyFileError) as error:
        create_sampler(parsed(space=SPACE, sampler=sampler), 1, "f")
    assert got in error.value.got
    assert "sampler" in error.value.path
