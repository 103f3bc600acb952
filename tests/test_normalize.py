"""Rules that correct scores, against their authors' numbers and plain loops."""

from __future__ import annotations

import math

import pytest
import torch
from golden_heads import EXACT, Golden

from ttvr import metrics
from ttvr.normalize import activated, dual_softmax, qb_norm, sinkhorn, sinkhorn_bias

CASES = ("k1_beta20", "k1_beta0.5025", "k3_beta20", "k3_beta0.5025", "partial")


def random(seed, *shape, scale=1.0):
    generator = torch.Generator().manual_seed(seed)
    return scale * torch.randn(*shape, generator=generator, dtype=torch.float64)


def shape_of(seed):
    return 2 + seed % 5, 1 + seed % 4, 1 + seed % 6  # Nt, Nv, Nq


@pytest.mark.parametrize("name", ["sim", "sim_rect"])
def test_dual_softmax_equals_the_published_one(shared, name):
    golden = Golden(shared, "dsl")
    stored = {"sim": "ts2_dsl_axis0", "sim_rect": "ts2_dsl_axis0_rect"}[name]
    golden.close(dual_softmax(golden[name]), stored)
    torch.testing.assert_close(
        dual_softmax(golden[name].float()).double(), golden[stored], rtol=1e-5, atol=1e-5
    )


def test_variants_of_the_dual_softmax_equal_stored_ones(shared):
    golden = Golden(shared, "dsl")
    sims = golden["sim"]
    golden.close(dual_softmax(sims.mT).mT, "rec_v2t_axis1")
    golden.close(dual_softmax(sims, form="both"), "tcmgc_commented_product")
    for temp in (1, 10, 100):
        golden.close(dual_softmax(sims, temp=temp), f"dsl_axis0_on_sim_over_{temp}")
    both = dual_softmax(sims).numpy()
    found = metrics.summary(both, range(len(sims)))
    keys = ("R@1", "R@5", "R@10", "MdR", "MnR")
    for way in ("t2v", "v2t"):  # TS2-Net ranks both by the one matrix
        assert [found[way][key] for key in keys] == pytest.approx(
            golden[f"ts2_eval_{way}"].tolist()
        )


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("form", ["product", "log", "both"])
def test_dual_softmax_equals_a_loop(form, seed):
    Nt, Nv, _ = shape_of(seed)
    sims, temp = random(seed, Nt, Nv, scale=5.0), 0.5 + seed % 3
    found = dual_softmax(sims, temp=temp, form=form)
    for t in range(Nt):
        for v in range(Nv):
            column = sum(math.exp(sims[i, v] / temp) for i in range(Nt))
            row = sum(math.exp(sims[t, j] / temp) for j in range(Nv))
            share = math.exp(sims[t, v] / temp)
            expected = {
                "product": sims[t, v].item() * share / column,
                "log": sims[t, v].item() / temp + math.log(share / column),
                "both": share / column * share / row,
            }[form]
            assert found[t, v].item() == pytest.approx(expected, rel=1e-9)


def test_negative_scores_are_told_of(caplog):
    sims = torch.tensor([[1.0, -2.0], [3.0, 0.0]])
    dual_softmax(sims, form="log")
    dual_softmax(sims.abs())
    dual_softmax(sims, warn=False)
    assert not caplog.messages
    dual_softmax(sims)
    assert len(caplog.messages) == 1
    assert caplog.messages[0].startswith("1 of 4 scores are negative")


