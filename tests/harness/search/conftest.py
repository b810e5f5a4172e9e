"""Searches of the FakeTrainer: its loss has a bowl whose lowest point is known."""

from collections.abc import Callable
from pathlib import Path

import pytest

from harness.search import storage
from harness.search.file import SearchFile, parse_search
from harness.store import Store

BASE = """\
# a comment that has to stay
dial: {depth: 2, steps: 12, batch_tokens: 4096}
eval: {every_steps: 2}
residual_scalars: true
optimizer:
  matrices: muon   # not AdamW
bowl: {curvature: 0.1}
"""
SEARCH = """\
search: quick
question: Where is the bowl lowest?
trainer: fake
base: base.yaml
space:
  bowl.x: {float: [-1, 1]}
  bowl.y: {float: [-1, 1]}
budget: {trials: 6}
base_seeds: [1, 2]
confirm: {best: 1, seeds: [101, 102, 103]}
limits: {run_minutes: 1}
"""


@pytest.fixture
def search_file(tmp_path: Path) -> Callable[..., Path]:
    """Writes a base and a search, with parts of the search replaced or added, and says where."""

    def write(added: str = "", **parts: str) -> Path:
        (tmp_path / "base.yaml").write_text(BASE + added)
        kept, skipping = [], False
        for line in SEARCH.splitlines():
            if not line.startswith(" "):
                skipping = line.partition(":")[0] in parts
            if not skipping:
                kept.append(line)
        lines = kept + [f"{key}: {value}" for key, value in parts.items() if value]
        path = tmp_path / "search.yaml"
        path.write_text("\n".join(lines) + "\n")
        return path

    return write


@pytest.fixture
def parsed(search_file) -> Callable[..., SearchFile]:
    """A search file, written and read."""

    def read(**parts: str) -> SearchFile:
        path = search_file(**parts)
        return parse_search(path.read_text(), "search.yaml")

    return read


@pytest.fixture
def trials(store: Store):
    """The trials that a search of the store has, as Optuna keeps them."""

    def read(name: str = "quick", url: str | None = None):
        with storage.open_storage(storage.url_of(store, name, url)) as opened:
            study = storage.stored_study(opened, name)
            assert study is not None
            return study.get_trials(deepcopy=False)

    return read
