"""Annotations of three or so videos in the published form of each dataset that has files."""

from __future__ import annotations

import json

SAID = {"alpha": ("a dog  runs", "a brown dog"), "beta": ("rain",), "gamma": ("a  café ", "tea")}
"""What is said of each video; white space as annotators leave it."""
CLEAN = {video: tuple(" ".join(text.split()) for text in said) for video, said in SAID.items()}


def put(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    text = content if isinstance(content, str) else json.dumps(content)
    path.write_text(text, encoding="utf-8")


_WRITERS = {}


def write(name, root):
    """Write annotations to a folder that need not exist; {split: {id: captions}} as they load."""
    return _WRITERS[name](root)
