"""A lesson's page must go red when its guard is taken away."""

import importlib
import json
from dataclasses import replace
from pathlib import Path

import matplotlib
import numpy as np
import pytest

from dark_halo_scope.base import schema
from dark_halo_scope.injection import grid, quality
from dark_halo_scope.lensing import psf, render
from dark_halo_scope.stamps import reader
from dark_halo_scope.stats import metrics
from dark_halo_scope.trust import anchors, gates

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


MEASURED, RENDER, BRIGHTNESS = quality.measure, render.render_arcs, gates.brightness_gate


def capped(lens, source, shape, *, n_pix, margin):
    "A painter whose seeing fails on small stamps, as a kernel cut at 63 pixels does"
    return RENDER(lens, source, shape if n_pix >= 63 else psf.MoffatPSF(0.5 * shape.fwhm, 3.5, True), n_pix=n_pix, margin=margin)


BY_CLASS, DRAW = metrics.fpr_by_class, grid.draw_configurations
DELETED = {  # page -> module and guard, and what stands in its place
    "lesson_01": (metrics, "tpr_at_fpr", lambda s, y, f: metrics.auroc(s, y)),
    "lesson_02": (metrics, "refuse_ties", lambda *a: None),
    "lesson_03": (gates, "pairing_gate", passing(gates.pairing_gate)),
    "lesson_05": (psf, "psf_from_psfsize", lambda size, beta=3.5: psf.MoffatPSF(size, beta, includes_pixel=True)),
    "lesson_06": (reader, "shard", lambda n, part, parts: range(n)),
    "lesson_08": (gates, "calibration_gate", passing(gates.calibration_gate)),
    "lesson_09": (gates, "core_gate", passing(gates.core_gate)),
    "lesson_10": (render, "render_arcs", capped),
    "lesson_11": (schema, "parse_bands", lambda text: (text,) if isinstance(text, str) else tuple(text)),
    "lesson_13": (quality, "measure", lambda *a: MEASURED(*a) | {"metrics_ok": np.ones(3, bool)}),
    "lesson_14": (anchors, "reference_separation", lambda t, r: np.full(len(t["name"]), np.nan)),
    "lesson_16": (metrics, "fpr_by_class", lambda s, y, kind, t: [BY_CLASS(s, y, np.where(y, kind, "other"), t)[0]]),
    "lesson_18": (gates, "brightness_gate", lambda s, r: replace(BRIGHTNESS(s, r), curve={"total light with arcs": {"measured": 0.5}})),
    "lesson_19": (metrics, "host_index", lambda hosts, n: None),
    "lesson_20": (metrics, "labelled_and_vetted", lambda s, y, out, f: (metrics.tpr_at_fpr(s, y, f),) * 2),
    "lesson_21": (metrics, "best_epoch", lambda a, b: metrics.BestEpoch(int(np.argmax(a)), max(a), max(a))),
    "lesson_22": (grid, "draw_configurations", lambda name, *rest: DRAW("grid_small", *rest)),
}


@pytest.mark.parametrize("page", sorted(DELETED))
def test_page_without_its_guard_goes_red(page, monkeypatch):
    module, guard, instead = DELETED[page]
    monkeypatch.setattr(importlib.import_module(module.__name__), guard, instead)
    with pytest.raises((AssertionError, KeyError)):
        run_page(page)


def test_a_page_with_its_guard_runs():
    run_page("lesson_03")
