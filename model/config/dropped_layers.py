"""Trick `dropped_layers`: some layers have no attention, some no MLP. No torch.

    layer i:  x = x + attention_i(norm(x)) if i not in A;  x = x + mlp_i(norm(x)) if i not in M

x (B, T, D); A and M are lists of layers, counted from 0. By default M is empty and A = (6 L // 11):
layer 6 of 11, as in modded-nanogpt's newest record, and the same place at any other depth L. Why it
should help: what is left out costs neither time nor memory, and the time saved buys more steps.

Source: modded-nanogpt 2024-12-17 (@YouJiacheng) dropped the attention of layer 7 of 12; PR 120
(2025-09-05, @EmelyanenkoK) the MLP of layer 0; PR 131 (2025-09-21, @classiclarryd) its attention
too, as smear already gives a token the one before it; PR 169 (2025-12-15, @classiclarryd) deleted
the empty layer, so that 7 of 12 became 6 of 11. For 12 layers all of it is `attention: [0, 7]` and
`mlp: [0]`. A variant: in the record the layer without attention takes a gated skip from layer 3 in
its place and leaves out its mixing with the embedding; here other tricks mix as they do anywhere.

Off: every layer has both. An absent part has neither parameters nor a norm nor FLOPs, nor keys and
values in CORE's prefix cache, and its value embedding goes with it. A layer that lacks both does
nothing but what other tricks mix into the stream. Interactions: the last layer *with* attention
sees the whole context; `paired_heads` counts layers with attention; scaling rules count the
parameters that are left, unless a study pins them.
"""

from model.config import Config


def without_attention(config: Config, layers: int) -> tuple[int, ...]:
    """The layers without attention, in a model of so many."""
    if (dropped := config.model.dropped_layers) is None:
        return ()
    return (6 * layers // 11,) if dropped.attention is None else dropped.attention


def without_mlp(config: Config) -> tuple[int, ...]:
    """The layers without an MLP."""
    return () if config.model.dropped_layers is None else config.model.dropped_layers.mlp
