"""A text file may begin with a byte-order mark, as editors of Windows write it."""

import codecs
from pathlib import Path

import pytest

from harness.comparison.noise_model import read_rows
from harness.config.yaml_schema import read_text
from harness.config.yaml_text import parse
from harness.runner.environment import _project
from harness.runner.fake_trainer import config as fake
from harness.runner.variables import listed_patterns

SHIPPED = Path(read_rows.__code__.co_filename).with_name("noise_shipped.csv")
READERS = {
    "a study, search, job or cluster file": (
        "a.yaml",
        b"a: 1\n",
        lambda path: parse(read_text(path, "a file", "x")).value,
    ),
    "a configuration": ("a.yaml", b"seed: 7\n", lambda path: fake.load(path, {})),
    "a noise model": ("noise.csv", SHIPPED.read_bytes(), read_rows),
    "variables of trainers": ("environment.txt", b"MY_DATA\n", listed_patterns),
    "dependencies of a ref": (
        "pyproject.toml",
        b'[project]\ndependencies = ["numpy"]\n',
        lambda path: _project(path.parent),
    ),
}


@pytest.mark.parametrize("name", READERS)
def test_a_byte_order_mark_is_no_part_of_a_text(tmp_path, name):
    file, content, read = READERS[name]
    path = tmp_path / file
    path.write_bytes(content)
    plain = read(path)
    path.write_bytes(codecs.BOM_UTF8 + content)
    assert read(path) == plain
