"One way: what decides a product is in its receipt, guards stop what depends on them, and nothing made otherwise passes for what was asked"

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from dark_halo_scope.base import products as base
from dark_halo_scope.base.errors import BadInput
from dark_halo_scope.base.galaxy import galaxy_key
from dark_halo_scope.base.products import Made, Product
from dark_halo_scope.base.receipts import (
    Receipt,
    read_receipt,
    read_table,
    receipt_path,
    write_product,
    write_receipt,
    write_table,
)
from dark_halo_scope.base.sphere import nearest
from dark_halo_scope.learning.training import run_data
from dark_halo_scope.run import products
from dark_halo_scope.run.phases import load_recipe, open_run
from dark_halo_scope.run.products import Run, asked_for, check_guards, ensure, make, opened, state, verify, why_not
from dark_halo_scope.stamps.reader import Selection
from dark_halo_scope.stats.calibration import reliability, shift_prior


@pytest.fixture
def copy(toy: Path, tmp_path: Path) -> Path:
    "A finished toy run, to be spoilt"
    shutil.copytree(toy, tmp_path / "run")
    return tmp_path / "run"


def at(folder: Path, *overrides: str, **more: Any) -> Run:
    "The toy's run in a folder"
    return open_run("toy", str(folder), list(overrides), workers=1, **more)


def refusal(function: Any, *arguments: Any) -> str:
    "The line of a refusal"
    with pytest.raises(BadInput) as caught:
        function(*arguments)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_finished_run_has_every_product(toy: Path) -> None:
    run = at(toy)
    assert set(state(run).values()) == {"done"}
    names = {p.name for p in asked_for(run)}
    assert names >= {"gates", "score_gates", "diagnostics", "stage0", "model", "completeness", "candidates"}
    receipts, faults = verify(str(toy))
    assert receipts > len(names) and not faults


def test_a_product_left_out_is_missed(copy: Path) -> None:
    Path(receipt_path(copy / "score_gates.json")).unlink()
    found = state(at(copy))
    assert found["score_gates"] == "not there" and "score_gates" in found["candidates"]


def test_the_calibration_gate_of_a_run_counts_galaxies(toy: Path) -> None:
    scores = read_table(str(toy / "scores.parquet"))
    columns = {c: scores[c].to_numpy(zero_copy_only=False) for c in ("release", "brickid", "objid", "split", "label")}
    rows = (columns["split"] == at(toy).recipe.train.report_on) & (columns["label"] >= 0)
    galaxies = len(np.unique(galaxy_key(columns)[rows]))
    assert galaxies < rows.sum()
    judged = {row["name"]: row["why"] for row in json.loads((toy / "score_gates.json").read_text())}
    assert f" on {rows.sum():,} stamps of {galaxies:,} galaxies, " in judged["calibration"]


def test_the_calibration_gate_of_a_run_reads_probabilities_at_the_share_of_its_own_split(toy: Path) -> None:
    scores = read_table(str(toy / "scores.parquet"))
    columns = {c: scores[c].to_numpy(zero_copy_only=False) for c in ("release", "brickid", "objid", "split", "label", "p_lens")}
    rows, fitted = ((columns["split"] == split) & (columns["label"] >= 0) for split in ("test", "val"))
    share, label = float(columns["label"][fitted].mean()), columns["label"][rows]
    assert abs(share - label.mean()) > 0.01, "shares that are alike test nothing"
    moved = shift_prior(columns["p_lens"][rows].astype(float), share, float(label.mean()))
    judged = {row["name"]: row["value"] for row in json.loads((toy / "score_gates.json").read_text())}
    off = [reliability(p, label, hosts=galaxy_key(columns)[rows]).ece for p in (moved, columns["p_lens"][rows].astype(float))]
    assert judged["calibration"] == pytest.approx(off[0], abs=1e-6) and abs(off[0] - off[1]) > 1e-3


