"""Checkpoints of published systems, in their authors' layout: encoders, head and recipe."""

from __future__ import annotations

import re

import clip_files
import official_files
import pytest
import torch
from conftest import SHARED
from golden_heads import Golden
from official_files import CASES, FRAMES, STEP, WORDS, Case
from tiny import CONTEXT, VOCABULARY, tiny_state

import ttvr
from ttvr import plugins, retriever
from ttvr.clip import model as clip_model
from ttvr.clip import weights
from ttvr.errors import IncompatibleError, TtvrError, UsageError
from ttvr.frames import normalize
from ttvr.records import Batch
from ttvr.systems import SYSTEMS


def saved(path, content, wrap=None):
    torch.save(wrap(content) if wrap else content, path)
    return path


@pytest.fixture(scope="module")
def batch():
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(1, VOCABULARY - 1, (3, WORDS), generator=generator)
    ids[:, -1] = VOCABULARY - 1
    frames = torch.randint(256, (2, FRAMES, 32, 32, 3), generator=generator, dtype=torch.uint8)
    mask = torch.ones(2, FRAMES, dtype=torch.bool)
    return Batch(ids, frames, mask, torch.arange(2))


def convert(case, path, **changes):
    given = {"settings": case.settings, "reduce": case.reduce, **changes}
    return retriever.from_official(case.system, path, **given)


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_a_checkpoint_scores_as_its_parts(case, tmp_path, batch):
    """The whole way: the authors' file, a run, the model of the run; against towers and head."""
    content = official_files.checkpoint(case)
    found = convert(case, saved(tmp_path / "pytorch_model.bin.4", content))
    assert set(found.unused) == set(case.unused)
    found.model.save(tmp_path / "run.pt")
    model = ttvr.load(tmp_path / "run.pt")
    recipe = model.recipe
    assert (recipe.head, recipe.frames, recipe.words) == (case.head, FRAMES, WORDS)
    assert dict(recipe.head_options) == case.options
    assert recipe.weights == str(tmp_path / "pytorch_model.bin.4")
    identity, before = model.identity(), found.model.identity()
    assert {**identity, "source": ""} == {**before, "source": ""}

    clip = clip_model.build({n[5:]: t for n, t in content.items() if n.startswith("clip.")})
    plugin = plugins.load("heads", case.head)
    head = plugin(width=clip.width, **_head_sizes(model), **case.options)
    own = {n.removeprefix(case.wrapper): t for n, t in content.items() if not n.startswith("clip.")}
    head.load_state_dict({n: t for n, t in own.items() if n not in case.unused})
    with torch.inference_mode():
        reducers = model.plan.reducers
        text = clip.encode_text(batch.ids)
        frames = normalize(batch.frames)
        video = clip.encode_video(frames, batch.mask, reducers, patches=plugin.needs_patches)
        torch.manual_seed(0)
        expected = head.eval()(text, video, torch.tensor(10.0))
        torch.manual_seed(0)
        scores = model.head(*model.features(batch), torch.tensor(10.0))
    torch.testing.assert_close(scores, expected)
    assert scores.std() > 0


def _head_sizes(model):
    return {"frames": model.plan.segments or FRAMES, "words": WORDS}


def test_every_system_has_a_case():
    assert {case.system for case in CASES.values()} == set(SYSTEMS)
    heads = {case.head for case in CASES.values()}
    assert heads == {
        head for one in SYSTEMS.values() for head in (one.head, *dict(one.heads).values())
    }


DISTINCT = ("clip4clip-seq_lstm", "clip4clip-tight_transf", "ts2net", "xpool", "xclip", "ucofia")
DISTINCT += ("drl-wti2", "tc_mgc")


@pytest.mark.parametrize("name", DISTINCT)
def test_a_file_of_another_system_is_recognized(name, tmp_path):
    case = CASES[name]
    path = saved(tmp_path / "a.bin", official_files.checkpoint(case))
    for system in set(SYSTEMS) - {case.system}:
        with pytest.raises(IncompatibleError) as caught:
            retriever.from_official(system, path, reduce=["none"])
        message = str(caught.value)
        assert message.startswith(f"{path}: ")
        title = SYSTEMS[case.system].title
        assert message.endswith(f"; it looks like one of {title}: --system {case.system}")
        assert len(message) < 1000


