"""Compilation by torch in this run: cache hits, seconds, and when.

Before training, `warm_up` compiles everything once, without the cache if that is faulty. `as_json`
is the cache result for environment.json. After each step, `take_report` reports a compilation: such
a step takes seconds instead of milliseconds, so it becomes an event and does not count towards the
speed.

The numbers are torch's. `graphs` are those captured by Dynamo. Each becomes one or two compiled
functions (forward, backward), and hits, misses and bypasses count those as Inductor's graph cache
looked them up. Seconds run from the start of an outermost compilation to its end. Kernels that
FlashAttention-4 and quack compile at their first call are not counted.
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
from model.system.compile_cache import CompileCache, folder_key, no_disk_space
from model.system.failure import gpu_hint, is_out_of_memory

KINDS_OF_BLOCK = 64  # each recompiles the same code (model/gpt.py)
CANNOT_WRITE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES)
NO_SPACE = "No space left on device"  # from a C++ compiler, whose errors are text
CACHE_LOGGERS = ("torch._inductor.codecache", "torch._functorch._aot_autograd.autograd_cache")


@dataclass(frozen=True, kw_only=True)
class CompileCounts:
    """Compilations up to now, or between two moments."""

    graphs: int = 0
    hits: int = 0
    misses: int = 0
    bypasses: int = 0
    """Functions that Inductor cannot cache."""

    def __sub__(self, earlier: "CompileCounts") -> "CompileCounts":
        names = (field.name for field in fields(self))
        return CompileCounts(
            **{name: getattr(self, name) - getattr(earlier, name) for name in names}
        )

    @property
    def result(self) -> str:
        """`hit`, `miss` or `partial`; `off` where no cache was read."""
        if self.hits + self.misses + self.bypasses == 0:
            return "off"
        if self.hits == 0:
            return "miss"
        return "hit" if self.misses + self.bypasses == 0 else "partial"


@dataclass(frozen=True, kw_only=True)
class CompilationReport:
    """The compilations since the last report."""

    graphs: int
    seconds: float
    reason: str | None
    """Dynamo's reason for recompiling; null for new code."""


class Compilation:
    """Counts what torch compiles in this process, and replaces a faulty cache."""

    def __init__(self, cache: CompileCache | None, *, compiled: bool) -> None:
        self.cache, self.compiled = cache, compiled
        self.seconds = self._reported_s = 0.0
        self._started_s = 0.0
        self._compiled_ids: list[str] = []
        if compiled:
            import torch._dynamo

            torch._dynamo.config.recompile_limit = KINDS_OF_BLOCK
            # otherwise Dynamo would run the code uncompiled and at most log a line
            torch._dynamo.config.fail_on_recompile_limit_hit = True
            self._first = self._reported = _counts()
            self._listen()
            self._warnings = _CacheWarnings()

    @classmethod
    def start(cls, config: Config, device: torch.device) -> "Compilation":
        """Select the cache of a run on `device`; call it before anything is compiled."""
        compiled, cache = config.system.compile, None
        if compiled or device.type == "cuda":  # a kernel package compiles in eager mode too
            key = folder_key(kernel_versions(), _processor(device))
            cache = CompileCache(Path(config.system.compile_cache_dir), key, os.environ)
        return cls(cache, compiled=compiled)

    def warm_up(self, compile_all: Callable[[], None]) -> None:
        """Run the first compilation, and repeat it without the cache where that may be at fault.

        If the second attempt succeeds, the cache was faulty and is deleted. If it fails, raises its
        error, or MachineError for a full disk.
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
            raise no_disk_space(problem) from error
        self.cache.discard_persistent()

    def take_report(self) -> CompilationReport | None:
        """The compilations since the last call, or null. Cheap where there were none."""
        if not self._compiled_ids:
            return None
        now = _counts()
        seconds, reason = self.seconds - self._reported_s, _reason(self._compiled_ids)
        graphs = (now - self._reported).graphs
        self._reported, self._reported_s = now, self.seconds
        self._compiled_ids.clear()
        return CompilationReport(graphs=graphs, seconds=round(seconds, 4), reason=reason)

    def as_json(self) -> dict[str, Any]:
        """`compile_cache` of environment.json: all compilations up to now."""
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
            "faults": [*self.cache.faults, *self._warnings.texts],
        }

    def _cache_may_be_at_fault(self, error: Exception) -> bool:
        if self.cache is None or self.cache.is_temporary or _is_machine_fault(error):
            return False
        return not self.cache.was_empty or _why_unwritten(error) is not None

    def _start_afresh(self, error: Exception) -> None:
        """Discard everything compiled and loaded, and compile in a temporary folder."""
        from torch._inductor.utils import clear_caches

        assert self.cache is not None
        place = self.cache.folders["TORCHINDUCTOR_CACHE_DIR"]
        self.cache.use_temporary(f"compiling with the cache {place} failed ({_first_line(error)})")
        torch.compiler.reset()  # also removes the callbacks
        clear_caches()
        self._listen()
        self._first = self._reported = _counts()  # discards the first attempt

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
        """Remove the callbacks, for processes with more than one run."""
        from torch._dynamo.callback import callback_handler

        if self.compiled:
            self._warnings.close()
            callback_handler.remove_start_callback(self._on_start)
            callback_handler.remove_end_callback(self._on_end)


class _CacheWarnings(logging.Handler):
    """Collects warnings of torch's caches about entries that could not be read or written. torch
    then compiles instead, so the record would show a plain miss."""

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


def _counts() -> CompileCounts:
    from torch._dynamo.utils import counters

    inductor = counters["inductor"]
    return CompileCounts(
        graphs=counters["stats"]["unique_graphs"],
        hits=inductor["fxgraph_cache_hit"],
        misses=inductor["fxgraph_cache_miss"],
        bypasses=inductor["fxgraph_cache_bypass"],
    )


def _reason(compile_ids: list[str]) -> str | None:
    """Dynamo's reason for one of these recompilations, in one line."""
    from torch._dynamo.utils import get_compilation_metrics

    reasons = [m.recompile_reason for m in get_compilation_metrics() if m.compile_id in compile_ids]
    return next((" ".join(reason.split()) for reason in reasons if reason), None)


def _is_machine_fault(error: Exception) -> bool:
    """Whether a GPU or memory failed, which no cache causes."""
    return any(is_out_of_memory(each) or gpu_hint(each) for each in _chain(error))


def _why_unwritten(error: Exception) -> str | None:
    """The file error that caused the exception, if any."""
    for each in _chain(error):
        if isinstance(each, OSError) and each.errno in CANNOT_WRITE:
            return str(each)
        if NO_SPACE in str(each):
            return NO_SPACE
    return None


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """An exception and its causes; torch also wraps one as `inner_exception`."""
    while error is not None:
        yield error
        error = getattr(error, "inner_exception", None) or error.__cause__ or error.__context__


def _first_line(error: BaseException) -> str:
    inner = getattr(error, "inner_exception", None) or error
    lines = str(inner).strip().splitlines()
    return f"{type(inner).__name__}: {lines[0][:200]}" if lines else type(inner).__name__


def _processor(device: torch.device) -> str:
    """The target of compiled code."""
    if device.type != "cuda":
        return f"cpu {cpu_json()['name']}"
    major, minor = torch.cuda.get_device_capability(device)
    return f"{torch.cuda.get_device_name(device)} sm{major}{minor}"
