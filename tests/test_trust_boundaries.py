"Trust at its edges: ladders and limits as written down, what exactly counts, and where a threshold lies"

import json
from dataclasses import asdict
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from scipy import stats

from dark_halo_scope.base.errors import BadInput
from dark_halo_scope.base.resources import manifest
from dark_halo_scope.parent.splits import SplitRecipe, split_of_bricks
from dark_halo_scope.stats.metrics import precision_at_recall, recall_at_precision
from dark_halo_scope.survey.bricks import brick_ids
from dark_halo_scope.trust.anchors import galaxy_at_centre
from dark_halo_scope.trust.exam import ExamRecipe
from dark_halo_scope.trust.gate_power import PLANTED, SCORES_PLANTED, size_caught
from dark_halo_scope.trust.gates import FAULTS, GateInput, GateRecipe, arc_profiles, pairing_gate, split_gate
from dark_halo_scope.trust.ledger import first_entry
from dark_halo_scope.trust.products import VISIBILITY, attrition_of_stamps, diagnostics, held_out
from dark_halo_scope.trust.realism import host_model, radial_features, ring_index
from dark_halo_scope.trust.score_gates import SCORE_FAULTS

# Gates


def test_the_ladders_of_planted_faults_are_those_of_the_receipt():
    "The stated reach was measured with these faults and sizes, and follows from the shares caught"
    rows = [r for r in json.loads(manifest("receipts", "gate_power.json").read_text())["gates"] if r["gate"] != "realism"]
    ladders, said = PLANTED | SCORES_PLANTED, FAULTS | SCORE_FAULTS
    assert {r["gate"]: (r["fault"], tuple(r["sizes"])) for r in rows} == {
        gate: (f"{kind}: {said[kind]}", sizes) for gate, (kind, sizes) in ladders.items()
    }
    for r in rows:
        assert size_caught(r["sizes"], r["caught"]) == pytest.approx(r["fault80"]), r["gate"]


@pytest.mark.parametrize("gate", [*PLANTED, *SCORES_PLANTED])
def test_a_ladder_grows(gate):
    "Between two steps the reach is interpolated"
    sizes = np.array((PLANTED | SCORES_PLANTED)[gate][1])
    assert len({*np.sign(sizes)}) == 1 and (np.diff(np.abs(sizes)) > 0).all()


def columns(is_control, objid, **more):
    "One release and brick, galaxies a degree apart"
    objid = np.array(objid)
    same = {"release": np.full(len(objid), 9010), "brickid": np.full(len(objid), 5), "objid": objid}
    same |= {"ra": 10.0 + objid, "dec": np.zeros(len(objid)), "is_control": np.array(is_control, bool)}
    return GateInput(same | {name: np.array(values) for name, values in more.items()})


def test_a_source_counts_once_if_two_splits_have_it():
    "Sources 0, 3 and 4 are in both; 1 and 2 fill a split alone, and those of controls are none"
    s = columns([0] * 9 + [1, 1], range(11), split=["train"] * 5 + ["test"] * 5 + ["train"], src_index=[0, 1, 2, 3, 4, 4, 3, 0, 0, -1, -1])
    found = split_gate(s, GateRecipe())
    assert found.curve["shared"] == {"hosts": 0, "source galaxies": 3, "pairs within 12 arcsec": 0}
    assert (found.value, found.passed) == (3.0, False) and "3 source galaxies" in found.why
    alone = columns([0] * 3, range(3), split=["train", "train", "test"], src_index=[0, 0, 1])
    assert split_gate(alone, GateRecipe()).passed
    unpainted = columns([1, 1], range(2), split=["train", "test"], src_index=[-1, -1])
    assert split_gate(unpainted, GateRecipe()).curve["shared"]["source galaxies"] == 0


