"The main job end to end at toy scale, its determinism, and what happens when its input is bad"

import json
import shutil
import subprocess
from pathlib import Path

import nbformat
import numpy as np
import pyarrow as pa
import pytest
from astropy.io import fits

from dark_halo_scope.base.errors import BadInput
from dark_halo_scope.base.receipts import Receipt, identity_of, is_done, read_receipt, read_table, receipt_path, run_facts
from dark_halo_scope.base.resources import phase_notebook
from dark_halo_scope.base.sphere import nearest
from dark_halo_scope.base.sums import sum_path
from dark_halo_scope.injection.plan import make_plan
from dark_halo_scope.parent.selection import near_any
from dark_halo_scope.run.phases import load_recipe, open_run, phase_names
from dark_halo_scope.run.products import Run, asked_for, ensure, make, opened
from dark_halo_scope.search.products import injections_of
from dark_halo_scope.search.products import searched as searched_of
from dark_halo_scope.stamps.codec import decode
from dark_halo_scope.survey.release import Release
from dark_halo_scope.trust.products import table_arrays

from .conftest import dhs, dhs_here


def test_demo_runs_every_phase_and_reports(toy: Path) -> None:
    run = open_run("toy", str(toy))
    phases = {p.phase for p in asked_for(run) if p.phase}
    assert {p.stem for p in (toy / "logs").glob("*.ipynb")} >= phases and phases <= set(phase_names())
    page = (toy / "report.html").read_text()
    assert page.count("<img ") >= 7 and 'src="data:image/png' in page and "http" not in page.split("</style>")[1].split("<img")[0]
    first = page.split("</style>")[1].split('<div class="cards">')[0]
    assert "<h2>What failed</h2>" in first and "stage0" in first and "overridden because" in first


@pytest.mark.slow
def test_same_seed_same_products(toy: Path, tmp_path: Path) -> None:
    "One worker instead of two, no notebooks: the same identity hashes, product by product"
    run = open_run("toy", str(tmp_path), workers=1)
    for product in asked_for(run):
        assert ensure(run, product.name).name == read_receipt(toy / product.address).name, product.name


def test_same_release_same_plan_and_another_salt_another(toy: Path, tmp_path: Path) -> None:
    "One worker instead of two, no notebooks, up to the plan; stamps are compared in `test_run_scale`, and every product with what was recorded in `test_frozen`"
    run = broken_copy(toy, tmp_path)
    for name in ("density", "parent", "plan"):
        assert ensure(run, name).name == read_receipt(toy / run.product(name).address).name, name
    other = open_run("toy", str(tmp_path), ["splits.salt=another"], workers=1)
    assert ensure(other, "plan").name != read_receipt(toy / "plan").name


def test_second_run_makes_nothing_again(toy: Path) -> None:
    before = {p: p.stat().st_mtime_ns for p in toy.rglob("*.parquet")}
    run = open_run("toy", str(toy), workers=1)
    for product in asked_for(run):
        ensure(run, product.name)
    assert {p: p.stat().st_mtime_ns for p in toy.rglob("*.parquet")} == before


def planted(toy: Path) -> tuple[np.ndarray, np.ndarray]:
    truth = read_table(toy / "release" / "truth" / "planted_lenses.parquet")
    return truth["ra"].to_numpy(), truth["dec"].to_numpy()


def test_no_planted_lens_is_host_or_control(toy: Path) -> None:
    parent = read_table(toy / "parent")
    assert not near_any(parent["ra"].to_numpy(), parent["dec"].to_numpy(), *planted(toy), 11.0).any()


def test_planted_lenses_are_searched_and_known(toy: Path) -> None:
    "Left out of hosts and controls, put back into the search, and named where they are listed"
    run = open_run("toy", str(toy))
    ra, dec = planted(toy)
    found = searched_of(opened(run, "sky"), opened(run, "parent"), run.recipe.candidates, run.recipe.sky.bands)
    searched = found.galaxies
    near = nearest(ra, dec, searched["ra"], searched["dec"])[1] < 1.5
    assert near.sum() + sum(found.without.values()) >= len(ra) - 1 and set(
        searched["split"][near_any(searched["ra"], searched["dec"], ra, dec, 1.5)]
    ) != {"test"}
    listed = table_arrays(read_table(toy / "candidates" / "candidates.parquet"))
    known = np.array([name is not None for name in listed["known_as"]])
    assert (known == near_any(listed["ra"], listed["dec"], ra, dec, 5.0)).all()
    # Nothing that trained the network is searched, but for what no training used: the surroundings of planted lenses.
    trained = ~near_any(searched["ra"], searched["dec"], ra, dec, 12.0)
    assert set(searched["split"][trained]) == {"test"}


