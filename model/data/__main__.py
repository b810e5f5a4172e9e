"""`python -m model.data prepare|verify|show`: prepare data, verify it, print samples.

`prepare` is part of the trainer's contract: it prints progress to standard error (a bar for
downloads on a terminal) and one JSON object with `data_id` and `path` as the last line of standard
output. Errors have three parts and exit code 2.
"""

import argparse
import json
import sys
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from model.config.reader import load_config, parse_overrides
from model.data.atomic import file_sha256
from model.data.documents import documents_digest
from model.data.downloaded import DownloadedFiles
from model.data.manifest import SHARDS, Manifest, is_prepared
from model.data.prepare import Prepared, open_prepared, prepare
from model.data.progress import progress_bar
from model.data.published import PUBLISHED, Published
from model.data.settings import DataSettings
from model.data.shards import verify_shard
from model.data.sources import PYTHON_DOCS, TRAIN, VALIDATION, describe_source
from model.errors import DataError, exit_code

_SHOWN_CHARACTERS = 320


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    try:
        return exit_code(partial(_run, _parser().parse_args(arguments)))
    except KeyboardInterrupt:
        print("interrupted; re-run the same command to resume", file=sys.stderr)
        return 130


def _run(chosen: argparse.Namespace) -> None:
    config = load_config(chosen.config or chosen.file, parse_overrides(chosen.set))
    settings = DataSettings.from_config(config)
    {"prepare": _prepare, "verify": _verify, "show": _show}[chosen.command](settings, chosen)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m model.data", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    for name, help_text in (
        ("prepare", "make tokenizer, token shards and validation rows"),
        ("verify", "compare every byte with the manifest and the source"),
        ("show", "documents, tokens, bytes per token, cropping, a few rows"),
    ):
        command = commands.add_parser(name, help=help_text)
        command.add_argument("file", nargs="?", type=Path, metavar="CONFIG", help="a configuration")
        command.add_argument("--config", type=Path, help="same as CONFIG")
        command.add_argument("--set", action="append", default=[], metavar="a.b=c")
    commands.choices["show"].add_argument("--rows", type=int, default=3, help="rows to decode")
    return parser


def _prepare(settings: DataSettings, chosen: argparse.Namespace) -> None:
    began = time.perf_counter()
    display = progress_bar if sys.stderr.isatty() else None
    prepared = prepare(settings, lambda line: print(line, file=sys.stderr, flush=True), display)
    print(f"ready in {time.perf_counter() - began:.1f} s", file=sys.stderr, flush=True)
    view = prepared.view
    result = {
        "data_id": view.data_id,
        "path": str(prepared.path.resolve()),
        "train_tokens": view.train_tokens,
        "train_documents": view.train_documents,
        "validation_tokens": view.validation_tokens,
        "validation_documents": view.validation_documents,
        "tokenizer_sha256": prepared.tokenizer.sha256,
        "vocab_size": prepared.vocab_size,
    }
    print(json.dumps(result))


def _verify(settings: DataSettings, chosen: argparse.Namespace) -> None:
    prepared = open_prepared(settings)
    manifest = prepared.manifest
    for part in manifest.parts:
        if part.shard is not None:
            verify_shard(prepared.path / SHARDS, part.shard, manifest.token_bytes)
            print(f"ok  shard {part.shard.stem}  {part.shard.tokens:,} tokens")
    rows = prepared.rows(VALIDATION, settings.validation_rows).sha256(settings.validation_rows)
    if rows != prepared.view.validation_rows_sha256:
        raise DataError(
            path=str(prepared.path / "views"),
            expected=f"validation rows of SHA-256 {prepared.view.validation_rows_sha256}",
            got=rows,
            hint=f"Delete {prepared.path} and run `python -m model.data prepare` again.",
        )
    print(f"ok  {settings.validation_rows} validation rows")
    _verify_source(settings, manifest)


