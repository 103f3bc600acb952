"""From a feature folder and ground truth to metrics, and the command around it."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import unicodedata

import numpy as np
import pytest
import torch
from tiny import EMBED, tiny_state

from ttvr import evaluate, metrics, plugins, retriever
from ttvr.clip import tokenizer
from ttvr.commands import data, extract
from ttvr.commands import eval as command
from ttvr.commands._extract_model import provenance
from ttvr.errors import IncompatibleError, TtvrError
from ttvr.heads.meanp import MeanP
from ttvr.recipes import ENTRIES, Published
from ttvr.records import Twin, VideoFeatures
from ttvr.store import Features, Outcome, Settings, Source, TextWriter, Writer

IDS = ("a/one", "a/two", "three", "caf\u00e9", "five")
T, WORDS = 3, 12
NAMES = ("R@1", "R@5", "R@10", "MdR", "MnR")
CAPTIONS = (
    ("a man rides a horse", "a/one"),
    ("two dogs play", "a/two"),
    ("somebody cooks an egg in a small kitchen", "three"),
    ("a person on a horse", "a/one"),
    ("a cup of coffee", "cafe\u0301"),
)


def pairs_text(pairs=CAPTIONS):
    return "".join(f"{caption}\t{video}\n" for caption, video in pairs)


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A folder with a checkpoint, features made with it, and captions of them."""
    home = tmp_path_factory.mktemp("eval")
    torch.save(tiny_state(vocabulary=49408), home / "clip.pt")
    torch.save(tiny_state(vocabulary=49408, seed=1), home / "other.pt")
    model = retriever.load(home / "clip.pt")
    write_videos(home / "feats", model)
    write_videos(home / "bare", model, arrays=("video", "mask", "times"))
    write_texts(home / "tfeats", model)
    (home / "pairs.tsv").write_text(pairs_text(), encoding="utf-8")
    return home


@pytest.fixture(scope="module")
def model(home):
    return retriever.load(home / "clip.pt")


def write_videos(folder, model, *, arrays=("video", "frames", "mask", "times")):
    generator = torch.Generator().manual_seed(3)
    sources = [Source(name, "/clips", f"{name}.mp4", 1, 1) for name in (*IDS, "broken")]
    settings = Settings(
        arrays=arrays,
        dtype="<f2",
        shard_rows=2,
        model=model.identity(),
        preprocess={"hash": "sha256:pixels", "sampler": "segment", "frames": T},
        provenance={"precision": "fp32"},
    )
    with Writer(folder, sources, settings=settings, pad=np.zeros(EMBED, "f4")) as writer:
        for number, source in enumerate(sources):
            if source.id == "broken":
                facts = {"status": "failed", "error": "empty", "detail": "no\u2028frame"}
                writer.add(Outcome(facts, None))
                continue
            mask = torch.arange(T)[None] <= number % T
            frames = torch.randn(1, T, EMBED, generator=generator) * mask[..., None]
            video = VideoFeatures(frames, mask, None)
            row = {
                "video": model.head.vector_video(video)[0].numpy(),
                "frames": frames[0].numpy(),
                "mask": mask[0].numpy(),
                "times": np.where(mask[0], np.arange(T), np.nan).astype("<f4"),
            }
            kept = {
                name: row[name].astype("<f2")
                if row[name].dtype == np.float32 and name != "times"
                else row[name]
                for name in arrays
            }
            writer.add(Outcome({"status": "ok", "duration": 1.0, "frames": T}, kept))
        writer.finish()


def write_texts(folder, model, *, pairs=CAPTIONS, gt=True):
    texts = [caption for caption, _ in pairs]
    with torch.inference_mode():
        made = model.encode_text(tokenizer.tokenize(texts, WORDS))
        vectors = model.head.vector_text(made)
    with TextWriter(
        folder,
        texts,
        model=model.identity(),
        words=WORDS,
        facts={},
        provenance={},
        pairs=[(row, video) for row, (_, video) in enumerate(pairs)] if gt else None,
        dtype="<f2",
        shard_rows=4,
    ) as writer:
        for row in range(len(texts)):
            words = (made.words[row] * made.mask[row][:, None]).numpy().astype("<f2")
            mask = made.mask[row].numpy()
            writer.add({"text": vectors[row].numpy().astype("<f2"), "words": words, "mask": mask})
        writer.finish()


