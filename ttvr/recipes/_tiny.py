"""The model that ttvr carries."""

from __future__ import annotations

from ttvr.recipes._entry import Entry
from ttvr.recipes._recipe import Recipe

ENTRIES = {
    "ttvr-tiny": Entry(
        Recipe(
            weights="scratch:ttvr-tiny",
            frames=8,
            train_frames=4,
            epochs=1,
            batch_size=96,
            lr=1.2e-3,
            clip_lr=1.2e-3,
            weight_decay=0.05,
            warmup=0.02,
            precision="bf16",
            initial_scale=30.0,
            scale_lr_factor=5.0,
            word_loss=0.5,
        ),
        data="synthetic",
        split="test",
        source="ttvr",
        note="made the model that ttvr carries",
    )
}
