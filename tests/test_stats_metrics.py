"""stats.metrics against scikit-learn, brute force, and simulations where the truth is known."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import stats
from sklearn.metrics import average_precision_score, roc_auc_score, roc_curve

from dark_halo_scope.base.errors import BadInput
from dark_halo_scope.stats import metrics as m


@st.composite
def scored(draw):
    n = draw(st.integers(4, 60))
    s = draw(hnp.arrays(np.float32, n, elements=st.sampled_from([float(x) for x in range(-6, 7)])))
    y = draw(hnp.arrays(np.bool_, n))
    y[0], y[1] = True, False
    return s, y


@given(scored())
@settings(max_examples=150, deadline=None)
def test_curve_and_areas_are_scikit_learns(case):
    s, y = case
    curve = m.roc(s, y)
    fpr, tpr, _ = roc_curve(y, s, drop_intermediate=False)
    assert np.allclose(np.r_[0, curve.fpr], fpr) and np.allclose(np.r_[0, curve.tpr], tpr)
    assert np.isclose(m.auroc(s, y).value, roc_auc_score(y, s))
    assert np.isclose(m.auprc(s, y), average_precision_score(y, s))
    if len(np.unique(y)) == 2:
        assert np.isclose(m.partial_auroc(s, y, 0.3), roc_auc_score(y, s, max_fpr=0.3))


@given(scored(), st.floats(0, 0.99))
@settings(max_examples=200, deadline=None)
def test_tie_range_is_what_orderings_can_reach(case, fpr):
    s, y = case
    found = m.tpr_range_at_fpr(m.roc(s, y), fpr)
    allowed = np.floor(fpr * (~y).sum() + 1e-9)

    def best(order):  # highest tpr over cuts of a strict ordering that keep to the allowance
        hit, miss = np.cumsum(y[order]), np.cumsum(~y[order])
        return max([0, *hit[miss <= allowed]]) / y.sum()

    reachable = max([0.0] + [(s[y] >= t).mean() for t in np.unique(s) if (s[~y] >= t).sum() <= allowed])
    assert np.isclose(found.pessimistic, reachable)
    assert np.isclose(found.optimistic, best(np.lexsort((~y, -s))))
    assert found.pessimistic - 1e-12 <= found.midrank <= found.optimistic + 1e-12


@given(scored(), st.floats(0.01, 1))
@settings(max_examples=150, deadline=None)
def test_fpr_at_tpr_by_brute_force(case, tpr):
    s, y = case
    found = m.fpr_range_at_tpr(m.roc(s, y), tpr)
    cuts = [t for t in np.unique(s) if (s[y] >= t).sum() >= np.ceil(tpr * y.sum() - 1e-9)]
    assert np.isclose(found.pessimistic, min((s[~y] >= t).mean() for t in cuts))
    assert found.optimistic - 1e-12 <= found.midrank <= found.pessimistic + 1e-12


@given(scored(), st.floats(0, 0.99), st.floats(0.01, 1))
@settings(max_examples=150, deadline=None)
def test_the_middle_of_a_tie_is_on_the_straight_line_across_it(case, fpr, tpr):
    curve = m.roc(*case)
    x, y = np.r_[0, curve.fpr], np.r_[0, curve.tpr]
    assert m.tpr_range_at_fpr(curve, fpr).midrank == pytest.approx(np.interp(fpr + 1e-9, x, y), abs=1e-6)
    assert m.fpr_range_at_tpr(curve, tpr).midrank == pytest.approx(np.interp(tpr - 1e-9, y, x), abs=1e-6)


def test_row_order_changes_nothing():
    r = np.random.default_rng(0)
    s, y = r.normal(size=3000).astype(np.float32), r.random(3000) < 0.4
    h = r.integers(0, 300, 3000)
    p = r.permutation(3000)
    assert str(m.tpr_at_fpr(s, y, 0.02, h)) == str(m.tpr_at_fpr(s[p], y[p], 0.02, h[p]))


def saturate(logit, bits=8):
    return (np.round(1 / (1 + np.exp(-np.asarray(logit, np.float64))) * 2**bits) / 2**bits).astype(np.float32)


def test_saturated_scores_are_refused_by_name_with_the_counts():
    r = np.random.default_rng(5)
    logit = np.r_[r.normal(-4, 3.6, 65090), r.normal(9, 3, 62910)].astype(np.float32)
    y = np.arange(128000) >= 65090
    assert m.tpr_at_fpr(logit, y, 1e-3).status == "ok"
    with pytest.raises(m.TiedScores, match=r"tpr at fpr 0.001: \d+ negatives and [\d,]+ lenses share the score 1, and 65 negatives"):
        m.tpr_at_fpr(saturate(logit), y, 1e-3)
    with pytest.raises(m.TiedScores, match="fpr at tpr 0.5"):
        m.fpr_at_tpr(saturate(logit), y, 0.5)
    assert m.tpr_at_fpr(saturate(logit), y, 1e-3, ties="pessimistic").value == 0


def test_few_harmless_ties_are_not_refused():
    r = np.random.default_rng(6)
    s = np.r_[r.normal(0, 1, 5000), r.normal(3, 1, 500)].round(4).astype(np.float32)
    assert m.tpr_at_fpr(s, np.arange(5500) >= 5000, 1e-2).status == "ok"


def test_too_few_negatives_is_a_value_not_a_number():
    r = np.random.default_rng(7)
    s, y = np.r_[r.normal(0, 1, 10000), r.normal(4, 1, 1000)].astype(np.float32), np.arange(11000) >= 10000
    found = m.tpr_at_fpr(s, y, 1e-4)
    assert np.isnan(found.value) and found.status.startswith("not enough negatives") and found.hi - found.lo > 0.2
    copies = m.tpr_at_fpr(np.repeat(s, 37), np.repeat(y, 37), 1e-4, np.repeat(np.arange(11000), 37))
    assert copies.status == found.status and (copies.hosts_neg, copies.n_neg) == (10000, 370000)


@pytest.mark.parametrize(
    "scores, labels, said",
    [
        ([0.1, np.nan], [0, 1], "not finite"),
        ([0.1, 0.2], [1, 1], "at least one of each"),
        ([0.1, 0.2], [0, 2], "expected 0"),
        ([1, 2], [0, 1], "floating point"),
        ([0.1, 0.2, 0.3], [0, 1], "one length"),
    ],
)
def test_bad_input_is_named(scores, labels, said):
    with pytest.raises(BadInput, match=said):
        m.tpr_at_fpr(np.array(scores), np.array(labels), 0.1)


def test_clopper_pearson_is_scipys():
    for k, n in ((0, 30), (1, 14), (2, 68), (30, 30)):
        lo, hi = m.clopper_pearson(k, n)
        ref = stats.binomtest(k, n).proportion_ci(0.95, "exact")
        assert np.allclose((lo, hi), (ref.low, ref.high))


def clustered(r, n, p, shift, copies, rho):
    def one(k):
        h = np.arange(k) // copies
        return np.sqrt(rho) * r.normal(size=h[-1] + 1)[h] + np.sqrt(1 - rho) * r.normal(size=k), h

    (a, ha), (b, hb) = one(n), one(p)
    return np.r_[a, b + shift].astype(np.float32), np.arange(n + p) >= n, np.r_[ha, hb + ha[-1] + 1]


def coverage(n, fpr, copies, rho, draws, shift=3.0):
    "Share of draws whose interval holds the truth, by method"
    truth, held = stats.norm.sf(stats.norm.isf(fpr) - shift), {}
    for i in range(draws):
        s, y, h = clustered(np.random.default_rng(i), n, min(n, 20000), shift, copies, rho)
        t = m.tpr_at_fpr(s, y, fpr, h if copies > 1 else None)
        held.setdefault(t.method, []).append(t.lo <= truth <= t.hi)
    return {k: (len(v), float(np.mean(v))) for k, v in held.items()}


@pytest.mark.parametrize("n, fpr, copies, rho", [(10000, 1e-3, 1, 0.0), (10000, 1e-2, 1, 0.0), (10000, 1e-2, 10, 1.0)])
def test_intervals_cover_quick(n, fpr, copies, rho):
    for method, (k, share) in coverage(n, fpr, copies, rho, 150).items():
        slack = 3 * np.sqrt(0.05 * 0.95 / k)
        assert share >= 0.95 - slack, (method, share)


@pytest.mark.slow
@pytest.mark.timeout(1500)
@pytest.mark.parametrize("n", [1000, 10000, 100000])
@pytest.mark.parametrize("fpr", [1e-2, 1e-3, 1e-4])
@pytest.mark.parametrize("copies, rho", [(1, 0.0), (10, 0.5), (10, 1.0)])
def test_intervals_cover_on_the_grid(n, fpr, copies, rho):
    for method, (k, share) in coverage(n, fpr, copies, rho, 1000 if n < 1e5 else 500).items():
        noise = 2.5 * np.sqrt(0.05 * 0.95 / k)
        assert share >= (0.94 if method == "exact" else 0.93) - noise, (method, share)
        if method == "mixture":
            assert share <= 0.97 + noise, (method, share)


def test_a_threshold_taken_as_known_would_fail_the_coverage_test():
    truth, held = stats.norm.sf(stats.norm.isf(1e-3) - 3), []
    for i in range(100):
        s, y, _ = clustered(np.random.default_rng(i), 10000, 10000, 3.0, 1, 0.0)
        v = m.tpr_range_at_fpr(m.roc(s, y), 1e-3).pessimistic
        lo, hi = m.clopper_pearson(round(v * 10000), 10000)
        held.append(lo <= truth <= hi)
    assert np.mean(held) < 0.6


def test_auroc_interval_takes_hosts_together():
    held, r = {"alone": [], "hosts": []}, np.random.default_rng(1)
    truth = stats.norm.cdf(1 / np.sqrt(2))
    for _ in range(150):
        s, y, h = clustered(r, 2000, 2000, 1.0, 20, 1.0)
        for k, hosts in (("alone", None), ("hosts", h)):
            a = m.auroc(s, y, hosts)
            held[k].append(a.lo <= truth <= a.hi)
    assert np.mean(held["hosts"]) > 0.9 > 0.6 > np.mean(held["alone"])


def test_auroc_near_one_is_not_certain():
    "A few hosts that are all in order say little; nearly all in order, the scatter that is seen says too little"
    y = np.arange(48) < 24
    perfect, worst = m.auroc(np.where(y, 1.0, 0.0) + np.arange(48) / 1e3, y), m.auroc(np.where(y, 0.0, 1.0) + np.arange(48) / 1e3, y)
    assert (perfect.lo, perfect.hi) == pytest.approx((0.025 ** (1 / 24), 1.0)) and (worst.lo, worst.hi) == pytest.approx(
        (0.0, 1 - 0.025 ** (1 / 24))
    )
    r, truth, held = np.random.default_rng(0), stats.norm.cdf(3.5 / np.sqrt(2)), []
    for _ in range(300):
        a = m.auroc(np.r_[r.normal(3.5, 1, 15), r.normal(0, 1, 500)], np.arange(515) < 15)
        held.append(a.lo <= truth <= a.hi)
    assert np.mean(held) > 0.94


def test_exact_interval_by_hand():
    "Limits are Clopper-Pearson's at the order statistics that hold the threshold, a quarter of the risk in each of four tails"
    n, p, q = 1000, 400, 0.02
    s = np.r_[np.arange(n), np.linspace(0.5, n + 200.5, p)].astype(np.float32)
    curve = m.roc(s, np.arange(n + p) >= n)
    k_lo, k_hi = stats.binom.ppf(0.0125, n, q), stats.binom.isf(0.0125, n, q)
    fewest, most = (s[n:] > n - k_lo).sum(), (s[n:] >= n - 1 - k_hi).sum()
    wanted = stats.beta.ppf(0.0125, fewest, p - fewest + 1), stats.beta.ppf(1 - 0.0125, most + 1, p - most)
    assert np.allclose(m.exact_interval(curve.fp, curve.tp, q), wanted)


@pytest.mark.parametrize(("sets", "measures"), [(1.0, 1.0), (4.0, 1.0), (1.0, 9.0), (4.0, 9.0)])
def test_each_sample_scatters_by_its_own_design_effect(sets, measures):
    "Equal distributions of scores, a tenth above the threshold: the spread of two binomials, each of as many stamps as it is worth"
    n, p, q = 4000, 20_000, 0.1
    lo, hi = m.mixture_interval(np.arange(1, n + 1), np.arange(1, n + 1) * (p // n), q, deff=(sets, measures))
    spread = np.sqrt(q * (1 - q) * (sets / n + measures / p))
    assert (lo + hi) / 2 == pytest.approx(q, rel=0.03) and hi - lo == pytest.approx(2 * 1.96 * spread, rel=0.05)


def test_bits_are_mixed_as_splitmix64_does():
    "The first outputs of the generator from the states 0 and 1 (Steele et al. 2014); neighbouring numbers differ in half of all bits"
    states = np.array([0, 1], np.uint64).view(np.float64)
    assert [hex(v) for v in m.mixed_bits(states).tolist()] == ["0xe220a8397b1dcdaf", "0x910a2dec89025cc1"]
    mixed = m.mixed_bits(np.arange(1.0, 4097.0))
    changed = np.unpackbits((mixed[1:] ^ mixed[:-1]).view(np.uint8)).reshape(-1, 64).mean(0)
    assert len(np.unique(mixed)) == 4096 and np.abs(changed - 0.5).max() < 0.05


def test_an_area_has_no_threshold_and_no_ties():
    found = m.auroc(np.array([0.1, 0.4, 0.35, 0.8]), np.array([0, 0, 1, 1]))
    assert found.value == 0.75 and np.isnan(found.threshold) and (found.above, found.tied_pos, found.tied_neg) == (-1, 0, 0)
    assert (found.status, found.level, found.n_pos, found.n_neg) == ("ok", 0.95, 2, 2) and "above" not in str(found)


def test_design_effect_of_copies_is_their_number():
    r = np.random.default_rng(3)
    one = r.normal(size=2000)
    for copies in (1, 5, 20):
        assert np.isclose(m.design_effect(np.repeat(one, copies) > 1, np.repeat(np.arange(2000), copies)), copies, rtol=0.05)
    half = np.where(np.arange(8000) % 4 < 2, np.repeat(one, 4), r.normal(size=8000))  # two of four are the same galaxy's luck
    assert 1.2 < m.design_effect(half > 1, np.repeat(np.arange(2000), 4)) < 2.2
