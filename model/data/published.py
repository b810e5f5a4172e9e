"""The data sets that can be downloaded: files, addresses, and the validation file of each.

    climbmix      parquet shards of documents, as nanochat trains on them (@karpathy's shuffle of
                  NVIDIA's ClimbMix, arXiv 2504.13161); its last shard is validation
    fineweb10B    GPT-2 tokens of FineWeb in `.bin` shards, as modded-nanogpt trains on them
                  (published by @KellerJordan, in the format of @karpathy's llm.c)

Constants only; `fetch` downloads. Standard library only.
"""

from dataclasses import dataclass

from model.errors import DataError

# A configuration that leaves data.train_files out downloads no more than this.
LARGEST_DEFAULT_GB = 100


@dataclass(frozen=True, kw_only=True)
class Published:
    """A data set of numbered training files and one validation file, all under one address."""

    name: str
    """Its name in `data.source`."""
    kind: str
    """Format of its files."""
    url: str
    train_pattern: str
    """Name of a training file, for `str.format` with its index."""
    first_index: int
    train_files: int
    validation_name: str
    file_mb: int
    """Approximate size of one file in MB, for messages."""
    tokens: int
    """Approximate GPT-2 tokens in all training files, as published."""
    vocabulary_characters: int | None = None
    """Train a vocabulary on the first so many characters; None: on all of the text."""

    def file_names(self, train_files: int | None) -> tuple[str, ...]:
        """The first `train_files` training files (None: all) and the validation file.

        Raises DataError for more files than exist, and for None where all exceed
        LARGEST_DEFAULT_GB.
        """
        if train_files is None and self.gigabytes > LARGEST_DEFAULT_GB:
            raise DataError(
                path="data.train_files",
                expected=f"how many of the {self.train_files:,} training files of {self.name} "
                f"to download (about {self.file_mb} MB each)",
                got=f"null, which is all of them (about {self.gigabytes:,.0f} GB)",
                hint="Set data.train_files, 8 for example.",
            )
        wanted = self.train_files if train_files is None else train_files
        if wanted > self.train_files:
            raise DataError(
                path="data.train_files",
                expected=f"at most {self.train_files:,} training files of {self.name}",
                got=str(wanted),
                hint="Lower data.train_files.",
            )
        indices = range(self.first_index, self.first_index + wanted)
        return (*(self.train_pattern.format(index) for index in indices), self.validation_name)

    @property
    def file_tokens(self) -> int:
        """Approximate tokens of one training file."""
        return self.tokens // self.train_files

    @property
    def gigabytes(self) -> float:
        """Approximate size of all training files in GB."""
        return self.train_files * self.file_mb / 1_000


PUBLISHED = {
    published.name: published
    for published in (
        Published(
            name="climbmix",
            kind="parquet",
            # nanochat follows the branch too; a file that changes there is refused by its hash
            url="https://huggingface.co/datasets/karpathy/climbmix-400b-shuffle/resolve/main",
            train_pattern="shard_{:05d}.parquet",
            first_index=0,
            train_files=6_542,
            validation_name="shard_06542.parquet",
            file_mb=100,
            tokens=400_000_000_000,  # from the name of the data set
            vocabulary_characters=2_000_000_000,  # nanochat's scripts/tok_train.py
        ),
        Published(
            name="fineweb10B",
            kind="bin",
            url="https://huggingface.co/datasets/kjj0/fineweb10B-gpt2/resolve/"
            "889765ea1f903759787add96995d81171b632d0c",
            train_pattern="fineweb_train_{:06d}.bin",
            first_index=1,
            train_files=103,
            validation_name="fineweb_val_000000.bin",
            file_mb=200,
            tokens=103 * 100_000_000,  # each shard is cut at 1e8 tokens
        ),
    )
}
