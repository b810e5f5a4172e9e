"""Prepares data once, and opens the result.

A study calls `prepare` before it plans: tokenizer, token shards, validation rows, identity. It does
only what is missing, one process at a time, and may be killed at any point. A run calls
`open_prepared`, which checks what it opens and never makes tokens.
"""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from model.data import packing
from model.data import tokenizer as tokenizers
from model.data.atomic import Progress, exclusive, hash_of, write_json
from model.data.encode import encode_source
from model.data.manifest import (
    SHARDS,
    Manifest,
    PartRecord,
    View,
    derived_folder,
    find_view,
    is_prepared,
    locate,
    packing_of,
    read_manifest,
    read_view,
    recorded_view,
    view_name,
)
from model.data.progress import Display
from model.data.rows import DocumentTokens, PackedRows
from model.data.settings import DataSettings
from model.data.shards import Shard, open_shard
from model.data.sources import NAMED_SOURCES, TRAIN, TXT, VALIDATION
from model.data.tokenizer import Tokenizer
from model.errors import DataError

LOST_WARNED, LOST_REFUSED = 0.5, 0.95  # shares of the tokens; web pages lose about a third
NAMED_ROWS = 5


class Prepared:
    """Data ready to train on. `data_id` names it; `rows` gives packed rows of a split."""

    def __init__(self, settings: DataSettings, home: Path, manifest: Manifest, view: View) -> None:
        self.settings, self.path, self.manifest, self.view = settings, home, manifest, view
        self.tokenizer = _open_tokenizer(home, manifest)
        self._documents = _open_documents(settings, home, manifest)

    @property
    def data_id(self) -> str:
        """SHA-256 of tokenizer, documents in order, T, packing and validation rows."""
        return self.view.data_id

    @property
    def bos_id(self) -> int:
        return self.tokenizer.bos_id

    @property
    def vocab_size(self) -> int:
        return self.tokenizer.vocab_size

    @property
    def bytes_per_token(self) -> NDArray[np.int32]:
        """(V,) bytes of each token; 0 for specials."""
        return self.tokenizer.bytes_per_token

    def documents(self, split: str) -> DocumentTokens:
        return self._documents[split]

    def rows(self, split: str, n_rows: int) -> PackedRows:
        """At least `n_rows` packed rows of a split, planned if necessary."""
        folder = derived_folder(self.settings, self.path, self.manifest)
        return _packed(self.settings, self._documents[split], folder, split, n_rows)


def prepare(settings: DataSettings, progress: Progress, display: Display | None = None) -> Prepared:
    """Make whatever these settings lack and open it; fast when nothing changed.

    Calls `progress` with a line of text at each step; `display` shows downloads (None: lines too).
    Raises DataError for a fault of the source, tokenizer, cache, server or disk.
    """
    if find_view(settings) is None:
        with exclusive(settings.cache, progress):
            if not _has_tokens(settings):
                encode_source(settings, progress, display)
            _write_view(settings, progress)
    return open_prepared(settings)


def open_prepared(settings: DataSettings) -> Prepared:
    """Open the result of `prepare`. Raises DataError when it is absent, damaged or of other
    text."""
    location = locate(settings)
    view = recorded_view(settings)
    if location.home is None or view is None:
        if location.home is not None:
            _require_fit(settings, read_manifest(location.home))
        raise _not_prepared(settings, location.changed)
    return Prepared(settings, location.home, read_manifest(location.home), view)


def _has_tokens(settings: DataSettings) -> bool:
    """Whether only the validation rows are missing, or the source was prepared elsewhere."""
    home = locate(settings).home
    if home is None:
        return False
    if settings.source not in NAMED_SOURCES and is_prepared(Path(settings.source).expanduser()):
        return True
    return all(part.shard is not None for part in read_manifest(home).used(settings.train_files))


def _write_view(settings: DataSettings, progress: Progress) -> None:
    """Pack and hash the validation rows, and write the identity."""
    home = locate(settings).home
    if home is None:
        raise _not_prepared(settings, locate(settings).changed)
    manifest = read_manifest(home)
    _require_fit(settings, manifest)
    used = manifest.used(settings.train_files)
    train_files = len(used) - len(manifest.of(VALIDATION))
    if read_view(settings, home, manifest, train_files) is not None:
        return
    documents = _open_documents(settings, home, manifest)
    for split in (TRAIN, VALIDATION):
        _require_a_row(settings, split, documents[split])
    folder = derived_folder(settings, home, manifest)
    progress(f"packing {settings.validation_rows} validation rows of {settings.context_tokens} + 1")
    rows = _packed(settings, documents[VALIDATION], folder, VALIDATION, settings.validation_rows)
    rows_sha256 = rows.sha256(settings.validation_rows)
    _check_rows(settings, documents, rows, progress)
    counted = {
        f"{split}_{count}": sum(getattr(part.shard, of) for part in used if part.split == split)
        for split in (TRAIN, VALIDATION)
        for count, of in (("documents", "documents"), ("tokens", "tokens"), ("bytes", "text_bytes"))
    }
    view = {
        "data_id": _data_id(settings, manifest, used, rows_sha256),
        "packing": packing_of(manifest),
        "train_files": train_files,
        "context_tokens": settings.context_tokens,
        "validation_rows": settings.validation_rows,
        "validation_rows_sha256": rows_sha256,
        **counted,
    }
    write_json(folder / "views" / view_name(settings, train_files), view)