def plain_encode(model):
    def encode(captions):
        with torch.inference_mode():
            return model.encode_text(tokenizer.tokenize(captions)), 0

    return encode


def slow_sims(home, model, captions):
    """Cosines of each caption and each stored vector, one at a time."""
    features, sims = Features.open(home / "feats"), []
    for caption in captions:
        with torch.inference_mode():
            sentence = model.encode_text(tokenizer.tokenize([caption])).sentence[0].double().numpy()
        sentence /= np.linalg.norm(sentence)
        sims.append([sentence @ vector.astype(np.float64) for vector in features.video[:]])
    return np.array(sims)


def write(path, pairs):
    path.write_text(pairs_text(pairs), encoding="utf-8")
    return path


def run(capsys, *arguments):
    code = command.main([str(argument) for argument in arguments])
    return code, *capsys.readouterr()


def composed_hash(path):
    return hashlib.sha256(unicodedata.normalize("NFC", path.read_text()).encode()).hexdigest()


def test_the_same_pairs_are_the_same_split(home):
    """Also where a text folder keeps them by the number of the caption."""
    stored = evaluate.stored_pairs(Features.open(home / "tfeats"))
    written = evaluate.read_pairs(str(home / "pairs.tsv"))
    assert stored.sha256 == written.sha256
    assert stored.sha256 != written._replace(videos=written.videos[::-1]).sha256


def test_scores_and_metrics_equal_a_slow_loop(home, model):
    features, pairs = Features.open(home / "feats"), evaluate.read_pairs(str(home / "pairs.tsv"))
    found = evaluate.evaluate(features, pairs, retriever=model, encode=plain_encode(model))
    sims = slow_sims(home, model, [caption for caption, _ in CAPTIONS])
    assert found.sims.dtype == np.float32
    # Batches of texts change the towers' float32 sums.
    np.testing.assert_allclose(found.sims, sims, atol=1e-6)
    assert found.metrics == metrics.summary(found.sims, [0, 1, 2, 0, 3])
    assert found.metrics["videos"] == 5
    assert found.metrics["v2t"]["queries"] == 4
    assert found.absent == {}
    assert found.protocol["sha256"] == composed_hash(home / "pairs.tsv")
    assert found.protocol["coverage"] == {"found": 4, "expected": 4}
    assert found.protocol["model"] == model.identity()


def test_text_features_give_the_same_without_a_model(home, model):
    features, texts = Features.open(home / "feats"), Features.open(home / "tfeats")
    assert not evaluate.needs_model(features, texts)
    assert evaluate.needs_model(features, None)
    found = evaluate.evaluate(features, evaluate.stored_pairs(texts), texts=texts)
    sims = slow_sims(home, model, [caption for caption, _ in CAPTIONS])
    # Stored as float16: 2^-11 relative in each of the vector's entries.
    np.testing.assert_allclose(found.sims, sims, atol=1e-3)
    assert found.protocol["split"] == "gt.tsv"


def test_captions_are_looked_up_in_text_features(home):
    features, texts = Features.open(home / "feats"), Features.open(home / "tfeats")
    stored = evaluate.evaluate(features, evaluate.stored_pairs(texts), texts=texts).sims
    pairs = evaluate.Pairs("x", (f" {CAPTIONS[3][0]}", CAPTIONS[1][0]), ("a/one", "a/two"))
    found = evaluate.evaluate(features, pairs, texts=texts)
    np.testing.assert_array_equal(found.sims, stored[[3, 1]])
    unknown = pairs._replace(captions=("never seen", CAPTIONS[1][0]))
    with pytest.raises(IncompatibleError, match="no row for 1 caption, such as 'never seen'"):
        evaluate.evaluate(features, unknown, texts=texts)


class FrameWise(MeanP):
    """Scores from frames and words, so that nothing but `similarity_matrix` can serve it."""

    offline = False


@pytest.fixture
def frame_wise(home, monkeypatch):
    """The model with such a head, which the folders name as theirs."""
    model = retriever.load(home / "clip.pt")
    model.head = FrameWise(width=EMBED)
    monkeypatch.setattr(plugins, "load", lambda family, name: FrameWise)
    return model


