"""tests/tools/mutants.py: the changes that it makes of a module, and that the known ones exist."""

import sys
from pathlib import Path

import pytest

TOOLS = Path(__file__).parent / "tools"
MODULE = '''\
"""A text of 3 words."""
LIMIT = 2.0


def price(items: list[int] | None, rate: float = 0.5, *, quiet: bool = False) -> str:
    """Adds 1."""
    assert rate >= 0, "a rate"
    if items is None:
        raise ValueError(f"{len(items) + 1} items")
    words = "one item" if len(items) == 1 else "items"
    return show(min(items) * rate, text=words)
'''
CHANGES = [
    ": 2.0 -> 4.0",
    "price: 0.5 -> 1.0",
    "price: False -> True",
    "price: items is None -> (items is not None)",
    'price: raise ValueError(f"{len(items) + 1} items") -> pass',
    "price: return show(min(items) * rate, text=words) -> return None",
    "price: min(items) * rate -> (min(items) / rate)",
    "price: min -> max",
    "price: words -> None",
]


@pytest.fixture
def mutants(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(str(TOOLS))
    import mutants

    return mutants


def test_code_is_changed_and_texts_annotations_and_assertions_are_not(mutants, tmp_path):
    (tmp_path / "a.py").write_text(MODULE)
    found = mutants.of_module(tmp_path, "a.py")
    assert [one.name.removeprefix("a.py ") for one in found] == CHANGES
    for one in found:
        compile(MODULE[: one.start] + one.text + MODULE[one.end :], one.name, "exec")
    lines = [one.lines and (one.lines[0], one.lines[-1]) for one in found]
    assert lines == [None, (6, 11), (6, 11), (8, 8), (9, 9), (11, 11), (11, 11), (11, 11), (11, 11)]


def test_a_sample_is_the_same_for_one_seed_and_has_every_module_in_proportion(mutants, tmp_path):
    for name, text in (("a.py", MODULE), ("b.py", MODULE * 3)):
        (tmp_path / name).write_text(text)
    modules = {name: mutants.of_module(tmp_path, name) for name in ("a.py", "b.py")}
    first = mutants.sampled(modules, 8, 1)
    assert [one.path for one in first] == ["a.py"] * 2 + ["b.py"] * 6
    assert first == mutants.sampled(modules, 8, 1) != mutants.sampled(modules, 8, 2)


def test_every_known_survivor_is_a_mutant_of_the_code(mutants):
    import mutate

    by_module, known = mutate.all_mutants(), mutate.known_survivors()
    names = {one.name for found in by_module.values() for one in found}
    assert known <= names
    assert sum(map(len, by_module.values())) == len(names) > 1000
    assert sys.modules["mutants"] is mutants
