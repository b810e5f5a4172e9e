"""Prompts are those of the metric, to the character."""

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from model.core import prompts
from model.core.bundle import Bundle
from model.core.prompt_cache import load_questions
from model.core.questions import Questions
from model.core.task import Choice, Continuation, Schema, Task
from model.data.tokenizer import Tokenizer
from model.errors import DataError


def task(kind: Any, shots: int, delimiter: str = " ") -> Task:
    given = {"name": "t", "file": "t.jsonl", "baselines": {"v1": 0.0}}
    return Task(kind=kind, shots=shots, delimiter=delimiter, **given)


def test_items_are_shuffled_by_1337_and_cut() -> None:
    rows = list(range(50))
    random.Random(1337).shuffle(rows)
    assert prompts.selected(50, None) == rows
    assert prompts.selected(50, 7) == rows[:7]


def test_shots_are_a_sample_of_the_others_by_1234_and_the_place() -> None:
    for count, shots in ((12, 10), (300, 10), (4000, 3)):
        for index in (0, 5, count - 1):
            others = [place for place in range(count) if place != index]
            expected = random.Random(1234 + index).sample(others, shots)
            assert prompts.shots_of(index, count, shots) == expected


def test_multiple_choice_is_query_delimiter_and_each_choice_after_solved_ones() -> None:
    items = [Choice("Q0", ("a", "b"), 1), Choice("Q1 ", ("c", "d"), 0)]
    assert prompts.texts(task("multiple_choice", 1, "\nA: "), items, 0) == [
        "Q1 \nA: c\n\nQ0\nA: a",
        "Q1 \nA: c\n\nQ0\nA: b",
    ]


def test_schema_is_each_context_and_the_one_continuation() -> None:
    items = [Schema(("x", "y"), "end", 1), Schema(("p", "q"), "stop", 0)]
    texts = prompts.texts(task("schema", 1), items, 1)
    assert texts == ["y end\n\np stop", "y end\n\nq stop"]


def test_language_modeling_strips_contexts_and_the_end_of_the_bare_prompt() -> None:
    items = [Continuation(" who \n", "me "), Continuation("what ", "it")]
    alone, whole = prompts.texts(task("language_modeling", 1, "\nAnswer: "), items, 0)
    assert alone == "what\nAnswer: it\n\nwho\nAnswer:"
    assert whole == "what\nAnswer: it\n\nwho\nAnswer: me "


def test_too_few_examples_for_the_shots_are_refused(trained: Any, bundle: Path) -> None:
    tokenizer = trained.prepared.tokenizer
    with pytest.raises(DataError, match=r"core\.max_per_task: expected more than 2 items, the sh"):
        load_questions(Bundle(bundle), tokenizer, 2, trained.cache, print)
    path = bundle / "eval_data" / "schema" / "schemas.jsonl"
    path.write_text(path.read_text(encoding="utf-8").split("\n")[0] + "\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"the shots of schemas; got 1 items in .*schemas\.jsonl"):
        load_questions(Bundle(bundle), tokenizer, None, trained.cache, print)


def test_a_vocabulary_without_its_first_token_is_refused(trained: Any, bundle: Path) -> None:
    own = trained.prepared.tokenizer
    bare = Tokenizer(pattern=own.pattern, ordinary=own.ordinary, specials={}, bos="<|bos|>")
    with pytest.raises(DataError, match=r"a vocabulary with <\|bos\|>"):
        load_questions(Bundle(bundle), bare, None, trained.cache, print)


def rows_of(questions: Questions) -> list[list[int]]:
    shared_at, rest_at = questions.offsets()
    rows = []
    for question in range(questions.count):
        start, count = shared_at[question], questions.shared[question]
        for row in questions.rows_of(question):
            rest = questions.lengths[row] - count
            tokens = [*questions.tokens[start : start + count]]
            rows.append([*tokens, *questions.tokens[rest_at[row] : rest_at[row] + rest]])
    return rows


def test_rows_are_the_tokens_of_their_texts(trained: Any, bundle: Path, tmp_path: Path) -> None:
    tokenizer, opened = trained.prepared.tokenizer, Bundle(bundle)
    questions = load_questions(opened, tokenizer, None, tmp_path, print)
    expected = []
    for each in opened.tasks:
        items = opened.items(each)
        selected = [items[row] for row in prompts.selected(len(items), None)]
        for index in range(len(selected)):
            texts = prompts.texts(each, selected, index)
            texts = texts[1:] if each.kind == "language_modeling" else texts
            expected += [[tokenizer.bos_id, *tokenizer.encode(text)] for text in texts]
    assert rows_of(questions) == expected
    assert (questions.starts >= 1).all()
    assert (questions.shared > 20).any()


def test_cached_questions_are_read_and_damage_is_reported(
    trained: Any, bundle: Path, tmp_path: Path
) -> None:
    tokenizer, lines = trained.prepared.tokenizer, []

    def selected() -> Questions:
        return load_questions(Bundle(bundle), tokenizer, None, tmp_path, lines.append)

    first = selected()
    assert len(lines) == 1
    again = selected()
    assert len(lines) == 1, "encoded twice"
    (path,) = (tmp_path / "core").glob("*.npz")
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    mended = selected()
    assert "damaged" in lines[1]
    path.write_bytes(content[:100])
    assert rows_of(selected()) == rows_of(mended) == rows_of(again) == rows_of(first)
    assert "damaged" in lines[3]
    np.testing.assert_array_equal(selected().tokens, first.tokens)
    assert len(lines) == 5
