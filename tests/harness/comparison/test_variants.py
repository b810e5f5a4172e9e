"""One side is one code: what differs, what does not, and what to pass instead."""

import re

import pytest

from harness.comparison.variants import check_one_variant
from harness.results.logs.run_log import LogError, LoggedRun
from harness.results.logs.source_code import canonical

SCRIPT = '''
import torch
@dataclass
class Args:
    """Hyperparameters."""
    run_id: str = "{run_id}"
    seed: int = {seed}  # {comment}
    lr: float = {lr}
torch.manual_seed({seed})
parser.add_argument("--seed", default={seed})
'''


def script(seed=1, run_id="a", lr=0.02, comment="the seed"):
    return SCRIPT.format(seed=seed, run_id=run_id, lr=lr, comment=comment)


def run(name, source_code=None, planned_steps=100, config_id=None):
    return LoggedRun(
        source=name,
        family="toy",
        metrics={"val_loss": 3.28},
        steps=100,
        planned_steps=planned_steps,
        source_code=source_code,
        config_id=config_id,
    )


def test_seeds_names_of_runs_comments_and_layout_are_no_difference():
    other = script(seed=7, run_id="b", comment="another").replace("lr: float = ", "lr:float=")
    assert canonical(script()).lines == canonical(f"{other}\n# the end\n").lines
    check_one_variant("A", [run("a.txt", script()), run("b.txt", other)])


@pytest.mark.parametrize("broken", ["", "print(1 2)\n"])
def test_another_learning_rate_is_another_code_and_refused_with_the_line(broken):
    side = [run("x/a.txt", script() + broken), run("x/b.txt", script(lr=0.03) + broken)]
    with pytest.raises(LogError, match="replicates of one code") as error:
        check_one_variant("A", side)
    assert "1 run of 100 steps: x/a.txt" in error.value.got
    lines = r"differ first in 'lr: float = 0.02.*against 'lr: float = 0.03"
    assert re.search(lines, error.value.got)
    assert ("compared line by line" in error.value.got) == bool(broken)


def test_files_of_one_source_are_parsed_one_by_one():
    both = f"{script()}\n\n{'-' * 40}\n# kernels.py\n{'-' * 40}\nimport triton\n"
    assert canonical(both).parsed
    assert canonical(both).lines[-1] == "import triton"


def test_the_variants_of_a_folder_are_listed_with_what_to_pass():
    base = [run(f"record/base line/{n}.txt", script(seed=n)) for n in range(3)]
    change = [run(f"record/pr/{n}.txt", script(lr=0.03), 120) for n in range(2)]
    with pytest.raises(LogError) as error:
        check_one_variant("B", [*base, *change])
    assert error.value.got.splitlines()[:3] == [
        "2 variants:",
        "  3 runs of 100 steps: 'record/base line'",
        "  2 runs of 120 steps: record/pr",
    ]


def test_files_of_one_folder_are_listed_by_a_pattern_that_no_other_file_matches():
    base = [run(f"logs/base{n}-100.txt", script(seed=n)) for n in range(3)]
    change = [run(f"logs/{n}.txt", script(lr=0.03)) for n in "xy"]
    with pytest.raises(LogError) as error:
        check_one_variant("B", [*base, *change])
    assert error.value.got.splitlines()[1:3] == [
        "  3 runs of 100 steps: logs/base*-100.txt",
        "  2 runs of 100 steps: logs/x.txt logs/y.txt",
    ]


def test_logs_without_a_source_are_separated_by_length_and_configuration():
    with pytest.raises(LogError, match="one configuration"):
        check_one_variant("A", [run("a"), run("b", planned_steps=120)])
    with pytest.raises(LogError, match="one configuration"):
        check_one_variant("A", [run("a", config_id="c"), run("b", config_id="d")])
    check_one_variant("A", [run("a", script()), run("b")])
