"""Where the tokenizer comes from: a file, GPT-2's own, prepared tokens, or training.

A vocabulary of another size than the model's would index outside its tables; one that tiktoken has
to download is asked for here, before GPUs wait for it. Needs tiktoken only for `gpt2`.
"""

from collections.abc import Iterator
from pathlib import Path

from model.data.manifest import read_manifest
from model.data.settings import DataSettings
from model.data.sources import TOKENS, needs_gpt2
from model.diagnostics.finding import Finding, judged, of_error, told
from model.diagnostics.requirements.inventory import Inventory
from model.errors import DataError
from model.system.timeouts import TimedOut, with_timeout

EXPECTED = "a vocabulary of {:,} tokens"
PATIENCE_S = 10.0  # tiktoken asks the network without a limit of its own


def findings(settings: DataSettings, stock: Inventory) -> Iterator[Finding]:
    """One finding for it."""
    try:
        yield _looked_at(settings, stock)
    except DataError as error:
        yield of_error("tokenizer", error)


def _looked_at(settings: DataSettings, stock: Inventory) -> Finding:
    expected = EXPECTED.format(settings.vocab_size)
    if stock.kind == TOKENS and settings.tokenizer != "gpt2":
        raise needs_gpt2(settings)
    if stock.home is not None:
        manifest = read_manifest(stock.home)
        name = f"{manifest.tokenizer_name}, {manifest.tokenizer_sha256[:12]}"
        return _of_size(settings, manifest.vocab_size, f"prepared ({name})")
    if settings.tokenizer == "train":
        return told("tokenizer", expected=expected, got="none yet; trained when data is prepared")
    if settings.tokenizer == "gpt2":
        return _gpt2(settings)
    from model.data.tokenizer import load

    tokenizer = load(Path(settings.tokenizer).expanduser())
    return _of_size(settings, tokenizer.vocab_size, f"{settings.tokenizer}")


def _of_size(settings: DataSettings, size: int, where: str) -> Finding:
    return judged(
        "tokenizer",
        ok=size == settings.vocab_size,
        expected=EXPECTED.format(settings.vocab_size),
        got=f"{size:,} tokens, {where}",
        hint=f"Set model.vocab_size: {size}, or choose another tokenizer.",
    )


def _gpt2(settings: DataSettings) -> Finding:
    """tiktoken's copy; raises DataError where there is none and none can be had."""
    from model.data.tokenizer import gpt2

    try:
        with_timeout(gpt2, PATIENCE_S)
        got = "GPT-2's own"
    except TimedOut:
        got = None
    return judged(
        "tokenizer",
        ok=got is not None,
        expected=EXPECTED.format(settings.vocab_size),
        got=got or f"nothing from tiktoken in {PATIENCE_S:.0f} s",
        hint="Set TIKTOKEN_CACHE_DIR to a folder that has it, or mend the network.",
    )
