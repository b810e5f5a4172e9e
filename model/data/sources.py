"""The files of a source, its validation split, and whether it changed.

A folder holds files of one format in the order of their names; the last one is validation. A folder
with one file, and `python-docs`, hold out one document in ten by its hash instead. A published data
set is a folder of downloads (`downloaded`) with known names. Reads names, sizes and times only, so
that planning many runs is fast. Standard library only.
"""

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
"""The format of GPT-2 tokens without text (`token_file`)."""
TXT = "txt"
"""The format with one document a file."""
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

    `sha256` is set where a download record has it.
    """

    name: str
    path: Path
    bytes: int
    mtime_ns: int
    sha256: str | None = None


@dataclass(frozen=True, kw_only=True)
class Part:
    """The documents of one split in one file, which become one token shard.

    `held_out`: the split is made by document hashes.
    """

    name: str
    split: str
    files: tuple[SourceFile, ...]
    held_out: bool


@dataclass(frozen=True, kw_only=True)
class Source:
    """The format, folder and files of a source, in order.

    `vocabulary_characters`: train a vocabulary on the first so many; None: on all.
    """

    kind: str
    folder: Path
    files: tuple[SourceFile, ...]
    vocabulary_characters: int | None = None

    @property
    def held_out(self) -> bool:
        """Whether validation is split off by document hashes because it has no file."""
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
        """Name, size and time of every file, to detect changes."""
        return [[file.name, file.bytes, file.mtime_ns] for file in self.files]


def require_askable(settings: DataSettings) -> None:
    """Refuse settings that are faulty whatever the files hold. Raises DataError."""
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
    """The error for files of GPT-2 tokens with another vocabulary."""
    return DataError(
        path="data.tokenizer",
        expected=f"gpt2, whose tokens the .bin files of {settings.source} hold",
        got=settings.tokenizer,
        hint=f"Set data.tokenizer: gpt2 and model.vocab_size: {GPT2_VOCAB_SIZE}.",
    )


def source_of(settings: DataSettings) -> Source:
    """The source of these settings. Raises DataError as `describe_source`, and for files not
    downloaded."""
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
        raise _not_found(source)
    if not folder.is_dir():
        raise DataError(
            path=source,
            expected="a folder of parquet, jsonl, txt or bin files",
            got="a file",
            hint="Move the file into an empty folder and give that folder.",
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
            hint="Use one folder for each format.",
        )
    return formats[0]


def _not_found(source: str) -> DataError:
    """The error for a misspelt name or a missing folder; a path has a separator."""
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
    """The modules of the standard library, constant while a process runs."""
    library, found, waiting = _library(), [], [_library()]
    while waiting:
        for entry in os.scandir(waiting.pop()):
            if entry.is_dir() and entry.name not in _SKIPPED_FOLDERS:
                waiting.append(Path(entry.path))
            elif entry.name.endswith(".py") and entry.is_file():
                found.append(entry)
    return _files(library, found)
