"""The baselines of benchmarks of heads give the scores of the heads."""

from __future__ import annotations

import pytest
import torch

from ttvr.bench import _direct_heads
from ttvr.heads.tc_mgc import TcMgc
from ttvr.heads.xpool import XPool
from ttvr.records import TextFeatures, VideoFeatures

SIZES = {"width": 16, "frames": 4, "words": 7}


@pytest.mark.parametrize("plugin", [XPool, TcMgc])
def test_they_are_the_same_scores(plugin):
    torch.manual_seed(0)
    head = plugin(**SIZES).double().eval()
    for parameter in head.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    words = torch.randn(5, 7, 16).double()
    text = TextFeatures(words[:, 3], words, torch.ones(5, 7, dtype=torch.bool))
    frames = torch.randn(3, 4, 16).double()
    video = VideoFeatures(frames, torch.ones(3, 4, dtype=torch.bool), None)
    expected = head(text, video, torch.tensor(100.0))
    if plugin is XPool:
        found = 100 * _direct_heads.xpool(text, video, head)
    else:
        found = _direct_heads.tc_mgc(text, video, head, scale=100.0, block=2)
    torch.testing.assert_close(found, expected)
