"""The catalogue of tricks: what each toggles, its requirements, its source and its authors.

One table, without registration. `on` and `off` are overrides; a trick is on when any field of `off`
differs from its off value. For a choice by name, such as the activation, each name is a separate
trick, on only if selected. `retune` lists the fields that an arm without the trick must tune again
for a fair comparison. The file of a trick, or the code at its field, defines what it computes.
`not_built` lists known tricks without a toggle. No torch.
"""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from model.config import Config
from model.errors import ConfigError, ConfigErrors

PACKAGE = Path(__file__).parents[1]  # model/


@dataclass(frozen=True, kw_only=True)
class Trick:
    """One entry."""

    summary: str
    """One sentence; `(variant)` if it differs from its source (the file lists the differences)."""
    on: dict[str, Any]
    """Overrides that switch it on with the reference settings."""
    off: dict[str, Any]
    """Overrides that switch it off: the 2019 choice."""
    requires: tuple[str, ...] = ()
    conflicts: tuple[str, ...] = ()
    retune: tuple[str, ...] = ()
    """Fields that an arm without it must tune again."""
    neutral_at_init: bool = False
    """Whether toggling it keeps the initial loss (its additions start at zero)."""
    source: str
    people: str
    file: str
    """The file that computes it, relative to the package."""

    @property
    def lines(self) -> int:
        """Lines of its own file; 0 if it is part of a shared file."""
        own = self.file.startswith("tricks/") or self.file in ("optim/muon.py", "kernels/fp8.py")
        return len((PACKAGE / self.file).read_text(encoding="utf-8").splitlines()) if own else 0

    def as_json(self) -> dict[str, Any]:
        return {**dataclasses.asdict(self), "lines": self.lines}


REFERENCE_EMBEDDING = {
    "lr": 0.3,
    "beta1": 0.8,
    "beta2": 0.995,
    "eps": 1e-10,
    "decay": 0.001,
    "batch_scaled": True,
    "width_scaled": True,
}
REFERENCE_HEAD = {**REFERENCE_EMBEDDING, "lr": 0.008, "beta2": 0.96, "decay": 0.01}
REFERENCE_MUON = {
    "orthogonalize": "polar_express",
    "normuon": {},
    "equalize_rows": True,
    "norm_floor": 1e-6,
    "renormalize": True,
    "cautious_decay": True,
}