def _require_a_row(settings: DataSettings, split: str, documents: DocumentTokens) -> None:
    """Refuse text that is shorter than one row."""
    row_tokens, tokens = settings.context_tokens + 1, int(documents.lengths.sum())
    if tokens < row_tokens:
        raise DataError(
            path=settings.source,
            expected=f"text of {row_tokens:,} tokens or more in the {split} files, for one row",
            got=f"{tokens:,}",
            hint="Add text there (the last file by name is validation), or set a smaller "
            "model.context_tokens.",
        )


def _check_rows(
    settings: DataSettings,
    documents: dict[str, DocumentTokens],
    validation: PackedRows,
    progress: Progress,
) -> None:
    """Refuse or report the share of tokens that cropping drops, and report repeated validation
    rows."""
    train = packing.sampled_loss(
        documents[TRAIN].lengths, settings.context_tokens, packing.SAMPLE_ROWS, settings.seed
    )
    for split, lost in ((TRAIN, train), (VALIDATION, validation.lost_share)):
        if lost > LOST_REFUSED:
            raise DataError(
                path=settings.source,
                expected=f"{split} documents of which cropping drops {LOST_REFUSED:.0%} of the "
                "tokens at most",
                got=f"{lost:.1%}: their rows keep {settings.context_tokens + 1:,} tokens of each",
                hint="Cut the documents into shorter ones, or save them as txt files, which are "
                "split into rows.",
            )
        if lost > LOST_WARNED:
            progress(
                f"warning: cropping drops {lost:.0%} of the {split} tokens, because documents are "
                f"longer than a row of {settings.context_tokens + 1:,}"
            )
    if repeats := validation.repeats(settings.validation_rows):
        named = ", ".join(map(str, repeats[:NAMED_ROWS]))
        more = f" and {len(repeats) - NAMED_ROWS} more" if len(repeats) > NAMED_ROWS else ""
        progress(
            f"warning: validation rows {named}{more} of {settings.validation_rows} repeat earlier "
            "ones: add text for validation, or lower eval.tokens"
        )


def _data_id(
    settings: DataSettings, manifest: Manifest, used: list[PartRecord], rows_sha256: str
) -> str:
    shards = [(part.split, part.shard) for part in used if part.shard is not None]
    return hash_of(
        {
            "tokenizer": manifest.tokenizer_sha256,
            "documents": [
                [split, shard.documents_sha256, shard.row_groups] for split, shard in shards
            ],
            "context_tokens": settings.context_tokens,
            "packing": packing_of(manifest),
            "validation_rows": [settings.validation_rows, rows_sha256],
        }
    )


def _packed(
    settings: DataSettings, documents: DocumentTokens, folder: Path, split: str, n_rows: int
) -> PackedRows:
    """Rows of a split; validation always in file order."""
    if split == TRAIN and settings.order == "seed":
        stream = packing.seed_order(documents.lengths, settings.seed)
    else:
        stream = packing.file_order(documents.lengths, documents.row_groups)
    plan = packing.planned(folder / "plans", stream, settings.context_tokens, n_rows)
    return PackedRows(documents, plan, settings.context_tokens)


def _open_documents(
    settings: DataSettings, home: Path, manifest: Manifest
) -> dict[str, DocumentTokens]:
    opened: dict[str, list[Shard]] = {TRAIN: [], VALIDATION: []}
    for part in manifest.used(settings.train_files):
        if part.shard is None:
            raise DataError(
                path=str(home / "manifest.json"),
                expected=f"a token shard of {part.name}",
                got="none",
                hint="Where the text is, run `python -m model.data prepare` with this "
                "data.train_files, and copy the folder again.",
            )
        opened[part.split].append(open_shard(home / SHARDS, part.shard, manifest.token_bytes))
    longest = settings.context_tokens + 1 if manifest.kind == TXT else None
    return {split: DocumentTokens(shards, longest) for split, shards in opened.items()}


def _open_tokenizer(home: Path, manifest: Manifest) -> Tokenizer:
    tokenizer = tokenizers.load(home / "tokenizer.json")
    if tokenizer.sha256 != manifest.tokenizer_sha256:
        raise DataError(
            path=str(home / "tokenizer.json"),
            expected=f"tokens of SHA-256 {manifest.tokenizer_sha256}, as in the manifest",
            got=tokenizer.sha256,
            hint=f"Delete {home} and run `python -m model.data prepare` again.",
        )
    return tokenizer


def _require_fit(settings: DataSettings, manifest: Manifest) -> None:
    """Require the vocabulary of the settings in a folder that was prepared elsewhere."""
    tokenizers.require_size(manifest.vocab_size, settings.vocab_size, settings.source)
    if settings.tokenizer == "gpt2" and manifest.tokenizer_name != "gpt2":
        hint = "Use data.tokenizer: train, or prepare the text with gpt2."
        raise _other_tokenizer(settings, "GPT-2's vocabulary", manifest, hint)
    if settings.tokenizer not in ("train", "gpt2"):
        requested = tokenizers.load(Path(settings.tokenizer).expanduser()).sha256
        if requested != manifest.tokenizer_sha256:
            hint = "Prepare the text with that tokenizer, or use data.tokenizer: train."
            raise _other_tokenizer(settings, f"the vocabulary {requested[:12]}", manifest, hint)


def _other_tokenizer(
    settings: DataSettings, expected: str, manifest: Manifest, hint: str
) -> DataError:
    got = f"{manifest.tokenizer_sha256[:12]} ({manifest.tokenizer_name})"
    return DataError(path=settings.source, expected=expected, got=got, hint=hint)


def _not_prepared(settings: DataSettings, changed: str | None) -> DataError:
    return DataError(
        path=settings.source,
        expected="prepared data that matches its source",
        got=f"{changed} changed since it was prepared" if changed else "none for these settings",
        hint="Run `python -m model.data prepare` with this configuration.",
    )
