"""Which kernel runs where: one pure function of the configuration and what the machine offers.

The record of a run keeps the plan, and the GPU tests compare it with the kernels of a profiled
step, so that a fused kernel is never used or lost in silence.
"""

from model.config import Config


def kernel_plan(config: Config, attention: str) -> dict[str, str]:
    """Operation -> kernel; `attention` is the back-end that was chosen for this device."""
    compiled = "inductor" if config.system.compile else "eager"
    return {
        "attention": attention,
        "norms": compiled,
        "mlp_activation": compiled,
        "cross_entropy": compiled,
        "adamw": "torch fused",
        "muon": "torch batched matmul" if config.optimizer.muon is not None else "none",
    }