TRICKS: dict[str, Trick] = {
    "windows": Trick(
        summary="Attention sees a quarter of the context in three layers of four",
        on={"model.windows": {"pattern": "SSSL"}},
        off={"model.windows": None},
        source="modded-nanogpt 2024-12, 2025-02; nanochat",
        people="@leloykun, @KoszarskyB, @varunneal, @karpathy",
        file="attention/__init__.py",
    ),
    "muon": Trick(
        summary="Orthogonalized momentum steps for matrices in place of AdamW",
        on={"optimizer.muon": REFERENCE_MUON},
        off={"optimizer.muon": None},
        retune=("optimizer.matrices.lr",),
        source="https://kellerjordan.github.io/posts/muon",
        people="@kellerjordan0, @jxbz, @YouJiacheng and others",
        file="optim/muon.py",
    ),
    "muon_polar_express": Trick(
        summary="Orthogonalizing iteration with coefficients optimized for each step",
        on={"optimizer.muon.orthogonalize": "polar_express"},
        off={"optimizer.muon.orthogonalize": "newton_schulz"},
        requires=("muon",),
        source="arXiv 2505.16932",
        people="Amsel, Persson, Musco, Gower; @varunneal",
        file="optim/orthogonal.py",
    ),
    "muon_normuon": Trick(
        summary="The orthogonal update is normalized by second moments per row or column",
        on={"optimizer.muon.normuon": {}},
        off={"optimizer.muon.normuon": None},
        requires=("muon",),
        source="arXiv 2510.05491",
        people="@li_zichong",
        file="optim/orthogonal.py",
    ),
    "muon_equalize_rows": Trick(
        summary="MuonEq: momentum rows scaled to equal norms before orthogonalizing",
        on={"optimizer.muon.equalize_rows": True},
        off={"optimizer.muon.equalize_rows": False},
        requires=("muon",),
        source="arXiv 2603.28254",
        people="authors of MuonEq",
        file="optim/orthogonal.py",
    ),
    "muon_renormalize": Trick(
        summary="Muon+: the update scaled to Frobenius norm sqrt(min(m, n))",
        on={"optimizer.muon.renormalize": True},
        off={"optimizer.muon.renormalize": False},
        requires=("muon",),
        source="arXiv 2602.21545",
        people="authors of Muon+",
        file="optim/orthogonal.py",
    ),
    "muon_cautious_decay": Trick(
        summary="Weight decay only where update and weight agree in sign",
        on={"optimizer.muon.cautious_decay": True},
        off={"optimizer.muon.cautious_decay": False},
        requires=("muon",),
        source="arXiv 2411.16085",
        people="authors of cautious optimizers; @varunneal",
        file="optim/muon.py",
    ),
    "adamw_cautious_decay": Trick(
        summary="AdamW decays a weight only where its update also shrinks it",
        on={"optimizer.adamw_cautious_decay": {}},
        off={"optimizer.adamw_cautious_decay": None},
        source="arXiv 2510.12402; modded-nanogpt PR 172 (2025-12-18)",
        people="Chen and others; @roeeshenberg, @varunneal",
        file="tricks/adamw_cautious_decay.py",
    ),
    "weight_average": Trick(
        summary="Evaluations use an average of the weights of recent steps, blended with them",
        on={"optimizer.weight_average": {"decay": 0.9933, "start": 0.74, "blend": 0.6}},
        off={"optimizer.weight_average": None},
        source="modded-nanogpt track 3, PR 325 (2026-06-12); refused by nanochat (2026-03-24)",
        people="Polyak and Juditsky; @jn2clark, @ypwang61",
        file="tricks/weight_average.py",
    ),
    "residual_scalars": Trick(
        summary="Each layer scales the stream and adds a share of the embedding",
        on={"model.residual_scalars": {}},
        off={"model.residual_scalars": None},
        source="modded-nanogpt 2024-11; nanochat",
        people="@Grad62304977, @karpathy",
        file="tricks/residual_scalars.py",
    ),
    "backout": Trick(
        summary="A share of the middle block's output is subtracted before the head",
        on={"model.backout": {}},
        off={"model.backout": None},
        source="modded-nanogpt 2025-10, PR 140; nanochat",
        people="@classiclarryd",
        file="tricks/backout.py",
    ),
    "unet_skips": Trick(
        summary="Blocks of the first half feed their mirror blocks in the second half",
        on={"model.unet_skips": {}},
        off={"model.unet_skips": None},
        source="modded-nanogpt 2024-11",
        people="@brendanh0gan",
        file="tricks/unet_skips.py",
    ),
    "mudd_connections": Trick(
        summary="Each token mixes earlier streams into the last layer, its values and the head",
        on={"model.mudd_connections": {}},
        off={"model.mudd_connections": None},
        neutral_at_init=True,
        source="arXiv 2502.12170; modded-nanogpt PR 259 (2026-04)",
        people="Xiao and others; @Lisennlp",
        file="tricks/mudd_connections.py",
    ),
    "mudd_gates": Trick(
        summary="Per-token factors of the embedding, token pairs and skips",
        on={"model.mudd_connections.gates": {}},
        off={"model.mudd_connections.gates": None},
        requires=("mudd_connections", "residual_scalars"),
        neutral_at_init=True,
        source="modded-nanogpt PR 315 (2026-05)",
        people="@Lisennlp",
        file="tricks/mudd_gates.py",
    ),
    "value_embeddings": Trick(
        summary="Gated token tables are added to the values of every other layer",
        on={"model.value_embeddings": {}},
        off={"model.value_embeddings": None},
        source="ResFormer, arXiv 2410.17897; modded-nanogpt 2024-12",
        people="@KoszarskyB, @Grad62304977",
        file="tricks/value_embeddings.py",
    ),
    "bigram_hash_embedding": Trick(
        summary="A hashed table of token pairs is added to the stream before every layer",
        on={"model.bigram_hash_embedding": {}},
        off={"model.bigram_hash_embedding": None},
        neutral_at_init=True,
        source="modded-nanogpt PR 201 (2026-01), signs PR 299 (2026-05); nanochat 2026-01",
        people="@classiclarryd, @trianxy",
        file="tricks/bigram_hash_embedding.py",
    ),
    "smear": Trick(
        summary="Each embedding adds a gated share of the previous token",
        on={"model.smear": {}},
        off={"model.smear": None},
        neutral_at_init=True,
        source="modded-nanogpt 2025-09; nanochat",
        people="@classiclarryd",
        file="tricks/smear.py",
    ),
    "softcap": Trick(
        summary="Logits are bounded by a tanh",
        on={"model.softcap": {"cap": 15.0}},
        off={"model.softcap": None},
        source="Gemma 2, arXiv 2408.00118; modded-nanogpt 2024-11",
        people="@Grad62304977",
        file="gpt.py",
    ),
    "logit_rescale": Trick(
        summary="Logits through 23 sigmoid((z + 5) / 7.5)",
        on={"model.logit_rescale": {}},
        off={"model.logit_rescale": None},
        conflicts=("softcap",),
        source="modded-nanogpt PR 181 (2025-12); refused by nanochat (log of 2026-01-16)",
        people="@classiclarryd",
        file="tricks/logit_rescale.py",
    ),
    "rotary": Trick(
        summary="Rotary positions in place of learned ones",
        on={"model.rotary": {}},
        off={"model.rotary": None},
        source="RoFormer, arXiv 2104.09864",
        people="Su and others; @kellerjordan0",
        file="tricks/rotary.py",
    ),
    "half_rotary": Trick(
        summary="Half of the channels rotate with position, the others do not",
        on={"model.rotary.half": {}},
        off={"model.rotary.half": None},
        requires=("rotary",),
        source="modded-nanogpt; refused by nanochat (log of 2026-01-16)",
        people="@YouJiacheng",
        file="tricks/half_rotary.py",
    ),
    "partial_key_offset": Trick(
        summary="Unrotated key channels come from the previous token in full-context layers",
        on={"model.partial_key_offset": True},
        off={"model.partial_key_offset": False},
        requires=("rotary", "half_rotary"),
        source="modded-nanogpt PR 169 (2025-12), PR 201",
        people="@classiclarryd",
        file="tricks/partial_key_offset.py",
    ),
    "dropped_layers": Trick(
        summary="A layer in the middle has no attention",
        on={"model.dropped_layers": {}},
        off={"model.dropped_layers": None},
        source="modded-nanogpt 2024-12-17; first MLP, PR 120 (2025-09); first attention, PR 131",
        people="@YouJiacheng, @EmelyanenkoK, @classiclarryd",
        file="config/dropped_layers.py",
    ),
    "paired_heads": Trick(
        summary="Two heads share one softmax in some short-window layers (variant)",
        on={"model.paired_heads": {}},
        off={"model.paired_heads": None},
        requires=("windows",),
        source="modded-nanogpt 2026-01-07",
        people="@classiclarryd",
        file="tricks/paired_heads.py",
    ),
    "document_mask": Trick(
        summary="A query sees only keys of its own document",
        on={"model.document_mask": {}},
        off={"model.document_mask": None},
        source="modded-nanogpt 2024-11-19; refused by nanochat (log of 2026-01-13)",
        people="@KoszarskyB; @YouJiacheng, @varunneal (varlen); @karpathy",
        file="tricks/document_mask.py",
    ),
    "sparse_attention_gate": Trick(
        summary="A gate on each head's output, from 12 channels of its input",
        on={"model.sparse_attention_gate": {}},
        off={"model.sparse_attention_gate": None},
        source="modded-nanogpt PR 117 (2025-08)",
        people="@classiclarryd",
        file="tricks/sparse_attention_gate.py",
    ),
    "xsa": Trick(
        summary="A head's output without its component along the token's own value (variant)",
        on={"model.xsa": True},
        off={"model.xsa": False},
        source="arXiv 2603.09078; nanochat, log of 2026-03-24",
        people="Zhai; @karpathy",
        file="tricks/xsa.py",
    ),
    "learnable_xsa": Trick(
        summary="Each head learns what share of its token's own value to remove",
        on={"model.learnable_xsa": {}},
        off={"model.learnable_xsa": None},
        conflicts=("xsa",),
        neutral_at_init=True,
        source="modded-nanogpt PR 264 (2026-04-29); arXiv 2603.09078",
        people="@djdumpling; Zhai",
        file="tricks/learnable_xsa.py",
    ),
    "qk_norm": Trick(
        summary="Queries and keys scaled to root mean square 1.2",
        on={"model.qk_norm": {}},
        off={"model.qk_norm": None},
        source="arXiv 2010.04245; modded-nanogpt 2024-11",
        people="@Grad62304977",
        file="gpt.py",
    ),
    "rmsnorm": Trick(
        summary="RMSNorm without parameters, also after the embedding, in place of LayerNorm",
        on={"model.norm": "rmsnorm"},
        off={"model.norm": "layernorm"},
        source="arXiv 1910.07467",
        people="Zhang and Sennrich; @kellerjordan0",
        file="arch/norm.py",
    ),
    "bias_free": Trick(
        summary="Linears without biases",
        on={"model.bias": False},
        off={"model.bias": True},
        neutral_at_init=True,
        source="PaLM, arXiv 2204.02311",
        people="Chowdhery and others",
        file="arch/linear.py",
    ),
    "relu_squared": Trick(
        summary="Squared ReLU in place of GELU",
        on={"model.activation": "relu2"},
        off={"model.activation": "gelu"},
        conflicts=("leaky_relu_squared", "swiglu"),
        source="Primer, arXiv 2109.08668",
        people="So and others; @Grad62304977",
        file="gpt.py",
    ),
    "leaky_relu_squared": Trick(
        summary="Squared leaky ReLU of slope 0.5 in place of GELU",
        on={"model.activation": "leaky_relu2"},
        off={"model.activation": "gelu"},
        conflicts=("relu_squared", "swiglu"),
        source="openai/parameter-golf PR 493, 2026-03; refused by nanochat (log of 2026-03-24)",
        people="@parinzee; @karpathy",
        file="gpt.py",
    ),
    "swiglu": Trick(
        summary="A gated MLP with equal parameters in place of GELU",
        on={"model.activation": "swiglu"},
        off={"model.activation": "gelu"},
        conflicts=("relu_squared", "leaky_relu_squared"),
        source="arXiv 2002.05202; refused by nanochat (log of 2026-02-05)",
        people="Shazeer; @karpathy",
        file="tricks/swiglu.py",
    ),
    "fp8": Trick(
        summary="Matrix products of Linears in fp8 during training, one scale per tensor",
        on={"model.fp8": {}},
        off={"model.fp8": None},
        source="arXiv 2209.05433; torchao's tensorwise recipe; nanochat 2026-02",
        people="Micikevicius and others; @vkuzo, @drisspg; @karpathy",
        file="kernels/fp8.py",
    ),
    "fp8_head_only": Trick(
        summary="Fp8 for the products of the head only",
        on={"model.fp8.places": "head"},
        off={"model.fp8.places": "all"},
        requires=("fp8",),
        conflicts=("fp8_mlp_only",),
        source="modded-nanogpt 2025-01-13",
        people="@YouJiacheng",
        file="kernels/fp8.py",
    ),
    "fp8_mlp_only": Trick(
        summary="Fp8 for the products of MLPs only",
        on={"model.fp8.places": "mlp"},
        off={"model.fp8.places": "all"},
        requires=("fp8",),
        conflicts=("fp8_head_only",),
        source="modded-nanogpt PR 306 (2026-05) and PR 342 (2026-07), forward passes",
        people="@sisovicm; @Mister-dev-oss, @CerovazS, @MarioPaerle, @GabrieleCirillo, @crisostomi",
        file="kernels/fp8.py",
    ),
    "fp8_static_scales": Trick(
        summary="Fp8 scales are constants",
        on={"model.fp8.scales": "static"},
        off={"model.fp8.scales": "dynamic"},
        requires=("fp8",),
        conflicts=("fp8_delayed_scales",),
        source="modded-nanogpt 2025-01-13, of the head; scales of 2025-12-19",
        people="@YouJiacheng; @varunneal",
        file="kernels/fp8.py",
    ),
    "fp8_delayed_scales": Trick(
        summary="Fp8 scales come from the maxima of previous steps",
        on={"model.fp8.scales": "delayed"},
        off={"model.fp8.scales": "dynamic"},
        requires=("fp8",),
        conflicts=("fp8_static_scales",),
        neutral_at_init=True,
        source="modded-nanogpt PR 342 (2026-07), of MLPs' second products",
        people="@Mister-dev-oss, @CerovazS, @MarioPaerle, @GabrieleCirillo, @crisostomi",
        file="kernels/fp8.py",
    ),
    "untied_head": Trick(
        summary="A separate head in place of the embedding table",
        on={"model.tied_head": False},
        off={"model.tied_head": True},
        retune=("optimizer.embedding.lr",),
        source="modded-nanogpt 2024-11",
        people="@Grad62304977",
        file="gpt.py",
    ),
    "zero_init": Trick(
        summary="Residual projections start at zero, the rest uniform, in place of N(0, 0.02)",
        on={"model.init": "zero_projections"},
        off={"model.init": "gpt2"},
        source="muP, arXiv 2203.03466; modded-nanogpt 2024-11",
        people="@Grad62304977",
        file="arch/init.py",
    ),
    "wide_heads": Trick(
        summary="Heads of 128 channels in place of 64",
        on={"model.head_width": 128},
        off={"model.head_width": 64},
        source="modded-nanogpt 2024-10; nanochat",
        people="@kellerjordan0",
        file="attention/__init__.py",
    ),
    "table_rates": Trick(
        summary="Separate learning rates, betas and decay for embedding and head",
        on={"optimizer.embedding": REFERENCE_EMBEDDING, "optimizer.head": REFERENCE_HEAD},
        off={"optimizer.embedding": {}, "optimizer.head": {}},
        source="modded-nanogpt 2024-11; nanochat",
        people="@kellerjordan0, @karpathy",
        file="config/optimizer.py",
    ),
    "warmdown": Trick(
        summary="A constant learning rate, then linear decay, in place of a cosine",
        on={"schedule.warmdown": {}, "schedule.warmup_steps": 40},
        off={"schedule.warmdown": None, "schedule.warmup_steps": None},
        source="arXiv 2405.18392; modded-nanogpt 2024-10",
        people="Hägele and others; @kellerjordan0",
        file="config/schedules.py",
    ),
    "tables_every_second_step": Trick(
        summary="Embedding and head are updated every second step, on both gradients (variant)",
        on={"optimizer.table_interval_steps": 2},
        off={"optimizer.table_interval_steps": 1},
        requires=("no_clipping",),  # the norm of partly accumulated gradients is meaningless
        source="modded-nanogpt 2025-09-30, #136, of all parameters of Adam",
        people="@classiclarryd",
        file="optim/labels.py",
    ),
    "tie_then_untie": Trick(
        summary="The embedding shares the head's table for two thirds of the run, then separates",
        on={"schedule.untie": {}},
        off={"schedule.untie": None},
        requires=("untied_head",),
        retune=("optimizer.embedding.lr",),
        source="modded-nanogpt 2025-12-19, #175 and 2025-12-22, #178",
        people="@varunneal, @classiclarryd",
        file="optim/tie.py",
    ),
    "batch_size_schedule": Trick(
        summary="The batch grows in three parts, with the learning rate",
        on={"schedule.batch_stages": {}},
        off={"schedule.batch_stages": None},
        source="modded-nanogpt 2025-11-29, #163",
        people="@varunneal",
        file="config/stages.py",
    ),
    "sequence_length_schedule": Trick(
        summary="Rows are cut in half in the first third (variant)",
        on={"schedule.context_stages": {}},
        off={"schedule.context_stages": None},
        source="arXiv 2108.06084; modded-nanogpt 2026-02 truncates documents (896, then 2,048)",
        people="Li and others; contributors of modded-nanogpt",
        file="config/stages.py",
    ),
    "window_warmup_yarn": Trick(
        summary="Attention windows grow in three parts; rotary frequencies follow (variant)",
        on={"schedule.window_warmup": {}},
        off={"schedule.window_warmup": None},
        requires=("windows", "rotary", "qk_norm"),
        source="modded-nanogpt 2024-11-24 and 2025-09-10, #122; YaRN, arXiv 2309.00071",
        people="@fernbear.bsky.social, @classiclarryd; Peng and others",
        file="tricks/window_warmup.py",
    ),
    "multi_token_prediction": Trick(
        summary="The second and third token ahead count in the loss with falling weights",
        on={"schedule.multi_token": {}},
        off={"schedule.multi_token": None},
        source="modded-nanogpt 2025-12-22, #178; arXiv 2404.19737",
        people="@varunneal; Gloeckle and others",
        file="tricks/multi_token.py",
    ),
    "no_clipping": Trick(
        summary="Gradients are not clipped",
        on={"optimizer.clip": None},
        off={"optimizer.clip": 1.0},
        source="modded-nanogpt; nanochat 2026-01 (log of 2026-01-08)",
        people="@kellerjordan0, @karpathy",
        file="optim/labels.py",
    ),
}

