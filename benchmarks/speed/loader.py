"""Measures how fast the data path is: prints one table, and saves it with `--out`.

    python -m benchmarks.speed.loader [SOURCE] [--vocab-size V] [--context-tokens T]

SOURCE is `python-docs` (default) or a folder. Everything is built from scratch in a temporary
cache, so a folder of 335 MB takes about two minutes on two cores. Packing plan and loader must
reach at least 2 million tokens/s: an H100 consumes 1.2 million tokens/s at depth 8.
"""

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from model.data import packing
from model.data import tokenizer as tokenizers
from model.data.documents import held_out_threshold, read_part
from model.data.loader import Loader
from model.data.manifest import find_view
from model.data.prepare import open_prepared, prepare
from model.data.settings import DataSettings
from model.data.sources import TRAIN, describe_source
from model.runtime.environment import cpu_json

Value = TypeVar("Value")
LOADER_STEPS = 50


def main() -> None:
    """Measure every stage once and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("source", nargs="?", default="python-docs")
    parser.add_argument("--vocab-size", type=int, default=2_048)
    parser.add_argument("--context-tokens", type=int, default=256)
    parser.add_argument("--step-tokens", type=int, default=131_072, help="tokens of a batch")
    parser.add_argument("--out", type=Path, help="save records as JSON")
    chosen = parser.parse_args()
    table = Table()
    print(f"{chosen.source}, {chosen.vocab_size:,} tokens, T = {chosen.context_tokens}, ", end="")
    print(f"{os.cpu_count()} cores\n")
    print(f"{'stage':<34}{'seconds':>10}{'M/s':>10}  of")
    with tempfile.TemporaryDirectory() as cache:
        settings = DataSettings(
            source=chosen.source,
            vocab_size=chosen.vocab_size,
            context_tokens=chosen.context_tokens,
            validation_rows=64,
            cache_dir=str(Path(cache) / "cache"),
        )
        _text_stages(settings, table)
        _row_stages(settings, max(1, chosen.step_tokens // chosen.context_tokens), table)
    if chosen.out is not None:
        settings_json = {key: value for key, value in vars(chosen).items() if key != "out"}
        record = {"settings": settings_json, "cpu": cpu_json(), "stages": table.records}
        chosen.out.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


class Table:
    """Prints a stage as soon as it is measured, and keeps it."""

    def __init__(self) -> None:
        self.records: list[dict[str, Any]] = []

    def line(self, stage: str, seconds: float, amount: int | None = None, unit: str = "") -> None:
        """A stage and its seconds; with `amount` of a `unit`, also millions a second."""
        rate = "" if amount is None else f"{amount / seconds / 1e6:,.2f}"
        print(f"{stage:<34}{seconds:>10.3f}{rate:>10}  {unit}".rstrip(), flush=True)
        self.records.append({"stage": stage, "seconds": seconds, "amount": amount, "unit": unit})


def _text_stages(settings: DataSettings, table: Table) -> None:
    source = describe_source(settings.source)

    def read() -> list[str]:
        threshold = held_out_threshold(source)
        return [
            text
            for part in source.parts()
            if part.split == TRAIN
            for chunk in read_part(source, part, threshold)
            for text in chunk.texts
        ]

    texts, seconds = _timed(read)
    size = sum(len(text.encode()) for text in texts)
    table.line("read and choose validation", seconds, size, "bytes of text")
    tokenizer, seconds = _timed(lambda: tokenizers.train(texts, settings.vocab_size))
    table.line("tokenizer training", seconds, size, "bytes of text")
    some = texts[:20_000]
    encoded, seconds = _timed(lambda: tokenizer.encode_documents(some))
    table.line("encoding", seconds, sum(len(text.encode()) for text in some), "bytes of text")
    table.line("encoding, in tokens", seconds, sum(map(len, encoded)), "tokens")
    prepared, seconds = _timed(lambda: prepare(settings, lambda line: None))
    table.line(
        "prepare, from an empty cache", seconds, prepared.view.train_tokens, "training tokens"
    )
    _, seconds = _timed(lambda: prepare(settings, lambda line: None))
    table.line("prepare, nothing changed", seconds)
    _, seconds = _timed(lambda: [find_view(replace(settings, seed=n)) for n in range(50)])
    table.line("find_view, 50 times", seconds)


def _row_stages(settings: DataSettings, batch_rows: int, table: Table) -> None:
    prepared, seconds = _timed(lambda: open_prepared(settings))
    table.line("open", seconds)
    row_tokens = settings.context_tokens + 1
    epoch = max(LOADER_STEPS * batch_rows, prepared.view.train_tokens // row_tokens)
    lengths = prepared.documents(TRAIN).lengths
    stream, seconds = _timed(lambda: packing.seed_order(lengths, settings.seed))
    table.line("order by seed", seconds, len(lengths), "documents")
    _, seconds = _timed(
        lambda: packing.extend(packing.empty_plan(), stream, settings.context_tokens, epoch)
    )
    table.line("packing plan", seconds, epoch * row_tokens, "tokens of rows")
    rows, seconds = _timed(lambda: prepared.rows(TRAIN, epoch))
    table.line("plan, hashed and written", seconds, epoch * row_tokens, "tokens of rows")
    with Loader(rows, batch_rows=batch_rows) as loader:
        _, seconds = _timed(lambda: [loader.next() for _ in range(LOADER_STEPS)])
    table.line("loader", seconds, LOADER_STEPS * batch_rows * row_tokens, "tokens")
    print(f"\n{rows.lost_share:.1%} of the tokens lost to cropping over {rows.epochs:.2f} epochs")


def _timed(call: Callable[[], Value]) -> tuple[Value, float]:
    began = time.perf_counter()
    value = call()
    return value, time.perf_counter() - began


if __name__ == "__main__":
    main()