def test_the_areas_that_choose_and_report_are_of_stamps_that_pass_the_same_cuts(toy: Path) -> None:
    "Split by split, the injections counted are those that the cuts of training leave; the report shows both areas as such"
    names = ["split", "is_control", "cutout_ok", "metrics_ok", "theta_over_psf", "arc_snr_g", "magnification"]
    files = [str(f) for f in sorted((toy / "stamps").rglob("*.parquet"))]
    stamps = {c: np.concatenate([read_table(f, names)[c].to_numpy(zero_copy_only=False) for f in files]) for c in names}
    painted = stamps["cutout_ok"] & stamps["metrics_ok"] & ~stamps["is_control"]
    visible = (stamps["theta_over_psf"] >= 0.5) & (stamps["arc_snr_g"] >= 25) & (stamps["magnification"] >= 3)
    recipe, summary = at(toy).recipe.train, json.loads((toy / "model" / "summary.json").read_text())
    strict = run_data(files, replace(recipe, select=Selection(min_theta_over_psf=0.5, min_arc_snr_g=25, min_magnification=3)))
    for split, role, index in ((recipe.choose_on, "chosen_on", strict.choose), (recipe.report_on, "reported_on", strict.report)):
        here = painted & (stamps["split"] == split)
        assert summary[role]["split"] == split and summary[role]["n_lens"] == here.sum()
        assert index.label.sum() == (here & visible).sum() < here.sum()
    text = (toy / "report.html").read_text()
    assert all(f"{split}, after the cuts of training" in text for split in (recipe.choose_on, recipe.report_on))


# What decides a product.


def made_again(run: Run, name: str) -> str:
    "Why a product would be made again; empty where it would not"
    return why_not(run, name)


@pytest.mark.parametrize(
    ("override", "product", "said"),
    [
        ("plan.src_dmag_of=lensed", "stamps", "plan.src_dmag_of"),
        ("paint.psf=gaussian", "stamps", "paint"),
        ("train.epochs=3", "model", "train"),
        ("calibration.kind=temperature", "model", "calibration"),
        ("candidates.fpr=0.4", "candidates", "candidates"),
        ("score.turns=true", "sky", "score.turns"),
        ("splits.salt=other", "parent", "splits"),
    ],
)
def test_a_choice_that_changes_the_content_makes_it_again(toy: Path, override: str, product: str, said: str) -> None:
    assert said in made_again(at(toy, override), product)
    assert not made_again(at(toy), product) and not made_again(at(toy, "notes=a try"), product)


