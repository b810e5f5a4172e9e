"""Validation loss of a run's final checkpoint: `python -m model.val_eval --config FILE --out DIR`.

Prints one JSON object with `val_loss`, `val_bpb` and the checkpoint's `step`. Model and rows are
those of FILE as read by this code: the run's own configuration and results are not used, so this
code can measure a run of other code. DIR is only read. Exit code 2 for a faulty configuration, and
for a checkpoint that is missing, damaged, not of the last step, or of a model that this code does
not build.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from model.config import Config
from model.config.derive import Derived
from model.config.resolve import resolve
from model.errors import RunError, exit_code


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m model.val_eval", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True, help="the run directory")
    return exit_code(partial(_run, parser.parse_args(argv)))


def _run(arguments: argparse.Namespace) -> None:
    config, derived = resolve(str(arguments.config), {"system.fit_memory": True})
    print(json.dumps(_evaluated(config, derived, arguments.out)))


def _evaluated(config: Config, derived: Derived, run_dir: Path) -> dict[str, Any]:
    import torch

    from model.core.source import checkpoint_of, of_checkpoint
    from model.data.prepare import prepare
    from model.data.settings import DataSettings
    from model.distributed.ranks import ALONE
    from model.evaluate import evaluate
    from model.runtime import preflight
    from model.tricks.document_mask import require_bos

    device = preflight.device_of(config, ALONE)
    kernels, derived = preflight.check(config, derived, device, ALONE)
    path = checkpoint_of(run_dir, None)
    gpt, step = of_checkpoint(path, config, derived, device, kernels)
    if step != derived.steps:
        hint = "The run ended early: evaluate a run that took all its steps."
        raise RunError(
            path=str(path),
            expected=f"a checkpoint of step {derived.steps}",
            got=str(step),
            hint=hint,
        )
    prepared = prepare(
        DataSettings.from_config(config), lambda text: print(text, file=sys.stderr, flush=True)
    )
    require_bos(config, prepared.bos_id)
    rows = prepared.rows("validation", derived.validation_rows)
    result = evaluate(
        gpt,
        rows.tokens(0, derived.validation_rows),
        torch.from_numpy(prepared.bytes_per_token).to(device),
        derived.device_batch_rows,
    )
    return {"val_loss": result.val_loss, "val_bpb": result.val_bpb, "step": step}


if __name__ == "__main__":
    sys.exit(main())
