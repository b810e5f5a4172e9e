"""Which files a source has, which of them are validation, and whether they changed since.

A folder holds files of one format, taken in the order of their names; the last one is validation. A
folder with one file, and `python-docs`, hold out one document in ten by its hash instead. A
published data set is a folder of downloads (`downloaded_files`) whose names are known beforehand.
Nothing is read here but names, sizes and times, so that a plan for many runs can ask without
waiting. Standard library only."""

import difflib
import os
import sysconfig
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from model.data.downloaded import DownloadedFiles
from model.data.published import PUBLISHED, Published
from model.data.settings import DataSettings
from model.errors import DataError

PYTHON_DOCS = "python-docs"
NAMED_SOURCES = (PYTHON_DOCS, *PUBLISHED)
TOKENS = "bin"
"""The format whose files hold GPT-2 tokens and no text (`token_file`)."""
TXT = "txt"
"""The format whose files are one document each."""
FORMATS = ("parquet", "jsonl", TXT, TOKENS)
GPT2_VOCAB_SIZE = 50_257
TRAIN, VALIDATION = "train", "validation"

# Not English about Python's own library, or not part of every installation.
_SKIPPED_FOLDERS = frozenset(
    {
        *("test", "tests", "idle_test", "site-packages", "dist-packages", "__pycache__"),
        *("lib2to3", "turtledemo", "ensurepip", "lib-dynload", "__phello__"),
    }
)


@dataclass(frozen=True, kw_only=True)
class SourceFile:
    """One file of a source; `name` is relative to the source's folder.

    `sha256` is known where a record of downloads tells it.
    """

    name: str
    path: Path
    bytes: int
    mtime_ns: int
    sha256: str | None = None


@dataclass(frozen=True, kw_only=True)
class Part:
    """What becomes one token shard: the documents of one split in one file.

    `held_out`: the split is made by document hashes, and this part is one side of it.
    """

    name: str
    split: str
    files: tuple[SourceFile, ...]
    held_out: bool


@dataclass(frozen=True, kw_only=True)
class Source:
    """A described source: format, folder and files in order.

    `vocabulary_characters`: a vocabulary is trained on the first so many; None: on all.
    """

    kind: str
    folder: Path
    files: tuple[SourceFile, ...]
    vocabulary_characters: int | None = None

    @property
    def held_out(self) -> bool:
        """Whether validation is made by document hashes for want of a file of its own."""
        return self.kind == PYTHON_DOCS or len(self.files) == 1

    def parts(self) -> tuple[Part, ...]:
        """The training parts in order, then the validation part."""
        if self.held_out:
            name = PYTHON_DOCS if self.kind == PYTHON_DOCS else self.files[0].name
            return tuple(
                Part(name=name, split=split, files=self.files, held_out=True)
                for split in (TRAIN, VALIDATION)
            )
        splits = [TRAIN] * (len(self.files) - 1) + [VALIDATION]
        return tuple(
            Part(name=file.name, split=split, files=(file,), held_out=False)
            for file, split in zip(self.files, splits, strict=True)
        )

    def stamp(self) -> list[list[str | int]]:
        """Name, size and time of every file: equal stamps mean that nothing changed."""
        return [[file.name, file.bytes, file.mtime_ns] for file in self.files]


def require_askable(settings: DataSettings) -> None:
    """Refuse what no file needs to be looked at for. Raises DataError."""
    published = PUBLISHED.get(settings.source)
    if published is not None:
        published.file_names(settings.train_files)
        if published.kind == TOKENS and settings.tokenizer == "train":
            raise needs_gpt2(settings)
    if settings.tokenizer == "gpt2" and settings.vocab_size != GPT2_VOCAB_SIZE:
        raise DataError(
            path="model.vocab_size",
            expected=f"{GPT2_VOCAB_SIZE:,} tokens, which data.tokenizer: gpt2 has",
            got=f"{settings.vocab_size:,}",
            hint=f"Set model.vocab_size: {GPT2_VOCAB_SIZE}, or choose another tokenizer.",
        )


def needs_gpt2(settings: DataSettings) -> DataError:
    """The error for files of tokens with another vocabulary than their own."""
    return DataError(
        path="data.tokenizer",
        expected=f"gpt2, whose tokens the .bin files of {settings.source} hold",
        got=settings.tokenizer,
        hint=f"Set data.tokenizer: gpt2 and model.vocab_size: {GPT2_VOCAB_SIZE}.",
    )