@pytest.mark.parametrize("case", CASES)
def test_qb_norm_equals_the_published_one(shared, case):
    golden = Golden(shared, "qbnorm")
    bank = golden["partial/bank" if case == "partial" else "bank"]
    top, beta = (1, 20.0) if case == "partial" else case.removeprefix("k").split("_beta")
    top, beta = int(top), float(beta)
    if beta == 0.5025:
        beta = 1 / 1.99
    rows = activated(golden["test"], bank, top=top)
    assert rows.nonzero().squeeze(1).tolist() == golden[f"{case}/activated_rows"].tolist()
    found = qb_norm(golden["test"], bank, beta=beta, top=top)
    published = torch.where(rows[:, None], (beta * found).exp(), found)
    torch.testing.assert_close(published, golden[f"{case}/out"], **EXACT)
    single = qb_norm(golden["test"].float(), bank.float(), beta=beta, top=top)
    torch.testing.assert_close(single.double(), found, rtol=1e-5, atol=1e-5)
    if f"{case}/t2v" in golden:
        ranked = metrics.summary(found.numpy(), [row // 3 for row in range(len(found))])["t2v"]
        measured = [ranked[key] for key in ("R@1", "R@5", "MdR", "MnR")]
        # The published code prints one decimal, of the median too.
        expected = golden[f"{case}/t2v"][[0, 1, 4, 5]].tolist()
        assert measured == pytest.approx(expected, abs=0.051)


@pytest.mark.parametrize("seed", range(20))
def test_qb_norm_equals_a_loop(seed):
    Nt, Nv, Nq = shape_of(seed)
    sims, bank = random(seed, Nt, Nv), random(seed + 100, Nq, Nv)
    beta, top = 1.0 + seed % 3, 1 + seed % 2
    hubs = {j for q in range(Nq) for j in sorted(range(Nv), key=lambda j: -bank[q, j])[:top]}
    found = qb_norm(sims, bank, beta=beta, top=top)
    for t in range(Nt):
        best = max(range(Nv), key=lambda j: sims[t, j].item())
        for j in range(Nv):
            expected = sims[t, j].item()
            if best in hubs:
                share = math.exp(beta * expected) / sum(math.exp(beta * b) for b in bank[:, j])
                expected = math.log(share) / beta
            assert found[t, j].item() == pytest.approx(expected, rel=1e-9, abs=1e-12)


def test_qb_norm_that_activates_nothing_is_the_identity():
    sims = random(0, 6, 4)
    sims[:, 0] = -10.0
    bank = random(1, 5, 4)
    bank[:, 0] = 10.0  # no text of the bank retrieves what a text has best
    assert not activated(sims, bank).any()
    assert torch.equal(qb_norm(sims, bank), sims)


def test_equal_scores_of_a_bank_go_to_the_lower_column():
    assert activated(torch.tensor([[1.0, 0.0]]), torch.zeros(1, 2)).tolist() == [True]
    assert activated(torch.tensor([[0.0, 1.0]]), torch.zeros(1, 2)).tolist() == [False]


def test_sinkhorn_equals_the_published_one(shared):
    golden = Golden(shared, "ucofia_sknorm")
    golden.close(sinkhorn_bias(golden["bank_text_by_video"]), "video_bias")
    golden.close(sinkhorn(golden["test_sim"], golden["bank_text_by_video"]), "sim_t2v")
    golden.close(sinkhorn_bias(golden["bank_video_by_text"]), "text_bias")
    golden.close(sinkhorn(golden["test_sim"].mT, golden["bank_video_by_text"]).mT, "sim_v2t")
    single = sinkhorn(golden["test_sim"].float(), golden["bank_text_by_video"].float())
    golden.near(single, "sim_t2v")


@pytest.mark.parametrize("seed", range(20))
def test_sinkhorn_equals_a_loop(seed):
    Nt, Nv, Nq = shape_of(seed)
    sims, bank = random(seed, Nt, Nv), random(seed + 100, Nq, Nv, scale=3.0)
    K = [[math.exp(bank[q, j]) for j in range(Nv)] for q in range(Nq)]
    b = [1 / sum(K[q][j] for q in range(Nq)) for j in range(Nv)]
    rounds = 1 + seed % 4
    for _ in range(rounds):
        a = [1 / sum(K[q][j] * b[j] for j in range(Nv)) for q in range(Nq)]
        b = [1 / sum(a[q] * K[q][j] for q in range(Nq)) for j in range(Nv)]
    found = sinkhorn(sims, bank, rounds=rounds)
    for t in range(Nt):
        for j in range(Nv):
            expected = sims[t, j].item() + math.log(b[j] / sum(b))
            assert found[t, j].item() == pytest.approx(expected, rel=1e-9, abs=1e-12)


def test_the_bias_does_not_depend_on_a_constant_and_never_underflows():
    bank = random(0, 9, 5, scale=20.0)
    torch.testing.assert_close(sinkhorn_bias(bank + 500.0), sinkhorn_bias(bank))
    far = bank.float()
    far[:, 2] -= 400.0  # exp of it is zero in float32
    assert sinkhorn_bias(far).isfinite().all()
    # A video that is far from all texts alike gets back what it lacks.
    # It comes off a constant, which the bias of all others shares.
    lost = far + sinkhorn_bias(far) - (bank + sinkhorn_bias(bank)).float()
    torch.testing.assert_close(lost, lost[:1, :1].expand(9, 5), rtol=1e-5, atol=1e-3)


@pytest.mark.parametrize("rule", ["dsl", "qbnorm", "sinkhorn"])
def test_granularities_are_each_their_own_and_nothing_is_changed(rule):
    sims, bank = random(0, 3, 5, 4), random(1, 3, 6, 4)
    kept = sims.clone(), bank.clone()
    rules = {"dsl": lambda s, _: dual_softmax(s), "qbnorm": qb_norm, "sinkhorn": sinkhorn}
    found = rules[rule](sims, bank)
    assert found.data_ptr() != sims.data_ptr()
    assert torch.equal(sims, kept[0])
    assert torch.equal(bank, kept[1])
    for g in range(3):
        torch.testing.assert_close(found[g], rules[rule](sims[g], bank[g]))
    assert rules[rule](sims.half(), bank.half()).dtype == torch.float32


def test_what_does_not_fit_is_refused():
    sims = torch.zeros(3, 4)
    for bank in (torch.zeros(2, 5), torch.zeros(1, 2, 4), torch.zeros(0, 4)):
        with pytest.raises(ValueError, match="a bank"):
            qb_norm(sims, bank)
        with pytest.raises(ValueError, match="a bank"):
            sinkhorn(sims, bank)
    with pytest.raises(ValueError, match="beta is above 0"):
        qb_norm(sims, sims, beta=0.0)
    with pytest.raises(ValueError, match="rounds"):
        sinkhorn(sims, sims, rounds=0)
    with pytest.raises(ValueError, match="form is one of"):
        dual_softmax(sims, form="sum")
    with pytest.raises(ValueError, match="temp above 0"):
        dual_softmax(sims, temp=0.0)