def test_injections_count_before_any_cut(toy: Path) -> None:
    "Every planned injection of the split is in the maps, scored or not"
    run = open_run("toy", str(toy))
    threshold = json.loads((toy / "completeness.json").read_text())["threshold"]["logit"]
    drawn = injections_of(*(opened(run, name) for name in ("stamps", "scores")), run.recipe.completeness.split, threshold)
    plan = read_table(toy / "plan").to_pandas()
    assert len(drawn["found"]) == ((plan.split == "test") & ~plan.is_control).sum()
    cells = read_table(toy / "completeness.parquet").to_pandas()
    theta = cells[(cells["map"] == "theta_E") & (cells["sample"] == "injections")]
    assert theta.n_injected.sum() == len(drawn["found"]) and theta.n_found.sum() == drawn["found"].sum()


def test_replicates_of_one_galaxy_are_different_arcs(toy: Path) -> None:
    plan = read_table(toy / "plan").to_pandas()
    injected = plan[~plan.is_control]
    galaxy, group = max(injected.groupby(["brickid", "objid"]), key=lambda item: len(item[1]))
    assert len(group) >= 2 and group[["theta_E", "phi", "src_x", "seed"]].drop_duplicates().shape[0] == len(group)
    brick = group.brickname.iloc[0]
    stamps = read_table(toy / "stamps" / brick[:3] / f"{brick}.parquet")
    mine = stamps.filter(pa.array(np.isin(stamps["task_id"].to_numpy(zero_copy_only=False), group.task_id)))
    images = decode(mine)
    for i in range(len(images)):
        for j in range(i):
            assert np.abs(images[i] - images[j]).max() > 0.005


def test_a_draw_that_forgets_the_replicate_is_caught(toy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    "The mistake put back: every replicate drawn alike makes the test above fail"
    from dark_halo_scope.injection import plan as module

    drawn = module.draw_injections
    monkeypatch.setattr(module, "draw_injections", lambda host, replicate, recipe, bands: drawn(host, replicate * 0, recipe, bands))
    made = make_plan(read_table(toy / "parent"), load_recipe("toy").plan).to_pandas()
    injected = made[~made.is_control]
    _, group = max(injected.groupby(["brickid", "objid"]), key=lambda item: len(item[1]))
    assert group[["theta_E", "phi", "src_x", "seed"]].drop_duplicates().shape[0] < len(group)


def test_receipt_does_not_depend_on_the_clock() -> None:
    import time

    identity = identity_of({"a": 1}, {"parent": "abc"}, rows=3)
    quick, slow = (Receipt("x", identity, run_facts(time.perf_counter() - wait, 3)) for wait in (1, 100))
    assert quick.run != slow.run and quick.name == slow.name
    assert Receipt("x", {**identity, "finished": quick.run["finished"] + "!"}, {}).name != quick.name


def test_splits_share_no_brick_and_no_host(toy: Path) -> None:
    plan = read_table(toy / "plan").to_pandas()
    assert plan.groupby("brickname").split.nunique().max() == 1
    controls, injected = ({*zip(p.brickid, p.objid)} for p in (plan[plan.is_control], plan[~plan.is_control]))
    assert not controls & injected and len(controls) == plan.is_control.sum()


# Bad input: one clear line, exit code 2, nothing half-written.


def one_line(done: subprocess.CompletedProcess) -> str:
    "The error line of a command that refused its input"
    assert done.returncode == 2, (done.returncode, done.stderr[-2000:])
    lines = [line for line in done.stderr.splitlines() if line.startswith("dhs:")]
    assert len(lines) == 1 and "Traceback" not in done.stderr, done.stderr
    return lines[0]


def test_undeclared_parameter(tmp_path: Path) -> None:
    line = one_line(dhs_here("run", "phase3_parent", "-p", "no_such=1", cwd=tmp_path))
    assert "no_such" in line and "recipe" in line and "workers" in line
    assert not list(tmp_path.rglob("*.parquet"))


@pytest.mark.parametrize("phase", phase_names())
def test_a_notebook_refuses_what_it_does_not_declare_whoever_runs_it(phase: str) -> None:
    "papermill writes a misspelt parameter into a cell of its own and goes on: the first cell after it stops"
    cells = [cell for cell in nbformat.read(phase_notebook(phase), 4).cells if cell.cell_type == "code"]
    told = next(i for i, cell in enumerate(cells) if "parameters" in cell.metadata.get("tags", []))
    names: dict[str, object] = {"recipee": "toy"}
    for cell in cells[: told + 1]:
        exec(cell.source, names)
    with pytest.raises(BadInput, match="unknown parameter 'recipee'"):
        exec(cells[told + 1].source, names)


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("plan.priorr=wide", "did you mean 'prior'"),
        ("sky.bands=[g, r, y]", "unknown band 'y'"),
        ("paint.n_pix=80", "stated once, as sky.n_pix"),
        ("selection.variant=v9", "unknown selection 'v9'"),
    ],
)
def test_wrong_recipe(override: str, said: str) -> None:
    assert said in refused(load_recipe, "toy", [override])


