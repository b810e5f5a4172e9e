"""README.md tells the truth: its generated parts are current, its files exist."""

import importlib.util
import re
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def generator() -> ModuleType:
    spec = importlib.util.spec_from_file_location(
        "generate", ROOT / "docs" / "tools" / "generate.py"
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_generated_parts_are_what_the_generator_writes() -> None:
    for page, made in generator().PAGES.items():
        text = page.read_text(encoding="utf-8")
        assert made(text) == text, page


def test_every_file_that_the_readme_names_exists() -> None:
    named = set(re.findall(r"`((?:harness|model|ablations|docs|tests)/[\w/.-]+)`", README))
    named |= set(re.findall(r"\]\(([\w/.-]+)\)", README))
    assert named
    assert [name for name in sorted(named) if not (ROOT / name).exists()] == []