@pytest.mark.parametrize(("shared", "controls"), [(0, 40), (1, 40), (7, 40), (40, 40)])
def test_the_limits_of_pairing_hold_alpha_on_either_side(shared, controls):
    "The chance of as many or more at the lower limit, and of as few or fewer at the upper, is the gate's alpha"
    s = columns([1] * controls + [0] * 60, [*range(controls), *range(controls - shared, controls - shared + 60)])
    recipe = GateRecipe()
    found = pairing_gate(s, recipe)
    low, high = found.interval
    assert found.value == shared / controls and found.passed is (shared / controls <= recipe.shared_hosts)
    assert low == 0 if shared == 0 else stats.binom.sf(shared - 1, controls, low) == pytest.approx(recipe.alpha)
    assert high == 1 if shared == controls else stats.binom.cdf(shared, controls, high) == pytest.approx(recipe.alpha)


def test_profiles_are_mean_light_by_radius():
    "Stamps that end inside the last bin too, and more of them than are worked on at once"
    draw, n, n_pix = np.random.default_rng(0), 300, 12
    theta = draw.choice([0.4, 1.0, 5.0], n)
    theta[[*range(250, 256), n - 1]] = 5.0  # No pixel of theirs is thrown away
    light = draw.uniform(0, 1, (n, 1, n_pix, n_pix))
    s = GateInput({"is_control": np.arange(n) == 3, "theta_E": theta}, light + 2, np.full_like(light, 2), ("r",))
    bins = np.linspace(0, 2.4, 7)
    half = (n_pix - 1) / 2
    r = np.hypot(*(np.mgrid[:n_pix, :n_pix] - half)) * 0.262
    found = arc_profiles(s, 0.262, bins)
    assert found.shape == (n - 1, 6)
    for row, i in enumerate(np.flatnonzero(np.arange(n) != 3)):
        area = np.histogram(r / theta[i], bins)[0]
        mean = np.histogram(r / theta[i], bins, weights=light[i, 0])[0] / np.maximum(area, 1)
        assert found[row] == pytest.approx(mean / mean.sum())


# Products


