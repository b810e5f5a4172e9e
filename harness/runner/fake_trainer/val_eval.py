"""The verb `val_eval`: the validation loss of a run's final checkpoint, as this code measures it.

The weights of a simulated checkpoint are one number, the loss that the run reached.
"""

import argparse
import json
import sys
from pathlib import Path

from harness import files
from harness.errors import HarnessError
from harness.runner.fake_trainer import config as fake
from harness.runner.fake_trainer.train import bits_per_byte


def main() -> int:
    """Prints the losses as JSON; exit code 2 without a checkpoint of the last step."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    try:
        steps = fake.derived(fake.load(options.config, {}))["steps"]
    except HarnessError as error:
        print(error, file=sys.stderr)
        return 2
    path = options.out / "checkpoints" / f"step-{steps:08d}" / "state.json"
    state = files.read_json(path)
    if not isinstance(state, dict) or not isinstance(state.get("loss"), float):
        print(f"{path}: expected a checkpoint of step {steps}; got none", file=sys.stderr)
        return 2
    loss = state["loss"]
    print(json.dumps({"val_loss": loss, "val_bpb": bits_per_byte(loss), "step": steps}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
