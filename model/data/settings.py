"""The data fields of a configuration, as one frozen value.

The other files of this package take a `DataSettings` and never a whole configuration, so that data
can be prepared, tested and measured without a model. Standard library only.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from model.errors import DataError

ORDERS = ("seed", "file")
_OTHER_SECTIONS = {
    "context_tokens": "model.context_tokens",
    "vocab_size": "model.vocab_size",
    "validation_rows": "eval.tokens",
}


@dataclass(frozen=True, kw_only=True)
class DataSettings:
    """A source, how it is tokenised, and how rows are cut from it."""

    source: str
    """`python-docs`, `climbmix`, `fineweb10B`, a folder of parquet, jsonl, txt or `.bin` files, or
    a folder prepared elsewhere."""
    train_files: int | None = None
    """Train on the first n training files; null: on all. The tokenizer of a folder is always
    trained on all files; of a published data set, only these are downloaded."""
    tokenizer: str = "train"
    """`train` (on this source), `gpt2` (tiktoken's own), or the path of a tokenizer file."""
    vocab_size: int
    """Tokens in the vocabulary, specials included."""
    order: str = "seed"
    """Training documents: `seed` shuffles them by the seed, `file` keeps the order of the files."""
    context_tokens: int
    """T: a row holds T + 1 tokens."""
    validation_rows: int
    """Rows of an evaluation; their content is part of the data's identity."""
    cache_dir: str = ".cache/data"
    """Folder of token shards, plans and manifests."""
    mirror: str | None = None
    """Server to download published files from; null: where they were published."""
    seed: int = 1
    """Seed of the document order; not part of the data's identity."""

    def __post_init__(self) -> None:
        for name in ("context_tokens", "validation_rows", "vocab_size"):
            if getattr(self, name) < 1:
                raise _wrong(name, "at least 1", getattr(self, name), "Set a positive number.")
        if self.train_files is not None and self.train_files < 1:
            hint = "Leave it out to train on all files."
            raise _wrong("train_files", "at least 1 training file", self.train_files, hint)
        if self.order not in ORDERS:
            raise _wrong("order", "one of seed, file", self.order, "Use data.order: seed or file.")
        if self.mirror is not None and not self.mirror.startswith(("http://", "https://")):
            hint = "For files on this machine, give their folder as data.source."
            raise _wrong("mirror", "an address that begins with http(s)://", self.mirror, hint)

    @classmethod
    def from_config(cls, config: Any) -> "DataSettings":
        """The data part of a resolved trainer configuration. Raises DataError."""
        data, context_tokens = config.data, config.model.context_tokens
        return cls(
            source=data.source,
            train_files=data.train_files,
            tokenizer=data.tokenizer,
            vocab_size=config.model.vocab_size,
            order=data.order,
            context_tokens=context_tokens,
            validation_rows=max(1, config.eval.tokens // context_tokens),
            cache_dir=data.cache_dir,
            mirror=data.mirror,
            seed=config.seed,
        )

    @property
    def cache(self) -> Path:
        return Path(self.cache_dir).expanduser()


def _wrong(field: str, expected: str, got: object, hint: str) -> DataError:
    where = _OTHER_SECTIONS.get(field, f"data.{field}")
    return DataError(path=where, expected=expected, got=str(got), hint=hint)