def test_diagnostics_are_at_95_per_cent_of_the_split_reported_on():
    draw, n = np.random.default_rng(1), 240
    label = draw.integers(-1, 2, n)
    t = {"split": draw.choice(["val", "test"], n), "label": label, "logit": (draw.normal(0, 1, n) + 2 * label).astype(np.float32)}
    t |= {"release": np.full(n, 9010), "brickid": np.arange(n) // 4, "objid": np.arange(n) % 2}
    recipe = SimpleNamespace(train=SimpleNamespace(report_on="test", pairs="input"))
    made = diagnostics({"scores": SimpleNamespace(read=lambda: pa.table(t))}, recipe, None)
    use = (t["split"] == "test") & (label >= 0)
    host = (t["brickid"] * 2 + t["objid"])[use]
    of = (t["logit"][use], label[use], 0.95)
    expected = [asdict(precision_at_recall(*of, hosts=host)), asdict(recall_at_precision(*of, hosts=host))]
    found = json.loads(made.files[""])
    assert found == json.loads(json.dumps({"split": "test", "stamps": int(use.sum()), "hosts": len({*host}), "measured": expected}))
    assert made.rows == use.sum() and 0.3 < found["measured"][1]["value"] < 1


def test_impostors_are_held_out_of_what_trained_and_chose():
    draw, n = np.random.default_rng(2), 400
    impostors = {"ra": draw.uniform(0, 360, n), "dec": draw.uniform(-30, 30, n)}
    splits = SplitRecipe()
    of = split_of_bricks(brick_ids(**impostors), splits)
    for choose_on, trained, left in (("val", ("train",), {"test"}), ("test", ("train",), {"val"}), ("val", ("train", "test"), set())):
        train = SimpleNamespace(choose_on=choose_on, select=SimpleNamespace(splits=trained))
        free = held_out(impostors, SimpleNamespace(splits=splits, train=train))
        assert {*of[free]} == left and (free == np.isin(of, sorted(left))).all()


def test_a_visibility_cut_keeps_what_lies_on_it(tmp_path):
    "One stamp lies on every limit, each other one just below one limit, and a control counts in none"
    limits = {column: float(limit) for column, limit in VISIBILITY}
    rows = [limits, *({**limits, column: np.nextafter(limit, 0)} for column, limit in limits.items()), limits]
    last = len(rows) - 1
    t = {column: [row[column] for row in rows] for column in limits} | {"is_control": [i == last for i in range(len(rows))]}
    t |= {"release": [9010] * len(rows), "brickid": [1] * len(rows), "objid": list(range(len(rows)))}
    pq.write_table(pa.table(t), tmp_path / "stamps.parquet")
    left = attrition_of_stamps([str(tmp_path / "stamps.parquet")])
    assert [row["stamps"] for row in left] == [row["hosts"] for row in left] == list(range(last, 0, -1))
    assert [row["cut"] for row in left] == ["injected", *(f"{column} >= {limit:g}" for column, limit in limits.items())]


# Real lenses


@pytest.mark.parametrize("times", [0.0, -1.0])
def test_an_exam_needs_noise(times):
    with pytest.raises(BadInput, match=f"times={times}; expected at least one seed and a positive noise"):
        ExamRecipe(times=times)


def test_an_exam_needs_a_seed_and_any_positive_noise_will_do():
    with pytest.raises(BadInput, match=r"seeds=\(\)"):
        ExamRecipe(seeds=())
    assert ExamRecipe(times=1e-6, seeds=(0,)).times == 1e-6


def test_the_first_look_is_of_its_evaluation_and_its_network():
    ledger = [
        {"evaluation": e, "identity": i, "n": n} for n, (e, i) in enumerate([("a", "x"), ("b", "x"), ("b", "y"), ("a", "y"), ("b", "y")])
    ]
    asked = {("a", ""): 0, ("b", ""): 1, ("a", "x"): 0, ("b", "x"): 1, ("b", "y"): 2, ("a", "y"): 3}
    assert {which: first_entry(ledger, *which)["n"] for which in asked} == asked
    for which, said in ((("c", ""), "'c' among 5"), (("c", "x"), "'c' for x among 5"), (("a", "z"), "'a' for z among 5")):
        with pytest.raises(BadInput, match=said):
            first_entry(ledger, *which)


@pytest.mark.parametrize(
    ("neighbour", "height", "central"),
    [(1, 1.0, True), (2, 5.0, True), (3, 2.0, False), (4, 1.0, False), (5, 1.0, True)],  # [pix] of half an arcsecond, with a reach of one
)
def test_the_brightest_spot_within_twice_the_reach_lies_within_the_reach(neighbour, height, central):
    "A galaxy in the middle and a brighter spot beside it: both limits count as inside"
    image = np.random.default_rng(3).normal(0, 1e-4, (2, 41, 41))
    image[:, 20, 20] += 5.2
    image[:, 19:22, 19 + neighbour : 22 + neighbour] += height * np.array([0.5, 1.0, 0.5])
    assert galaxy_at_centre(image, 0.5, 1.0) is central


# Realism


@pytest.mark.parametrize("n_pix", [63, 64])
def test_rings_are_centred_on_the_stamp(n_pix):
    "Mirrored and turned stamps have the same features, whether their side is even or odd"
    stack = np.random.default_rng(4).uniform(0, 1, (2, 3, n_pix, n_pix))
    features, names = radial_features(stack)
    assert len(set(names)) == features.shape[1] == 2 * 3 * 9
    for turned in (stack[..., ::-1], stack[..., ::-1, :], np.rot90(stack, axes=(-2, -1))):
        assert radial_features(turned)[0] == pytest.approx(features)


def test_a_host_is_modelled_in_rings_of_one_and_a_half_pixels():
    y, x = np.mgrid[-20:21, -20:21]
    image = np.exp(-np.hypot(x, y) / 5)[None].repeat(3, 0)
    (model, rings), number = host_model(image), np.hypot(x, y) / 1.5
    between = np.abs(number - number.round()) > 1e-6
    assert (rings == np.floor(number))[between].all() and (ring_index(41) == np.floor(number)).all()
    coarse, wide = host_model(image, width=3.0)
    assert (wide == rings // 2).all() and np.abs(coarse - image).max() > np.abs(model - image).max()
