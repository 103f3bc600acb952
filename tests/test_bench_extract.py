"""`ttvr-bench extract`: every contender has the model and the reduction that were asked for."""

from __future__ import annotations

import json

import numpy as np
import torch
from tiny import tiny_state

from ttvr import video
from ttvr.commands.bench import main


def test_a_reduction_is_part_of_it(tmp_path, capsys):
    torch.save(tiny_state(vocabulary=49408), tmp_path / "tiny.pt")
    pixels = np.random.default_rng(0).integers(0, 255, (6, 32, 48, 3), np.uint8)
    video.write(tmp_path / "clip.mp4", pixels, fps=6)
    command = ["extract", str(tmp_path / "clip.mp4"), "-w", str(tmp_path / "tiny.pt"), "--json"]
    command += ["-j", "1", "--frames", "4", "--rounds", "1"]
    assert main([*command, "--reduce", "kmedoids@1:2,3"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert "reduction kmedoids@1:2,3, 4 frames" in found["notes"][0]
    assert all(row["videos/s"] > 0 for row in found["rows"])
    assert main([*command, "--reduce", "kmedoids@1:3,3"]) == 2  # 4 frames, 3 segments
    assert "4" in capsys.readouterr().err
    assert main(command) == 0
    assert "reduction none" in json.loads(capsys.readouterr().out)["notes"][0]
