"""A checkpoint of a formula: how far it came. Written and found as any trainer's is.

checkpoints/step-00000120/state.json
"""

import os
import shutil
from pathlib import Path

from harness import files

FOLDER = "checkpoints"


class Kept:
    """Where a run goes on; the beginning, where nothing is kept."""

    def __init__(
        self,
        run_dir: Path | None = None,
        *,
        step: int = 0,
        train_time_s: float = 0.0,
        resumes: int = 0,
    ) -> None:
        self.step, self.train_time_s, self.resumes = step, train_time_s, resumes
        found = sorted((run_dir / FOLDER).glob("step-*")) if run_dir is not None else []
        if found:
            state = files.read_json(found[-1] / "state.json")
            self.step, self.resumes = int(state["step"]), int(state["resumes"])
            self.train_time_s = float(state["train_time_s"])

    def write(self, run_dir: Path) -> None:
        """Whole or not at all; the ones before it go."""
        folder = run_dir / FOLDER
        path = folder / f"step-{self.step:08d}"
        if path.exists():
            return
        part = folder / f".{path.name}"
        state = {"step": self.step, "train_time_s": self.train_time_s, "resumes": self.resumes}
        files.write_json(part / "state.json", state)
        os.replace(part, path)
        for older in folder.glob("step-*"):
            if older != path:
                shutil.rmtree(older)
