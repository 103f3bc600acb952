"""Rules that correct scores, in an evaluation: each direction its own, each granularity its own."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from feature_folder import NAMES, write_features, write_home
from test_evaluate import plain_encode, run, write_texts
from tiny import EMBED

from ttvr import evaluate, metrics, normalize, plugins, retriever
from ttvr.commands.eval import _parser
from ttvr.errors import IncompatibleError
from ttvr.evaluate import Normalization
from ttvr.evaluate._normalized import normalized
from ttvr.heads.meanp import MeanP
from ttvr.records import Twin
from ttvr.store import Features

VIDEOS = tuple(NAMES)
CAPTIONS = tuple(
    zip(
        ("a man rides", "two dogs play", "an egg", "a horse", "coffee", "a red car", "rain"),
        (*VIDEOS[:3], *VIDEOS[4:6], VIDEOS[0], VIDEOS[6]),
        strict=True,
    )
)
OWNER = [VIDEOS.index(video) for _, video in CAPTIONS]
BANK = ("a cat", "the sea at night", "somebody sings", "a horse", "snow falls on a road")


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    home = tmp_path_factory.mktemp("normalize")
    model = write_home(home)
    write_texts(home / "tfeats", model, pairs=CAPTIONS)
    write_texts(home / "bank", model, pairs=[(text, "none") for text in BANK], gt=False)
    names = {f"train/{at}": f"train/{at}.mp4" for at in range(9)}
    write_features(home / "train", model, names={**names, VIDEOS[1]: "x.mp4"})
    (home / "bank.txt").write_text("".join(f"{text}\n" for text in BANK))
    (home / "pairs.tsv").write_text("".join(f"{text}\t{video}\n" for text, video in CAPTIONS))
    return home


@pytest.fixture(scope="module")
def model(home):
    return retriever.load(home / "clip.pt")


class TwoWays(MeanP):
    """Two matrices, of which only one is multiplied by the scale."""

    offline = False

    def similarities(self, text, video):
        first = super().similarities(text, video)
        return torch.cat([first, (3 * first).sin() + 0.3])

    def factors(self, sims, scale):
        return torch.stack([scale, torch.ones_like(scale)])

    def fuse(self, sims, scale):
        return (scale * sims[0] + sims[1]) / 2


@pytest.fixture
def two_ways(home, monkeypatch):
    made = retriever.load(home / "clip.pt")
    made.head = TwoWays(width=EMBED)
    monkeypatch.setattr(plugins, "load", lambda family, name: TwoWays)
    return made


def cosines(model, gallery, captions):
    """One pair at a time, of captions and stored vectors, or vectors of stored frames."""
    vectors, made = gallery.video[:].astype(np.float64), []
    if not model.head.offline:
        for row, (frames, mask) in enumerate(zip(gallery.frames[:], gallery.mask[:], strict=True)):
            units = [frame / np.linalg.norm(frame) for frame in frames[mask].astype(np.float64)]
            vectors[row] = sum(units) / np.linalg.norm(sum(units))
    for caption in captions:
        sentence = plain_encode(model)([caption])[0].sentence[0].double().numpy()
        sentence = sentence / np.linalg.norm(sentence)
        made.append([float(sentence @ row) for row in vectors])
    return np.array(made)


def slow(rule, sims, bank, g, *, beta=20.0):
    """Rows corrected with a bank of rows, by loops over single numbers; all are cosines."""
    made = sims.copy()
    if rule == "dsl":
        for t, v in np.ndindex(*sims.shape):
            total = sum(math.exp(g * sims[i, v]) for i in range(len(sims)))
            made[t, v] = sims[t, v] * math.exp(g * sims[t, v]) / total
    elif rule == "qbnorm":
        hubs = {int(np.argmax(row)) for row in bank}
        for t in range(len(sims)):
            if int(np.argmax(sims[t])) in hubs:
                for v in range(sims.shape[1]):
                    total = sum(math.exp(beta * row[v]) for row in bank)
                    made[t, v] = math.log(math.exp(beta * sims[t, v]) / total) / beta
    else:
        K = np.exp(g * bank)
        b = 1 / K.sum(0)
        for _ in range(4):
            a = 1 / (K @ b)
            b = 1 / (a @ K)
        made = sims + np.log(b / b.sum()) / g
    return made


def ranked(t2v, v2t):
    """The measures of both directions, of a matrix each."""
    found, other = metrics.summary(t2v, OWNER), metrics.summary(v2t, OWNER)
    return {"t2v": found["t2v"], "v2t": other["v2t"], "v2t_sentence": other["v2t_sentence"]}


def pairs():
    texts, videos = zip(*CAPTIONS, strict=True)
    return evaluate.Pairs("p.tsv", texts, videos)


def how(home, rule, **options):
    if rule == "dsl":
        return Normalization(rule, **options)
    return Normalization(
        rule, captions=BANK, name="bank", videos=Features.open(home / "train"), **options
    )


def corrected(home, model, rule):
    """What becomes of the scores, and the measures that are taken of it."""
    given = {"retriever": model, "encode": plain_encode(model)}
    features, texts = Features.open(home / "feats"), [text for text, _ in CAPTIONS]
    made = normalized(how(home, rule), features, texts, **given, texts=None, tie=lambda sims: sims)
    found = evaluate.evaluate(features, pairs(), **given, normalize=how(home, rule))
    expected = ranked(made.t2v, made.v2t)
    assert {way: found.metrics[way] for way in expected} == expected
    assert found.metrics["SumR"] == expected["t2v"]["RSum"] + expected["v2t"]["RSum"]
    np.testing.assert_array_equal(found.sims, made.sims)
    assert found.protocol["normalize"] == made.facts
    return made


def stored_cosines(home, model):
    """Of captions and the bank with the videos, and of captions with the bank of videos."""
    features, train = Features.open(home / "feats"), Features.open(home / "train")
    texts = [text for text, _ in CAPTIONS]
    return (
        cosines(model, features, texts),
        cosines(model, features, BANK),
        cosines(model, train, texts),
    )


@pytest.mark.parametrize("rule", normalize.RULES)
def test_each_direction_is_corrected_along_its_own_axis(home, model, rule):
    made, g = corrected(home, model, rule), float(model.clip.logit_scale.detach().exp())
    sims, bank, train = stored_cosines(home, model)
    np.testing.assert_allclose(made.sims, sims, atol=1e-6)
    # Towers run in batches round otherwise, and the scale multiplies that in exponents.
    near = {"rtol": 1e-3, "atol": 1e-5}
    np.testing.assert_allclose(made.t2v, slow(rule, sims, bank, g), **near)
    np.testing.assert_allclose(made.v2t, slow(rule, sims.T, train.T, g).T, **near)
    assert (made.facts["rule"], made.facts["scale_from"]) == (rule, "model")
    assert made.facts["scale"] == pytest.approx(g)


@pytest.mark.parametrize("rule", normalize.RULES)
def test_granularities_are_corrected_before_they_are_fused(home, two_ways, rule):
    made, g = corrected(home, two_ways, rule), float(two_ways.clip.logit_scale.detach().exp())

    def both(sims, bank):
        """The second matrix goes in as it is, as if it were cosines over the scale."""
        second, other = (np.sin(3 * x) + 0.3 for x in (sims, bank))
        return g * (slow(rule, sims, bank, g) + slow(rule, second / g, other / g, g)) / 2

    sims, bank, train = stored_cosines(home, two_ways)
    near = {"rtol": 1e-3, "atol": 1e-3}  # as above, times the scale
    np.testing.assert_allclose(made.sims, (g * sims + np.sin(3 * sims) + 0.3) / 2, **near)
    np.testing.assert_allclose(made.t2v, both(sims, bank), **near)
    np.testing.assert_allclose(made.v2t, both(sims.T, train.T).T, **near)


def test_folders_alone_have_an_assumed_scale(home, model):
    features, texts = Features.open(home / "feats"), Features.open(home / "tfeats")
    found = evaluate.evaluate(features, pairs(), texts=texts, normalize=Normalization("dsl"))
    facts = found.protocol["normalize"]
    assert (facts["scale"], facts["scale_from"]) == (evaluate.ASSUMED_SCALE, "assumed")
    sims = found.sims.astype(np.float64)
    expected = ranked(slow("dsl", sims, None, 100.0), slow("dsl", sims.T, None, 100.0).T)
    assert {way: found.metrics[way] for way in expected} == expected
    bank = Features.open(home / "bank")
    banked = evaluate.evaluate(
        features,
        pairs(),
        texts=texts,
        normalize=Normalization("qbnorm", captions=tuple(bank.texts), texts=bank, name="bank"),
    )
    stored = cosines(model, features, BANK)
    expected = ranked(slow("qbnorm", sims, stored, 100.0), sims)
    assert banked.metrics["t2v"] == expected["t2v"]
    assert banked.metrics["v2t"] == ranked(sims, sims)["v2t"]
    assert banked.protocol["normalize"]["v2t"] is None


@pytest.mark.parametrize("rule", normalize.RULES)
def test_what_ties_goes_on_tying(home, model, tmp_path, rule):
    """Twins that differ by rounding alone, whatever a rule makes of their columns."""
    write_features(tmp_path / "feats", model, copies=(VIDEOS[3],))
    features = Features.open(tmp_path / "feats")
    twins = {VIDEOS[0]: Twin(VIDEOS[3], "x"), VIDEOS[3]: Twin(VIDEOS[0], "x")}
    found = evaluate.evaluate(
        features,
        pairs()._replace(twins=twins),
        retriever=model,
        encode=plain_encode(model),
        normalize=how(home, rule),
    )
    assert found.metrics["twins"]["queries"] == 2
    assert found.metrics["twins"]["tie_fraction"] == 1.0
    assert found.metrics["t2v"]["tie_fraction"] == pytest.approx(2 / 7)


def test_captions_are_encoded_once(home, model):
    asked = []

    def encode(captions):
        asked.append(tuple(captions))
        return plain_encode(model)(captions)

    features = Features.open(home / "feats")
    given = {"retriever": model, "encode": encode, "normalize": how(home, "qbnorm")}
    evaluate.evaluate(features, pairs(), **given)
    assert asked == [tuple(text for text, _ in CAPTIONS), BANK]


def test_a_bank_of_queries_is_transductive(home, model):
    features, texts = Features.open(home / "feats"), Features.open(home / "tfeats")

    def facts(captions, videos=None):
        made = Normalization("sinkhorn", captions=captions, name="x", videos=videos)
        found = evaluate.evaluate(
            features,
            pairs(),
            retriever=model,
            encode=plain_encode(model),
            texts=texts,
            normalize=made,
        )
        return found.protocol["normalize"]

    assert facts(BANK)["t2v"] == {"bank": "x", "count": 5, "queries": 1}
    assert facts(BANK)["transductive"]
    assert not facts(BANK[:3])["transductive"]
    both = facts(BANK[:3], Features.open(home / "train"))
    assert both["v2t"] == {"bank": "train", "count": 10, "queries": 1}
    assert both["transductive"]


def test_what_does_not_go_together_is_refused(home, model):
    features, texts = Features.open(home / "feats"), Features.open(home / "tfeats")
    dsl = Normalization("dsl")
    with pytest.raises(ValueError, match="normalize must be None"):
        evaluate.evaluate(features, pairs(), texts=texts, compat="clip4clip", normalize=dsl)
    for wrong in (dsl._replace(captions=BANK), dsl._replace(rule="qbnorm"), Normalization("x")):
        with pytest.raises(ValueError, match="all but dsl with a bank"):
            evaluate.evaluate(features, pairs(), texts=texts, normalize=wrong)
    swapped = Normalization("qbnorm", texts=features), Normalization("qbnorm", videos=texts)
    for wrong, message in zip(swapped, ("--bank takes texts", "takes videos"), strict=True):
        with pytest.raises(IncompatibleError, match=message):
            evaluate.evaluate(features, pairs(), texts=texts, normalize=wrong)


def test_a_bank_of_another_model_is_refused(home, capsys, tmp_path):
    other = retriever.load(home / "other.pt")
    write_texts(tmp_path / "bank", other, pairs=CAPTIONS)
    write_features(tmp_path / "train", other)
    for flag, folder in (("--bank", "bank"), ("--bank-videos", "train")):
        arguments = ("--normalize", "qbnorm", flag, tmp_path / folder)
        code, out, err = run(capsys, home / "feats", "--gt", home / "pairs.tsv", *arguments)
        assert (code, out) == (4, "")
        assert "other.pt" in err


def test_the_command_says_what_was_corrected(home, capsys):
    truth = (home / "feats", "--gt", home / "pairs.tsv")
    code, out, err = run(capsys, *truth, "--normalize", "dsl", "--temp", "2")
    assert code == 0
    names = [line.split("\t")[0] for line in out.splitlines()]
    assert names[1:5] == ["t2v_dsl", "v2t_group_dsl", "v2t_sentence_dsl", "SumR_dsl"]
    assert "| normalize dsl temp 2, scale 99.48 (of the model), t2v over all 7 captions, v2t over "
    assert err.count("scores are negative") == 1
    banked = ("--normalize", "qbnorm", "--bank", home / "bank.txt", "--beta", "5")
    code, out, err = run(capsys, *truth, *banked)
    assert code == 0
    names = [line.split("\t")[0] for line in out.splitlines()]
    assert names[1:5] == ["t2v_qbnorm", "v2t_group", "v2t_sentence", "SumR_qbnorm"]
    line = "normalize qbnorm beta 5, scale 99.48 (of the model), t2v bank bank.txt of 5 captions"
    assert f"{line} (1 are queries), v2t not normalized, transductive | model" in out
    stored = run(capsys, *truth, *banked[:3], home / "bank", *banked[4:])[1]
    assert stored.splitlines()[1:4] == out.splitlines()[1:4]
    assert "t2v bank bank of 5 captions" in stored


def test_the_command_works_on_folders_alone(home, capsys, tmp_path):
    truth = (home / "feats", "--text-features", home / "tfeats")
    banks = ("--normalize", "sinkhorn", "--bank", home / "bank", "--bank-videos", home / "train")
    saved = tmp_path / "sims.npy"
    code, out, _ = run(capsys, *truth, *banks, "--json", "--save", saved)
    assert code == 0
    facts = json.loads(out)["protocol"]["normalize"]
    assert facts == {
        "rule": "sinkhorn",
        "scale": 100.0,
        "scale_from": "assumed",
        "t2v": {"bank": "bank", "count": 5, "queries": 1},
        "v2t": {"bank": "train", "count": 10, "queries": 1},
        "transductive": True,
    }
    code, plain, _ = run(capsys, *truth, "--json", "--save", tmp_path / "plain.npy")
    assert json.loads(plain)["protocol"]["normalize"] is None
    np.testing.assert_array_equal(np.load(saved), np.load(tmp_path / "plain.npy"))
    out = run(capsys, *truth, *banks)[1]
    assert "scale 100 (assumed, no model at hand)" in out
    assert "v2t bank train of 10 videos (1 are queries), transductive" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--bank", "x"), "--bank is of --normalize qbnorm or sinkhorn"),
        (("--bank-videos", "x", "--normalize", "dsl"), "--bank-videos is of --normalize qbnorm or"),
        (("--beta", "1", "--normalize", "sinkhorn"), "--beta is of --normalize qbnorm"),
        (("--temp", "1", "--normalize", "qbnorm"), "--temp is of --normalize dsl"),
        (("--normalize", "qbnorm"), "--normalize qbnorm needs a bank: --bank of captions for t2v"),
        (("--normalize", "dsl", "--compat", "clip4clip"), "leave --normalize or --compat out"),
        (("--normalize", "qbnorm", "--bank", "x", "--beta", "-1"), "'-1' is not a positive number"),
        (("--normalize", "dsl", "--temp", "nan"), "'nan' is not a positive number"),
        (("--normalize", "softmax"), "invalid choice: 'softmax'"),
    ],
)
def test_the_command_refuses_what_does_not_go_together(home, capsys, arguments, message):
    try:
        code, out, err = run(capsys, home / "feats", "--gt", home / "pairs.tsv", *arguments)
    except SystemExit as end:
        code, (out, err) = end.code, capsys.readouterr()
    assert (code, out) == (2, "")
    assert message in err


def test_the_command_takes_one_stdin(home, capsys):
    arguments = ("--gt", "-", "--normalize", "qbnorm", "--bank", "-")
    code, _, err = run(capsys, home / "feats", *arguments)
    assert code == 2
    assert "--gt and --bank cannot both be stdin" in err


def test_a_bank_that_is_not_there_is_named(home, capsys, tmp_path):
    truth = (home / "feats", "--gt", home / "pairs.tsv", "--normalize", "sinkhorn")
    for flag in ("--bank", "--bank-videos"):
        code, out, err = run(capsys, *truth, flag, tmp_path / "nothing")
        assert (code, out) == (1, "")
        assert "nothing" in err


def test_help_tells_the_defaults_that_are_used():
    text = " ".join(_parser().format_help().split())
    assert f"of qbnorm, for cosines (default: {normalize.BETA:g})" in text
    assert f"cosines times the logit scale (default: {normalize.TEMP:g})" in text