def test_interactions_of_drl_without_tensors(tmp_path):
    path = saved(tmp_path / "a.bin", official_files.checkpoint(CASES["drl-ti"]))
    with pytest.raises(IncompatibleError, match=r"--set head_options=interaction=ti, or dp; it lo"):
        retriever.from_official("drl", path)


OF_SYSTEMS = {
    "clip4clip_": "clip4clip",
    "temporal_": "clip4clip",
    "drl_": "drl",
    "xpool_h": "xpool",
    "xclip_": "xclip",
    "ucofia_trainfwd": "ucofia",
    "tcmgc_code_small": "tc_mgc",
    "tcmgc_code_m32": "tc_mgc",
}
GOLDENS = {
    path.stem: system
    for start, system in OF_SYSTEMS.items()
    for path in sorted((SHARED / "golden" / "heads").glob(f"{start}*.npz"))
}


@pytest.mark.parametrize("name", GOLDENS)
def test_the_tensors_of_the_authors_numbers_load(name, shared, tmp_path):
    """Beside a CLIP of the same width; every tensor arrives, or is said to be of no use."""
    golden = Golden(shared, name, torch.float32)
    content = {**official_files.clip(), **golden.state()}
    content["clip.logit_scale"] = content.pop("logit_scale", content["clip.logit_scale"])
    given = {"frames": golden.video().frames.shape[1]}
    if interaction := re.search("_(dp|ti|wti)", name if name.startswith("drl") else ""):
        given["head_options"] = [["interaction", interaction[1]]]
    path = saved(tmp_path / "a.bin", content)
    found = retriever.from_official(GOLDENS[name], path, settings=given)
    own = {n: t for n, t in content.items() if not n.startswith("clip.")}
    state = found.model.head.state_dict()
    assert len(own) == len(state) + len(found.unused)
    assert all(torch.equal(state[key], own[key]) for key in own.keys() - set(found.unused))


CLIP4CLIP = CASES["clip4clip-seq_transf"]
WRAPS = {
    "module": lambda content: {f"module.{name}": t for name, t in content.items()},
    "state_dict": lambda content: {"epoch": 3, "state_dict": content, "best": 41.2},
    "model": lambda content: {"model": {f"module.{name}": t for name, t in content.items()}},
    "model_state_dict": lambda content: {"model_state_dict": content, "loss": torch.ones(1)},
    "float16": lambda content: {name: t.half() for name, t in content.items()},
    "scalars of the archive": lambda content: {
        **content,
        "clip.input_resolution": torch.tensor(32),
        "clip.context_length": torch.tensor(77),
        "clip.vocab_size": torch.tensor(600),
        "clip.transformer.resblocks.0.attn_mask": torch.zeros(77, 77),
    },
}


@pytest.mark.parametrize("wrap", WRAPS.values(), ids=WRAPS)
def test_whatever_wraps_a_clip4clip_checkpoint(wrap, tmp_path):
    content = official_files.checkpoint(CLIP4CLIP)
    plain = convert(CLIP4CLIP, saved(tmp_path / "plain.bin", content)).model
    model = convert(CLIP4CLIP, saved(tmp_path / "wrapped.bin", content, wrap)).model
    for part in ("clip", "head"):
        expected = getattr(plain, part).state_dict()
        state = getattr(model, part).state_dict()
        assert state.keys() == expected.keys()
        assert all(torch.equal(state[name], expected[name]) for name in state)
        assert {tensor.dtype for tensor in state.values()} == {torch.float32}


