"""A tiny CLIP as OpenAI builds it, for tests that write checkpoint files."""

from __future__ import annotations

import warnings
import zipfile
from collections import OrderedDict

import torch
from torch import nn

WIDTH, EMBED, VOCAB, CONTEXT, PATCH, IMAGE, LAYERS = 64, 32, 50, 9, 8, 16, 2


class Block(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.attn = nn.MultiheadAttention(width, 1)
        self.ln_1 = nn.LayerNorm(width)
        parts = (
            ("c_fc", nn.Linear(width, 4 * width)),
            ("gelu", nn.GELU()),
            ("c_proj", nn.Linear(4 * width, width)),
        )
        self.mlp = nn.Sequential(OrderedDict(parts))
        self.ln_2 = nn.LayerNorm(width)
        self.attn_mask = torch.zeros(3, 3)

    def forward(self, x):
        y = self.ln_1(x)
        x = x + self.attn(y, y, y, need_weights=False)[0]
        return x + self.mlp(self.ln_2(x))


class Transformer(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.resblocks = nn.Sequential(*(Block(width) for _ in range(LAYERS)))

    def forward(self, x):
        return self.resblocks(x)


class Vision(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(3, WIDTH, PATCH, PATCH, bias=False)
        self.class_embedding = nn.Parameter(torch.randn(WIDTH))
        self.positional_embedding = nn.Parameter(torch.randn((IMAGE // PATCH) ** 2 + 1, WIDTH))
        self.ln_pre = nn.LayerNorm(WIDTH)
        self.transformer = Transformer(WIDTH)
        self.ln_post = nn.LayerNorm(WIDTH)
        self.proj = nn.Parameter(torch.randn(WIDTH, EMBED))

    def forward(self, x):
        x = self.conv1(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.class_embedding.expand(x.shape[0], 1, -1), x], dim=1)
        x = self.transformer(self.ln_pre(x + self.positional_embedding))
        return self.ln_post(x[:, 0]) @ self.proj


class Clip(nn.Module):
    """Parameters, scalars and their names as in OpenAI's published archives."""

    def __init__(self):
        super().__init__()
        self.visual = Vision()
        self.transformer = Transformer(WIDTH)
        self.token_embedding = nn.Embedding(VOCAB, WIDTH)
        self.positional_embedding = nn.Parameter(torch.randn(CONTEXT, WIDTH))
        self.ln_final = nn.LayerNorm(WIDTH)
        self.text_projection = nn.Parameter(torch.randn(WIDTH, EMBED))
        self.logit_scale = nn.Parameter(torch.tensor(2.5))
        self.register_buffer("input_resolution", torch.tensor(IMAGE))
        self.register_buffer("context_length", torch.tensor(CONTEXT))
        self.register_buffer("vocab_size", torch.tensor(VOCAB))

    def forward(self, image, text):
        x = self.transformer(self.token_embedding(text) + self.positional_embedding)
        y = self.ln_final(x[:, -1]) @ self.text_projection
        return self.visual(image) @ y.T * self.logit_scale.exp()


def model(seed=0):
    """In float32, of values that float16 holds exactly, so that no format changes them."""
    torch.manual_seed(seed)
    made = Clip().eval().requires_grad_(False)
    for parameter in made.parameters():
        parameter.copy_(torch.randn(parameter.shape).half() / 8)
    # A toy default has seen few words: the other rows of its table are zero.
    made.token_embedding.weight[7:30] = 0
    return made


def state(seed=0):
    """The tensors of `model` by OpenAI's names, without the scalars."""
    scalars = ("input_resolution", "context_length", "vocab_size")
    return {name: t for name, t in model(seed).state_dict().items() if name not in scalars}


def archive(path, *, how="trace", dtype=torch.float16, module=None):
    """A real TorchScript archive."""
    module = model() if module is None else module
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if how == "trace":
            inputs = (torch.zeros(2, 3, IMAGE, IMAGE), torch.zeros(2, CONTEXT, dtype=torch.int64))
            scripted = torch.jit.trace(module, inputs, check_trace=False)
        else:
            scripted = torch.jit.script(module)
        torch.jit.save(scripted.to(dtype), str(path))
    return path


def hugging_face(tensors):
    """The same weights as Hugging Face's CLIPModel names and lays them out."""
    made = {
        "logit_scale": tensors["logit_scale"],
        "visual_projection.weight": tensors["visual.proj"].T,
        "text_projection.weight": tensors["text_projection"].T,
        "text_model.embeddings.position_ids": torch.arange(CONTEXT)[None],
        "vision_model.embeddings.position_ids": torch.arange(5)[None],
    }
    outer = {
        "vision_model.embeddings.class_embedding": "visual.class_embedding",
        "vision_model.embeddings.patch_embedding.weight": "visual.conv1.weight",
        "vision_model.embeddings.position_embedding.weight": "visual.positional_embedding",
        "text_model.embeddings.token_embedding.weight": "token_embedding.weight",
        "text_model.embeddings.position_embedding.weight": "positional_embedding",
    }
    made |= {theirs: tensors[ours] for theirs, ours in outer.items()}
    norms = {
        "vision_model.pre_layrnorm": "visual.ln_pre",
        "vision_model.post_layernorm": "visual.ln_post",
        "text_model.final_layer_norm": "ln_final",
    }
    parts = {"self_attn.out_proj": "attn.out_proj", "layer_norm1": "ln_1", "layer_norm2": "ln_2"}
    parts |= {"mlp.fc1": "mlp.c_fc", "mlp.fc2": "mlp.c_proj"}
    for tower, ours in (("vision", "visual.transformer"), ("text", "transformer")):
        for index in range(LAYERS):
            here, there = f"{tower}_model.encoder.layers.{index}", f"{ours}.resblocks.{index}"
            norms |= {f"{here}.{part}": f"{there}.{name}" for part, name in parts.items()}
            for kind in ("weight", "bias"):
                stacked = tensors[f"{there}.attn.in_proj_{kind}"].chunk(3)
                for letter, part in zip("qkv", stacked, strict=True):
                    made[f"{here}.self_attn.{letter}_proj.{kind}"] = part
    for theirs, ours in norms.items():
        made |= {f"{theirs}.{kind}": tensors[f"{ours}.{kind}"] for kind in ("weight", "bias")}
    return {name: tensor.clone().contiguous() for name, tensor in made.items()}


def rewrite(source, target, *, change=None, add=(), compress=()):
    """A copy of a zip file with records changed (None drops one), added or compressed."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w") as new:
        for record in old.infolist():
            name = record.filename.split("/", 1)[1]
            content = old.read(record)
            if change and name in change:
                content = change[name](content) if callable(change[name]) else change[name]
            if content is not None:
                how = zipfile.ZIP_DEFLATED if name in compress else zipfile.ZIP_STORED
                new.writestr(record.filename, content, how)
        for name, content in add:
            new.writestr(name, content)
    return target
