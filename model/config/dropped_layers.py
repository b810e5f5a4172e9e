"""Trick `dropped_layers`: some layers have no attention, some no MLP. No torch.

    layer i:  x = x + attention_i(norm(x)) if i not in A;  x = x + mlp_i(norm(x)) if i not in M

x (B, T, D); A and M are lists of layers, counted from 0. By default M is empty and A = (6 L // 11):
layer 6 of 11, as in modded-nanogpt's newest record, and the same relative position at any other
depth L. Why it should help: a dropped part costs neither time nor memory, and the saved time allows
more steps.

Source: modded-nanogpt 2024-12-17 (@YouJiacheng) dropped the attention of layer 7 of 12; PR 120
(2025-09-05, @EmelyanenkoK) the MLP of layer 0; PR 131 (2025-09-21, @classiclarryd) its attention
too, as smear already provides the previous token; PR 169 (2025-12-15, @classiclarryd) deleted the
empty layer, so that 7 of 12 became 6 of 11. For 12 layers all of it is `attention: [0, 7]` and
`mlp: [0]`. Difference from the record: there the layer without attention adds a gated skip from
layer 3 and omits its mixing with the embedding; here other tricks mix as in any layer.

Off: every layer has both. A dropped part has no parameters, norm or FLOPs, no keys and values in
CORE's prefix cache, and no value embedding. A layer without both parts only applies what other
tricks add to the stream. Interactions: the last layer *with* attention sees the whole context;
`paired_heads` counts layers with attention; scaling rules count the remaining parameters, unless a
study pins them.
"""

from model.config import Config


def without_attention(config: Config, layers: int) -> tuple[int, ...]:
    """Layers without attention, in a model of `layers` layers."""
    if (dropped := config.model.dropped_layers) is None:
        return ()
    return (6 * layers // 11,) if dropped.attention is None else dropped.attention


def without_mlp(config: Config) -> tuple[int, ...]:
    """Layers without an MLP."""
    return () if config.model.dropped_layers is None else config.model.dropped_layers.mlp