def test_the_clip_of_hugging_face_below_the_prefix(tmp_path):
    content = {f"clip.{n}": t for n, t in clip_files.hugging_face(clip_files.state()).items()}
    assert any("position_ids" in name for name in content)
    model = retriever.from_official("clip4clip", saved(tmp_path / "a.bin", content)).model
    assert weights.fingerprint(model.clip.state_dict()) == weights.fingerprint(clip_files.state())
    # That CLIP takes nine tokens, less than the recipe would have.
    assert (model.recipe.words, model.text_length) == (clip_files.CONTEXT, clip_files.CONTEXT)


def test_the_recipe_of_a_clip4clip_checkpoint(tmp_path):
    path = saved(tmp_path / "pytorch_model.bin.4", official_files.checkpoint(CLIP4CLIP))
    model = retriever.from_official("clip4clip", path).model
    assert not model.training
    assert model.activation == "quick_gelu"
    recipe = model.recipe
    assert (recipe.sampler, recipe.fps, recipe.frames, recipe.words) == ("linspace", 1.0, 12, 32)
    assert recipe.reduce == ()
    settings = {"frames": 20, "fps": None, "sampler": "segment", "head_options": [["heads", 4]]}
    recipe = retriever.from_official("clip4clip", path, settings=settings).model.recipe
    assert (recipe.sampler, recipe.fps, recipe.frames) == ("segment", None, 20)
    assert dict(recipe.head_options) == {**STEP, "heads": 4}
    model = retriever.from_official("clip4clip", path, heads=2).model
    assert dict(model.recipe.head_options)["heads"] == 2
    assert model.head.transformerClip.resblocks[0].attn.heads == 2


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("clip4clip-tight_transf", ("linspace", 1.0, 32, ())),
        ("centerclip-seq_transf", ("segment", 3.0, 32, ())),
        ("xpool", ("segment", None, 77, ())),
        ("ts2net", ("linspace", 1.0, 32, ("patch_shift",))),
        ("ucofia", ("linspace", 1.0, WORDS, ())),
    ],
)
def test_how_each_system_reads_videos_and_texts(name, expected, tmp_path):
    case = CASES[name]
    path = saved(tmp_path / "a.bin", official_files.checkpoint(case))
    found = convert(case, path, settings={"frames": FRAMES})
    recipe = found.model.recipe
    assert (recipe.sampler, recipe.fps, recipe.words, recipe.reduce) == expected


def test_options_that_are_the_default_are_not_in_the_recipe(tmp_path):
    shapes = {"frame_position_embeddings.weight": (77, 32)}
    shapes |= official_files.blocks("transformerClip", layers=4)
    content = official_files.checkpoint(Case("clip4clip", "seq_transf", shapes))
    path = saved(tmp_path / "a.bin", content)
    assert retriever.from_official("clip4clip", path).model.recipe.head_options == ()


def test_a_centerclip_checkpoint_with_cluster_embeddings(tmp_path, batch):
    """Encoders and all: two stages, of which the second has learned an embedding."""
    stem = "clip.visual.transformer.resblocks"
    embedding = torch.randn(9, 64)
    content = {
        **official_files.clip(layers=4),
        f"{stem}.3.cluster_inter.cluster_embed": embedding,
        f"{stem}.3.cluster_inter.cluster_frame_embed": torch.randn(3, 64),
    }
    path = saved(tmp_path / "ckpt.pth.tar", {"state_dict": content})
    reduce = ["kmedoids@1:3,12,segment_mask=last", "spectral@3:1,9,segment_mask=last"]
    settings = {"frames": FRAMES}
    found = retriever.from_official("centerclip", path, reduce=reduce, settings=settings)
    assert found.unused == (f"{stem}.3.cluster_inter.cluster_frame_embed",)
    found.model.save(tmp_path / "run.pt")
    model = ttvr.load(tmp_path / "run.pt")
    assert model.recipe.reduce == (
        "kmedoids@1:3,12,segment_mask=last",
        "spectral@3:1,9,cluster_embedding=true,segment_mask=last",
    )
    assert (model.recipe.sampler, model.recipe.fps) == ("segment", 3.0)
    assert torch.equal(model.plan.reducers[3].cluster_embedding, embedding)
    _, video = model.features(batch)
    model.plan.reducers[3].cluster_embedding.data.zero_()
    _, without = model.features(batch)
    assert video.frames.shape == (2, 1, 32)
    assert not torch.allclose(video.frames, without.frames)