def _verify_source(settings: DataSettings, manifest: Manifest) -> None:
    if settings.source == PYTHON_DOCS:
        got = documents_digest(describe_source(PYTHON_DOCS))
        _require_same(PYTHON_DOCS, manifest.parts[0].sha256, got)
        print(f"ok  source {PYTHON_DOCS} of {manifest.python}")
        return
    recorded = {part.name: part.sha256 for part in manifest.parts}
    if settings.source in PUBLISHED:
        _verify_downloads(DownloadedFiles(settings.cache, settings.source), recorded)
        return
    if is_prepared(Path(settings.source)):
        print("--  source: prepared elsewhere, the text is not on this machine")
        return
    for file in describe_source(settings.source).files:
        _require_same(str(file.path), recorded.get(file.name), file_sha256(file.path))
        print(f"ok  source {file.name}")


def _verify_downloads(downloaded_files: DownloadedFiles, recorded: dict[str, str]) -> None:
    """Compare the downloads that are present; they may be deleted once their tokens exist."""
    for name, sha256 in recorded.items():
        path = downloaded_files.path(name)
        if not path.exists():
            print(f"--  source {name}: deleted, its tokens exist")
            continue
        _require_same(str(path), sha256, file_sha256(path))
        print(f"ok  source {name}")


def _require_same(path: str, recorded: str | None, got: str) -> None:
    if got != recorded:
        raise DataError(
            path=path,
            expected=f"text of SHA-256 {recorded}, as when it was prepared",
            got=got,
            hint="Run `python -m model.data prepare` to make tokens of the new text.",
        )


def _show(settings: DataSettings, chosen: argparse.Namespace) -> None:
    if settings.source in PUBLISHED:
        _show_downloads(PUBLISHED[settings.source], settings)
    prepared = open_prepared(settings)
    view, manifest = prepared.view, prepared.manifest
    print(f"data_id     {view.data_id}")
    print(f"folder      {prepared.path}")
    print(f"source      {settings.source} ({manifest.kind}{_python(manifest)})")
    if manifest.held_out:
        print("validation  one document in ten, held out by hash")
    print(
        f"tokenizer   {prepared.vocab_size:,} tokens, BOS {prepared.bos_id}, "
        f"SHA-256 {manifest.tokenizer_sha256}"
    )
    counts = (
        (TRAIN, view.train_documents, view.train_tokens, view.train_bytes),
        (VALIDATION, view.validation_documents, view.validation_tokens, view.validation_bytes),
    )
    for split, documents, tokens, text_bytes in counts:
        ordinary = tokens - documents
        print(
            f"{split:<11} {documents:,} documents, {tokens:,} tokens, {text_bytes:,} bytes, "
            f"{text_bytes / max(1, ordinary):.3f} bytes per token"
        )
    for split in (TRAIN, VALIDATION):
        _show_rows(prepared, split, chosen.rows)


def _show_downloads(published: Published, settings: DataSettings) -> None:
    """Print how many of the requested files are downloaded, prepared or not."""
    names = published.file_names(settings.train_files)
    downloaded_files = DownloadedFiles(settings.cache, published.name)
    here = [path.stat().st_size for path in map(downloaded_files.path, names) if path.exists()]
    begun = sum(downloaded_files.partial_bytes(name) for name in names)
    print(
        f"downloads   {len(here)} of {len(names)} files, {sum(here) / 1e6:,.1f} MB, "
        f"{begun / 1e6:,.1f} MB of others; in {downloaded_files.folder}"
    )


def _show_rows(prepared: Prepared, split: str, shown: int) -> None:
    """Print the cropping over about one epoch, then the first rows as text."""
    settings, view = prepared.settings, prepared.view
    tokens = view.train_tokens if split == TRAIN else view.validation_tokens
    epoch = max(shown, tokens * 2 // 3 // (settings.context_tokens + 1))
    rows = prepared.rows(split, epoch)
    print(
        f"\n{split} rows: {rows.rows:,} of {settings.context_tokens} + 1 tokens read the documents "
        f"{rows.epochs:.2f} times; {rows.lost_share:.1%} of the tokens lost to cropping"
    )
    for index, row in enumerate(rows.tokens(0, shown)):
        text = prepared.tokenizer.decode(row)
        cut = " …" if len(text) > _SHOWN_CHARACTERS else ""
        print(f"  {index}: {text[:_SHOWN_CHARACTERS]!r}{cut}")


def _python(manifest: Manifest) -> str:
    return f", {manifest.python}" if manifest.python else ""


if __name__ == "__main__":
    sys.exit(main())
