"""CLIP's two towers, batch first, with OpenAI's parameter names; sizes are read from the weights.

Radford et al., "Learning Transferable Visual Models From Natural Language Supervision" (2021).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial, reduce
from math import isqrt
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ttvr.clip import ACTIVATIONS
from ttvr.clip._sizes import check, layers
from ttvr.clip.layers import LayerNorm, Transformer
from ttvr.errors import IncompatibleError, TtvrError
from ttvr.records import TextFeatures, VideoFeatures

HEAD_WIDTH = 64


class VisionTransformer(nn.Module):
    """The visual tower: each frame on its own, but for what token reducers do between blocks.

    `checkpointing` lets a backward pass compute the inside of each block again instead of keeping
    it: the same gradients, in less memory and more time.

    Args:
        image_size: side of the square input, pixels.
        patch_size: side of a patch, pixels; divides `image_size`.
        width: D of the residual stream.
        layers: number of blocks.
        heads: attention heads.
        embed_dim: width of the shared space.
        activation: quick_gelu or gelu.
    """

    def __init__(
        self,
        *,
        image_size: int,
        patch_size: int,
        width: int,
        layers: int,
        heads: int,
        embed_dim: int,
        activation: str,
    ) -> None:
        super().__init__()
        self.image_size, self.patch_size = image_size, patch_size
        self.checkpointing = False
        self.conv1 = nn.Conv2d(3, width, patch_size, stride=patch_size, bias=False)
        self.class_embedding = nn.Parameter(torch.empty(width))
        self.positional_embedding = nn.Parameter(
            torch.empty(1 + (image_size // patch_size) ** 2, width)
        )
        self.ln_pre = LayerNorm(width)
        self.transformer = Transformer(width, layers, heads, activation)
        self.ln_post = LayerNorm(width)
        self.proj = nn.Parameter(torch.empty(width, embed_dim))

    def forward(
        self,
        frames: Tensor,
        mask: Tensor,
        reducers: Mapping[int, Any] | None = None,
        *,
        patches: bool = False,
    ) -> VideoFeatures:
        """Encode frames.

        Args:
            frames: [B, T, 3, H, W] normalized pixels, H = W = image_size.
            mask: [B, T] bool, True = real. Frames are encoded whether real or not.
            reducers: block index (from 0) -> token reducer called in that block. `a` blocks have
                run before the one of index `a`.
            patches: return the projected patch tokens too.

        Returns:
            frames [B, T', embed_dim], mask [B, T'], patches [B, T', P', embed_dim] or None.
        """
        reducers = reducers or {}
        x = self._embed(frames.flatten(0, 1))  # [B*T, 1+P, D]
        seen = None  # [B*T', 1+P'] bool where a reducer left tokens that nobody may see
        last = len(self.transformer.resblocks) - 1
        for index, block in enumerate(self.transformer.resblocks):
            if index in reducers:
                reduced = partial(block.forward_reduced, reducer=reducers[index], seen=seen)
                x, mask, seen = self._run(reduced, x, mask)
            else:
                # Nobody reads the patches of the last block: it need not compute them.
                queries = 1 if index == last and not patches else None
                x = self._run(partial(block, queries=queries, seen=seen), x)
        x = self.ln_post(x if patches else x[:, :1]) @ self.proj
        x = x.unflatten(0, mask.shape)  # [B, T', 1+P', embed_dim]
        return VideoFeatures(x[:, :, 0], mask, x[:, :, 1:] if patches else None)

    def _run(self, block: Callable[..., Any], *inputs: Tensor) -> Any:
        if not (self.checkpointing and torch.is_grad_enabled()):
            return block(*inputs)
        return checkpoint(block, *inputs, use_reentrant=False)

    def _embed(self, pixels: Tensor) -> Tensor:
        if pixels.shape[1:] != (3, self.image_size, self.image_size):
            raise ValueError(
                f"expected pixels [N, 3, {self.image_size}, {self.image_size}], "
                f"got {list(pixels.shape)}"
            )
        x = self.conv1(pixels).flatten(2).transpose(1, 2)  # [N, P, D]
        first = self.class_embedding.to(x.dtype).expand(len(x), 1, -1)
        x = torch.cat([first, x], dim=1) + self.positional_embedding.to(x.dtype)
        return self.ln_pre(x)


class CLIP(nn.Module):
    """Both towers, or one. Made by `build`."""

    def __init__(
        self,
        *,
        visual: VisionTransformer | None,
        text: Mapping[str, Any] | None,
        embed_dim: int,
        has_logit_scale: bool,
    ) -> None:
        super().__init__()
        self.width = embed_dim
        self.visual = visual
        if text is not None:
            width = text["width"]
            self.token_embedding = nn.Embedding(text["vocabulary"], width)
            self.positional_embedding = nn.Parameter(torch.empty(text["context_length"], width))
            self.transformer = Transformer(width, text["layers"], text["heads"], text["activation"])
            self.ln_final = LayerNorm(width)
            self.text_projection = nn.Parameter(torch.empty(width, embed_dim))
        self.has_text = text is not None
        self.logit_scale = nn.Parameter(torch.empty(())) if has_logit_scale else None

    @property
    def image_size(self) -> int:
        """Side of the square input of the visual tower, pixels."""
        return self._seeing().image_size

    @property
    def context_length(self) -> int:
        """The most tokens a text may have, start and end included."""
        self._require_text()
        return len(self.positional_embedding)

    def encode_image(self, pixels: Tensor) -> Tensor:
        """Pixels [B, 3, H, W], normalized -> [B, D], projected, not normalized."""
        real = torch.ones(len(pixels), 1, dtype=torch.bool, device=pixels.device)
        return self._seeing()(pixels.unsqueeze(1), real).frames[:, 0]

    def encode_video(
        self,
        frames: Tensor,
        mask: Tensor,
        reducers: Mapping[int, Any] | None = None,
        *,
        patches: bool = False,
    ) -> VideoFeatures:
        """Encode videos; arguments and result as `VisionTransformer.forward`."""
        return self._seeing()(frames, mask, reducers, patches=patches)

    def encode_text(self, ids: Tensor) -> TextFeatures:
        """Encode texts.

        Attention is causal, so what stands after the end of a text changes nothing before it:
        leaving out trailing padding gives the same sentence.

        Args:
            ids: [B, L] int64, L up to `context_length`; the end-of-text token has the highest id.

        Returns:
            sentence [B, D], words [B, L, D], mask [B, L] (start to end of text, inclusive).

        Raises:
            ValueError: L is above `context_length`.
        """
        self._require_text()
        B, L = ids.shape
        if self.context_length < L:
            raise ValueError(f"{L} tokens, the model takes {self.context_length}")
        x = self.token_embedding(ids) + self.positional_embedding[:L]
        for block in self.transformer.resblocks:
            x = block(x, causal=True)
        words = self.ln_final(x) @ self.text_projection
        end = ids.argmax(dim=-1)
        mask = torch.arange(L, device=ids.device) <= end.unsqueeze(1)
        return TextFeatures(words[torch.arange(B, device=ids.device), end], words, mask)

    def unseen_tokens(self) -> Tensor:
        """Ids [n] int64, ascending, of tokens whose row of the table is zero: none was trained on.

        The embedded default has such rows, published weights have none.
        """
        self._require_text()
        table = self.token_embedding.weight
        maybe = (table[:, 0] == 0).nonzero().squeeze(1)  # hardly any in a full table
        return maybe[(table[maybe] == 0).all(dim=1)]

    def _seeing(self) -> VisionTransformer:
        if self.visual is None:
            raise IncompatibleError("these weights have no visual tower")
        return self.visual

    def _require_text(self) -> None:
        if not self.has_text:
            raise IncompatibleError("these weights have no text tower")


def build(
    state: Mapping[str, Tensor],
    *,
    heads: int | None = None,
    text_heads: int | None = None,
    activation: str = "quick_gelu",
) -> CLIP:
    """The model that a state dict describes, with its weights copied in, in evaluation mode.

    Args:
        state: OpenAI's names; sizes are read from the shapes. One tower alone is enough, and
            builds that tower. The model has the dtype that all tensors fit in.
        heads: attention heads of the visual tower; width // 64 by default.
        text_heads: likewise of the text tower.
        activation: quick_gelu (OpenAI's weights) or gelu.

    Raises:
        IncompatibleError: tensors are missing, unknown, of integers, or of shapes that do not fit
            together, or heads that the width does not divide into.
        ValueError: an unknown activation.
    """
    if activation not in ACTIVATIONS:
        raise ValueError(f"activation {activation!r}, expected one of {ACTIVATIONS}")
    try:
        state = check(state)
    except TtvrError as error:
        raise IncompatibleError(str(error)) from error
    with torch.device("meta"):
        model = CLIP(
            visual=_visual(state, heads, activation),
            text=_text(state, text_heads, activation),
            embed_dim=_embed_dim(state),
            has_logit_scale="logit_scale" in state,
        )
    dtype = reduce(torch.promote_types, (tensor.dtype for tensor in state.values()))
    model = model.to(dtype).to_empty(device="cpu")
    model.load_state_dict(state)
    return model.eval()


def _visual(
    state: Mapping[str, Tensor], heads: int | None, activation: str
) -> VisionTransformer | None:
    if "visual.conv1.weight" not in state:
        return None
    width, _, patch_size, _ = state["visual.conv1.weight"].shape
    grid = isqrt(len(state["visual.positional_embedding"]) - 1)
    return VisionTransformer(
        image_size=grid * patch_size,
        patch_size=patch_size,
        width=width,
        layers=layers(state, "visual."),
        heads=_heads(width, heads),
        embed_dim=_embed_dim(state),
        activation=activation,
    )


def _text(state: Mapping[str, Tensor], heads: int | None, activation: str) -> dict[str, Any] | None:
    if "token_embedding.weight" not in state:
        return None
    vocabulary, width = state["token_embedding.weight"].shape
    return {
        "vocabulary": vocabulary,
        "width": width,
        "context_length": len(state["positional_embedding"]),
        "layers": layers(state, ""),
        "heads": _heads(width, heads),
        "activation": activation,
    }


def _embed_dim(state: Mapping[str, Tensor]) -> int:
    name = "visual.proj" if "visual.proj" in state else "text_projection"
    return state[name].shape[1]


def _heads(width: int, heads: int | None) -> int:
    heads = max(1, width // HEAD_WIDTH) if heads is None else heads
    if heads < 1 or width % heads:
        raise IncompatibleError(f"width {width} does not divide into {heads} heads")
    return heads
