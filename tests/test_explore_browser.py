"The exploration notebook executed, and in a real JupyterLab in Chromium: what a click changes on the page"

import os
import re
import secrets
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbclient
import nbformat
import numpy as np
import pandas as pd
import pytest

from dark_halo_scope.base.errors import BadInput
from dark_halo_scope.report.explore import Choice, chosen_rows, found_above, read_pixels, stamp_rows
from dark_halo_scope.stamps.codec import decode
from dark_halo_scope.stamps.reader import open_stamps

NOTEBOOK = Path(__file__).parents[1] / "nbs" / "tutorials" / "explore.ipynb"


@pytest.fixture
def beside_a_run(toy: Path, tmp_path: Path) -> Path:
    "A folder with the toy run and the notebook, as a reader has them"
    shutil.copytree(toy, tmp_path / "runs" / "toy", ignore=shutil.ignore_patterns(".*", "release"))
    shutil.copy(NOTEBOOK, tmp_path)
    return tmp_path


def test_rows_and_pixels_are_the_product_s(toy: Path) -> None:
    "Against the files read whole by another path: scores by name, pixels by row, whatever the order"
    product, scores = str(toy / "stamps"), str(toy / "scores.parquet")
    rows = stamp_rows(product, scores)
    files = sorted((toy / "stamps").rglob("*.parquet"))
    whole = pd.concat([pd.read_parquet(f, columns=["task_id", "cutout_ok"]) for f in files])
    assert sorted(rows["task_id"]) == sorted(whole.loc[whole["cutout_ok"], "task_id"])
    logit = pd.read_parquet(scores).set_index("task_id")["logit"]
    scored = rows[rows["logit"].notna()]
    assert len(scored) and np.array_equal(scored["logit"], logit.loc[scored["task_id"]])
    mixed = chosen_rows(rows, Choice(sort="theta_E", falling=False)).iloc[::7]
    images, controls, bands = read_pixels(mixed)
    assert mixed["file"].nunique() > 1 and bands == ("g", "r", "z")
    for k in range(0, len(mixed), 5):
        table = open_stamps(mixed["file"].iloc[k]).read()
        at = table["task_id"].to_pylist().index(mixed["task_id"].iloc[k])
        assert np.array_equal(images[k], decode(table)[at]) and np.array_equal(controls[k], decode(table, "ctrl_stamp")[at])


def test_what_is_refused(toy: Path) -> None:
    rows = stamp_rows(str(toy / "stamps"))
    with pytest.raises(BadInput, match="did you mean 'theta_E'"):
        chosen_rows(rows, Choice({"theta_e": (0, 1)}))
    with pytest.raises(BadInput, match="kind"):
        Choice(kind="lenses")
    with pytest.raises(BadInput, match="no column 'stamp'"):
        stamp_rows(str(toy / "scores.parquet"))
    with pytest.raises(BadInput, match="scores none of these stamps"):
        stamp_rows(str(toy / "stamps"), str(toy / "candidates" / "candidates.parquet"))


def test_the_notebook_runs(beside_a_run: Path) -> None:
    notebook = nbformat.read(beside_a_run / NOTEBOOK.name, 4)
    nbclient.NotebookClient(notebook, timeout=300, kernel_name="python3", resources={"metadata": {"path": str(beside_a_run)}}).execute()
    shown = [o["data"] for c in notebook.cells for o in c.get("outputs", []) if "data" in o]
    assert sum("application/vnd.jupyter.widget-view+json" in data for data in shown) == 2
    assert sum(data.get("text/html", "").count("data:image/png") for data in shown) == 4
    assert any(data.get("text/html", "").count("legacysurvey.org/viewer?ra=") == 4 for data in shown)


def test_a_run_at_the_root_is_found_from_the_notebooks_folder(beside_a_run: Path) -> None:
    deep = beside_a_run / "nbs" / "tutorials"
    deep.mkdir(parents=True)
    assert found_above("runs/toy/stamps", deep) == str(beside_a_run.resolve() / "runs" / "toy" / "stamps")