def test_misspelt_key_in_a_file(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("name: mine\nselektion: {variant: v3_color_relaxed}\n")
    line = one_line(dhs_here("run", "phase3_parent", "--recipe", "mine.yaml", cwd=tmp_path))
    assert "mine.yaml" in line and "did you mean 'selection'" in line


def broken_copy(toy: Path, tmp_path: Path, *names: str) -> Run:
    "A run with the toy's release and some of its products, to be broken"
    run = open_run("toy", str(tmp_path), workers=1)
    shutil.copytree(toy / "release", tmp_path / "release")
    shutil.copy(receipt_path(toy / "release"), receipt_path(tmp_path / "release"))
    for name in names:
        address = run.product(name).address
        for source in (toy / address, Path(receipt_path(toy / address))):
            copied = shutil.copytree if source.is_dir() else shutil.copy
            copied(source, tmp_path / source.relative_to(toy))
        for beside in read_receipt(toy / address).run["files"]:
            shutil.copy(toy / beside, tmp_path / beside)
    return run


def release_of(run: Run) -> Release:
    "The files that a run reads"
    return Release(run.address("release"))


def refused(function, *arguments) -> str:
    "The message of the refusal"
    from dark_halo_scope.base.errors import BadInput

    with pytest.raises(BadInput) as caught:
        function(*arguments)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_truncated_sweep(toy: Path, tmp_path: Path) -> None:
    run = broken_copy(toy, tmp_path, "density")
    sweep = Path(release_of(run).sweeps()[0])
    sweep.write_bytes(sweep.read_bytes()[:-4000])
    said = refused(make, run, "parent")
    assert sweep.name in said and not Path(receipt_path(tmp_path / "parent")).exists()


def test_sweep_without_a_needed_column(toy: Path, tmp_path: Path) -> None:
    run = broken_copy(toy, tmp_path, "density")
    sweep = release_of(run).sweeps()[0]
    with fits.open(sweep) as hdus:
        columns = [c for c in hdus[1].columns if c.name.upper() != "FLUX_W1"]
        table = fits.BinTableHDU.from_columns(columns)
    table.writeto(sweep, overwrite=True)
    Path(sum_path(sweep)).unlink()  # a survey's own file, not a damaged copy
    assert "flux_w1" in refused(make, run, "parent").lower()


def test_no_galaxy_selected(toy: Path, tmp_path: Path) -> None:
    broken_copy(toy, tmp_path, "density")
    run = open_run("toy", str(tmp_path), ["selection.min_nobs=99"], workers=1)
    make(run, "density")
    assert "no galaxy passes" in refused(make, run, "parent") and not Path(receipt_path(tmp_path / "parent")).exists()


def test_bad_brick_is_set_aside_and_the_rest_is_kept(toy: Path, tmp_path: Path) -> None:
    run = broken_copy(toy, tmp_path, "density", "parent", "plan")
    bricks = list(read_receipt(toy / "stamps").identity["content"])
    image = Path(release_of(run).coadd(bricks[0], "image", "r"))
    whole = image.read_bytes()
    image.write_bytes(whole[: len(whole) // 2])
    said = refused(make, run, "stamps")
    assert bricks[0] in said and "--allow-missing" in said and not Path(receipt_path(tmp_path / "stamps")).exists()
    kept = {p: p.stat().st_mtime_ns for p in (tmp_path / "stamps").rglob("*.parquet")}
    assert len(kept) == len(bricks) - 1
    allowed = open_run("toy", str(tmp_path), workers=1, allow_missing=True)
    assert make(allowed, "stamps").identity["set_aside"] == [bricks[0]]
    image.write_bytes(whole)
    assert make(run, "stamps").identity["content"] == read_receipt(toy / "stamps").identity["content"]
    assert {p: p.stat().st_mtime_ns for p in kept} == kept  # the rerun did only what was missing


def test_missing_coadd_and_missing_input(toy: Path, tmp_path: Path) -> None:
    run = broken_copy(toy, tmp_path)
    assert "phase3_parent" in refused(make, run, "plan")
    assert not is_done(run.path("plan"), {})


def test_unwritable_output(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    line = one_line(dhs_here("run", "phase2_density", "--recipe", "toy", "--out", "file/inside", cwd=tmp_path))
    assert "file" in line


@pytest.mark.parametrize(
    ("phase", "more"),
    [
        pytest.param("phase1_observability", ["-p", "n_lenses=2000"], marks=pytest.mark.slow),
        pytest.param("phase4b_cache", ["-p", "pause=0.0"], marks=pytest.mark.slow),
    ],
)
def test_the_phases_beside_the_demo(phase: str, more: list[str], toy: Path) -> None:
    out = "runs/toy" if phase != "phase1_observability" else "runs/one"
    done = dhs("run", phase, "--recipe", "toy", "--out", out, *more, cwd=toy.parents[1])
    assert done.returncode == 0, done.stderr[-2000:]
    assert list((toy.parents[1] / out).glob("*receipt.json"))
