"""Questions on disk, so that prompts are rendered and encoded once for a vocabulary and a bundle.

    <data.cache_dir>/core/<key>.npz        key: SHA-256 of vocabulary, bundle, max_per_task, format

The file is written under another name and renamed. Each array in it carries a checksum (it is a
zip), so that a damaged one is found when it is read; it is then made again, and that is told.
"""

import zipfile
from dataclasses import fields
from pathlib import Path

import numpy as np

from model.core.bundle import Bundle
from model.core.questions import Questions, encoded
from model.data.atomic import Progress, exclusive, hash_of, replacing
from model.data.tokenizer import Tokenizer
from model.errors import DataError

FORMAT = 1
"""Raised when prompts, or how they are kept, change."""


def questions_of(
    bundle: Bundle, tokenizer: Tokenizer, max_per_task: int | None, cache: Path, told: Progress
) -> Questions:
    """Kept questions, or new ones that are kept from now on.

    Raises DataError for a faulty item, too few of them, or a vocabulary that cannot open a prompt.
    """
    if tokenizer.bos not in tokenizer.specials:
        raise DataError(
            path="data.tokenizer",
            expected=f"a vocabulary with {tokenizer.bos}, which opens every prompt",
            got=", ".join(tokenizer.specials) or "no special token",
            hint="Use data.tokenizer: train, or gpt2.",
        )
    folder = cache / "core"
    path = folder / f"{_key(bundle, tokenizer, max_per_task)}.npz"
    with exclusive(folder, told):  # of several ranks one encodes, the others wait and read
        found = _read(path, told) if path.exists() else None
        if found is None:
            found = encoded(bundle, tokenizer, max_per_task, told)
            with replacing(path) as file:
                np.savez(file, **{each.name: getattr(found, each.name) for each in fields(found)})
    return found


def _key(bundle: Bundle, tokenizer: Tokenizer, max_per_task: int | None) -> str:
    vocabulary = [tokenizer.sha256, tokenizer.pattern, tokenizer.bos_id]
    return hash_of([FORMAT, vocabulary, bundle.sha256, max_per_task])


def _read(path: Path, told: Progress) -> Questions | None:
    try:
        with path.open("rb") as file, np.load(file) as arrays:
            return Questions(**{name: arrays[name] for name in arrays.files})
    except (OSError, ValueError, EOFError, TypeError, zipfile.BadZipFile) as error:
        told(f"CORE: {path} is damaged ({error}); prompts are encoded again")
        return None
