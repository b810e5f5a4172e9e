"""The source of the tokenizer: a file, GPT-2's, prepared tokens, or training.

A vocabulary of another size than the model's would index out of range. A vocabulary that tiktoken
has to download is requested here, before GPUs wait for it. Needs tiktoken only for `gpt2`.
"""

from collections.abc import Iterator
from pathlib import Path

from model.data.manifest import read_manifest
from model.data.settings import DataSettings
from model.data.sources import TOKENS, needs_gpt2
from model.diagnostics.finding import Finding, check, from_error, info
from model.diagnostics.requirements.inventory import Inventory
from model.errors import DataError
from model.system.timeouts import TimedOut, with_timeout

EXPECTED = "a vocabulary of {:,} tokens"
WAIT_S = 10.0  # tiktoken's download has no timeout


def findings(settings: DataSettings, inventory: Inventory) -> Iterator[Finding]:
    try:
        yield _finding(settings, inventory)
    except DataError as error:
        yield from_error("tokenizer", error)


def _finding(settings: DataSettings, inventory: Inventory) -> Finding:
    expected = EXPECTED.format(settings.vocab_size)
    if inventory.kind == TOKENS and settings.tokenizer != "gpt2":
        raise needs_gpt2(settings)
    if inventory.home is not None:
        manifest = read_manifest(inventory.home)
        name = f"{manifest.tokenizer_name}, {manifest.tokenizer_sha256[:12]}"
        return _of_size(settings, manifest.vocab_size, f"prepared ({name})")
    if settings.tokenizer == "train":
        return info("tokenizer", expected=expected, got="none yet; trained when data is prepared")
    if settings.tokenizer == "gpt2":
        return _gpt2(settings)
    from model.data.tokenizer import load

    tokenizer = load(Path(settings.tokenizer).expanduser())
    return _of_size(settings, tokenizer.vocab_size, f"{settings.tokenizer}")


def _of_size(settings: DataSettings, size: int, where: str) -> Finding:
    return check(
        "tokenizer",
        ok=size == settings.vocab_size,
        expected=EXPECTED.format(settings.vocab_size),
        got=f"{size:,} tokens, {where}",
        hint=f"Set model.vocab_size: {size}, or choose another tokenizer.",
    )


def _gpt2(settings: DataSettings) -> Finding:
    """tiktoken's copy; raises DataError where there is none and the download fails."""
    from model.data.tokenizer import gpt2

    try:
        with_timeout(gpt2, WAIT_S)
        got = "GPT-2's own"
    except TimedOut:
        got = None
    return check(
        "tokenizer",
        ok=got is not None,
        expected=EXPECTED.format(settings.vocab_size),
        got=got or f"nothing from tiktoken in {WAIT_S:.0f} s",
        hint="Set TIKTOKEN_CACHE_DIR to a folder that has it, or fix the network.",
    )
