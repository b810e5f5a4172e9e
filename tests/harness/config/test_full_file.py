"""The file of a full job: which errors are found, and their messages."""

from pathlib import Path

import pytest

from harness.config.full_file import load_full, parse_full, with_overrides
from harness.errors import StudyFileError

ROOT = Path(__file__).resolve().parents[3]
MINIMAL = "full: a\nbase: b.yaml\nranks: 8\n"


def refused(text: str) -> StudyFileError:
    with pytest.raises(StudyFileError) as error:
        parse_full(text, "job.yaml")
    return error.value


@pytest.mark.parametrize("path", sorted((ROOT / "ablations" / "full").glob("*.yaml")))
def test_every_shipped_job_is_valid_and_its_base_exists(path):
    job = load_full(path)
    assert (path.parent / job.base).is_file()
    assert job.proxies is not None


def test_a_minimal_job_has_three_lines_and_defaults():
    job = parse_full(MINIMAL, "job.yaml")
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
        ("nodes: 0", "nodes", "in that range"),
        ("step_test_seconds: 0", "step_test_seconds", "in that range"),
        ("step_test_seconds: .inf", "step_test_seconds", "in that range"),
        ("price_usd_per_gpu_hour: .inf", "price_usd_per_gpu_hour", "in that range"),
        ("target: {core: .nan}", "target.core", "in that range"),
        ("limits: {hours: .inf}", "limits.hours", "in that range"),
        ("limits: {hours: 1e9}", "limits.hours", "in that range"),
        ("seed: -1", "seed", "in that range"),
        ("limits: {restarts: -1}", "limits.restarts", "in that range"),
    ],
)
def test_an_error_names_line_field_and_hint(line, path, hint):
    error = refused(MINIMAL + line + "\n")
    assert path in error.path
    assert "job.yaml:" in error.path
    assert hint in error.hint


def test_a_number_of_the_command_line_is_checked_as_one_of_the_file():
    with pytest.raises(StudyFileError, match="command line, for price_usd_per_gpu_hour: expected"):
        with_overrides(parse_full(MINIMAL, "job.yaml"), sets={}, price=float("nan"))


def test_the_command_line_overrides_the_file():
    job = with_overrides(parse_full(MINIMAL, "job.yaml"), sets={"dial.depth": 8}, price=3.0)
    assert (job.set, job.price_usd_per_gpu_hour) == ({"dial.depth": 8}, 3.0)
