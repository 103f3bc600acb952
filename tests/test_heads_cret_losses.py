"""CRET's losses against stored numbers, plain loops over Sigma, and draws from the model."""

from __future__ import annotations

import json
import math

import pytest
import torch
from cret_golden import CretGolden

from ttvr.heads._cret_embed import safe_unit
from ttvr.heads._cret_gees import contrast, gees, moments, nce_frames, nce_mean

BOTH = pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
DIRECTIONS = ("t2v", "v2t", "sym", "union")
KINDS = ("raw", "norm")
SIGNS = torch.tensor([-1.0, 1.0], dtype=torch.float64)


def inputs(golden, kind):
    T, V, tau = golden["T"], golden["V"], 1.0
    if kind == "norm":
        T, V, tau = safe_unit(T), safe_unit(V), golden.number("tau")
    return T, V, torch.ones(V.shape[:2], dtype=torch.bool), tau


def draws(N=5, T=4, D=6, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    text = torch.randn(N, D, generator=generator, dtype=dtype)
    frames = torch.randn(N, T, D, generator=generator, dtype=dtype)
    counts = torch.tensor([T, 1, 2, T - 1, T])[:N]
    return text, frames, torch.arange(T) < counts[:, None]


@BOTH
def test_contrast_equals_the_golden(shared, dtype):
    golden = CretGolden(shared, dtype)
    product = golden["Zc_t"].flatten(1) @ golden["Zc_v"].flatten(1).T
    golden.close(product, "ccm_logits_ip")
    cosines = golden["S_l"] / golden.number("tau_local")
    for name, logits in (("ip", product), ("cos", cosines)):
        for direction in DIRECTIONS:
            golden.close(contrast(logits, direction), f"ccm_{name}_{direction}")
            golden.close(contrast(logits, direction).mean(), f"L_ccm_{name}_{direction}")


@BOTH
@pytest.mark.parametrize("kind", KINDS)
def test_losses_equal_the_golden(shared, dtype, kind):
    golden = CretGolden(shared, dtype)
    text, frames, mask, tau = inputs(golden, kind)
    golden.close(frames.mean(1), f"{kind}_mu")
    golden.close(frames.var(1, correction=0), f"{kind}_var")
    for covariance in ("diag", "full"):
        m, q = moments(text, frames, mask, tau=tau, covariance=covariance)
        golden.close(m, f"{kind}_m")
        golden.close(q, f"{kind}_q_{covariance}")
    _, q = moments(text, frames, mask, tau=tau, covariance="diag", unbiased=True)
    golden.close(q, f"{kind}_q_diag_unbiased")

    diag = {"tau": tau, "covariance": "diag"}
    for direction in DIRECTIONS:

        def loss(direction=direction, **options):
            return gees(text, frames, mask, direction=direction, **{**diag, **options})

        golden.close(loss(), f"{kind}_gees_{direction}")
        for name, options in (
            ("gees", {}),
            ("gees_full", {"covariance": "full"}),
            ("gees_unbiased", {"unbiased": True}),
            ("gees_lam025", {"variance_weight": 0.25}),
            ("slide", {"bound": "slide"}),
        ):
            golden.close(loss(**options).mean(), f"{kind}_L_{name}_{direction}")
        if direction in ("t2v", "v2t"):
            difference = loss(bound="difference").mean()
            golden.close(difference, f"{kind}_L_gees_diff_{direction}")
        for name, plain in (("nce_frames", nce_frames), ("nce_mean", nce_mean)):
            found = plain(text, frames, mask, tau=tau, direction=direction)
            golden.close(found.mean(), f"{kind}_L_{name}_{direction}")


@BOTH
@pytest.mark.parametrize("kind", KINDS)
def test_gradients_and_totals_equal_the_golden(shared, dtype, kind):
    golden = CretGolden(shared, dtype)
    text, frames, mask, tau = inputs(golden, kind)
    text, frames = text.requires_grad_(), frames.requires_grad_()
    loss = gees(text, frames, mask, tau=tau, covariance="diag").mean()
    loss.backward()
    golden.close(text.grad, f"{kind}_grad_T")
    golden.close(frames.grad, f"{kind}_grad_V")
    local = golden["ccm_logits_ip"] if kind == "raw" else golden["S_l"] / golden.number("tau_local")
    total = loss.detach() + golden.number("alpha") * contrast(local).mean()
    golden.close(total, f"{kind}_L_total")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("direction", ["t2v", "v2t", "union"])
def test_the_bound_is_above_stored_expectations(shared, kind, direction):
    golden = CretGolden(shared)
    text, frames, mask, tau = inputs(golden, kind)
    options = {"tau": tau, "covariance": "diag", "direction": direction}
    truth, error = (golden[f"{kind}_{name}_{direction}"] for name in ("mc", "mc_se"))
    assert (gees(text, frames, mask, **options) > truth + 4 * error).all()
    printed = gees(text, frames, mask, bound="slide", **options)
    assert (printed < truth - 4 * error).sum() >= 7
    assert printed.mean() < (truth - 4 * error).mean()
    assert (nce_mean(text, frames, mask, tau=tau, direction=direction) < truth).all()


def test_bounds_of_two_videos_equal_the_quadrature(shared):
    report = json.loads((shared / "golden" / "cret" / "mc_report.json").read_text())
    below = 0
    for gap, own, other, truth, bound, slide, difference in report["quadrature"]:
        # Two frames at mean +- root have that variance along the text.
        frames = torch.zeros(2, 2, 2, dtype=torch.float64)
        for row, mean, variance in ((0, gap, own), (1, 0.0, other)):
            frames[row, :, 0] = mean + SIGNS * math.sqrt(variance)
        text = torch.eye(2, dtype=torch.float64)
        mask = torch.ones(2, 2, dtype=torch.bool)
        for covariance in ("full", "diag"):
            found = [
                gees(
                    text,
                    frames,
                    mask,
                    tau=1.0,
                    covariance=covariance,
                    direction="t2v",
                    bound=name,
                )[0].item()
                for name in ("jensen", "slide", "difference")
            ]
            assert found == pytest.approx([bound, slide, difference], abs=1e-9)
        assert found[0] >= truth
        assert found[2] >= truth - 1e-9
        below += found[1] < truth - 1e-9
    assert below == 16


def test_edges_equal_the_golden(shared):
    golden = CretGolden(shared)
    text, frames, mask, tau = inputs(golden, "raw")
    once = text, frames[:, :1], mask[:, :1]
    for covariance in ("diag", "full"):
        for unbiased in (False, True):
            found = gees(*once, tau=tau, covariance=covariance, unbiased=unbiased)
            torch.testing.assert_close(found, nce_mean(*once, tau=tau))
            golden.close(found.mean(), "edge_M1_L_gees_sym")
    golden.close(nce_frames(*once, tau=tau).mean(), "edge_M1_L_nce_sym")
    alone, options = (text[:1], frames[:1], mask[:1]), {"tau": tau, "covariance": "diag"}
    golden.close(gees(*alone, **options).mean(), "edge_N1_L_gees_sym")
    golden.close(moments(*alone, **options)[1][0, 0] / 2, "edge_N1_half_q")
    printed = gees(*alone, bound="slide", **options).item()
    assert printed == pytest.approx(golden.number("edge_N1_L_slide_sym"), abs=1e-12)
    for single in (golden, CretGolden(shared, torch.float32)):
        text, frames, mask, _ = inputs(single, "norm")
        tiny = {"tau": single.number("edge_tiny_tau"), "covariance": "diag"}
        single.close(gees(text, frames, mask, **tiny).mean(), "edge_tiny_tau_L_gees_sym")


@pytest.mark.parametrize("bound", ["jensen", "difference", "slide"])
@pytest.mark.parametrize("covariance", ["full", "diag"])
def test_a_tiny_temperature_stays_finite(covariance, bound):
    text, frames, mask = draws(dtype=torch.float32)
    text, frames = safe_unit(text).requires_grad_(), safe_unit(frames).requires_grad_()
    for direction in DIRECTIONS:
        loss = gees(
            text,
            frames,
            mask,
            tau=1e-3,
            covariance=covariance,
            direction=direction,
            bound=bound,
        )
        assert loss.isfinite().all()
        for plain in (nce_mean, nce_frames):
            loss = loss + plain(text, frames, mask, tau=1e-3, direction=direction)
        loss.sum().backward()
    assert text.grad.isfinite().all()
    assert frames.grad.isfinite().all()
    assert not frames.grad[~mask].any()


@pytest.mark.parametrize("covariance", ["full", "diag"])
@pytest.mark.parametrize("unbiased", [False, True])
def test_losses_equal_loops_over_sigma(covariance, unbiased):
    """Sigma is built here, videos have different numbers of frames, padding is NaN."""
    text, frames, mask = draws()
    N, tau, weight = 5, 0.7, 0.6
    mus, sigmas = [], []
    for i in range(N):
        real = [frames[i, m] for m in range(4) if mask[i, m]]
        mu = sum(real) / len(real)
        sigma = sum(torch.outer(v - mu, v - mu) for v in real)
        sigma = sigma / (max(1, len(real) - 1) if unbiased else len(real))
        mus.append(mu)
        sigmas.append(sigma.diag().diag() if covariance == "diag" else sigma)

    def m(i, k):
        return text[i] @ mus[k] / tau

    def q(i, k, minus=None):
        t = text[i] if minus is None else text[i] - text[minus]
        return t @ sigmas[k] @ t / tau**2

    frames = frames.masked_fill(~mask[..., None], torch.nan)
    for bound in ("jensen", "slide", "difference"):
        options = {"tau": tau, "covariance": covariance, "unbiased": unbiased}
        options |= {"variance_weight": weight, "bound": bound}
        for i in range(N):
            others = [k for k in range(N) if k != i]
            if bound == "difference":
                own, base = 0.0, 0.0
                across = [m(i, k) - m(i, i) + weight * (q(i, k) + q(i, i)) / 2 for k in others]
                down = [m(k, i) - m(i, i) + weight * q(k, i, i) / 2 for k in others]
            else:
                own = m(i, i) + weight * q(i, i) / 2
                base = m(i, i) if bound == "jensen" else own
                across = [m(i, k) + weight * q(i, k) / 2 for k in others]
                down = [m(k, i) + weight * q(k, i) / 2 for k in others]
            expected = {
                name: math.log(sum(math.exp(x) for x in [own, *chosen])) - base
                for name, chosen in (("t2v", across), ("v2t", down), ("union", across + down))
            }
            expected["sym"] = (expected["t2v"] + expected["v2t"]) / 2
            for direction, value in expected.items():
                found = gees(text, frames, mask, direction=direction, **options)[i]
                assert found.item() == pytest.approx(float(value), rel=1e-9)


def test_nce_per_frame_equals_a_loop():
    text, frames, mask = draws()
    loud = frames.masked_fill(~mask[..., None], torch.nan)
    found = {name: nce_frames(text, loud, mask, tau=0.5, direction=name) for name in DIRECTIONS}
    for i in range(5):
        expected, real = dict.fromkeys(DIRECTIONS, 0.0), int(mask[i].sum())
        for m in range(real):

            def logit(j, k, m=m):
                return math.exp(text[j] @ frames[k, m] / 0.5)

            across = [logit(i, k) for k in range(5) if mask[k, m] and k != i]
            down = [logit(k, i) for k in range(5) if k != i]
            own = logit(i, i)
            t2v, v2t = (math.log((own + sum(some)) / own) / real for some in (across, down))
            expected["t2v"] += t2v
            expected["v2t"] += v2t
            expected["sym"] += (t2v + v2t) / 2
            expected["union"] += math.log((own + sum(across + down)) / own) / real
        for name in DIRECTIONS:
            assert found[name][i].item() == pytest.approx(expected[name], rel=1e-9)


def test_moments_and_bound_hold_for_drawn_frames():
    """Frames drawn from N(mu, Sigma): the logit's moments, and losses below both bounds."""
    text, frames, _ = draws(N=4, T=5)
    mask, tau, count = torch.ones(4, 5, dtype=torch.bool), 1.5, 20_000
    deviations = frames - frames.mean(1, keepdim=True)
    noise = torch.randn(4, count, 5, generator=torch.Generator().manual_seed(1)).double()
    drawn = frames.mean(1, keepdim=True) + noise @ deviations / math.sqrt(5)  # [4, count, 6]
    logits = torch.einsum("id,knd->nik", text, drawn) / tau
    m, q = moments(text, frames, mask, tau=tau)
    error = q.sqrt() / math.sqrt(count)
    assert ((logits.mean(0) - m).abs() < 5 * error).all()
    torch.testing.assert_close(logits.var(0), q, rtol=0.05, atol=0)
    mgf = logits.exp()
    spread = mgf.std(0) / math.sqrt(count)
    assert ((mgf.mean(0) - (m + q / 2).exp()).abs() < 6 * spread).all()
    for direction in ("t2v", "v2t", "union"):
        losses = torch.stack([contrast(one, direction) for one in logits[:4000]])
        truth, error = losses.mean(0), losses.std(0) / math.sqrt(4000)
        for bound in ("jensen", "difference"):
            found = gees(text, frames, mask, tau=tau, direction=direction, bound=bound)
            assert (found > truth - 4 * error).all(), (direction, bound)


def test_the_bound_is_the_printed_form_and_half_the_own_variance():
    text, frames, mask = draws()
    for direction in DIRECTIONS:
        options = {"tau": 0.9, "direction": direction}
        half = moments(text, frames, mask, tau=0.9)[1].diagonal() / 2
        printed = gees(text, frames, mask, bound="slide", **options)
        torch.testing.assert_close(gees(text, frames, mask, **options), printed + half)


@pytest.mark.parametrize("covariance", ["full", "diag"])
def test_spread_along_the_own_text_costs_but_in_the_printed_form(covariance):
    """The printed form pays a model for spreading frames along their own caption."""
    text, mask = torch.eye(4, dtype=torch.float64), torch.ones(4, 2, dtype=torch.bool)
    for bound, sign in (("jensen", 1), ("difference", 1), ("slide", -1)):
        width = torch.tensor(0.5, dtype=torch.float64, requires_grad=True)
        frames = text.unsqueeze(1) * (1 + width * SIGNS[:, None])
        loss = gees(text, frames, mask, tau=1.0, covariance=covariance, bound=bound)
        loss.sum().backward()
        assert sign * width.grad > 0, bound


def test_the_full_covariance_does_not_depend_on_the_basis():
    text, frames, mask = draws()
    turn = torch.linalg.qr(torch.randn(6, 6, generator=torch.Generator().manual_seed(2)).double())[
        0
    ]
    turned = gees(text @ turn, frames @ turn, mask)
    torch.testing.assert_close(turned, gees(text, frames, mask))
    diag = gees(text @ turn, frames @ turn, mask, covariance="diag")
    assert not torch.allclose(diag, gees(text, frames, mask, covariance="diag"))


def test_permuting_pairs_permutes_losses():
    text, frames, mask = draws()
    order = torch.tensor([3, 0, 4, 1, 2])
    for function in (gees, nce_mean, nce_frames):
        shuffled = function(text[order], frames[order], mask[order])
        torch.testing.assert_close(shuffled, function(text, frames, mask)[order])


def test_what_are_no_pairs_is_refused():
    text, frames, mask = draws()
    for function in (gees, nce_frames):
        with pytest.raises(ValueError, match="expected pairs, got 4 texts and 5 videos"):
            function(text[:4], frames, mask)
    with pytest.raises(ValueError, match=r"expected square logits, got \[4, 5\]"):
        nce_mean(text[:4], frames, mask)
    with pytest.raises(ValueError, match="direction 'both'"):
        contrast(torch.eye(3), "both")
    with pytest.raises(ValueError, match="covariance 'none'"):
        moments(text, frames, mask, covariance="none")
    with pytest.raises(ValueError, match="bound 'upper'"):
        gees(text, frames, mask, bound="upper")
