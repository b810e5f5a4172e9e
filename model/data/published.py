"""The data sets that are downloaded: which files they have, where, and which one is validation.

    climbmix      parquet shards of documents, as nanochat trains on them (@karpathy's shuffle of
                  NVIDIA's ClimbMix, arXiv 2504.13161); its last shard is validation
    fineweb10B    GPT-2 tokens of FineWeb in `.bin` shards, as modded-nanogpt trains on them
                  (published by @KellerJordan, in the format of @karpathy's llm.c)

Facts only: `fetch` downloads, `downloaded_files` knows what is here. Standard library only.
"""

from dataclasses import dataclass

from model.errors import DataError

# Downloading more than this is never what leaving a field out should mean.
LARGEST_UNASKED_GB = 100


@dataclass(frozen=True, kw_only=True)
class Published:
    """A data set of numbered training files and one validation file, all under one address."""

    name: str
    """What `data.source` calls it."""
    kind: str
    """Format of its files."""
    url: str
    """Address that file names are appended to."""
    train_pattern: str
    """Name of a training file, for `str.format` with its index."""
    first_index: int
    """Index of the first training file."""
    train_files: int
    """How many training files there are."""
    validation_name: str
    """Name of the validation file."""
    file_mb: int
    """About the size of one file, for messages."""
    tokens: int
    """About how many GPT-2 tokens all training files hold, as its publisher says."""
    vocabulary_characters: int | None = None
    """A vocabulary is trained on the first so many characters; None: on all of the text."""

    def file_names(self, train_files: int | None) -> tuple[str, ...]:
        """The first `train_files` training files (None: all) and the validation file.

        Raises DataError for more than there are, and where all would be a disk's worth.
        """
        if train_files is None and self.gigabytes > LARGEST_UNASKED_GB:
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
        """About the tokens of one training file."""
        return self.tokens // self.train_files

    @property
    def gigabytes(self) -> float:
        """About the size of all training files."""
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
            tokens=400_000_000_000,  # in the name of the data set
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