def test_heads_on_frames_are_scored_by_their_own_rule(home, model, frame_wise):
    features, texts = Features.open(home / "feats"), Features.open(home / "tfeats")
    assert evaluate.needs_model(features, texts)
    pairs = evaluate.stored_pairs(texts)
    sims = model.scale.item() * slow_sims(home, model, pairs.captions)
    encoded = evaluate.evaluate(
        features, pairs, retriever=frame_wise, encode=plain_encode(frame_wise)
    )
    np.testing.assert_allclose(encoded.sims, sims, atol=0.1)
    stored = evaluate.evaluate(features, pairs, retriever=frame_wise, texts=texts)
    np.testing.assert_allclose(stored.sims, sims, atol=0.2)
    with pytest.raises(ValueError, match="a model is needed"):
        evaluate.evaluate(features, pairs, texts=texts)


def test_heads_on_frames_need_frames(home, frame_wise):
    features, pairs = Features.open(home / "bare"), evaluate.read_pairs(str(home / "pairs.tsv"))
    encode = plain_encode(frame_wise)
    again = r"ttvr-extract /clips -o .*/bare -w .*clip.pt .* --overwrite"
    with pytest.raises(IncompatibleError, match=rf"needs frames, which .*bare .*: {again}"):
        evaluate.evaluate(features, pairs, retriever=frame_wise, encode=encode)


def test_missing_videos(home, model):
    features = Features.open(home / "feats")
    extra = [("a cat", "broken"), ("a bird", "gone"), ("a fish", "gone")]
    both = [*CAPTIONS, *extra]
    pairs = evaluate.Pairs("p.tsv", *(tuple(column) for column in zip(*both, strict=True)))
    pairs = pairs._replace(videos=(*(IDS[at] for at in (0, 1, 2, 0, 3)), "broken", "gone", "gone"))

    def run(missing):
        encode = plain_encode(model)
        return evaluate.evaluate(features, pairs, retriever=model, encode=encode, missing=missing)

    with pytest.raises(TtvrError, match=r"2 of 6 videos of p.tsv .* broken \(failed: empty \(no"):
        run("error")
    known = pairs._replace(captions=pairs.captions[:5], videos=pairs.videos[:5])
    alone = evaluate.evaluate(features, known, retriever=model, encode=plain_encode(model))
    skipped, counted = run("skip"), run("miss")
    reasons = {"broken": "failed: empty (no\u2028frame)", "gone": "not in the folder"}
    assert skipped.absent == counted.absent == reasons
    assert skipped.metrics == alone.metrics
    assert counted.protocol["coverage"] == {"found": 4, "expected": 6}
    for way, missed in (("t2v", 3), ("v2t", 2)):
        before, after = alone.metrics[way], counted.metrics[way]
        share = before["queries"] / (before["queries"] + missed)
        for name in NAMES[:3]:
            assert after[name] == pytest.approx(before[name] * share)
        assert after["queries"] == before["queries"] + missed
    gone = evaluate.Pairs("p.tsv", ("a",), ("gone",))
    with pytest.raises(TtvrError, match="none of the 1 videos"):
        evaluate.evaluate(features, gone, missing="skip")


def slow_preference(sims, videos, columns, twins):
    """Shares of each kind, one caption at a time."""
    shares = {}
    for row, video in enumerate(videos):
        if video not in twins or twins[video].id not in columns:
            continue
        gap = float(sims[row, columns[video]]) - float(sims[row, columns[twins[video].id]])
        share = 0.5 if abs(gap) <= evaluate.TOLERANCE else float(gap > 0)
        shares.setdefault(twins[video].kind, []).append(share)
    return shares


def twins_of(*pairs):
    return {one: Twin(other, kind) for a, b, kind in pairs for one, other in ((a, b), (b, a))}


@pytest.fixture
def given_scores(home, model, monkeypatch):
    """Evaluates scores that a test makes up, of the videos of `feats`."""
    features = Features.open(home / "feats")

    def run(sims, videos, twins, **options):
        made = sims.astype(np.float32)
        monkeypatch.setattr(evaluate, "scores", lambda *given, memory: (made, 0))
        captions = tuple(f"caption {row}" for row in range(len(videos)))
        pairs = evaluate.Pairs("set/part", captions, tuple(videos), twins, is_file=False)
        return evaluate.evaluate(features, pairs, **options)

    return run


