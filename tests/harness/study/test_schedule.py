"""The order of runs, and which stay together."""

import pytest

from harness.study.schedule import spread_blocks, tasks


@pytest.fixture
def study(resolved):
    retune = "{muon: {values: {optimizer.adamw_lr: [0.001, 0.003]}, seeds: [7]}}"
    arms = f"{{leave_one_out: [windows, muon], retune: {retune}}}"
    return resolved(arms=arms, seeds="[1, 2, 3]", horizons="[0.5, 1]")


def block(study, seed):
    return [run for run in study.runs if run.block == seed]


def test_sweeps_are_a_phase_of_their_own(study):
    found = tasks(study, set(), 1, sweeps=True)
    assert {study.arm(run.arm).role for task in found for run in task.runs} == {"retune"}
    rest = tasks(study, set(), 1, sweeps=False)
    assert len(found) + sum(len(task.runs) for task in rest) == len(study.runs)


def test_the_interrupted_block_comes_first_and_horizons_last(study):
    done = {block(study, 2)[0].plan_id}
    found = tasks(study, done, 1, sweeps=False)
    assert [task.runs[0].block for task in found] == [2, 1, 3, None, None, None]
    assert found[0].runs == block(study, 2)[1:]
    assert not found[0].opens
    assert found[1].opens == block(study, 1)


def test_a_block_stays_on_one_gpu_while_there_are_blocks_enough(study):
    assert [len(task.runs) for task in tasks(study, set(), 3, sweeps=False)][:3] == [3, 3, 3]
    assert spread_blocks(study, set(), 3) == 0


def test_blocks_are_spread_where_there_are_more_gpus(study):
    found = tasks(study, set(), 4, sweeps=False)
    assert {len(task.runs) for task in found} == {1}
    assert [len(task.opens) for task in found][:4] == [3, 0, 0, 3]
    assert spread_blocks(study, set(), 4) == 3


def test_what_is_done_is_left_out(study):
    done = {run.plan_id for run in study.runs}
    assert tasks(study, done, 1, sweeps=False) == []
    assert tasks(study, done, 1, sweeps=True) == []