def test_a_maker_sees_only_what_it_declares(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    "A section or an input that is not declared cannot be read, so it cannot miss from the identity"
    run, whole = at(copy, "plan.n_total_per_split={train: 10, val: 10, test: 10}"), products.products_of(("mock",))
    poorer = {**whole, "plan": replace(whole["plan"], chosen_by=("plan", "sky"))}
    monkeypatch.setattr(products, "products_of", lambda rooms=(): poorer)
    assert "reads 'selection' of the recipe, but declares plan, sky" in refusal(make, run, "plan")


def test_the_limit_is_part_of_the_identity(toy: Path, copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    "After --limit 1 a full run makes the rest"
    few = at(copy, limit=1)
    assert "limit" in made_again(few, "density")
    rows = make(few, "density").identity["rows"]
    assert rows < read_receipt(toy / "density.parquet").identity["rows"]
    assert "limit" in made_again(at(copy), "density")
    assert make(at(copy), "density").identity["content"] == read_receipt(toy / "density.parquet").identity["content"]
    # The guard deleted: with the limit out of the identity the small table passes for the whole.
    make(few, "density")
    whole = products.identity
    monkeypatch.setattr(products, "identity", lambda run, name: {**whole(run, name), "limit": 1})
    assert not made_again(at(copy), "density")


def test_the_code_is_part_of_the_identity(toy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    "A mended painter repaints, a mended plot does not"
    from dark_halo_scope.base import resources

    run, read = at(toy), resources._module
    assert not made_again(run, "stamps")

    def mended(module: str) -> Any:
        def facts(name: str) -> Any:
            known = read(name)
            return (b"mended", known[1]) if known and name == module else known

        resources.code_of.cache_clear()
        monkeypatch.setattr(resources, "_module", facts)

    mended("report.figures")
    assert not made_again(run, "stamps")
    mended("lensing.fourier")
    assert "code" in made_again(run, "stamps") and not made_again(run, "parent")
    # The guard deleted: with one name for all code nothing is made again.
    monkeypatch.setattr(products, "code_of", lambda *modules: read_receipt(toy / "stamps").identity["code"])
    assert "code" not in made_again(run, "stamps")
    resources.code_of.cache_clear()


def test_another_recipe_in_the_same_folder_is_not_taken(copy: Path) -> None:
    "ensure compares identities: what another recipe left is made anew, or refused where inputs may not be made"
    other = at(copy, "plan.experiment_id=other")
    assert "plan" in refusal(opened, other, "plan") and "run phase4a_plan" in refusal(make, other, "stamps")
    ensure(other, "plan")
    assert set(read_table(other.address("plan"))["experiment_id"].to_pylist()) == {"other"}


@pytest.mark.slow
def test_repainted_stamps_train_a_new_network(copy: Path) -> None:
    "The same rows with other pixels: a finished training is not taken up again"
    import torch

    before = torch.load(copy / "model" / "best.pt", weights_only=True)["model"]
    run = at(copy, "paint.psf=gaussian", "plan.n_total_per_split={train: 40, val: 24, test: 24}")
    ensure(run, "model")
    after = torch.load(copy / "model" / "best.pt", weights_only=True)["model"]
    assert any(not torch.equal(before[name], after[name]) for name in before)
    assert read_receipt(run.address("model")).identity["inputs"]["stamps"] == read_receipt(run.address("stamps")).name


def test_a_kill_between_table_and_receipt_is_noticed(toy: Path, copy: Path) -> None:
    "Another table under the receipt of the old one"
    run = at(copy)
    table = read_table(run.address("density"))
    write_table(
        table.set_column(table.column_names.index("n_gal"), "n_gal", pa.array(np.zeros(len(table), np.int64))), run.address("density")
    )
    assert "density.parquet" in made_again(run, "density")
    assert make(run, "density").identity["content"] == read_receipt(toy / "density.parquet").identity["content"]


def test_one_changed_byte_is_named(copy: Path) -> None:
    stamp = sorted((copy / "stamps").rglob("*.parquet"))[0]
    data = bytearray(stamp.read_bytes())
    data[len(data) // 2] ^= 1
    stamp.write_bytes(data)
    faults = verify(str(copy))[1]
    assert len(faults) == 1 and stamp.name in faults[0] and "changed" in faults[0]
    receipt = Path(receipt_path(copy / "plan"))
    receipt.write_text(receipt.read_text().replace('"rows": ', '"rows": 1'))
    assert any("plan" in fault and "changed after it was written" in fault for fault in verify(str(copy))[1])
    stamp.unlink()
    assert any("missing" in fault for fault in verify(str(copy))[1])


def test_a_folder_that_went_is_missed(copy: Path) -> None:
    "A receipt that names no files does not stand for a folder that is gone"
    run = at(copy)
    shutil.rmtree(copy / "stamps")
    assert made_again(run, "stamps") == f"{copy}/stamps: missing" and "run phase4c_inject first" in refusal(opened, run, "stamps")
    assert f"{copy}/stamps: missing" in verify(str(copy))[1]


def test_a_partial_search_is_not_taken_for_the_whole(copy: Path) -> None:
    "Bricks that were not searched are counted as such, not as cutouts that could not be made"
    from dark_halo_scope.search.products import search_attrition, searched

    sky = opened(at(copy), "sky")
    content = sky.receipt.identity["content"]
    part = replace(sky, receipt=replace(sky.receipt, identity={**sky.receipt.identity, "content": dict(list(content.items())[:2])}))
    recipe = at(copy).recipe
    found = searched(part, opened(at(copy), "parent"), recipe.candidates, recipe.sky.bands)
    rows = search_attrition(found)
    assert found.without["its brick was not searched"] > 0 and rows[0]["cut"] == "its brick was searched"
    assert rows[0]["before"] - rows[0]["kept"] == found.without["its brick was not searched"]


def test_few_galaxies_are_held_and_all_are_counted(copy: Path) -> None:
    "With a threshold and the listed lenses: what is above or beside, and counts that are those of the whole"
    from dark_halo_scope.search.candidates import search_cuts
    from dark_halo_scope.search.products import AT_LENS, searched

    run = at(copy)
    sky, parent, recipe = opened(run, "sky"), opened(run, "parent"), run.recipe.candidates
    whole = searched(sky, parent, recipe, run.recipe.sky.bands)
    threshold = float(np.quantile(whole.galaxies["logit"], 0.9))
    lenses = {c: whole.galaxies[c][:3] for c in ("ra", "dec")}
    few = searched(sky, parent, recipe, run.recipe.sky.bands, threshold, lenses)
    wanted = whole.galaxies["logit"] >= np.float32(threshold)
    wanted[:3] = True
    assert AT_LENS == 1.5 and all((few.galaxies[c] == v[wanted]).all() for c, v in whole.galaxies.items())
    assert (few.n, few.without, few.highest) == (len(wanted), whole.without, whole.galaxies["logit"].max())
    alive = np.ones(len(wanted), bool)
    for row, (cut, keep) in zip(few.cuts, search_cuts(whole.galaxies, whole.galaxies["logit"], threshold, recipe).items(), strict=True):
        assert row == {"cut": cut, "before": int(alive.sum()), "kept": int((alive & keep).sum())}
        alive &= keep


@pytest.mark.parametrize("fault, says", [("nan", "1 of .* logits are not finite"), ("twice", "1 galaxies have two scores")])
def test_scores_that_are_none_are_refused_before_anything_is_listed(copy: Path, fault: str, says: str) -> None:
    from dark_halo_scope.search.products import sky_scores

    sky, brick = opened(at(copy), "sky"), next(p for p in sorted((copy / "sky").rglob("*.parquet")) if len(read_table(p)))
    table = read_table(brick)
    if fault == "nan":
        logit = table["logit"].to_numpy().copy()
        logit[0] = np.nan
        table = table.set_column(table.column_names.index("logit"), table.schema.field("logit"), pa.array(logit))
    else:
        table = pa.concat_tables([table, table.slice(0, 1)])
    write_product(table, brick, "scores", {k: v for k, v in read_receipt(brick).identity.items() if k != "rows"})
    assert re.search(says, refusal(sky_scores, sky))


def test_a_threshold_of_another_network_is_refused(copy: Path) -> None:
    run = at(copy)
    brick = sorted((copy / "sky").rglob("*.parquet"))[0]
    table = read_table(brick)
    names = pa.array(["deadbeefdeadbeef"] * len(table))
    other = table.set_column(table.column_names.index("model_id"), "model_id", names)
    write_product(other, brick, "scores", read_receipt(brick).identity)
    from dark_halo_scope.base.products import Chosen, Inputs
    from dark_halo_scope.search.products import candidates

    product = run.product("candidates")
    inputs = Inputs(product, {name: opened(run, name) for name in product.inputs})
    assert "deadbeefdeadbeef" in refusal(candidates, inputs, Chosen(run.recipe, product), run.place(product))


def test_gaps_are_filled_by_the_next_full_run(toy: Path, copy: Path) -> None:
    "A sweep that could not be read is read when it is mended, whatever was accepted before"
    sweep = sorted((copy / "release" / "south" / "sweep" / "10.1").glob("*.fits"))[0]
    whole = sweep.read_bytes()
    shutil.rmtree(copy / "parts")
    Path(receipt_path(copy / "density.parquet")).unlink()
    sweep.write_bytes(whole[:-4000])
    assert sweep.stem in refusal(make, at(copy), "density")
    part = make(at(copy, allow_missing=True), "density")
    assert part.identity["set_aside"] == [sweep.stem]
    assert "set aside" in made_again(at(copy), "density") and "--allow-missing" in refusal(opened, at(copy), "density") + "--allow-missing"
    sweep.write_bytes(whole)
    assert make(at(copy), "density").identity["content"] == read_receipt(toy / "density.parquet").identity["content"]


# Guards.


def test_known_lenses_and_candidates_are_never_hosts(copy: Path, tmp_path: Path) -> None:
    "On every survey, by default: the packaged lists and the recipe's"
    run = at(copy, "selection.known_lens_arcsec=13")
    ensure(run, "parent")
    known, sample = products.given(run, "known").value, read_table(run.address("parent"))
    assert len(known) > 4_900 and read_receipt(run.address("parent")).identity["near_known"] > 0
    apart = nearest(sample["ra"].to_numpy(), sample["dec"].to_numpy(), known["ra"].to_numpy(), known["dec"].to_numpy())[1]
    assert apart.min() > 13 > load_recipe("toy").selection.known_lens_arcsec
    for name in ("gen1", "gen5_prime", "gen6"):
        sky = Run(load_recipe(name), str(tmp_path))
        assert len(products.given(sky, "known").value) > 4_900, name


def identity_without_rows(receipt: Receipt) -> dict[str, Any]:
    "What a product was made from, without what came out"
    return {k: v for k, v in receipt.identity.items() if k not in ("rows", "content", "hosts")}


def failing(run: Run, guard: str, *names: str) -> None:
    "Lets a guard of a finished run say that it failed"
    receipt = read_receipt(run.address(guard))
    write_receipt(replace(receipt, identity={**receipt.identity, "passed": False, "failed": list(names)}), run.address(guard))


def test_a_failed_gate_stops_the_training(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = at(copy)
    failing(run, "gates", "core light")
    said = refusal(make, run, "model")
    assert "guard 'gates' failed" in said and "gates:core light" in said and "--override 'gates:core light=REASON'" in said
    check_guards(at(copy, "overrides.gates:core light=a study of this very fault"), run.product("model"))
    other = at(copy, "overrides.gates:brightness=another one")
    assert "core light" in refusal(check_guards, other, other.product("model"))
    overridden = at(copy, "overrides.gates=a study")
    assert products.identity(overridden, "model")["overrides"] == {"gates": "a study"}
    # The guard deleted: the network would be trained.
    monkeypatch.setattr(products, "check_guards", lambda run, product: None)
    with pytest.raises(pytest.fail.Exception):
        assert "guard" in refusal(lambda: products.why_not(run, "model") or make(run, "model"))


def test_an_override_needs_a_reason() -> None:
    assert "no reason given" in refusal(load_recipe, "toy", ["overrides.gates=' '"])


def test_a_failed_or_unexamined_predecessor_blocks(copy: Path, tmp_path: Path) -> None:
    "A recipe names the one before it; its stage 0 must have passed"
    run = at(copy, "after=before")
    assert "was not tested" in refusal(check_guards, run, run.product("model"))
    (tmp_path / "before").mkdir()
    for passed, verdict in ((False, "FAILED: recall 0 of 9"), (None, "not tested: no impostors")):
        (tmp_path / "before" / "stage0.json").write_text(json.dumps({"passed": passed, "verdict": verdict}))
        run = at(copy, "after=before")
        assert verdict in refusal(check_guards, run, run.product("model"))
    check_guards(at(copy, "after=before", "overrides.predecessor=a rehearsal"), run.product("model"))
    (tmp_path / "before" / "stage0.json").write_text(json.dumps({"passed": True, "verdict": "passed"}))
    check_guards(at(copy, "after=before"), run.product("model"))


def test_too_few_galaxies_for_the_controls_are_reported(copy: Path) -> None:
    "With half as many galaxies as the controls asked for, each counts twice, and the report says so; with enough of them it says that"
    from dark_halo_scope.run.summary import stamps_section

    def train_of(stamps: int) -> tuple[str, pa.Table]:
        run = at(copy, f"plan.n_total_per_split={{train: {stamps}, val: 40, test: 40}}")
        ensure(run, "stamps")
        (said,) = (text for text in stamps_section(run).text if "'train'" in text)
        plan = read_table(run.address("plan"))
        return said, plan.filter(pc.equal(plan["split"], "train"))

    said, plan = train_of(80)
    assert said == "Split 'train': 40 of 80 stamps are controls (50%)."
    most = pc.sum(train_of(2000)[1]["is_control"]).as_py()  # every galaxy that may be one
    said, plan = train_of(4 * most)
    controls = plan.filter(plan["is_control"])
    assert len(controls) == most and np.isclose(pc.sum(controls["weight"]).as_py(), 2 * most)
    assert f"{most} of {3 * most} stamps are controls (33%); {2 * most} were asked for" in said
    assert "each counts 2.00 times" in said and "50% of the weight" in said


def test_a_network_that_needs_the_control_is_refused(toy: Path) -> None:
    run = at(toy, "train.pairs=input", "train.augment.neighbours=0")
    assert "no control exists for a real galaxy" in refusal(check_guards, run, run.product("model"))


def test_products_in_a_circle_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    from dark_halo_scope.parent import products as parent_products

    circle = (Product("a", "", inputs=("b",)), Product("b", "", inputs=("a",)))
    monkeypatch.setattr(parent_products, "PRODUCTS", (*parent_products.PRODUCTS, *circle))
    products.products_of.cache_clear()
    try:
        assert "in a circle: a <- b <- a" in refusal(products.products_of)
    finally:
        monkeypatch.undo()
        products.products_of.cache_clear()


def test_every_declared_function_is_there() -> None:
    for product in products.products_of(("mock",)).values():
        for name in (*product.functions(), product.wanted):
            if name:
                assert callable(base.function_named(name)), name
    assert Made().table is None


def test_no_code_asks_whether_the_survey_is_a_mock() -> None:
    root = Path(products.__file__).parents[1]
    for file in root.rglob("*.py"):
        if file.parent.name not in ("mock", "bench") and file.name != "_modidx.py":
            assert "is_mock" not in file.read_text(), file


def test_four_bands_and_a_larger_stamp_run_end_to_end(tmp_path: Path) -> None:
    "Bands and stamp side are stated once, in `sky`, and no code counts to three"
    few = ["mock={rows: 1, columns: 3, n_pix: 400, lrgs: 26, blue: 8, spirals: 1, rings: 1, mergers: 1, stars: 3, n_lenses: 4, seed: 2}"]
    few += ["plan.n_total_per_split={train: 40, val: 24, test: 24}", "train.epochs=1", "sky={bands: [g, r, i, z], n_pix: 72}"]
    run = open_run("toy", str(tmp_path), few, workers=1)
    for product in asked_for(run):
        ensure(run, product.name)
    stamps = read_table(opened(run, "stamps").files()[0])
    assert {f"psfsize_{b}" for b in "griz"} <= set(stamps.column_names)
    from dark_halo_scope.stamps.codec import decode

    assert decode(stamps).shape[1:] == (4, 72, 72) and set(state(run).values()) == {"done"}
    assert "mag_i" in read_table(run.address("candidates")).column_names


@pytest.mark.parametrize("name", ["stamps", "sky"])
def test_images_that_nothing_tells_of_are_named_before_they_are_read(copy: Path, name: str, capsys: pytest.CaptureFixture) -> None:
    "A copy of the survey without its lists is read, not in silence"
    run = at(copy)
    product = run.product(name)
    given = products.inputs_of(run, name), base.Chosen(run.recipe, product), run.place(product)
    tasks = base.function_named(product.tasks)
    first = tasks(*given)[0].name
    assert capsys.readouterr().out == ""
    for pattern in ("*.sha256", "*.sha256sum"):
        for listed in (copy / "release").rglob(pattern):
            listed.unlink()
    tasks(*given)
    assert capsys.readouterr().out.startswith(f"3 of 3 images of {first}, the first brick, have no checksums beside them")
