"""Mask bits mean one thing in training, measuring and searching, and mean what DR10 says."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from dark_halo_scope.base.resources import manifest
from dark_halo_scope.injection.quality import LENS, stamp_quality
from dark_halo_scope.parent.selection import SelectionRecipe, quality_cuts
from dark_halo_scope.run.phases import load_recipe
from dark_halo_scope.search.candidates import CandidateRecipe, search_cuts
from dark_halo_scope.survey.coadds import Cutouts
from dark_halo_scope.survey.maskbits import MASKBITS

BANDS = ("g", "r", "z")
NO_GALAXY = {"BRIGHT", "GALAXY", "CLUSTER"}  # the catalogue makes a point of every source there
NO_PIXEL = {"BRIGHT", "ALLMASK_G", "ALLMASK_R", "ALLMASK_Z"}  # nothing was seen there, in a band of the stamp


def kept(cuts: dict[str, np.ndarray]) -> np.ndarray:
    "What the one cut on masks among them keeps"
    (name,) = (name for name in cuts if name.startswith("not in "))
    return cuts[name]


@pytest.mark.parametrize("name", MASKBITS)
def test_a_galaxy_in_a_mask_is_trained_on_if_and_only_if_it_is_searched(name: str) -> None:
    bits = np.array([0, 1 << MASKBITS[name]], np.int32)
    table = {"maskbits": bits} | {f"nobs_{b}": np.full(2, 3, np.int16) for b in BANDS}
    trained = kept(quality_cuts(table, SelectionRecipe(), SimpleNamespace(owned=np.ones(2, bool))))
    sky = {"maskbits": bits, "brickid": np.full(2, 330367, np.int32), "ra": np.full(2, 0.1), "dec": np.full(2, 0.1)}
    searched = kept(search_cuts(sky, np.zeros(2), 0.0, CandidateRecipe()))
    assert trained.tolist() == searched.tolist() == [True, name not in NO_GALAXY]


@pytest.mark.parametrize("name", MASKBITS)
def test_a_masked_pixel_counts_unless_nothing_was_seen_in_it(name: str) -> None:
    "A stamp masked from edge to edge keeps its arc's signal and its ring, but for a bright star or a band without any exposure"
    shape = (1, 3, 40, 40)
    y, x = np.mgrid[:40, :40] - 19.5
    arcs = np.broadcast_to(np.exp(-0.5 * ((np.hypot(x, y) - 6) / 1.5) ** 2) * 0.1, shape).astype(np.float32)
    zero, one = np.zeros(1), np.ones((1, 3))
    cut = Cutouts(
        arcs * 0 + 0.01, arcs * 0 + 1e4, np.zeros((1, 40, 40), np.int32), one, zero, zero, np.ones(1, bool), np.array([""]), BANDS
    )
    tasks = {c: np.full(1, v) for c, v in zip(LENS, (6 * 0.262, 0.9, 0.0, 0.0, 0.0))} | {
        "is_control": np.zeros(1, bool),
        "src_x": zero,
        "src_y": zero,
    }
    tasks |= {f"mw_transmission_{b}": np.ones(1) for b in BANDS}

    def measured(sky: Cutouts) -> dict[str, float]:
        told = stamp_quality(tasks, sky, arcs, sky.image + arcs, one, BANDS, 0.262, np.full(3, 1e4), np.ones(1))
        return {c: float(told[c][0]) for c in ("arc_snr", "arc_snr_g", "metrics_ok", "bad_pixel_frac")}

    masked = measured(replace(cut, maskbits=np.full((1, 40, 40), 1 << MASKBITS[name], np.int32)))
    lost = {"arc_snr": 0.0, "arc_snr_g": 0.0, "metrics_ok": 0.0, "bad_pixel_frac": 1.0}
    assert masked == (lost if name in NO_PIXEL else measured(cut)) and measured(cut)["arc_snr"] > 25


@pytest.mark.parametrize("name", sorted(f.stem for folder in ("recipes", "generations") for f in manifest(folder).glob("*.yaml")))
def test_recipes_search_under_the_masks_that_they_train_under(name: str) -> None:
    recipe = load_recipe(name, out="runs/x")
    assert recipe.selection.mask_names == recipe.candidates.mask_names