def test_preference_of_twins_equals_a_slow_loop(given_scores):
    rng, columns = np.random.default_rng(0), {name: at for at, name in enumerate(IDS)}
    twins = twins_of((IDS[0], IDS[3], "x"), (IDS[4], IDS[1], "y"), (IDS[2], "elsewhere", "z"))
    for _ in range(20):
        videos = [IDS[at] for at in rng.integers(0, len(IDS), 12)]
        # Many gaps are smaller than the tolerance, many are not, and none is near it.
        sims = rng.integers(0, 8, (12, len(IDS))) * (0.4 * evaluate.TOLERANCE)
        sims[:, 0] += evaluate.TOLERANCE / 10
        result = given_scores(sims, videos, twins)
        found, expected = result.metrics["twins"], slow_preference(sims, videos, columns, twins)
        assert set(found["kinds"]) == set(expected) <= {"x", "y"}
        everything = [share for shares in expected.values() for share in shares]
        for facts, shares in (
            (found, everything),
            *((found["kinds"][kind], shares) for kind, shares in expected.items()),
        ):
            assert facts["queries"] == len(shares)
            assert facts["accuracy"] == pytest.approx(100 * np.mean(shares))
            assert facts["tie_fraction"] == pytest.approx(np.mean(np.array(shares) == 0.5))
        np.testing.assert_array_equal(result.sims, sims.astype(np.float32))
        assert result.protocol["split"] == "set/part"


def test_twins_within_rounding_share_their_ranks(given_scores):
    """Whichever of the two rounding puts first, a caption finds its video half of the time."""
    noise = evaluate.TOLERANCE / 2
    videos, twins = [IDS[0], IDS[1]], twins_of((IDS[0], IDS[1], "x"))
    sims = np.array([[0.5, 0.5, 0.1, 0.2, 0.3], [0.4, 0.4, 0.3, 0.2, 0.1]])
    exact = given_scores(sims, videos, twins).metrics
    assert exact["t2v"]["MnR"] == 1.5
    for sign in (1, -1):
        other = sims.copy()
        other[:, 0] += sign * noise
        found = given_scores(other, videos, twins).metrics
        assert found == exact
        assert found["twins"]["accuracy"] == 50.0
        other[:, 0] += sign * 2 * noise
        assert given_scores(other, videos, twins).metrics["t2v"]["tie_fraction"] == 0.0
    # Others that are as near are no twins, and are told apart.
    sims[:, 2] = sims[:, 0] - noise
    assert given_scores(sims, videos, twins).metrics["t2v"]["MnR"] == 1.5


def test_without_twins_nothing_is_said_of_them(given_scores):
    sims = np.eye(5)
    assert "twins" not in given_scores(sims, IDS, {}).metrics
    absent = given_scores(sims, IDS, twins_of((IDS[0], "elsewhere", "x"))).metrics["twins"]
    assert (absent["queries"], absent["accuracy"], absent["kinds"]) == (0, None, {})


def test_twins_of_scores_that_are_not_finite(given_scores):
    sims = np.eye(5)
    sims[0, :2] = np.inf
    twins = twins_of((IDS[0], IDS[1], "x"))
    with pytest.raises(TtvrError, match="row 0"):
        given_scores(sims, IDS, twins)
    assert given_scores(sims, IDS, twins, compat="clip4clip").metrics["twins"]["queries"] == 2


def test_models_that_do_not_belong_are_refused(home, model, tmp_path):
    features, pairs = Features.open(home / "feats"), evaluate.read_pairs(str(home / "pairs.tsv"))
    other = retriever.load(home / "other.pt")
    mine, theirs = (m.identity()["fingerprint"][:19] for m in (model, other))
    with pytest.raises(IncompatibleError, match=f"clip.pt.*{mine}.*other.pt.*{theirs}"):
        evaluate.evaluate(features, pairs, retriever=other, encode=plain_encode(other))
    write_texts(tmp_path / "texts", other)
    texts = Features.open(tmp_path / "texts")
    with pytest.raises(IncompatibleError, match=f"clip.pt.*{mine}.*texts with .*{theirs}"):
        evaluate.evaluate(features, evaluate.stored_pairs(texts), texts=texts)
    with pytest.raises(IncompatibleError, match="tfeats holds texts, expected videos"):
        evaluate.evaluate(Features.open(home / "tfeats"), pairs)
    with pytest.raises(IncompatibleError, match="feats holds videos, expected texts"):
        evaluate.evaluate(features, pairs, texts=features)
    with pytest.raises(IncompatibleError, match="feats holds videos, expected texts"):
        evaluate.stored_pairs(features)


