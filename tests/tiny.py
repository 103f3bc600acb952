"""A CLIP small enough for tests: random weights under OpenAI's names."""

from __future__ import annotations

import torch

WIDTH, EMBED, VOCABULARY, CONTEXT = 64, 32, 600, 77


def tiny_state(*, seed=0, layers=2, image=32, patch=8, vocabulary=VOCABULARY):
    """State dict of both towers, float32."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape, std=0.05):
        return torch.randn(*shape, generator=generator) * std

    state = {
        "positional_embedding": draw(CONTEXT, WIDTH),
        "text_projection": draw(WIDTH, EMBED, std=0.2),
        "logit_scale": torch.tensor(4.6),
        "visual.class_embedding": draw(WIDTH),
        "visual.positional_embedding": draw(1 + (image // patch) ** 2, WIDTH),
        "visual.proj": draw(WIDTH, EMBED, std=0.2),
        "visual.conv1.weight": draw(WIDTH, 3, patch, patch),
        "token_embedding.weight": draw(vocabulary, WIDTH),
    }
    norms = ["visual.ln_pre", "visual.ln_post", "ln_final"]
    for prefix in ("visual.transformer", "transformer"):
        for n in range(layers):
            block = f"{prefix}.resblocks.{n}"
            state[f"{block}.attn.in_proj_weight"] = draw(3 * WIDTH, WIDTH, std=0.1)
            state[f"{block}.attn.in_proj_bias"] = draw(3 * WIDTH)
            state[f"{block}.attn.out_proj.weight"] = draw(WIDTH, WIDTH, std=0.1)
            state[f"{block}.attn.out_proj.bias"] = draw(WIDTH)
            state[f"{block}.mlp.c_fc.weight"] = draw(4 * WIDTH, WIDTH, std=0.1)
            state[f"{block}.mlp.c_fc.bias"] = draw(4 * WIDTH)
            state[f"{block}.mlp.c_proj.weight"] = draw(WIDTH, 4 * WIDTH, std=0.1)
            state[f"{block}.mlp.c_proj.bias"] = draw(WIDTH)
            norms += [f"{block}.ln_1", f"{block}.ln_2"]
    for name in norms:
        state[f"{name}.weight"] = 1 + draw(WIDTH)
        state[f"{name}.bias"] = draw(WIDTH)
    return state
