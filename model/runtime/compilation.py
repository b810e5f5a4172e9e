"""What torch compiled in this run: how much came from the cache, how long it took, and when.

Three questions of one object. Before training: does the first compilation work, if need be without
the cache (`warm_up`)? For environment.json: was it a hit or a miss (`as_json`)? After each step:
was anything compiled just now (`news`)? The last is asked because a step that compiles takes
seconds where its neighbours take milliseconds: such a step leaves an event and stays out of the
speed.

The numbers are torch's own. `graphs` are those that Dynamo captured. Each becomes one or two
compiled functions (forward, backward), and hits, misses and bypasses count those as Inductor's
graph cache looked them up. Seconds run from the start of an outermost compilation to its end.
Kernels that FlashAttention-4 and quack compile at their first call are not in these counts.
"""

import errno
import logging
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch

from model.config import Config
from model.config.identity import kernel_versions
from model.runtime.environment import cpu_json
from model.system.compile_cache import CompileCache, folder_key, no_room
from model.system.failure import gpu_remedy, is_out_of_memory

KINDS_OF_BLOCK = 64  # each is one more compilation of the same code (model/gpt.py)
CANNOT_WRITE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES)
NO_SPACE = "No space left on device"  # as a C++ compiler says it, whose errors are text
CACHE_LOGGERS = ("torch._inductor.codecache", "torch._functorch._aot_autograd.autograd_cache")


@dataclass(frozen=True, kw_only=True)
class Counts:
    """Compiled so far, or between two moments."""

    graphs: int = 0
    hits: int = 0
    misses: int = 0
    bypasses: int = 0
    """Functions that Inductor can't keep."""

    def __sub__(self, earlier: "Counts") -> "Counts":
        names = (field.name for field in fields(self))
        return Counts(**{name: getattr(self, name) - getattr(earlier, name) for name in names})

    @property
    def result(self) -> str:
        """`hit`, `miss` or `partial`; `off` where no cache was asked."""
        if self.hits + self.misses + self.bypasses == 0:
            return "off"
        if self.hits == 0:
            return "miss"
        return "hit" if self.misses + self.bypasses == 0 else "partial"


@dataclass(frozen=True, kw_only=True)
class CompilationReport:
    """What was compiled since the last question."""

    graphs: int
    seconds: float
    reason: str | None
    """Dynamo's reason for compiling code again; null for code that is new."""


class Compilation:
    """Counts what torch compiles in this process from here on, and mends a broken cache."""

    def __init__(self, cache: CompileCache | None, *, compiled: bool) -> None:
        self.cache, self.compiled = cache, compiled
        self.seconds = self._told_s = 0.0
        self._started_s = 0.0
        self._compiled_ids: list[str] = []
        if compiled:
            import torch._dynamo

            torch._dynamo.config.recompile_limit = KINDS_OF_BLOCK
            # past this limit Dynamo would run the code uncompiled, with a line in the log at most
            torch._dynamo.config.fail_on_recompile_limit_hit = True
            self._first = self._told = _counts()
            self._listen()
            self._complaints = _Complaints()

    @classmethod
    def start(cls, config: Config, device: torch.device) -> "Compilation":
        """Chooses the cache of a run on `device`; call it before anything is compiled."""
        compiled, cache = config.system.compile, None
        if compiled or device.type == "cuda":  # a kernel package compiles in eager mode too
            key = folder_key(kernel_versions(), _processor(device))
            cache = CompileCache(Path(config.system.compile_cache_dir), key, os.environ)
        return cls(cache, compiled=compiled)

    def warm_up(self, compile_all: Callable[[], None]) -> None:
        """Runs the first compilation. Where it fails and the cache may be why, once more without.

        If that works, the cache was at fault, and what was kept is deleted; if not, the second
        error is the answer, or MachineError where it was for want of disk space.
        """
        try:
            compile_all()
            return
        except Exception as error:
            if not self._cache_may_be_at_fault(error):
                raise
            self._start_afresh(error)
        assert self.cache is not None
        try:
            compile_all()
        except Exception as error:
            problem = _why_unwritten(error)
            if problem is None:
                raise
            raise no_room(problem) from error
        self.cache.discard_kept()

    def take_report(self) -> CompilationReport | None:
        """What was compiled since the last call, or null. Costs a comparison where nothing was."""
        if not self._compiled_ids:
            return None
        now = _counts()
        seconds, reason = self.seconds - self._told_s, _reason(self._compiled_ids)
        graphs = (now - self._told).graphs
        self._told, self._told_s = now, self.seconds
        self._compiled_ids.clear()
        return CompilationReport(graphs=graphs, seconds=round(seconds, 4), reason=reason)

    def as_json(self) -> dict[str, Any]:
        """`compile_cache` of environment.json: all that was compiled up to now."""
        if not self.compiled or self.cache is None:
            return {"result": "off"}
        counts = _counts() - self._first
        return {
            "result": counts.result,
            "graphs": counts.graphs,
            "hits": counts.hits,
            "misses": counts.misses,
            "bypasses": counts.bypasses,
            "seconds": round(self.seconds, 3),
            "folder_key": self.cache.key,
            "set_by_user": sorted(self.cache.set_by_user),
            "faults": [*self.cache.faults, *self._complaints.texts],
        }

    def _cache_may_be_at_fault(self, error: Exception) -> bool:
        if self.cache is None or self.cache.is_temporary or _is_the_machine_s(error):
            return False
        return not self.cache.was_empty or _why_unwritten(error) is not None

    def _start_afresh(self, error: Exception) -> None:
        """Forgets what is compiled and loaded, and compiles elsewhere."""
        from torch._inductor.utils import clear_caches

        assert self.cache is not None
        place = self.cache.folders["TORCHINDUCTOR_CACHE_DIR"]
        self.cache.leave(f"compiling with what is kept in {place} failed ({_first_line(error)})")
        torch.compiler.reset()  # drops the listeners too
        clear_caches()
        self._listen()
        self._first = self._told = _counts()  # what the first attempt found is void

    def _listen(self) -> None:
        from torch._dynamo.callback import callback_handler

        callback_handler.register_start_callback(self._on_start)
        callback_handler.register_end_callback(self._on_end)

    def _on_start(self, _: Any) -> None:
        self._started_s = time.perf_counter()

    def _on_end(self, what: Any) -> None:
        self.seconds += time.perf_counter() - self._started_s
        self._compiled_ids.append(what.compile_id)

    def close(self) -> None:
        """Stops listening; for processes that do more than one run."""
        from torch._dynamo.callback import callback_handler

        if self.compiled:
            self._complaints.close()
            callback_handler.remove_start_callback(self._on_start)
            callback_handler.remove_end_callback(self._on_end)


