"""The vocabulary: trained, GPT-2's, or read from a file; always saved as one file.

`rustbpe` trains (on all cores) and `tiktoken` encodes. A vocabulary file has all that tiktoken
needs, so a prepared folder works without network. The identity of a vocabulary is the SHA-256 over
rank (4 bytes, little endian) and bytes of each ordinary token in rank order.
"""

import hashlib
import json
import os
import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from model.data.atomic import replacing
from model.data.documents import Document
from model.errors import DataError

if TYPE_CHECKING:
    import tiktoken

FILE_FORMAT = 1
# Part of a trained vocabulary's identity; a changed rule needs a new name.
TRAINING_RULE = "rustbpe, file order, documents cut at 10,000 characters, nine specials"
LONGEST_TRAINING_CHARACTERS = 10_000
# nanochat's nine, in its order, after the ordinary tokens; the first begins every document.
SPECIALS = (
    "<|bos|>",
    *("<|user_start|>", "<|user_end|>", "<|assistant_start|>", "<|assistant_end|>"),
    *("<|python_start|>", "<|python_end|>", "<|output_start|>", "<|output_end|>"),
)
# GPT-4's pattern with groups of at most two digits, as in nanochat.
SPLIT_PATTERN = (
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}{1,2}"
    r"| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+"
)
SMALLEST_VOCABULARY = 256 + len(SPECIALS)


@dataclass(frozen=True, kw_only=True)
class Tokenizer:
    """A byte-level BPE vocabulary. `ordinary[rank]` is the raw byte string of a token."""

    pattern: str
    ordinary: tuple[bytes, ...]
    specials: Mapping[str, int]
    bos: str

    @property
    def vocab_size(self) -> int:
        """V, specials included."""
        return len(self.ordinary) + len(self.specials)

    @property
    def bos_id(self) -> int:
        return self.specials[self.bos]

    @cached_property
    def sha256(self) -> str:
        """Hash of the ordinary tokens (the specials follow from their number)."""
        digest = hashlib.sha256()
        for rank, token in enumerate(self.ordinary):
            digest.update(struct.pack("<I", rank) + token)
        return digest.hexdigest()

    @cached_property
    def bytes_per_token(self) -> NDArray[np.int32]:
        """(V,) bytes of each token's raw byte string; 0 for specials, which no metric counts."""
        counts = np.zeros(self.vocab_size, np.int32)
        counts[: len(self.ordinary)] = [len(token) for token in self.ordinary]
        return counts

    @cached_property
    def encoding(self) -> "tiktoken.Encoding":
        """tiktoken's encoder of this vocabulary."""
        import tiktoken

        return tiktoken.Encoding(
            name=f"vocabulary-{self.sha256[:12]}",
            pat_str=self.pattern,
            mergeable_ranks={token: rank for rank, token in enumerate(self.ordinary)},
            special_tokens=dict(self.specials),
        )

    def encode(self, text: str) -> list[int]:
        """Token ids without BOS; the text of a special token is encoded as ordinary text."""
        return self.encoding.encode_ordinary(text)

    def encode_prompts(self, texts: Sequence[str]) -> list[NDArray[np.uint32]]:
        """Token ids of each text with BOS first. Runs in this thread and releases the GIL."""
        bos = np.array([self.bos_id], np.uint32)
        encode = self.encoding.encode_to_numpy
        return [np.concatenate((bos, encode(text, disallowed_special=()))) for text in texts]

    def encode_documents(self, documents: Iterable[Document]) -> list[NDArray[np.uint32]]:
        """Token ids of each document with BOS first, on all cores; tokens are copied."""
        bos = np.array([self.bos_id], np.uint32)

        def with_bos(document: Document) -> NDArray[np.uint32]:
            if not isinstance(document, str):
                return document.astype(np.uint32)
            ids = self.encoding.encode_to_numpy(document, disallowed_special=())
            return np.concatenate((bos, ids))

        with ThreadPoolExecutor(os.cpu_count()) as pool:
            return list(pool.map(with_bos, documents))

    def decode(self, tokens: Iterable[int]) -> str:
        """Text of token ids; invalid UTF-8 becomes the replacement character."""
        return self.encoding.decode([int(token) for token in tokens])

    def save(self, path: Path) -> None:
        """Write the vocabulary as one JSON file (a byte of a token is one Latin-1 character)."""
        value = {
            "format": FILE_FORMAT,
            "sha256": self.sha256,
            "pattern": self.pattern,
            "bos": self.bos,
            "specials": dict(self.specials),
            "ordinary": [token.decode("latin-1") for token in self.ordinary],
        }
        with replacing(path) as file:
            file.write(json.dumps(value, separators=(",", ":")).encode())


