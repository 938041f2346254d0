"""stats.calibration against scikit-learn and simulations where the truth is known."""

import numpy as np
import pytest
from scipy import special, stats
from sklearn.isotonic import IsotonicRegression
from sklearn.linear_model import LogisticRegression

from dark_halo_scope.base.errors import BadInput
from dark_halo_scope.stats import calibration as c


def sample(r, n, prevalence=0.5, stretch=2.0):
    y = r.random(n) < prevalence
    odds = r.normal(np.where(y, 2, -2), 2) + special.logit(prevalence)
    return (stretch * odds).astype(np.float32), y, special.expit(odds)


def test_platt_and_isotonic_are_scikit_learns():
    x, y, _ = sample(np.random.default_rng(0), 4000)
    peer = LogisticRegression(C=np.inf, tol=1e-10, max_iter=500).fit(x[:, None].astype(float), y)
    assert np.allclose(c.fit_calibrator(x, y)(x), peer.predict_proba(x[:, None].astype(float))[:, 1], atol=1e-4)
    iso = IsotonicRegression(out_of_bounds="clip").fit(x.astype(float), y).predict(x.astype(float))
    mine = c.fit_calibrator(x, y, "isotonic")(x)
    inside = (iso > 0.01) & (iso < 0.99)
    assert np.abs(mine - iso)[inside].max() < 0.03 and mine.min() > 0 and mine.max() < 1


@pytest.mark.parametrize("kind", c.CALIBRATIONS)
def test_calibration_on_another_split_and_another_prevalence(kind):
    x, y, _ = sample(np.random.default_rng(1), 30000)
    fit = c.fit_calibrator(x, y, kind)
    r = np.random.default_rng(2)
    y2 = r.random(200000) < 0.02
    odds = r.normal(np.where(y2, 2, -2), 2)  # the classes' own distributions stay, the prevalence falls
    p = fit((2 * odds).astype(np.float32), prevalence=0.02)
    assert abs(p.mean() - 0.02) < 0.002
    assert c.reliability(p, y2).ece < 0.003 < 0.05 < c.reliability(fit((2 * odds).astype(np.float32)), y2).ece


def test_ece_flags_overconfidence_and_passes_the_truth():
    x, y, truth = sample(np.random.default_rng(3), 20000)
    good, bad = c.reliability(truth, y), c.reliability(special.expit(x.astype(float)), y)
    assert good.ece < good.ece_chance < bad.ece and good.n.sum() == 20000


def test_ece_false_alarms():
    alarms = 0
    for i in range(200):
        r = np.random.default_rng(i)
        p = r.beta(0.3, 0.6, 2000)
        rel = c.reliability(p, r.random(2000) < p, draws=100)
        alarms += rel.ece > rel.ece_chance
    assert alarms <= 3


def clustered(r, galaxies, agreement):
    "Perfect probabilities on two or three stamps of each galaxy; a pair's labels are one draw with chance `agreement`"
    host = np.repeat(np.arange(galaxies), r.integers(2, 4, galaxies))
    p = special.expit(r.normal(0, 2, galaxies)[host] + r.normal(0, 0.5, len(host)))
    shared = r.random(len(host)) < np.sqrt(agreement)
    return p, np.where(shared, r.random(galaxies)[host], r.random(len(host))) < p, host


@pytest.mark.parametrize("agreement", [0.0, 0.5, 1.0])
def test_the_chance_error_counts_galaxies(agreement):
    "Perfect probabilities fail at about alpha however their stamps share galaxies, and stretched ones are found out"
    alarms, told, found = 0, [], 0
    for i in range(150):
        p, y, host = clustered(np.random.default_rng(i), 300, agreement)
        rel = c.reliability(p, y, draws=100, hosts=host, alpha=0.05)
        alarms, told = alarms + (rel.ece > rel.ece_chance), [*told, rel.agreement]
        if i < 20:
            bad = c.reliability(special.expit(2 * special.logit(p)), y, draws=100, hosts=host, alpha=0.05)
            found += bad.ece > bad.ece_chance
    assert stats.binom.sf(alarms - 1, 150, 0.05) > 1e-3 and stats.binom.cdf(alarms, 150, 0.05) > 1e-3, alarms
    assert abs(np.mean(told) - agreement) < 0.05 and found == 20


