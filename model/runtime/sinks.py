"""Logging sinks: mirror every event of a run to TensorBoard or Weights & Biases.

events.jsonl is the record; a sink may lose events and must not slow down or end the run. The
training loop puts each event into a queue, and a thread of each sink opens, feeds and closes it. An
error there ends that sink, with an event `sink_failed` that has the reason. Only a missing package
is an error at the start.

Events of a step become curves `kind/field` over steps; the others become text (TensorBoard) or
summary values (W&B), and so does the result. Sinks are not part of an identity.
"""

import json
import queue
import sys
import threading
from collections.abc import Callable, Mapping
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

from model.config import Config
from model.errors import MachineError
from model.runtime.run_dir import RunDirectory

CLOSE_S = 10.0  # how long a run waits for a sink at its end
Event = Mapping[str, Any]


class Sink(Protocol):
    """A destination of events, used by one thread."""

    def show(self, event: Event) -> None:
        """Show one event of the run."""

    def close(self, result: Event) -> None:
        """The run has ended with this result.json."""


def open_sinks(config: Config, run: RunDirectory) -> None:
    """Mirror the run's events from now on; raises MachineError where a package is missing."""
    openers: dict[str, Callable[[], Sink]] = {}
    if config.logging.tensorboard:
        openers["tensorboard"] = lambda: TensorBoardSink(run.path / "tensorboard")
    if (settings := config.logging.wandb) is not None:
        openers["wandb"] = lambda: WandbSink(settings.project, settings.mode, run.path, config)
    for name in openers:
        _require(name)
    for name, opener in openers.items():
        run.mirrors.append(Mirror(name, opener, run))


def _require(package: str) -> None:
    if find_spec(package) is None:
        raise MachineError(
            path=f"logging.{package}",
            expected=f"the package {package}",
            got="no such package in this Python",
            hint="Install the sinks: pip install 'speedrun-harness[sinks]', or leave "
            f"logging.{package} out.",
        )


class Mirror:
    """Feeds one sink from its own thread."""

    def __init__(self, name: str, opener: Callable[[], Sink], run: RunDirectory) -> None:
        self.name, self._opener, self._run = name, opener, run
        self._queue: queue.SimpleQueue[Event | None] = queue.SimpleQueue()
        self._result: Event = {}
        self._failed = False
        self._thread = threading.Thread(target=self._work, name=f"sink-{name}", daemon=True)
        self._thread.start()

    def event(self, event: Event) -> None:
        """Queue an event without blocking."""
        if not self._failed:
            self._queue.put(event)

    def close(self, result: Event) -> None:
        """Wait until the sink has shown everything, at most CLOSE_S."""
        self._result = result
        self._queue.put(None)
        self._thread.join(CLOSE_S)
        if self._thread.is_alive():
            print(f"sink {self.name}: not done in {CLOSE_S:g} s, abandoned", file=sys.stderr)

    def _work(self) -> None:
        try:
            sink = self._opener()
            while (event := self._queue.get()) is not None:
                sink.show(event)
            sink.close(self._result)
        except (Exception, SystemExit) as error:  # the run continues without the sink
            self._failed = True
            reason = f"{type(error).__name__}: {error}"
            print(f"sink {self.name} failed: {reason}", file=sys.stderr)
            self._run.event("sink_failed", sink=self.name, reason=reason[:500])


class TensorBoardSink:
    """Event files for `tensorboard --logdir`."""

    def __init__(self, folder: Path) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(folder))

    def show(self, event: Event) -> None:
        if "step" not in event:
            self._writer.add_text(_title(event), json.dumps(event))
        for name, value in scalars(event).items():
            self._writer.add_scalar(name, value, event["step"], walltime=event["t"])

    def close(self, result: Event) -> None:
        self._writer.add_text("result", json.dumps(result, indent=1))
        self._writer.close()


class WandbSink:
    """A run of Weights & Biases; `offline` writes it to the run's directory for `wandb sync`."""

    def __init__(self, project: str, mode: str, path: Path, config: Config) -> None:
        import wandb

        # the run's own output goes to its log.txt, and its signals to model/runtime/stop.py
        quiet = wandb.Settings(console="off", silent=True)
        self._run = wandb.init(
            project=project,
            mode=mode,
            dir=str(path),
            name=path.name,
            config=asdict(config),
            settings=quiet,
        )

    def show(self, event: Event) -> None:
        if "step" in event:
            self._run.log(scalars(event), step=event["step"])
        else:
            self._run.summary.update({_title(event): dict(event)})

    def close(self, result: Event) -> None:
        self._run.summary.update({"result": dict(result)})
        self._run.finish(exit_code=0 if result.get("status") == "completed" else 1)


def _title(event: Event) -> str:
    """The event's kind, and the name of a phase."""
    return "/".join(str(event[key]) for key in ("event", "name") if key in event)


def scalars(event: Event) -> dict[str, float]:
    """The numbers of a step's event as `kind/field`; none for an event without a step."""
    if "step" not in event:
        return {}
    return {
        f"{event['event']}/{name}": float(value)
        for name, value in event.items()
        if name not in ("step", "t")
        and isinstance(value, int | float)
        and not isinstance(value, bool)
    }
