"""Known speedrun tricks without a toggle in this trainer, and why: part of the catalogue. No torch.

`source` and `people` as in the catalogue. Remove an entry when the trick is built.
"""

from dataclasses import asdict, dataclass


@dataclass(frozen=True, kw_only=True)
class NotBuilt:
    """One entry."""

    summary: str
    """One sentence."""
    source: str
    people: str
    reason: str
    """Why it is not built."""

    def as_json(self) -> dict[str, str]:
        return asdict(self)


NOT_BUILT: dict[str, NotBuilt] = {
    "prefix_token_prediction": NotBuilt(
        summary="The loss also counts the longest token that is a prefix of the next token",
        source="modded-nanogpt PR 337 (2026-07)",
        people="@jvarho",
        reason="the loss needs a table of the vocabulary's bytes, which the model does not read",
    ),
    "dynamic_head_composition": NotBuilt(
        summary="The last attention layer recombines its heads for each token",
        source="arXiv 2405.08553; modded-nanogpt PR 315 (2026-05)",
        people="Xiao and others; @Lisennlp",
        reason="needs attention weights, which fused back-ends do not return, or a new kernel",
    ),
    "head_pair_muon": NotBuilt(
        summary="Muon orthogonalizes queries and keys by pairs of heads",
        source="modded-nanogpt PR 253 (2026-04)",
        people="@samacqua",
        reason="Muon's stacks and their shards consist of whole matrices",
    ),
    "output_projection_rate": NotBuilt(
        summary="The output projections of MLPs take twice the learning rate of other matrices",
        source="modded-nanogpt PR 146 (2025-10)",
        people="@varunneal",
        reason="matrices share one label and one rate, as in the reference recipe",
    ),
    "sublayer_scalars": NotBuilt(
        summary="Attention and MLP each have factors on the stream and on their output",
        source="modded-nanogpt PR 233 (2026-02); PR 230 before it",
        people="@ChrisJMcCormick; @sisovicm",
        reason="residual_scalars has nanochat's form, one factor per layer",
    ),
    "gated_skips": NotBuilt(
        summary="Gates on one skip from an early to a middle layer and on attention's scale",
        source="modded-nanogpt PR 159 (2025-11) and PR 186 (2025-12)",
        people="@classiclarryd",
        reason="unet_skips has the form of 2024-11; mudd_gates makes per-token factors",
    ),
    "value_output_init": NotBuilt(
        summary="Tuned initial scales of attention's value and output projections instead of zero",
        source="modded-nanogpt PR 214 (2026-01)",
        people="@srashedll",
        reason="the scales were tuned for one size; the dial has no rule for them",
    ),
    "scalar_freezing": NotBuilt(
        summary="Scalars have higher betas and are frozen around stage changes",
        source="modded-nanogpt PR 177 (2025-12)",
        people="@ChrisJMcCormick",
        reason="betas are settings per label; freezing needs stages in the optimizer",
    ),
    "saved_activation": NotBuilt(
        summary="Attention of the last layers reads one saved middle activation",
        source="modded-nanogpt PR 241 (2026-03)",
        people="@classiclarryd",
        reason="its first layer was tuned for 11 layers, later together with MUDD connections",
    ),
    "soap_muon": NotBuilt(
        summary="Muon's momentum is preconditioned in SOAP's basis before orthogonalizing",
        source="modded-nanogpt track 3 (2026-05), SOAP-Muon; SOAP, arXiv 2409.11321",
        people="Vyas and others; @samacqua",
        reason="from the optimizer track, at equal steps; two matrices of statistics per weight",
    ),
    "mantissa_tracked_bf16": NotBuilt(
        summary="Weights in bf16, with the remaining mantissa bits stored separately",
        source="modded-nanogpt track 2 (2025-04); PR 190 (2026-01)",
        people="@YouJiacheng; @classiclarryd",
        reason="saves memory and copies; results equal those of fp32 master weights",
    ),
    "extension_steps": NotBuilt(
        summary="A few steps after the schedule, at the final learning rate with longer windows",
        source="modded-nanogpt 2025-09",
        people="@classiclarryd",
        reason="the final windows cover the whole context, without separate steps",
    ),
    "decay_and_momentum_schedules": NotBuilt(
        summary="Decay follows the squared learning rate; momentum has its own cool-down",
        source="modded-nanogpt 2025-10 (momentum), PR 154 (2025-11, decay)",
        people="@classiclarryd; @varunneal",
        reason="Muon's decay and momentum have nanochat's schedules",
    ),
    "packing_rules": NotBuilt(
        summary="Batches of one long row start at documents, which are truncated",
        source="modded-nanogpt 2025-07 to 2026-03 (PR 118, PR 246)",
        people="@classiclarryd, @varunneal, @ChrisJMcCormick",
        reason="rows are part of the data's identity; one rule keeps all arms on the same tokens",
    ),
    "moe": NotBuilt(
        summary="A mixture of experts in place of the MLP",
        source="refused by nanochat (log of 2026-02-19)",
        people="@karpathy",
        reason="better per step but not in time there; needs grouped products",
    ),
    "dyt": NotBuilt(
        summary="A scaled tanh in place of norms",
        source="arXiv 2503.10622; refused by nanochat (log of 2026-05-05)",
        people="Zhu and others; @karpathy",
        reason="higher loss there; not needed as a control so far",
    ),
    "hyperball": NotBuilt(
        summary="Matrices stay on a sphere of their initial norm",
        source="refused by nanochat (log of 2026-01-29)",
        people="@karpathy",
        reason="worse there; needs an initial norm, which zero projections lack",
    ),
    "quarter_rotary": NotBuilt(
        summary="A quarter of the channels rotate with position",
        source="refused by nanochat (log of 2026-03-24)",
        people="@karpathy",
        reason="slightly worse there; half_rotary is a similar control",
    ),
    "norm_scale": NotBuilt(
        summary="The normed input of layer i is divided by sqrt(i + 1)",
        source="refused by nanochat (log of 2026-03-24)",
        people="@karpathy",
        reason="no gain there; the catalogue has several similar controls",
    ),
}
"""Known speedrun tricks that this trainer cannot toggle yet."""
