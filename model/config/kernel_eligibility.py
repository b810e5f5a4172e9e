"""The places of a model where the configuration allows a fused kernel. No torch.

The machine is checked in model/kernels: the GPU may be too old, or a package may be missing. This
file suffices to estimate a run's memory in advance, with all eligible kernels and with none.
"""

from model.config import Config
from model.config.shapes import Sizes

FUSED = {"loss": "triton", "qkv": "triton", "products": "quack", "muon": "triton"}
"""The fused kernel for each place."""
PRODUCTS_ACTIVATIONS = ("relu2", "gelu")


def eligible_kernels(config: Config, sizes: Sizes) -> frozenset[str]:
    """Places where the configuration allows a fused kernel."""
    if config.system.device == "cpu" or config.system.precision != "bf16":
        return frozenset()
    allowed = [place for place in FUSED if getattr(config.system, f"{place}_kernel") != "torch"]
    return frozenset(place for place in allowed if unsupported(place, config, sizes) is None)


def unsupported(place: str, config: Config, sizes: Sizes) -> str | None:
    """Why the fused kernel of `place` does not support the configuration (a predicate), or None."""
    model = config.model
    if place in ("qkv", "products") and model.bias:
        return "does not support biases"
    if place == "qkv" and attention_in_fp8(config):
        return "multiplies in bf16, not in fp8"
    if place == "products" and model.activation not in PRODUCTS_ACTIVATIONS:
        return f"supports {' and '.join(PRODUCTS_ACTIVATIONS)}, not {model.activation}"
    if place == "qkv" and model.rotary is not None and model.paired_heads is not None:
        return "rotates all heads by the same angles, and paired heads need different ones"
    if place == "qkv" and sizes.head_width & (sizes.head_width - 1):
        return f"needs a power of two as head width, not {sizes.head_width} channels"
    return _unsupported_by_loss(config) if place == "loss" else None


def _unsupported_by_loss(config: Config) -> str | None:
    if config.schedule.multi_token is not None:
        return "predicts one token, not several"
    if head_in_fp8(config) and config.system.fp8_kernel == "emulated":
        return "multiplies in fp8 by scaled_mm, not emulated"
    if (fp8 := config.model.fp8) is not None and head_in_fp8(config) and fp8.scales != "dynamic":
        return f"supports dynamic fp8 scales, not {fp8.scales} ones"
    if config.model.logit_rescale is not None:
        return "does not support logit rescaling"
    return None


def head_in_fp8(config: Config) -> bool:
    """Whether the head's products use fp8."""
    fp8 = config.model.fp8
    return fp8 is not None and (fp8.places == "head" or (fp8.places == "all" and fp8.head))


def mlp_in_fp8(config: Config) -> bool:
    """Whether the products of MLPs use fp8."""
    return config.model.fp8 is not None and config.model.fp8.places != "head"


def attention_in_fp8(config: Config) -> bool:
    """Whether the products of attention's Linears use fp8."""
    return config.model.fp8 is not None and config.model.fp8.places == "all"