def test_text_features_without_pairs(home, model, tmp_path):
    write_texts(tmp_path / "texts", model, gt=False)
    with pytest.raises(TtvrError, match=r"no gt\.tsv: pass --gt"):
        evaluate.stored_pairs(Features.open(tmp_path / "texts"))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a dog\n", r"pairs.tsv:1: expected `caption<TAB>video id`, found 'a dog'"),
        (b"a dog\tv\nx\ty\tz\n", r"pairs.tsv:2: expected .*'x\\ty\\tz'"),
        (b"a dog\tv\n\n", r"pairs.tsv:2: expected .* an empty line"),
        (b"a dog\tv\n \tv\n", r"pairs.tsv:2: the caption is empty"),
        (b"a dog\t\n", r"pairs.tsv:1: the video id is empty"),
        (b"a\tv\nb\xff\tv\n", r"pairs.tsv:2: not UTF-8; convert it \(iconv -f LATIN1 "),
        ("a\tv\n".encode("utf-16"), r"pairs.tsv:1: not UTF-8; convert it \(iconv -f UTF-16 "),
        (b"", "pairs.tsv: no captions"),
        (b"\xef\xbb\xbf", "pairs.tsv: no captions"),
        ((b"x" * 100) + b"\n", r"found 'x{57}\.\.\.'"),
    ],
)
def test_malformed_ground_truth_is_named_by_line(tmp_path, content, message):
    (tmp_path / "pairs.tsv").write_bytes(content)
    with pytest.raises(TtvrError, match=message):
        evaluate.read_pairs(str(tmp_path / "pairs.tsv"))


def test_ground_truth_reads_what_editors_write(tmp_path):
    content = "\ufeffa dog, \u2028 a cat\tcafe\u0301\r\nsame\tv\nsame\tv\nsame\tw".encode()
    (tmp_path / "pairs.tsv").write_bytes(content)
    pairs = evaluate.read_pairs(str(tmp_path / "pairs.tsv"))
    assert pairs.captions == ("a dog, \u2028 a cat", "same", "same", "same")
    assert pairs.videos == ("caf\u00e9", "v", "v", "w")
    clean = "a dog, \u2028 a cat\tcaf\u00e9\nsame\tv\nsame\tv\nsame\tw\n".encode()
    assert pairs.sha256 == hashlib.sha256(clean).hexdigest()


def test_command_prints_a_table_and_the_protocol(home, capsys):
    code, out, _ = run(capsys, home / "feats", "--gt", home / "pairs.tsv")
    assert code == 0
    header, t2v, group, sentence, total, protocol, interval = out.splitlines()
    assert header.split("\t") == ["direction", *NAMES, "RSum"]
    names = [line.split("\t")[0] for line in (t2v, group, sentence, total)]
    assert names == ["t2v", "v2t_group", "v2t_sentence", "SumR"]
    assert all(re.fullmatch(r"\d+\.\d", cell) for cell in t2v.split("\t")[1:])
    sha256 = composed_hash(home / "pairs.tsv")
    for part in (
        f"# split pairs.tsv sha256:{sha256} | queries 5 captions, 4 videos | candidates 5 videos",
        "coverage 4/4 videos | ties t2v 0.0 %, v2t 0.0 % (average)",
        "head meanp | frames 3 segment sha256:pixels | selection none | seed none",
    ):
        assert part in protocol
    ways = r"t2v [\d.]+\.\.[\d.]+, v2t [\d.]+\.\.[\d.]+"
    how = r"\(percentile bootstrap over videos, 10000 resamples\)"
    assert re.fullmatch(rf"# R@1 95 % interval {ways} {how}", interval)