class _Complaints(logging.Handler):
    """Hears what torch's caches warn of: entries that could not be read, kept or written. torch
    compiles in their place and goes on, so without this the record would show a plain miss."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.texts: list[str] = []
        for name in CACHE_LOGGERS:
            logging.getLogger(name).addHandler(self)

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage().partition("\n")[0]
        cause = record.exc_info[1] if record.exc_info else None
        text = f"{text}: {_first_line(cause)}" if cause is not None else text
        if text not in self.texts:
            self.texts.append(text)

    def close(self) -> None:
        for name in CACHE_LOGGERS:
            logging.getLogger(name).removeHandler(self)
        super().close()


def _counts() -> Counts:
    from torch._dynamo.utils import counters

    inductor = counters["inductor"]
    return Counts(
        graphs=counters["stats"]["unique_graphs"],
        hits=inductor["fxgraph_cache_hit"],
        misses=inductor["fxgraph_cache_miss"],
        bypasses=inductor["fxgraph_cache_bypass"],
    )


def _reason(compile_ids: list[str]) -> str | None:
    """Why Dynamo compiled one of these again, in one line."""
    from torch._dynamo.utils import get_compilation_metrics

    told = [m.recompile_reason for m in get_compilation_metrics() if m.compile_id in compile_ids]
    return next((" ".join(reason.split()) for reason in told if reason), None)


def _is_the_machine_s(error: Exception) -> bool:
    """Whether a GPU or memory failed, for which no cache is to blame."""
    return any(is_out_of_memory(each) or gpu_remedy(each) for each in _chain(error))


def _why_unwritten(error: Exception) -> str | None:
    """What kept a file from being written, where that is what the exception comes from."""
    for each in _chain(error):
        if isinstance(each, OSError) and each.errno in CANNOT_WRITE:
            return str(each)
        if NO_SPACE in str(each):
            return NO_SPACE
    return None


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """An exception and those it was raised from; torch also wraps one as `inner_exception`."""
    while error is not None:
        yield error
        error = getattr(error, "inner_exception", None) or error.__cause__ or error.__context__


def _first_line(error: BaseException) -> str:
    inner = getattr(error, "inner_exception", None) or error
    lines = str(inner).strip().splitlines()
    return f"{type(inner).__name__}: {lines[0][:200]}" if lines else type(inner).__name__


def _processor(device: torch.device) -> str:
    """What compiled code is made for."""
    if device.type != "cuda":
        return f"cpu {cpu_json()['name']}"
    major, minor = torch.cuda.get_device_capability(device)
    return f"{torch.cuda.get_device_name(device)} sm{major}{minor}"