def test_a_gate_that_counts_stamps_fails_perfect_probabilities():
    alarms = [0, 0]
    for i in range(100):
        p, y, host = clustered(np.random.default_rng(i), 300, 1.0)
        for k, hosts in enumerate((host, np.arange(len(host)))):
            rel = c.reliability(p, y, draws=100, hosts=hosts, alpha=0.05)
            alarms[k] += rel.ece > rel.ece_chance
    assert alarms[0] <= 15 < 20 < alarms[1]


def test_copies_of_a_stamp_are_one_stamp():
    "Every stamp four times over has the error of the stamps once, and the chance level of the galaxies, not of the copies"
    r = np.random.default_rng(5)
    p = r.beta(0.5, 0.5, 600)
    y = r.random(600) < p
    once = c.reliability(p, y)
    copied = c.reliability(np.repeat(p, 4), np.repeat(y, 4), hosts=np.repeat(np.arange(600), 4))
    assert copied.agreement == pytest.approx(1, abs=1e-6) and copied.ece == pytest.approx(once.ece, abs=1e-12)
    assert copied.ece_chance == pytest.approx(once.ece_chance, rel=0.1)


def purity_coverage(n_neg, fpr, copies, draws):
    "Share of intervals that hold the true purity, by method"
    shift, prevalence, held = 3.0, 1e-3, {}
    t = stats.norm.isf(fpr)
    truth = c.precision_from_rates(stats.norm.sf(t - shift), fpr, prevalence)
    for i in range(draws):
        r = np.random.default_rng(i)
        a = r.normal(0, 1, n_neg // copies).repeat(copies)
        b = r.normal(shift, 1, 4000 // copies).repeat(copies)
        h = np.arange(len(a) + len(b)) // copies if copies > 1 else None
        y = c.survey_yield(np.r_[a, b].astype(np.float32), np.arange(len(a) + len(b)) >= len(a), t, prevalence, hosts=h)
        held.setdefault(y.method, []).append(y.purity_lo <= truth <= y.purity_hi)
    return {k: (len(v), float(np.mean(v))) for k, v in held.items()}


@pytest.mark.parametrize("n_neg, fpr, copies", [(20000, 1e-2, 1), (20000, 1e-4, 1), (20000, 1e-2, 10)])
def test_purity_intervals_cover(n_neg, fpr, copies):
    for method, (k, value) in purity_coverage(n_neg, fpr, copies, 200).items():
        noise = 3 * np.sqrt(0.05 * 0.95 / k)
        assert value >= 0.95 - noise, (method, value)


@pytest.mark.slow
@pytest.mark.parametrize("n_neg", [1000, 10000, 100000])
@pytest.mark.parametrize("fpr", [1e-2, 1e-3, 1e-4])
@pytest.mark.parametrize("copies", [1, 10])
def test_purity_intervals_cover_on_the_grid(n_neg, fpr, copies):
    found = purity_coverage(n_neg, fpr, copies, 1000)
    overall = sum(k * value for k, value in found.values()) / 1000
    method, (k, value) = max(found.items(), key=lambda m: m[1][0])  # a method met only in lucky draws is judged with the rest
    noise = 2.5 * np.sqrt(0.05 * 0.95 / k)
    assert overall >= (0.94 if method == "exact" else 0.93) - noise, found
    if method == "mixture":
        assert 0.93 - noise <= value <= 0.97 + noise, found


def test_purity_by_hand():
    s = np.r_[np.zeros(900), np.ones(100), np.zeros(20), np.ones(80)].astype(np.float32)
    y = np.arange(1100) >= 1000
    got = c.survey_yield(s, y, 0.5, 0.01, density=100)
    assert np.isclose(got.purity, 0.01 * 0.8 / (0.01 * 0.8 + 0.99 * 0.1)) and np.isclose(got.candidates, 0.8 + 9.9)
    assert got.purity_lo < got.purity < got.purity_hi and got.candidates_lo < got.candidates < got.candidates_hi
    wide = c.survey_yield(s, y, 0.5, (0.001, 0.1), density=100)
    assert wide.purity_lo < got.purity_lo and wide.purity_hi > got.purity_hi


def test_weights_of_the_plan_are_kept():
    "Weights two on a half are that half twice, in value; the interval does not shrink by it"
    r = np.random.default_rng(8)
    s, y, w = r.normal(0, 1, 4000).astype(np.float32), np.arange(4000) % 2 == 1, np.where(np.arange(4000) < 2000, 2.0, 1.0)
    s[y] += 1
    got = c.survey_yield(s, y, 1.0, 0.01, weights=w, lens="stated")
    twice = c.survey_yield(np.r_[s, s[:2000]], np.r_[y, y[:2000]], 1.0, 0.01)
    once = c.survey_yield(s, y, 1.0, 0.01)
    assert np.isclose(got.purity, twice.purity) and got.lens == "stated" and got.purity != once.purity
    assert got.purity_hi - got.purity_lo > once.purity_hi - once.purity_lo > twice.purity_hi - twice.purity_lo
    for wrong in (w[:-1], -w, np.where(y, 0, 1.0)):
        with pytest.raises(BadInput, match="weights"):
            c.survey_yield(s, y, 1.0, 0.01, weights=wrong)


def test_bad_input_is_named():
    x, y, p = sample(np.random.default_rng(5), 200)
    with pytest.raises(BadInput, match="did you mean 'platt'"):
        c.fit_calibrator(x, y, "plat")
    with pytest.raises(BadInput, match="expected 0 to 1"):
        c.reliability(x, y)
    with pytest.raises(BadInput, match="scores that overlap"):
        c.fit_calibrator(np.r_[np.zeros(5), np.ones(5)], np.arange(10) >= 5)
    for wrong in ((0.1, 0.01), 0.0, 1.0, -0.1, (0.0, 0.1), (0.1, 1.0)):
        with pytest.raises(BadInput, match="prevalence: .* expected a fraction or a rising range between 0 and 1"):
            c.survey_yield(x, y, 0.0, wrong)


@pytest.mark.parametrize("n_neg, n_pos, fpr", [(20_000, 4_000, 1e-2), (100_000, 4_000, 3e-3)])
def test_purity_intervals_are_no_wider_than_their_counts_say(n_neg, n_pos, fpr):
    "Where both classes have plenty above the threshold, the interval is that of two independent binomials, in log odds"
    r, t = np.random.default_rng(21), stats.norm.isf(fpr)
    s = np.r_[r.normal(0, 1, n_neg), r.normal(3, 1, n_pos)].astype(np.float32)
    got = c.survey_yield(s, np.arange(len(s)) >= n_neg, t, 1e-3)
    false, true = np.mean(s[:n_neg] >= t), np.mean(s[n_neg:] >= t)
    spread = np.sqrt((1 - true) / (true * n_pos) + (1 - false) / (false * n_neg))
    width = special.logit(got.purity_hi) - special.logit(got.purity_lo)
    assert got.method == "mixture" and width == pytest.approx(2 * 1.96 * spread, rel=0.1)


def test_few_false_alarms_give_the_exact_interval():
    "Two above the threshold among the controls: the limits of Clopper and Pearson, at which the purity still lies far from none"
    s = np.r_[np.zeros(19_998), np.ones(2), np.zeros(500), np.ones(3_500)].astype(np.float32)
    got = c.survey_yield(s, np.arange(len(s)) >= 20_000, 0.5, 1e-3)
    assert got.method == "exact" and got.purity_lo < got.purity < got.purity_hi
    odds = special.logit(got.purity_hi) - special.logit(got.purity_lo)
    assert np.log(7.2247 / 0.2422) < odds < np.log(7.2247 / 0.2422) + 1  # limits of a count of two at 95 %, and the share of lenses' own
    limits = [stats.binomtest(k, n).proportion_ci(0.975, "exact") for k, n in ((3_500, 4_000), (2, 20_000))]
    ends = [c.precision_from_rates(limits[0][i], limits[1][1 - i], 1e-3) for i in (0, 1)]
    assert (got.purity_lo, got.purity_hi) == pytest.approx(ends, rel=1e-6)  # the corners themselves, and nothing within them