def train(
    documents: Iterable[str],
    vocab_size: int,
    characters: int | None = None,
    source: str = "the data source",
) -> Tokenizer:
    """Train a vocabulary of exactly `vocab_size` tokens on documents in the given order.

    `characters`: stop after reading so many, as nanochat does; None: read all. Raises DataError
    when the text has too few pairs to merge.
    """
    import rustbpe

    if vocab_size < SMALLEST_VOCABULARY:
        raise DataError(
            path="model.vocab_size",
            expected=f"at least {SMALLEST_VOCABULARY} tokens (256 bytes and 9 specials)",
            got=str(vocab_size),
            hint="Set a larger vocabulary.",
        )
    trainer = rustbpe.Tokenizer()
    trainer.train_from_iterator(
        _training_texts(documents, characters),
        vocab_size - len(SPECIALS),
        pattern=SPLIT_PATTERN,
    )
    ranks = sorted(trainer.get_mergeable_ranks(), key=lambda pair: pair[1])
    ordinary = tuple(bytes(token) for token, _ in ranks)
    if len(ordinary) + len(SPECIALS) != vocab_size:
        raise DataError(
            path="data.source",
            expected=f"enough text to train a vocabulary of {vocab_size:,} tokens",
            got=f"text in {source} for {len(ordinary) + len(SPECIALS):,} tokens",
            hint="Name a larger source, such as data.source: climbmix with data.train_files: 8, "
            "or set a smaller model.vocab_size.",
        )
    specials = {name: len(ordinary) + index for index, name in enumerate(SPECIALS)}
    return Tokenizer(pattern=SPLIT_PATTERN, ordinary=ordinary, specials=specials, bos=SPECIALS[0])


def _training_texts(documents: Iterable[str], characters: int | None) -> Iterator[str]:
    """Documents cut to their longest, up to and including the document that passes `characters`."""
    read = 0
    for document in documents:
        text = document[:LONGEST_TRAINING_CHARACTERS]
        read += len(text)
        yield text
        if characters is not None and read > characters:
            return


def gpt2() -> Tokenizer:
    """GPT-2's vocabulary (50,257) from tiktoken; `<|endoftext|>` begins a document.

    Raises DataError where tiktoken has no copy and cannot download one.
    """
    import tiktoken

    try:
        encoding = tiktoken.get_encoding("gpt2")
    except (OSError, ValueError) as error:  # network errors of requests are OSErrors
        raise DataError(
            path="data.tokenizer",
            expected="GPT-2's vocabulary, which tiktoken downloads once",
            got=f"no local copy, and the download failed ({type(error).__name__})",
            hint="Run once with network access, set TIKTOKEN_CACHE_DIR to a folder that has it, "
            "or use data.tokenizer: train.",
        ) from error
    ranks = sorted(encoding._mergeable_ranks.items(), key=lambda pair: pair[1])
    return Tokenizer(
        pattern=encoding._pat_str,
        ordinary=tuple(token for token, _ in ranks),
        specials=dict(encoding._special_tokens),
        bos="<|endoftext|>",
    )


def load(path: Path) -> Tokenizer:
    """Read a vocabulary file. Raises DataError when it is missing, of another format, or
    changed."""
    try:
        value: Any = json.loads(path.read_bytes())
        tokenizer = Tokenizer(
            pattern=value["pattern"],
            ordinary=tuple(token.encode("latin-1") for token in value["ordinary"]),
            specials=value["specials"],
            bos=value["bos"],
        )
        recorded = value["sha256"]
        known = value["format"] == FILE_FORMAT and tokenizer.bos in tokenizer.specials
    except FileNotFoundError as error:
        raise DataError(
            path=str(path),
            expected="train, gpt2, or the path of a tokenizer file",
            got="no such file",
            hint="Correct data.tokenizer; `python -m model.data prepare` writes tokenizer.json.",
        ) from error
    except (ValueError, KeyError, TypeError, AttributeError, OSError) as error:
        raise _not_a_tokenizer(path, f"something else ({type(error).__name__}: {error})") from error
    if not known:
        raise _not_a_tokenizer(path, "another format")
    if tokenizer.sha256 != recorded:
        raise DataError(
            path=str(path),
            expected=f"tokens of SHA-256 {recorded}",
            got=tokenizer.sha256,
            hint="The file was changed or truncated; create it again.",
        )
    return tokenizer


def require_size(tokenizer_vocab_size: int, vocab_size: int, where: str) -> None:
    """Require the model's vocabulary size. Raises DataError."""
    if tokenizer_vocab_size != vocab_size:
        raise DataError(
            path=where,
            expected=f"a tokenizer of {vocab_size:,} tokens (model.vocab_size)",
            got=f"{tokenizer_vocab_size:,}",
            hint=f"Set model.vocab_size to {tokenizer_vocab_size}, or choose another tokenizer.",
        )


def _not_a_tokenizer(path: Path, got: str) -> DataError:
    return DataError(
        path=str(path),
        expected="a tokenizer file written by `python -m model.data prepare`",
        got=got,
        hint="Give train, gpt2, or the path of such a file.",
    )
