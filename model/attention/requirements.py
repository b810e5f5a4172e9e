"""Why a kernel cannot run here: device, capability, number format, head width, then its package.

The order matters. The package comes last, because asking about it imports it (seconds, and a CUDA
context with some), and nothing should be imported that the machine could not use anyway.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch

Problem = tuple[str, str]
"""What keeps a kernel from running, and what to do about it."""
OTHERWISE = "or set system.attention: auto"


@dataclass(frozen=True, kw_only=True)
class Needs:
    """What a FlashAttention kernel asks of GPU, number format and heads."""

    kernel: str
    """The name users know."""
    capabilities: tuple[int, ...]
    """Major compute capabilities that it has code for."""
    widest_head: int
    """The largest head width, in channels."""

    def unmet_by(self, device: torch.device, head_width: int, dtype: torch.dtype) -> Problem | None:
        """The first need that is not met; asks the device for nothing where it is no GPU."""
        if device.type != "cuda":
            return f"{self.kernel} runs on a CUDA GPU only", "Set system.attention: auto."
        major, minor = torch.cuda.get_device_capability(device)
        if major not in self.capabilities:
            known = ", ".join(f"{capability}.x" for capability in self.capabilities)
            return (
                f"{self.kernel} has code for compute capability {known}, this GPU has "
                f"{major}.{minor}",
                "Set system.attention: auto.",
            )
        if dtype not in (torch.bfloat16, torch.float16):
            return (
                f"{self.kernel} computes in bf16 and fp16, not in {dtype}",
                f"Set system.precision: bf16, {OTHERWISE}.",
            )
        if head_width % 8 or head_width > self.widest_head:
            return (
                f"{self.kernel} takes head widths that are multiples of 8 up to "
                f"{self.widest_head}, not {head_width}",
                f"Change model.head_width, {OTHERWISE}.",
            )
        return None


def package_problem(
    name: str, load: Callable[[], object], install: str, otherwise: str = OTHERWISE
) -> Problem | None:
    """Whether `load` imports the package `name`; a missing one is told from a broken one.

    `install` is the command that repairs both, `otherwise` how to do without. An import of CUDA
    code can fail with anything, from a missing library to a version check of its own, so every
    exception counts as broken and is reported with its text.
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
    """A kernel package is not installed at all."""