@pytest.mark.parametrize(
    ("reduce", "match"),
    [
        (["kmedoids@1:3,9"], r"\[9, 64\] in block 3, which do not fit --reduce kmedoids@1:3,9"),
        (["kmedoids@3:3,8"], "do not fit --reduce kmedoids@3:3,8,cluster_embedding=true"),
        (["none"], "do not fit --reduce none"),
    ],
)
def test_cluster_embeddings_of_another_reduction(reduce, match, tmp_path):
    name = "clip.visual.transformer.resblocks.3.cluster_inter.cluster_embed"
    content = {**official_files.clip(layers=4), name: torch.randn(9, 64)}
    with pytest.raises(IncompatibleError, match=match):
        retriever.from_official("centerclip", saved(tmp_path / "a.bin", content), reduce=reduce)


def test_cluster_embeddings_of_no_block(tmp_path):
    content = {**official_files.clip(), "clip.visual.cluster_embed": torch.randn(9, 64)}
    with pytest.raises(
        IncompatibleError, match=r"unknown clip.visual.cluster_embed: it belongs to"
    ):
        retriever.from_official("centerclip", saved(tmp_path / "a.bin", content), reduce=["none"])


def test_an_embedding_that_the_file_does_not_have(tmp_path):
    path = saved(tmp_path / "a.bin", official_files.clip())
    with pytest.raises(IncompatibleError, match="of the file: none, which do not fit --reduce"):
        retriever.from_official(
            "centerclip", path, reduce=["kmedoids@1:3,9,cluster_embedding=true"]
        )


def test_a_centerclip_checkpoint_has_to_be_told_its_clustering(tmp_path):
    path = saved(tmp_path / "a.bin", official_files.clip())
    with pytest.raises(UsageError, match="pass --reduce as it was trained, --reduce kmedoids@6"):
        retriever.from_official("centerclip", path)
    for given in ({"reduce": ["none"]}, {"settings": {"reduce": ["none"]}}):
        assert retriever.from_official("centerclip", path, **given).model.recipe.reduce == ()
    with pytest.raises(UsageError, match="12 frames do not divide into 5 segments"):
        retriever.from_official("centerclip", path, reduce=["kmedoids@1:5,9"])


def broken(**changes):
    return {**official_files.checkpoint(CLIP4CLIP), **changes}


def without(name):
    return {n: t for n, t in broken().items() if n != name}


BLOCK = "transformerClip.resblocks.1"
WRONG = {
    "a tensor of the head is missing": (
        without(f"{BLOCK}.ln_1.bias"),
        f"missing {BLOCK}.ln_1.bias, unknown nothing",
    ),
    "a tensor of nobody": (broken(stray=torch.ones(2)), "missing nothing, unknown stray"),
    "a tensor of another shape": (
        broken(**{f"{BLOCK}.ln_1.bias": torch.ones(5)}),
        r"ln_1.bias \[5\], expected \[32\]",
    ),
    "another width than CLIP's": (
        {
            **broken(),
            "clip.visual.proj": torch.ones(64, 48),
            "clip.text_projection": torch.ones(64, 48),
        },
        r"\[30, 32\], expected \[30, 48\]",
    ),
    "shapes that are none": (
        broken(**{"frame_position_embeddings.weight": torch.tensor(1.0)}),
        "not a checkpoint of CLIP4Clip",
    ),
    "a tensor of CLIP is missing": (
        without("clip.ln_final.bias"),
        r"below clip.: not a complete CLIP: missing 1 \(ln_final.bias\)",
    ),
    "a tensor that is none of CLIP's": (
        broken(**{"clip.visual.stray": torch.ones(2)}),
        r"unknown 1 \(visual.stray\)",
    ),
    "one tower": (
        {n: t for n, t in broken().items() if not n.startswith("clip.visual")},
        "a tower is missing, with visual.proj",
    ),
    "no CLIP": (
        {n: t for n, t in broken().items() if not n.startswith("clip.")},
        "no tensor stands below clip., where CLIP's are; it has 25",
    ),
    "patches of three frames": (
        broken(**{"clip.visual.conv2.weight": torch.ones(64, 3, 3, 8, 8)}),
        r"its patches span several frames \(clip.visual.conv2.weight, as made by --linear_patch",
    ),
    "a run": (
        {"format": "ttvr-run/1", "clip": tiny_state(), "head": {}, "recipe": {}},
        "a ttvr run already",
    ),
}