SETTABLE_FIELDS = {
    "seed": "seed",
    "steps": "dial.steps",
    "evaluate": "eval.every_steps",
    "checkpoint": "checkpoint.every_steps",
}
"""Fields that a harness may set."""


def active(config: Config) -> dict[str, bool]:
    """Whether each trick is on."""
    return {name: _is_on(config, trick) for name, trick in TRICKS.items()}


def check(config: Config) -> None:
    """Raise ConfigErrors for unmet requirements and conflicts of tricks that are on."""
    state = active(config)
    errors = []
    for name, trick in TRICKS.items():
        if not state[name]:
            continue
        for needed in trick.requires:
            if not state[needed]:
                errors.append(_unmet(name, f"{needed} on", f"{needed} off", TRICKS[needed].on))
        for other in trick.conflicts:
            if state[other]:
                errors.append(_unmet(name, f"{other} off", f"{other} on", TRICKS[other].off))
    if errors:
        raise ConfigErrors(errors)


def _unmet(name: str, expected: str, got: str, hint: dict[str, Any]) -> ConfigError:
    settings = ", ".join(f"{path}: {value}" for path, value in hint.items())
    return ConfigError(path=name, expected=expected, got=got, hint=f"Set {settings}.")


def _is_on(config: Config, trick: Trick) -> bool:
    return any(_field_is_on(config, path, trick.on[path], off) for path, off in trick.off.items())


def _field_is_on(config: Config, path: str, on: Any, off: Any) -> bool:
    """Whether the field at `path` equals the name `on`, or differs from `off`; an absent parent is
    off."""
    value: Any = config
    default: Any = Config()
    for name in path.split("."):
        if value is None:
            return False
        value = getattr(value, name)
        default = getattr(default, name, None)
    if dataclasses.is_dataclass(value) and off == {}:
        return bool(value != default)
    return bool(value == on) if isinstance(on, str) else bool(value != off)