def test_command_tells_how_the_weights_were_chosen(home, model, capsys, tmp_path):
    """By the file of weights, by the folder, or not at all: of a run from before there was one."""
    chosen = {"select": "best", "on": "test", "step": 3, "steps": 9}
    run_file = retriever.load(home / "clip.pt")
    run_file.trained = {**chosen, "seed": 7}
    run_file.save(tmp_path / "run.pt")
    truth = ("--gt", home / "pairs.tsv", "--device", "cpu")
    _, out, _ = run(capsys, home / "feats", *truth, "-w", tmp_path / "run.pt")
    assert "selection best on test, after step 3 of 9 | seed 7 | ttvr " in out
    made = evaluate.evaluate(
        Features.open(home / "feats"),
        evaluate.read_pairs(str(home / "pairs.tsv")),
        retriever=retriever.load(tmp_path / "run.pt"),
        encode=plain_encode(model),
    )
    assert (made.protocol["selection"], made.protocol["seed"]) == (chosen, 7)

    shutil.copytree(home / "feats", tmp_path / "feats")
    meta = json.loads((tmp_path / "feats" / "meta.json").read_text())
    meta["provenance"] = provenance(retriever.load(tmp_path / "run.pt"))
    (tmp_path / "feats" / "meta.json").write_text(json.dumps(meta))
    _, out, _ = run(capsys, tmp_path / "feats", "--text-features", home / "tfeats", "--json")
    assert json.loads(out)["protocol"]["selection"] == chosen

    content = torch.load(tmp_path / "run.pt", weights_only=True)
    del content["training"]["seed"]
    torch.save(content, tmp_path / "odd.pt")
    code, _, err = run(capsys, home / "feats", *truth, "-w", tmp_path / "odd.pt")
    assert (code, "odd.pt: its training is not told by select, on," in err) == (4, True)

    del content["training"]
    torch.save(content, tmp_path / "old.pt")
    _, out, _ = run(capsys, home / "feats", *truth, "-w", tmp_path / "old.pt")
    assert "selection none | seed none | ttvr " in out


def test_command_gives_full_precision_as_json(home, capsys, tmp_path):
    saved = tmp_path / "sims.npy"
    options = ("--json", "--save", saved, "-w", home / "clip.pt", "--device", "cpu", "-b", "2")
    code, out, _ = run(capsys, home / "feats", "--gt", home / "pairs.tsv", *options)
    assert code == 0
    found = json.loads(out)
    sims = np.load(saved, allow_pickle=False)
    assert sims.shape == (5, 5)
    expected = metrics.summary(sims, [0, 1, 2, 0, 3])
    assert {name: found[name] for name in expected} == expected
    assert found["protocol"]["selection"] is None
    assert [path.name for path in tmp_path.iterdir()] == ["sims.npy"]


def test_command_checks_where_to_save_before_it_works(home, capsys, tmp_path, monkeypatch):
    truth = (home / "feats", "--gt", home / "pairs.tsv", "--save")
    kept = tmp_path / "kept.npy"
    kept.write_bytes(b"mine")
    with monkeypatch.context() as patch:
        patch.setattr(evaluate, "evaluate", None)
        for target, message in (
            (tmp_path / "none" / "x.npy", "no folder"),
            (tmp_path, "is a folder"),
            (kept, "is there already; pass --overwrite"),
        ):
            code, out, err = run(capsys, *truth, target)
            assert (code, out) == (2, "")
            assert message in err
    assert kept.read_bytes() == b"mine"
    assert run(capsys, *truth, kept, "--overwrite")[0] == 0
    assert np.load(kept).shape == (5, 5)


def test_command_policies(home, capsys):
    run_json = (home / "feats", "--gt", home / "pairs.tsv", "--json")
    _, out, _ = run(capsys, *run_json, "--ties", "pessimistic")
    assert json.loads(out)["ties"] == "pessimistic"
    _, out, _ = run(capsys, *run_json, "--compat", "clip4clip")
    found = json.loads(out)
    assert found["compat"] == "clip4clip"
    assert "v2t_sentence" not in found


def test_command_takes_text_features(home, capsys):
    code, out, _ = run(capsys, home / "feats", "--text-features", home / "tfeats")
    assert code == 0
    assert "split gt.tsv" in out
    truth = ("--gt", home / "pairs.tsv")
    again = run(capsys, home / "feats", "--text-features", home / "tfeats", *truth)
    assert again[1].splitlines()[:5] == out.splitlines()[:5]


def test_command_reads_stdin(home, capsys, monkeypatch):
    with (home / "pairs.tsv").open() as file:
        monkeypatch.setattr("sys.stdin", file)
        code, out, _ = run(capsys, home / "feats", "--gt", "-")
    assert code == 0
    assert "split stdin sha256:" in out