@pytest.mark.parametrize(("content", "match"), WRONG.values(), ids=WRONG)
def test_what_does_not_fit_is_listed(content, match, tmp_path):
    path = saved(tmp_path / "a.bin", content)
    with pytest.raises(IncompatibleError, match=match) as caught:
        retriever.from_official("clip4clip", path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "--system" not in str(caught.value)
    assert len(str(caught.value)) < 700


BROKEN_FILES = {
    "nan": (broken(**{"clip.logit_scale": torch.tensor(torch.nan)}), "NaN or infinity in 1"),
    "head": (broken(**{f"{BLOCK}.ln_1.bias": torch.full((32,), torch.inf)}), "NaN or infinity"),
    "name": (broken(**{"a\x1b[2J": torch.ones(1)}), r"the name of a tensor is 'a\\x1b\[2J'"),
}


@pytest.mark.parametrize(("content", "match"), BROKEN_FILES.values(), ids=BROKEN_FILES)
def test_a_damaged_file_fails_as_ever(content, match, tmp_path):
    with pytest.raises(TtvrError, match=match) as caught:
        retriever.from_official("clip4clip", saved(tmp_path / "a.bin", content))
    assert caught.value.exit_code == 1


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"settings": {"head": "meanp"}}, "head cannot be set: the checkpoint decides"),
        ({"settings": {"weights": "x"}}, "weights cannot be set"),
        ({"settings": {"tea": 1}}, "unknown settings"),
        ({"settings": {"frames": 31}}, "at most 30 positions, got 31"),
        ({"settings": {"words": CONTEXT + 1}}, "78 words, its CLIP takes 77"),
        ({"settings": {"head_options": [["frames", 3]]}}, "unknown option frames of SeqTransf"),
        ({"settings": {"head_options": [["sugar", 3]]}}, "unknown option sugar of SeqTransf"),
        ({"heads": 3}, "width 32 does not divide into 3 heads"),
        ({"reduce": ["kmedoids@2:3,9"]}, "BLOCK is 0 to 1"),
    ],
)
def test_settings_that_cannot_be(arguments, match, tmp_path):
    path = saved(tmp_path / "a.bin", broken())
    with pytest.raises(UsageError, match=match):
        retriever.from_official("clip4clip", path, **arguments)


def test_elsewhere_such_a_file_is_answered_with_the_command(tmp_path):
    with pytest.raises(TtvrError, match="make a run of it with ttvr-weights convert --system"):
        ttvr.load(saved(tmp_path / "a.bin", broken()))


def test_heads_of_a_head_without_attention(tmp_path):
    path = saved(tmp_path / "a.bin", official_files.clip())
    with pytest.raises(UsageError, match="unknown option heads of MeanP"):
        retriever.from_official("clip4clip", path, heads=4)
    with pytest.raises(UsageError, match="no system 'clip4klip'; there are: centerclip, clip4clip"):
        retriever.from_official("clip4klip", path)


def test_frames_that_nobody_chose_and_that_do_not_fit(tmp_path):
    content = broken(**{"frame_position_embeddings.weight": torch.ones(9, 32)})
    with pytest.raises(IncompatibleError, match="at most 9 positions, got 12"):
        retriever.from_official("clip4clip", saved(tmp_path / "a.bin", content))
