"""A bundle is read strictly, and named by what it holds."""

import hashlib
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from model.core.bundle import Bundle
from model.core.published import SHA256, TASKS
from model.errors import DataError

ROOT = Path(__file__).parents[3]
MULTIPLE = "eval_data/multiple_choice/multiple.jsonl"
SCHEMAS = "eval_data/schema/schemas.jsonl"
CONTINUED = "eval_data/language_modeling/continued.jsonl"


def read_all(folder: Path) -> int:
    bundle = Bundle(folder)
    return sum(len(bundle.items(task)) for task in bundle.tasks)


def line_of(number: int, change: Callable[[dict[str, object]], object]) -> Callable[[str], str]:
    """Changes one line of a file, counted from 1."""

    def changed(text: str) -> str:
        lines = text.splitlines()
        value = json.loads(lines[number - 1])
        change(value)
        lines[number - 1] = json.dumps(value)
        return "\n".join(lines) + "\n"

    return changed


FAULTS = {
    "a cut line": (MULTIPLE, lambda text: text[:-20], r"multiple\.jsonl:12: .*whole JSON object"),
    "an empty line": (MULTIPLE, lambda t: t.replace("\n", "\n\n", 1), r"\.jsonl:2: .*empty line"),
    "no object": (MULTIPLE, lambda text: text + "[1]\n", r"multiple\.jsonl:13: .*JSON object"),
    "gold out of range": (
        MULTIPLE,
        line_of(3, lambda item: item.update(gold=4)),
        r"multiple\.jsonl:3: .*gold: 0 to 3; got 4",
    ),
    "no gold": (SCHEMAS, line_of(2, lambda item: item.pop("gold")), r"schemas\.jsonl:2: .*gold"),
    "gold a word": (MULTIPLE, line_of(1, lambda item: item.update(gold=True)), "got True"),
    "no choices": (
        MULTIPLE,
        line_of(5, lambda item: item.update(choices=[])),
        r"multiple\.jsonl:5: .*choices: at least 2",
    ),
    "an empty choice": (
        MULTIPLE,
        line_of(5, lambda item: item.update(choices=["a", ""])),
        r":5: .*none empty",
    ),
    "an empty continuation": (
        CONTINUED,
        line_of(4, lambda item: item.update(continuation="")),
        r"continued\.jsonl:4: .*continuation",
    ),
    "an unknown kind": (
        "core.yaml",
        lambda text: text.replace('_type": "schema', '_type": "essay'),
        r"core\.yaml, task 3 \(schemas\).*one of multiple_choice, schema, language_modeling",
    ),
    "shots that are no number": (
        "core.yaml",
        lambda text: text.replace('"num_fewshot": [2]', '"num_fewshot": [null]'),
        r"core\.yaml, task 1 \(multiple\).*num_fewshot",
    ),
    "no tasks": ("core.yaml", lambda text: "icl_tasks: []", "a list of tasks"),
    "no baseline": (
        "eval_meta_data.csv",
        lambda text: text.replace("odd,", "even,"),
        r"eval_meta_data\.csv: .*a line of odd",
    ),
    "a baseline that is none": (
        "eval_meta_data.csv",
        lambda text: text.replace("multiple,25", "multiple,100"),
        r"eval_meta_data\.csv:2: .*below 100",
    ),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_names_file_and_line(bundle: Path, name: str) -> None:
    file, change, message = FAULTS[name]
    path = bundle / file
    path.write_text(change(path.read_text(encoding="utf-8")), encoding="utf-8")
    with pytest.raises(DataError, match=message):
        read_all(bundle)


def test_a_missing_file_is_named_before_anything_is_evaluated(bundle: Path) -> None:
    (bundle / SCHEMAS).unlink()
    with pytest.raises(DataError, match=r"schemas\.jsonl: expected the items of schemas; got no"):
        Bundle(bundle)
    with pytest.raises(DataError, match=r"expected a CORE bundle: core\.yaml"):
        Bundle(bundle / "elsewhere")


def test_a_line_that_is_no_utf8_is_named(bundle: Path) -> None:
    path = bundle / CONTINUED
    path.write_bytes(path.read_bytes() + b'{"context": "\xff"}\n')
    with pytest.raises(DataError, match=r"continued\.jsonl:10: "):
        read_all(bundle)


def test_the_identity_follows_items_and_settings_and_not_comments(bundle: Path) -> None:
    before = Bundle(bundle).sha256
    settings = bundle / "core.yaml"
    settings.write_text("# a comment\n" + settings.read_text(encoding="utf-8"), encoding="utf-8")
    baselines = bundle / "eval_meta_data.csv"
    baselines.write_text(baselines.read_text(encoding="utf-8").replace("30", "31"))
    assert Bundle(bundle).sha256 == before
    path = bundle / MULTIPLE
    path.write_text(path.read_text(encoding="utf-8").replace("name", "nome", 1), encoding="utf-8")
    changed = Bundle(bundle).sha256
    assert changed != before
    settings.write_text(settings.read_text(encoding="utf-8").replace("[2]", "[1]"))
    assert Bundle(bundle).sha256 not in (before, changed)


def test_the_real_bundle_is_the_published_one(real_bundle: Path) -> None:
    bundle = Bundle(real_bundle)
    assert bundle.tasks == TASKS
    hashes = {
        task.file: hashlib.sha256(bundle.path(task).read_bytes()).hexdigest()
        for task in bundle.tasks
    }
    assert hashes == SHA256
    assert read_all(real_bundle) == 91_037


def test_bundle_prompts_and_decisions_need_no_torch() -> None:
    """Bundle, prompts and decisions; only what runs the model imports it."""
    modules = "task published bundle fetch prompts questions prompt_cache layout outcomes"
    modules += " outcomes_file table"
    imports = "; ".join(f"import model.core.{name}" for name in modules.split())
    command = [sys.executable, "-c", f"{imports}; import sys; print('torch' in sys.modules)"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.strip() == "False"