def source_of(settings: DataSettings) -> Source:
    """The source of these settings. Raises DataError as `describe_source`, and for files that
    are yet to be downloaded.
    """
    published = PUBLISHED.get(settings.source)
    if published is not None:
        return _published_source(published, settings)
    return describe_source(settings.source)


def _published_source(published: Published, settings: DataSettings) -> Source:
    downloaded_files = DownloadedFiles(settings.cache, published.name)
    files = []
    for name in published.file_names(settings.train_files):
        path = downloaded_files.path(name)
        if not path.exists():
            raise DataError(
                path=str(path),
                expected=f"a file of {published.name}",
                got="no such file",
                hint="Run `python -m model.data prepare` with this configuration.",
            )
        status, recorded = path.stat(), downloaded_files.record(name)
        files.append(
            SourceFile(
                name=name,
                path=path,
                bytes=status.st_size,
                mtime_ns=status.st_mtime_ns,
                sha256=recorded.sha256 if recorded else None,
            )
        )
    return Source(
        kind=published.kind,
        folder=downloaded_files.folder,
        files=tuple(files),
        vocabulary_characters=published.vocabulary_characters,
    )


def describe_source(source: str) -> Source:
    """Find the files of a folder or of the embedded source.

    Raises DataError for a misspelt name, a missing or empty folder, or mixed formats.
    """
    if source == PYTHON_DOCS:
        return Source(kind=PYTHON_DOCS, folder=_library(), files=_library_files())
    folder = Path(source).expanduser()
    if not folder.exists():
        raise _nothing_there(source)
    if not folder.is_dir():
        raise DataError(
            path=source,
            expected="a folder of parquet, jsonl, txt or bin files",
            got="a file",
            hint="Put the file into a folder of its own and give that folder.",
        )
    found = [
        entry
        for entry in os.scandir(folder)
        if entry.is_file()
        and not entry.name.startswith(".")
        and Path(entry.name).suffix[1:] in FORMATS
    ]
    return Source(kind=_one_format(source, found), folder=folder, files=_files(folder, found))


def _files(folder: Path, found: "list[os.DirEntry[str]]") -> tuple[SourceFile, ...]:
    return tuple(
        SourceFile(
            name=os.path.relpath(entry.path, folder),
            path=Path(entry.path),
            bytes=entry.stat().st_size,
            mtime_ns=entry.stat().st_mtime_ns,
        )
        for entry in sorted(found, key=lambda entry: entry.path)
    )


def _one_format(source: str, found: "list[os.DirEntry[str]]") -> str:
    formats = sorted({Path(entry.name).suffix[1:] for entry in found})
    if not formats:
        raise DataError(
            path=source,
            expected="a folder with parquet, jsonl, txt or bin files in it",
            got="none",
            hint="Put the text there: parquet (column text), jsonl (key text), txt, or GPT-2 "
            "tokens as bin; folders below it are not searched.",
        )
    if len(formats) > 1:
        raise DataError(
            path=source,
            expected="files of one format",
            got=" and ".join(formats),
            hint="Keep each format in a folder of its own.",
        )
    return formats[0]


def _nothing_there(source: str) -> DataError:
    """A misspelt name and a missing folder look alike; a path separator tells them apart."""
    if os.sep in source or source.startswith((".", "~")):
        hint = "Correct data.source, or create the folder and put the text there."
        return DataError(path=source, expected="a folder", got="no such folder", hint=hint)
    near = difflib.get_close_matches(source, NAMED_SOURCES, n=1)
    hint = f"Did you mean {near[0]}? " if near else ""
    return DataError(
        path="data.source",
        expected=f"{', '.join(NAMED_SOURCES)} or the path of a folder",
        got=source,
        hint=hint + "Give one of these names, or a folder of parquet, jsonl, txt or bin files.",
    )


def _library() -> Path:
    return Path(sysconfig.get_path("stdlib"))


@lru_cache(maxsize=1)
def _library_files() -> tuple[SourceFile, ...]:
    """The modules of the standard library; they do not change while a process runs."""
    library, found, waiting = _library(), [], [_library()]
    while waiting:
        for entry in os.scandir(waiting.pop()):
            if entry.is_dir() and entry.name not in _SKIPPED_FOLDERS:
                waiting.append(Path(entry.path))
            elif entry.name.endswith(".py") and entry.is_file():
                found.append(entry)
    return _files(library, found)
