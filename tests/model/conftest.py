"""A small real text and the smallest configuration that trains on it."""

import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

torch.set_num_threads(1)  # tiny tensors: a second thread costs more than it brings


@pytest.fixture(scope="session")
def text_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Python's own help topics, one text file each; the last one is the validation split."""
    from pydoc_data.topics import topics

    folder = tmp_path_factory.mktemp("text")
    for name, text in sorted(topics.items())[:40]:
        (folder / f"{name}.txt").write_text(text, encoding="utf-8")
    (folder / "zz-validation.txt").write_text(
        "\n".join(sorted(topics.values())[:3]), encoding="utf-8"
    )
    return folder


@pytest.fixture
def tiny(text_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Overrides of a model that trains three steps in a second."""
    cache = tmp_path_factory.getbasetemp() / "cache"
    return {
        "dial.depth": 2,
        "dial.steps": 3,
        "dial.batch_tokens": 256,
        "model.width": 64,
        "model.context_tokens": 64,
        "model.vocab_size": 512,
        "data.source": str(text_folder),
        "data.cache_dir": str(cache),
        "eval.tokens": 512,
        "system.device": "cpu",
        "system.precision": "fp32",
        "system.compile": False,
        "system.calibration_s": 0,
        "system.threads": 1,
    }


@pytest.fixture
def handlers_restored() -> Iterator[None]:
    """A run takes over the process's signals; the tests after this one need them back."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)
