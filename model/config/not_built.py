"""Speedrun tricks that this trainer cannot toggle, and why: part of the catalogue. No torch.

`source` and `people` as in the catalogue. A trick leaves this list when it is built.
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
    """Why it is not there."""

    def as_json(self) -> dict[str, str]:
        return asdict(self)


NOT_BUILT: dict[str, NotBuilt] = {
    "prefix_token_prediction": NotBuilt(
        summary="The longest token that the next token begins with counts in the loss too",
        source="modded-nanogpt PR 337 (2026-07)",
        people="@jvarho",
        reason="the loss needs a table of the vocabulary's bytes, which the model does not read",
    ),
    "dynamic_head_composition": NotBuilt(
        summary="The last attention layer composes its heads anew for each token",
        source="arXiv 2405.08553; modded-nanogpt PR 315 (2026-05)",
        people="Xiao and others; @Lisennlp",
        reason="needs attention weights, which fused back-ends do not give, or a kernel",
    ),
    "head_pair_muon": NotBuilt(
        summary="Muon orthogonalises queries and keys head pair by head pair",
        source="modded-nanogpt PR 253 (2026-04)",
        people="@samacqua",
        reason="stacks of Muon and their shards over ranks are of whole matrices",
    ),
    "output_projection_rate": NotBuilt(
        summary="The output projections of MLPs take twice the learning rate of other matrices",
        source="modded-nanogpt PR 146 (2025-10)",
        people="@varunneal",
        reason="matrices share one label, and so one rate, as in the reference recipe",
    ),
    "sublayer_scalars": NotBuilt(
        summary="Attention and MLP each have a factor on the stream and one on their output",
        source="modded-nanogpt PR 233 (2026-02); PR 230 before it",
        people="@ChrisJMcCormick; @sisovicm",
        reason="residual_scalars has nanochat's form, one factor a layer",
    ),
    "gated_skips": NotBuilt(
        summary="A gate on the one skip from an early to a middle layer, and of attention's scale",
        source="modded-nanogpt PR 159 (2025-11) and PR 186 (2025-12)",
        people="@classiclarryd",
        reason="unet_skips has the form of 2024-11; mudd_gates makes its factors by token",
    ),
    "value_output_init": NotBuilt(
        summary="Attention's value and output projections start tuned and not at zero",
        source="modded-nanogpt PR 214 (2026-01)",
        people="@srashedll",
        reason="its scales were tuned for one size; the dial has no rule for them",
    ),
    "scalar_freezing": NotBuilt(
        summary="Scalars are smoothed by higher betas and stand still while stages change",
        source="modded-nanogpt PR 177 (2025-12)",
        people="@ChrisJMcCormick",
        reason="betas are settings of each label; standing still needs stages in the optimizer",
    ),
    "saved_activation": NotBuilt(
        summary="Attention of the last layers reads one saved middle activation",
        source="modded-nanogpt PR 241 (2026-03)",
        people="@classiclarryd",
        reason="where it starts was tuned for 11 layers, together with MUDD connections later",
    ),
    "soap_muon": NotBuilt(
        summary="Muon's momentum is preconditioned in SOAP's basis before it is orthogonalised",
        source="modded-nanogpt track 3 (2026-05), SOAP-Muon; SOAP, arXiv 2409.11321",
        people="Vyas and others; @samacqua",
        reason="of the optimizer track, at equal steps; two matrices of statistics a weight",
    ),
    "mantissa_tracked_bf16": NotBuilt(
        summary="Weights in bf16, with the rest of their mantissa beside them",
        source="modded-nanogpt track 2 (2025-04); PR 190 (2026-01)",
        people="@YouJiacheng; @classiclarryd",
        reason="saves memory and copies, computes what fp32 master weights compute",
    ),
    "extension_steps": NotBuilt(
        summary="A few steps at the last learning rate and with longer windows after the schedule",
        source="modded-nanogpt 2025-09",
        people="@classiclarryd",
        reason="the last windows are those of the whole context, without steps of their own",
    ),
    "decay_and_momentum_schedules": NotBuilt(
        summary="Decay follows the square of the learning rate, momentum has its own cool-down",
        source="modded-nanogpt 2025-10 (momentum), PR 154 (2025-11, decay)",
        people="@classiclarryd; @varunneal",
        reason="Muon's decay and momentum have nanochat's schedules",
    ),
    "packing_rules": NotBuilt(
        summary="Batches start at documents, which are cut at a length, in one row without end",
        source="modded-nanogpt 2025-07 to 2026-03 (PR 118, PR 246)",
        people="@classiclarryd, @varunneal, @ChrisJMcCormick",
        reason="rows are part of the data's identity; one rule keeps all arms on the same tokens",
    ),
    "moe": NotBuilt(
        summary="A mixture of experts in place of the MLP",
        source="refused by nanochat (log of 2026-02-19)",
        people="@karpathy",
        reason="better by step and not in time there; needs grouped products",
    ),
    "dyt": NotBuilt(
        summary="A scaled tanh in place of norms",
        source="arXiv 2503.10622; refused by nanochat (log of 2026-05-05)",
        people="Zhu and others; @karpathy",
        reason="worse in loss there; a control that nobody asked for yet",
    ),
    "hyperball": NotBuilt(
        summary="Matrices stay on a sphere of their initial norm",
        source="refused by nanochat (log of 2026-01-29)",
        people="@karpathy",
        reason="worse there; needs an initial norm, which zero projections lack",
    ),
    "quarter_rotary": NotBuilt(
        summary="A quarter of the channels turn with position",
        source="refused by nanochat (log of 2026-03-24)",
        people="@karpathy",
        reason="slightly worse there; half_rotary is the control of this kind",
    ),
    "norm_scale": NotBuilt(
        summary="The normed input of layer i is divided by sqrt(i + 1)",
        source="refused by nanochat (log of 2026-03-24)",
        people="@karpathy",
        reason="no help there; a control of which the list has several",
    ),
}
"""Known speedrun tricks that this trainer can't toggle yet."""