def test_command_without_ground_truth_is_wrong_use(home, capsys):
    code, out, err = run(capsys, home / "feats")
    assert (code, out) == (2, "")
    assert "no ground truth" in err


def test_command_lists_what_it_leaves_out(home, capsys, tmp_path):
    pairs = write(tmp_path / "pairs.tsv", [*CAPTIONS, ("a cat", "broken"), ("a bird", "gone")])
    code, out, err = run(capsys, home / "feats", "--gt", pairs)
    assert (code, out) == (1, "")
    assert "2 of 6 videos" in err
    code, out, err = run(capsys, home / "feats", "--gt", pairs, "--missing", "skip")
    assert code == 3
    (said,) = [line for line in err.split("\n") if "have no features" in line]
    assert said.startswith(f"2 of 6 videos of {pairs} have no features in ")
    assert "broken (failed: empty" in said
    assert "gone (not in the folder); left out; -v lists them" in said
    assert "coverage 4/6 videos (missing: skip)" in out
    code, out, err = run(capsys, home / "feats", "--gt", pairs, "--missing", "miss")
    assert code == 0
    assert "queries 7 captions, 6 videos" in out
    assert "gone (not in the folder); counted as not found" in err
    more = write(tmp_path / "more.tsv", [*CAPTIONS, *(("a bird", f"g{n}") for n in range(7))])
    command = (home / "feats", "--gt", more, "--missing", "skip")
    err = run(capsys, *command)[2]
    assert "g4 (not in the folder) and 2 more" in err
    assert "g5" not in err
    assert "g6: not in the folder" in run(capsys, *command, "-v")[2].splitlines()


def test_command_refuses_other_weights(home, capsys):
    truth = ("--gt", home / "pairs.tsv")
    code, out, err = run(capsys, home / "feats", *truth, "-w", home / "other.pt")
    assert (code, out) == (4, "")
    assert "clip.pt" in err
    assert "other.pt" in err
    assert err.splitlines()[-1].startswith("ttvr-eval: ")


def test_command_says_when_the_weights_are_gone(home, capsys, tmp_path):
    shutil.copytree(home / "feats", tmp_path / "feats")
    path = tmp_path / "feats" / "meta.json"
    path.write_text(path.read_text().replace("clip.pt", "lost.pt"))
    code, _, err = run(capsys, tmp_path / "feats", "--gt", home / "pairs.tsv")
    assert code == 5
    assert "lost.pt" in err


@pytest.mark.parametrize("wrong", ["nothing", "pairs.tsv"])
def test_command_says_what_is_not_there(home, capsys, tmp_path, wrong):
    folder = home / "feats" if wrong == "pairs.tsv" else tmp_path / "nothing"
    code, out, err = run(capsys, folder, "--gt", tmp_path / "pairs.tsv")
    assert (code, out) == (1, "")
    assert wrong in err


def test_command_counts_long_captions(home, capsys, tmp_path):
    long = " ".join(["word"] * 100)
    pairs = write(tmp_path / "pairs.tsv", [("short", "three"), (long, "five")])
    code, out, err = run(capsys, home / "feats", "--gt", pairs, "--json")
    assert code == 0
    assert "1 of 2 captions have more than 77 tokens and were cut" in err
    assert json.loads(out)["protocol"]["truncated"] == 1
    code, out, err = run(capsys, home / "feats", "--gt", pairs, "--on-long", "error")
    assert (code, out) == (2, "")
    assert "1 of 2 captions have more than 77 tokens, the first is number 1, 'word" in err


@pytest.fixture(scope="module")
def drawn(tmp_path_factory, home):
    """Features of the first clips of two splits, under their ids."""
    made = {}
    for split, count in (("test", 4), ("twins", 6)):
        folder = tmp_path_factory.mktemp(split)
        clips, feats = folder / "clips", folder / "feats"
        arguments = ["synth", "-o", clips, "--split", split, "--limit", count, "-q"]
        assert data.main([*map(str, arguments), "--format", "images", "-j", "1"]) == 0
        arguments = [clips, "-o", feats, "-w", home / "clip.pt", "--frames", 8, "-q"]
        assert extract.main([*map(str, arguments), "--device", "cpu", "-j", "1"]) == 0
        made[split] = feats, clips / "gt.tsv"
    return made


