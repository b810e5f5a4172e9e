"""Which places of a model a fused kernel could serve, as far as the configuration says. No torch.

A machine has its own say (model/kernels): a GPU that is old enough to lack them, or a package that
is not installed. What is known here is enough to tell the memory of a run beforehand, with all the
kernels that it may have and with none.
"""

from model.config import Config
from model.config.shapes import Sizes

FUSED = {"loss": "triton", "qkv": "triton", "products": "quack", "muon": "triton"}
"""The fused kernel of each place."""
PRODUCTS_ACTIVATIONS = ("relu2", "gelu")


def fusible(config: Config, sizes: Sizes) -> frozenset[str]:
    """The places where nothing in the configuration keeps a fused kernel away."""
    if config.system.device == "cpu" or config.system.precision != "bf16":
        return frozenset()
    wanted = [place for place in FUSED if getattr(config.system, f"{place}_kernel") != "torch"]
    return frozenset(place for place in wanted if lacking(place, config, sizes) is None)


def lacking(place: str, config: Config, sizes: Sizes) -> str | None:
    """What the configuration does at this place and its fused kernel cannot, as 'has no ...'."""
    model = config.model
    if place in ("qkv", "products") and model.bias:
        return "has no biases"
    if place == "qkv" and attention_in_fp8(config):
        return "multiplies in bf16, not in fp8"
    if place == "products" and model.activation not in PRODUCTS_ACTIVATIONS:
        return f"knows {' and '.join(PRODUCTS_ACTIVATIONS)}, not {model.activation}"
    if place == "qkv" and model.rotary is not None and model.paired_heads is not None:
        return "turns all heads alike, and paired heads turn by angles of their own"
    if place == "qkv" and sizes.head_width & (sizes.head_width - 1):
        return f"takes heads of a power of two, not {sizes.head_width} channels"
    return _lacking_loss(config) if place == "loss" else None


def _lacking_loss(config: Config) -> str | None:
    if config.schedule.multi_token is not None:
        return "predicts one token and not several"
    if head_in_fp8(config) and config.system.fp8_kernel == "emulated":
        return "multiplies in fp8 by scaled_mm, not emulated"
    if (fp8 := config.model.fp8) is not None and head_in_fp8(config) and fp8.scales != "dynamic":
        return f"has dynamic scales in fp8, not {fp8.scales} ones"
    if config.model.logit_rescale is not None:
        return "has no logit rescale"
    return None


def head_in_fp8(config: Config) -> bool:
    """Whether the head's products are in 8 bits."""
    fp8 = config.model.fp8
    return fp8 is not None and (fp8.places == "head" or (fp8.places == "all" and fp8.head))


def mlp_in_fp8(config: Config) -> bool:
    """Whether the products of MLPs are in 8 bits."""
    return config.model.fp8 is not None and config.model.fp8.places != "head"


def attention_in_fp8(config: Config) -> bool:
    """Whether the products of attention's Linears are in 8 bits."""
    return config.model.fp8 is not None and config.model.fp8.places == "all"
