"""A lesson's page must go red when its guard is taken away."""

import copy
import importlib
import json
import re
from dataclasses import replace
from pathlib import Path

import matplotlib
import numpy as np
import pytest

from dark_halo_scope.base import schema, storage
from dark_halo_scope.injection import grid, quality
from dark_halo_scope.learning import scoring, training
from dark_halo_scope.lensing import psf, render
from dark_halo_scope.parent import selection
from dark_halo_scope.stamps import normalise, reader
from dark_halo_scope.stats import metrics
from dark_halo_scope.trust import anchors, gates, products, score_gates

RESULTS = Path(__file__).parents[1] / "nbs" / "results"


def passing(gate):
    "The gate with its verdict taken away"
    return lambda *a, **k: replace(gate(*a, **k), passed=True)


def run_page(name):
    "The code cells of a page, one after the other, in this process"
    matplotlib.use("Agg")
    (path,) = RESULTS.glob(f"{name}*.ipynb")
    scope = {"__name__": "page"}
    for cell in json.loads(path.read_text())["cells"]:
        if cell["cell_type"] == "code":
            exec(compile("".join(cell["source"]), str(path), "exec"), scope)


MEASURED, RENDER, BRIGHTNESS = quality.stamp_quality, render.render_arcs, gates.brightness_gate


def capped(lens, source, shape, *, n_pix, margin):
    "A painter whose seeing fails on small stamps, as a kernel cut at 63 pixels does"
    return RENDER(lens, source, shape if n_pix >= 63 else psf.MoffatPSF(0.5 * shape.fwhm, 3.5, True), n_pix=n_pix, margin=margin)


BY_CLASS, DRAW = metrics.fpr_by_class, grid.draw_configurations
READ, CLEAN = reader.build_index, gates.known_clean


def with_nothing_expected(name, s, recipe):
    "The stamps whose light is known, with the light forgotten"
    known = CLEAN(name, s, recipe)
    return replace(known, clean=0 * known.clean)


RESTORE = training.restore


def without_memory(saved, learner, *rest):
    "A run taken up with the weights, but without what the optimiser knew"
    fresh = copy.deepcopy(learner.optim.state_dict())
    state = RESTORE(saved, learner, *rest)
    learner.optim.load_state_dict(fresh)
    return state


DELETED = {  # page, and where it has more than one guard which -> module and guard, and what stands in its place
    "lesson_01": (metrics, "tpr_at_fpr", lambda s, y, f: metrics.auroc(s, y)),
    "lesson_02": (metrics, "refuse_ties", lambda *a: None),
    "lesson_03": (gates, "pairing_gate", passing(gates.pairing_gate)),
    "lesson_04": (reader, "build_index", lambda sets, selection=None, recipe=None: READ(sets, reader.Selection(splits=()), recipe)),
    "lesson_05": (psf, "psf_from_psfsize", lambda size, beta=3.5: psf.MoffatPSF(size, beta, includes_pixel=True)),
    "lesson_06": (reader, "rank_share", lambda n, part, parts: range(n)),
    "lesson_07, patience": (training, "improved", lambda *a: True),
    "lesson_07, resuming": (training, "restore", without_memory),
    "lesson_08": (score_gates, "calibration_gate", passing(score_gates.calibration_gate)),
    "lesson_09": (gates, "core_gate", passing(gates.core_gate)),
    "lesson_09, clean render": (gates, "known_clean", with_nothing_expected),
    "lesson_10": (render, "render_arcs", capped),
    "lesson_11": (schema, "parse_bands", lambda text: (text,) if isinstance(text, str) else tuple(text)),
    "lesson_11, addresses": (storage, "scheme_of", lambda uri: uri.split("://")[0]),
    "lesson_13": (quality, "stamp_quality", lambda *a: (found := MEASURED(*a)) | {"metrics_ok": np.ones_like(found["metrics_ok"])}),
    "lesson_14": (anchors, "reference_separation", lambda t, r: np.full(len(t["name"]), np.nan)),
    "lesson_15": (selection, "not_psf", lambda table: np.ones(len(table["ra"] if "ra" in table else table["type"]), bool)),
    "lesson_16": (metrics, "fpr_by_class", lambda s, y, kind, t: [BY_CLASS(s, y, np.where(y, kind, "other"), t)[0]]),
    "lesson_17": (products, "single_image_given", lambda recipe, place: ("input", {"passed": True, "why": ""})),
    "lesson_17, scoring": (scoring, "score_images", lambda *a: np.zeros(2)),
    "lesson_18": (gates, "brightness_gate", lambda s, r: replace(BRIGHTNESS(s, r), curve={"total light with arcs": {"measured": 0.5}})),
    "lesson_19": (metrics, "host_index", lambda hosts, n: None),
    "lesson_20": (metrics, "labelled_and_vetted", lambda s, y, out, f: (metrics.tpr_at_fpr(s, y, f),) * 2),
    "lesson_21": (metrics, "best_epoch", lambda a, b: metrics.BestEpoch(int(np.argmax(a)), max(a), max(a))),
    "lesson_22": (grid, "draw_configurations", lambda name, *rest, **more: DRAW("grid_small", *rest, **more)),
    "lesson_23": (normalise, "refuse_coarse", lambda *a: None),
}


@pytest.mark.parametrize("page", sorted(DELETED))
def test_page_without_its_guard_goes_red(page, monkeypatch):
    module, guard, instead = DELETED[page]
    monkeypatch.setattr(importlib.import_module(module.__name__), guard, instead)
    with pytest.raises((AssertionError, KeyError)):
        run_page(page.split(",")[0])


def test_every_lesson_has_a_page_and_a_guard():
    titles = [json.loads(p.read_text())["cells"][0]["source"][0] for p in sorted(RESULTS.glob("lesson_*.ipynb"))]
    told = {int(number) for title in titles for number in re.findall(r"L(\d+)", title.split(".")[0])}
    assert told == set(range(1, 24))
    assert {page.split(",")[0] for page in DELETED} == {p.stem[:9] for p in RESULTS.glob("lesson_*.ipynb")}


def test_a_page_with_its_guard_runs():
    run_page("lesson_03")
