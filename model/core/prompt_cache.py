"""Questions on disk, so that a vocabulary and a bundle are rendered and encoded once.

    <data.cache_dir>/core/<key>.npz        key: SHA-256 of vocabulary, bundle, max_per_task, format

The file is written atomically. Each array has a checksum (the file is a zip), so reading finds a
damaged file; it is then reported and written again.
"""

import zipfile
from dataclasses import fields
from pathlib import Path

import numpy as np

from model.core.bundle import Bundle
from model.core.questions import Questions, encode_bundle
from model.data.atomic import Progress, exclusive, hash_of, replacing
from model.data.tokenizer import Tokenizer
from model.errors import DataError

FORMAT = 1
"""Increment when prompts or the file format change."""


def load_questions(
    bundle: Bundle, tokenizer: Tokenizer, max_per_task: int | None, cache: Path, progress: Progress
) -> Questions:
    """Cached questions, or new ones, which are then cached.

    Raises DataError for a faulty item, too few items, or a vocabulary without its BOS token.
    """
    if tokenizer.bos not in tokenizer.specials:
        raise DataError(
            path="data.tokenizer",
            expected=f"a vocabulary with {tokenizer.bos}, which begins every prompt",
            got=", ".join(tokenizer.specials) or "no special token",
            hint="Use data.tokenizer: train, or gpt2.",
        )
    folder = cache / "core"
    path = folder / f"{_key(bundle, tokenizer, max_per_task)}.npz"
    with exclusive(folder, progress):  # one rank encodes, the others wait and read
        found = _read(path, progress) if path.exists() else None
        if found is None:
            found = encode_bundle(bundle, tokenizer, max_per_task, progress)
            with replacing(path) as file:
                np.savez(file, **{each.name: getattr(found, each.name) for each in fields(found)})
    return found


def _key(bundle: Bundle, tokenizer: Tokenizer, max_per_task: int | None) -> str:
    vocabulary = [tokenizer.sha256, tokenizer.pattern, tokenizer.bos_id]
    return hash_of([FORMAT, vocabulary, bundle.sha256, max_per_task])


def _read(path: Path, progress: Progress) -> Questions | None:
    try:
        with path.open("rb") as file, np.load(file) as arrays:
            return Questions(**{name: arrays[name] for name in arrays.files})
    except (OSError, ValueError, EOFError, TypeError, zipfile.BadZipFile) as error:
        progress(f"CORE: {path} is damaged ({error}); prompts are encode_bundle again")
        return None
