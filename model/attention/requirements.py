"""Why a kernel cannot run here: device, capability, dtype, head width, and last its package.

The package is checked last, because the check imports it (seconds, and for some a CUDA context); a
package that the machine cannot use is not imported.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch

Problem = tuple[str, str]
"""Why a kernel cannot run, and a hint."""
FALLBACK = "or set system.attention: auto"


@dataclass(frozen=True, kw_only=True)
class Requirements:
    """Requirements of a FlashAttention kernel on GPU, dtype and heads."""

    kernel: str
    """The name in messages."""
    capabilities: tuple[int, ...]
    """Supported major compute capabilities."""
    max_head_width: int
    """The largest head width, in channels."""

    def unmet_on(self, device: torch.device, head_width: int, dtype: torch.dtype) -> Problem | None:
        """The first unmet requirement, or None; does not query a device that is not a GPU."""
        if device.type != "cuda":
            return f"{self.kernel} runs on a CUDA GPU only", "Set system.attention: auto."
        major, minor = torch.cuda.get_device_capability(device)
        if major not in self.capabilities:
            supported = ", ".join(f"{capability}.x" for capability in self.capabilities)
            return (
                f"{self.kernel} has code for compute capability {supported}, this GPU has "
                f"{major}.{minor}",
                "Set system.attention: auto.",
            )
        if dtype not in (torch.bfloat16, torch.float16):
            return (
                f"{self.kernel} computes in bf16 and fp16, not in {dtype}",
                f"Set system.precision: bf16, {FALLBACK}.",
            )
        if head_width % 8 or head_width > self.max_head_width:
            return (
                f"{self.kernel} takes head widths that are multiples of 8 up to "
                f"{self.max_head_width}, not {head_width}",
                f"Change model.head_width, {FALLBACK}.",
            )
        return None


def package_problem(
    name: str, load: Callable[[], object], install: str, otherwise: str = FALLBACK
) -> Problem | None:
    """Why `load` cannot import the package `name`; distinguishes missing from broken packages.

    `install` is the command that repairs both, `otherwise` the alternative. An import of CUDA code
    can raise any exception, from a missing library to a version check, so every exception counts
    as broken and is reported with its text.
    """
    try:
        load()
    except Exception as error:
        text = " ".join(str(error).split())
        missing = isinstance(error, PackageMissing)
        reason = text if missing else f"{name} is broken here: {type(error).__name__}: {text}"
        return reason, f"Run: {install}, {otherwise}."
    return None


class PackageMissing(Exception):
    """A kernel package is not installed."""
