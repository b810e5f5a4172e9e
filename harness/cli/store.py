"""`harness pack` and `harness unpack`: a store as one tar."""

from pathlib import Path

from rich.console import Console

from harness import errors
from harness.cli.console import _say
from harness.results.store import Store


def pack(console: "Console", store: Store, out: Path, *, compact: bool) -> int:
    """A store as one tar."""
    from harness.results import archive

    files = archive.pack(store, out, compact=compact)
    _say(console, f"{out}: {files} files, {out.stat().st_size / 1e6:.1f} MB")
    return errors.PASS


def unpack(console: "Console", source: Path, store: Store) -> int:
    """A tar merged into a store."""
    from harness.results import archive

    found = archive.unpack(source, store)
    _say(
        console,
        f"{store.root}: {found.records} records are new, {found.known} were known; "
        f"{found.studies} studies, {found.run_dirs} run directories"
        + (f", {found.jobs} full jobs" if found.jobs else ""),
    )
    return errors.PASS