@pytest.fixture
def lab(beside_a_run: Path) -> Iterator[str]:
    "Address of the notebook in a JupyterLab of this machine alone, in the reader's folder"
    token = secrets.token_hex()
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    settings = [
        "--no-browser",
        f"--ServerApp.port={port}",
        f"--IdentityProvider.token={token}",
        "--ServerApp.password=",
        "--ServerApp.root_dir=.",
    ]
    if os.getuid() == 0:
        settings.append("--allow-root")
    homes = {name: str(beside_a_run / name.lower()) for name in ("JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR")}
    log = (beside_a_run / "lab.log").open("w")
    process = subprocess.Popen(
        [sys.executable, "-m", "jupyterlab", *settings], cwd=beside_a_run, env={**os.environ, **homes}, stdout=log, stderr=subprocess.STDOUT
    )
    address, end = f"http://127.0.0.1:{port}", time.monotonic() + 180
    try:
        while True:
            try:
                urllib.request.urlopen(f"{address}/api", timeout=5).read()
                break
            except OSError:
                assert process.poll() is None and time.monotonic() < end, (beside_a_run / "lab.log").read_text()[-2000:]
                time.sleep(0.5)
        yield f"{address}/lab/tree/{NOTEBOOK.name}?reset&token={token}"
    finally:
        process.terminate()
        process.wait(30)
        log.close()


@pytest.mark.browser
@pytest.mark.slow
def test_in_jupyterlab(lab: str, browser: Any) -> None:
    "Run all from the menu, then the kind, the order, the page and the threshold are changed by hand, and more like a stamp is asked for"
    page = browser.new_page(viewport={"width": 1500, "height": 1600})
    page.set_default_timeout(120_000)
    page.goto(lab)
    page.get_by_text("Python 3 (ipykernel) | Idle").wait_for()
    page.get_by_role("menuitem", name="Run", exact=True).click()
    page.get_by_role("menuitem", name="Run All Cells", exact=True).click()
    page.add_locator_handler(page.get_by_text("Select kernel for:"), lambda: page.get_by_role("button", name="Select", exact=True).click())
    stamps = page.locator(".jp-OutputArea-output").filter(has_text="stamp, control, difference")
    stamps.locator(".dhs-card").first.wait_for()

    def captions() -> list[str]:
        return stamps.locator(".dhs-card figcaption").all_inner_texts()

    def changes(act) -> list[str]:
        before = captions()
        act()
        end = time.monotonic() + 60
        while captions() == before and time.monotonic() < end:
            time.sleep(0.2)
        assert captions() != before
        return captions()

    snr = [int(re.search(r"arc S/N (\d+)", text)[1]) for text in captions()]
    assert len(snr) == 12 and snr == sorted(snr, reverse=True)
    assert stamps.locator(".dhs-card img").first.evaluate("i => i.complete && i.naturalWidth") == 192
    rising = changes(lambda: stamps.get_by_label("highest first").uncheck())
    assert all("control" in text for text in rising)  # nothing painted: no arc at all
    lenses = changes(lambda: stamps.locator("select").first.select_option("lens"))
    assert all("theta_E" in text for text in lenses)
    assert changes(lambda: (stamps.locator("input[type=number]").fill("2"), stamps.locator("input[type=number]").press("Enter"))) != lenses
    assert changes(lambda: stamps.get_by_role("button", name="previous").click()) == lenses
    assert changes(lambda: stamps.get_by_role("button", name="next").click()) != lenses
    assert stamps.locator(".dhs-card a").first.get_attribute("href").startswith("https://www.legacysurvey.org/viewer?ra=")
    stamps.get_by_label("more like").select_option(index=1)
    stamps.get_by_text("Most like ").wait_for()
    assert stamps.locator(".dhs-card").count() == 12 + 7 and "likeness 1.00" in captions()[12]
    if os.environ.get("DHS_SHOTS"):
        page.screenshot(path=f"{os.environ['DHS_SHOTS']}/lab.png")

    scored = page.locator(".jp-OutputArea-output").filter(has_text="Just below: they do not")
    table = scored.locator("table").inner_text()
    scored.locator(".widget-readout").first.fill("1000")
    scored.locator(".widget-readout").first.press("Enter")
    scored.get_by_text("No stamp is left by this choice").wait_for()  # nobody passes
    assert scored.locator("table").inner_text() != table
    assert not page.locator(".jp-RenderedText[data-mime-type='application/vnd.jupyter.stderr']").count()