def test_command_takes_a_dataset(drawn, capsys):
    feats, truth = drawn["test"]
    options = ("--json", "--missing", "skip")
    code, out, err = run(capsys, feats, "--data", "synthetic", *options)
    assert code == 3
    assert "test-00004 (not in the folder)" in err
    found = json.loads(out)
    assert found["protocol"]["split"] == "synthetic/test"
    assert found["protocol"]["coverage"] == {"found": 4, "expected": 500}
    split = plugins.load("datasets", "synthetic").load(None, "test")
    lines = zip(split.captions, (clip.id for clip in split.clips), strict=True)
    sha256 = hashlib.sha256(pairs_text(lines).encode()).hexdigest()
    assert found["protocol"]["sha256"] == sha256
    assert "twins" not in found
    alone = json.loads(run(capsys, feats, "--gt", truth, "--json")[1])
    assert all(found[name] == alone[name] for name in ("t2v", "v2t", "SumR"))
    code, out, err = run(capsys, feats, "--data", "synthetic", "--split", "val")
    assert (code, out) == (1, "")
    assert "500 of 500 videos of synthetic/val have no features" in err


def test_command_shows_what_a_recipe_has_published(drawn, capsys, monkeypatch):
    known = Published(t2v=(("R@1", 12.5),), sum_r=99.25)
    entry = ENTRIES["ttvr-tiny"]._replace(published=known, source="a paper")
    monkeypatch.setitem(ENTRIES, "ttvr-tiny", entry)
    arguments = [drawn["test"][0], "--data", "synthetic", "--missing", "skip"]
    plain = run(capsys, *arguments)[1]
    code, out, _ = run(capsys, *arguments, "--published", "ttvr-tiny")
    assert code == 3
    rows = ["t2v_published\t12.5\t-\t-\t-\t-\t-", "SumR_published\t99.2"]
    *measured, protocol, interval = plain.splitlines()
    assert out.splitlines()[:-1] == [*measured, *rows, protocol, interval]
    assert out.splitlines()[-1].startswith("# published: ttvr-tiny, a paper; ")
    found = json.loads(run(capsys, *arguments, "--published", "ttvr-tiny", "--json")[1])
    assert found["published"]["published"] == known.as_json()


def test_command_says_first_that_nothing_is_published(home, capsys):
    name = next(name for name, entry in ENTRIES.items() if not entry.published.as_json())
    code, _, err = run(capsys, home / "feats", "--data", "synthetic", "--published", name)
    assert code == 2
    assert f"no published numbers of {name} are known here: leave --published out" in err


def test_what_ignores_order_prefers_no_twin(drawn, capsys):
    """Eight of 36 frames are the same from either end, and meanp takes their mean."""
    arguments = (drawn["twins"][0], "--data", "synthetic", "--split", "twins", "--missing", "skip")
    code, out, _ = run(capsys, *arguments)
    assert code == 3
    line = out.splitlines()[-1]
    assert line.startswith(
        "# twins 50.0 % of 6 captions prefer their video (ties 100.0 %, of cosines "
    )
    found = json.loads(run(capsys, *arguments, "--json")[1])
    assert found["twins"]["accuracy"] == 50.0
    assert found["t2v"]["tie_fraction"] == 1.0
    assert all(facts["accuracy"] == 50.0 for facts in found["twins"]["kinds"].values())
    assert re.findall(r"\| (\w+) 50\.0", line) == sorted(found["twins"]["kinds"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--gt", "pairs.tsv", "--data", "synthetic"), "--data: not allowed with argument --gt"),
        (("--data", "nothing"), "invalid choice: 'nothing'"),
        (("--data", "synthetic", "--split", "rest"), "synthetic has no split 'rest'; there are"),
        (("--gt", "pairs.tsv", "--split", "test"), "--split is of a dataset: pass --data NAME"),
        (("--gt", "pairs.tsv", "--root", "x"), "--root is of a dataset: pass --data NAME"),
    ],
)
def test_command_refuses_half_a_dataset(home, capsys, arguments, message):
    try:
        code, out, err = run(capsys, home / "feats", *arguments)
    except SystemExit as end:
        code, (out, err) = end.code, capsys.readouterr()
    assert (code, out) == (2, "")
    assert message in err
