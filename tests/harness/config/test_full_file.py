"""The file of a full job: what is refused, and with which words."""

from pathlib import Path

import pytest

from harness.config.full_file import changed, load_full, parse_full
from harness.errors import StudyFileError

ROOT = Path(__file__).resolve().parents[3]
LEAST = "full: a\nbase: b.yaml\nranks: 8\n"


def refused(text: str) -> StudyFileError:
    with pytest.raises(StudyFileError) as error:
        parse_full(text, "job.yaml")
    return error.value


@pytest.mark.parametrize("path", sorted((ROOT / "ablations" / "full").glob("*.yaml")))
def test_every_job_that_ships_is_read_and_its_base_is_there(path):
    job = load_full(path)
    assert (path.parent / job.base).is_file()
    assert job.proxies is not None


def test_three_lines_are_a_job_and_the_rest_has_defaults():
    job = parse_full(LEAST, "job.yaml")
    assert (job.nodes, job.seed, job.target.core, job.proxies) == (1, 1, 0.256525, None)


@pytest.mark.parametrize(
    ("line", "path", "hint"),
    [
        ("rank: 8", "rank", "'ranks'"),
        ("proxies: {fields: d, values: [1, 2, 3]}", "proxies.fields", "'field'"),
        ("limits: {hour: 1}", "limits.hour", "'hours'"),
        ("proxies: {field: d, values: [1, 2]}", "proxies.values", "--without-forecast"),
        ("proxies: {field: d, values: [1, 2, 2]}", "proxies.values", "--without-forecast"),
        ("proxies: {field: d, values: [1, 2, 3], seeds: [1, 1]}", "proxies.seeds", "each once"),
        ("proxies: {field: d, values: [1, 2, 3], set: {d: 4}}", "proxies.set.d", "Remove it"),
        ("nodes: 3", "ranks", "a multiple of `nodes`"),
        ("nodes: 0", "nodes", "Write such a number"),
        ("step_test_seconds: 0", "step_test_seconds", "Write such a number"),
        ("step_test_seconds: .inf", "step_test_seconds", "Write such a number"),
        ("price_usd_per_gpu_hour: .inf", "price_usd_per_gpu_hour", "Write such a number"),
        ("target: {core: .nan}", "target.core", "Write such a number"),
        ("limits: {restarts: -1}", "limits.restarts", "Write such a number"),
    ],
)
def test_a_fault_names_line_field_and_remedy(line, path, hint):
    error = refused(LEAST + line + "\n")
    assert path in error.path
    assert "job.yaml:" in error.path
    assert hint in error.hint


def test_the_command_line_stands_in_place_of_the_file():
    job = changed(parse_full(LEAST, "job.yaml"), sets={"dial.depth": 8}, price=3.0)
    assert (job.set, job.price_usd_per_gpu_hour) == ({"dial.depth": 8}, 3.0)
