"A release is a file of facts: one with other folders, names, bands, bits and sweeps is made, selected from and cut like DR10"

from pathlib import Path

import fitsio
import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml

from dark_halo_scope.base.errors import BadInput
from dark_halo_scope.base.resources import manifest
from dark_halo_scope.learning.checkpoints import load_checkpoint, model_name, released_bytes, shown_in_words
from dark_halo_scope.mock.release import make_mock
from dark_halo_scope.mock.sky import MockRecipe
from dark_halo_scope.parent.selection import desi_lrg_colours
from dark_halo_scope.run.phases import load_recipe, open_run
from dark_halo_scope.run.products import ensure
from dark_halo_scope.search.candidates import viewer_link
from dark_halo_scope.survey.cache import copy_bricks, trim
from dark_halo_scope.survey.coadds import read_cutouts
from dark_halo_scope.survey.facts import SurveyFacts, layer_bands, numbers_seen, release_names, survey_facts
from dark_halo_scope.survey.maskbits import MASKBITS
from dark_halo_scope.survey.release import Release
from dark_halo_scope.survey.viewer import ViewerRecipe, cutout_url

SKY = MockRecipe(seed=4, ra=152.0, rows=1, columns=2, n_pix=400, lrgs=40, blue=10, spirals=1, rings=1, mergers=1, stars=40, n_lenses=3)
OTHER = {
    "meaning": "a release made up for this test",
    "root": "https://nowhere.example/lss1",
    "bands": ["g", "r", "z"],
    "cameras": ["polaroid"],
    "releases": [12001],
    "system": "north",
    "files": {
        "all_bricks": "tables/sky.fits.gz",
        "bricks": "tables/seen.fits.gz",
        "sweep": "catalogue/v3/objects_{corners}_a.fits",
        "tractor": "catalogue/bricks/{brick}.fits",
        "coadd": "pixels/{brick}/{band}.{kind}.fits.fz",
        "maskbits": "pixels/{brick}/mask.fits.fz",
    },
    "sweep_size": [10, 5],
    "maskbits": {name: 19 - bit for name, bit in MASKBITS.items() if not name.endswith("_I")},
    "layers": {"lss1": "grz"},
    "link_layer": "lss1",
}


@pytest.fixture(scope="module")
def skies(tmp_path_factory: pytest.TempPathFactory) -> tuple[Release, Release]:
    "One sky in DR10's layout and in the made-up one"
    folder = tmp_path_factory.mktemp("releases")
    (folder / "lss1.yaml").write_text(yaml.safe_dump(OTHER))
    plain, other = Release(str(folder / "dr10")), Release(f"{folder / 'lss1'}#{folder / 'lss1.yaml'}")
    for release in (plain, other):
        make_mock(release.address, SKY)
    return plain, other


def test_the_other_layout_is_on_disk(skies: tuple[Release, Release]) -> None:
    plain, other = skies
    names = {str(p.relative_to(other.root)) for p in Path(other.root).rglob("*.f*") if "truth" not in p.parts}
    brick = fitsio.read(other.bricks())["brickname"][0].strip()
    assert f"pixels/{brick}/r.image.fits.fz" in names and not any("south" in name or "legacysurvey" in name for name in names)
    assert (
        [Path(p).name for p in other.sweeps()]
        == ["objects_150p000-160p005_a.fits"]
        == [Path(p).name for p in other.sweeps_over([152.1], [2.0])]
    )
    rows, ours = fitsio.read(other.sweeps()[0]), np.concatenate([fitsio.read(p) for p in plain.sweeps()])
    assert "FLUX_I" not in rows.dtype.names and "FLUX_I" in ours.dtype.names
    assert set(rows["RELEASE"]) == {12001} and len(rows) == len(ours)
    assert rows["MASKBITS"].any() and not np.array_equal(np.sort(rows["MASKBITS"]), np.sort(ours["MASKBITS"]))


def test_phases_2_and_3_take_the_same_galaxies(skies: tuple[Release, Release], tmp_path: Path) -> None:
    samples = []
    for k, release in enumerate(skies):
        run = open_run("toy", str(tmp_path / str(k)), ["rooms=[]", f"release={release.address}", "lists.known=[]"], workers=1)
        ensure(run, "parent")
        samples.append(pq.read_table(run.address("parent")).sort_by([("brickid", "ascending"), ("objid", "ascending")]))
        attrition = pq.read_table(run.path("attrition.parquet"))
        assert attrition["kept"][-1].as_py() == len(samples[-1]) > 5
    plain, other = samples
    assert set(other["release"].to_pylist()) == {12001} and run.recipe.selection.system == "north"
    same = [name for name in plain.column_names if name not in ("release", "is_desi_lrg")]
    assert plain.select(same).equals(other.select(same))


def test_cutouts_are_the_same(skies: tuple[Release, Release], tmp_path: Path) -> None:
    masked = False
    for row in fitsio.read(skies[0].bricks()):
        name, ra, dec = row["brickname"].strip(), np.array([row["ra"]]), np.array([row["dec"]])
        ours, theirs = (read_cutouts(release, name, ra, dec, "grz", 380) for release in skies)
        masked |= bool(ours.maskbits.any())
        for what in ("image", "invvar", "maskbits", "psfsize", "ok"):
            assert np.array_equal(getattr(ours, what), getattr(theirs, what)), what
    assert masked
    copy = skies[1].under(str(tmp_path / "copy"))
    copy_bricks(skies[1], copy, [name], "grz")
    assert np.array_equal(read_cutouts(copy, name, ra, dec, "grz", 380).image, ours.image)
    assert trim(copy, 0) == [name] and not list(Path(copy.root).rglob("*.fz"))


def test_a_band_that_the_release_has_not_is_refused(skies: tuple[Release, Release], tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"toy.yaml: release .*lss1.yaml: unknown band 'i'.*known: g, r, z"):
        load_recipe("toy", ["rooms=[]", f"release={skies[1].address}", "sky.bands=[g, r, i, z]"], str(tmp_path))
    with pytest.raises(BadInput, match="unknown band 'i'"):
        skies[1].coadd("1501p022", "image", "i")
    with pytest.raises(BadInput, match="bands i; expected those of the release: g, r, z"):
        make_mock(skies[1].under(str(tmp_path)).address, MockRecipe(bands=("g", "i"), rows=1, columns=1))


@pytest.mark.parametrize(
    "change, said",
    [
        ({"maskbits": {"BRIHGT": 1}}, "unknown mask bit 'BRIHGT'; did you mean 'BRIGHT'"),
        ({"maskbits": {"BRIGHT": 31}}, "maskbits.BRIGHT=31: expected 0 to 30"),
        ({"files": OTHER["files"] | {"coadd": "pixels/{brick}.{kind}.fits"}}, "files.coadd='pixels/{brick}.{kind}.fits': expected a path with brick, kind, band"),
        ({"files": OTHER["files"] | {"coadd": "pixels/{brick}.{kind}.{band}.fits"}}, "expected one folder per brick"),
        ({"files": OTHER["files"] | {"sweep": "s/{corner}.fits"}}, "files.sweep='s/{corner}.fits': expected a path with corners"),
        ({"system": "nroth"}, "unknown system 'nroth'; did you mean 'north'"),
        ({"bnads": ["g"]}, "unknown key 'bnads'; did you mean 'bands'"),
        ({"layers": {"lss1": "grx"}}, "unknown band 'x'"),
        ({"releases": []}, "expected at least one number"),
    ],
)  # fmt: skip
def test_facts_that_cannot_be_are_refused_in_a_line(change: dict, said: str, tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(OTHER | change))
    with pytest.raises(BadInput) as error:
        Release(f"{tmp_path}#{tmp_path / 'mine.yaml'}")
    assert said in str(error.value) and "mine.yaml" in str(error.value) and "\n" not in str(error.value)


def test_what_does_not_exist_is_named_with_what_does() -> None:
    for wrong, said in (
        (lambda: Release("ls-dr9-nroth"), "unknown release 'ls-dr9-nroth'; did you mean 'ls-dr9-north'"),
        (lambda: Release("s3://bucket/dr9#dr9-north"), "unknown release 'dr9-north'; did you mean 'ls-dr9-north'"),
        (lambda: Release("s3://bucket/dr9#none.yaml"), "none.yaml: no such file"),
        (lambda: ViewerRecipe(layer="ls-dr11-sout"), "unknown layer 'ls-dr11-sout'; did you mean 'ls-dr11-south'"),
        (lambda: ViewerRecipe(layer="ls-dr9-north", bands=("g", "r", "i", "z")), "layer 'ls-dr9-north': unknown band 'i'"),
    ):
        with pytest.raises(BadInput) as error:
            wrong()
        assert said in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("name", release_names())
def test_every_release_of_the_package_is_whole(name: str) -> None:
    facts = survey_facts(name)
    assert isinstance(facts, SurveyFacts) and facts.link_layer in facts.layers and facts.cameras and facts.releases
    assert facts.maskbits.items() <= MASKBITS.items() and ("SATUR_I" in facts.maskbits) == ("dr9" not in name)
    assert ("i" in facts.bands) == (facts.system == "south" and "dr9" not in name)
    assert all(set(layer_bands(layer)) <= set(facts.bands) for layer in facts.layers)
    address = Release(name).coadd("1501p022", "image", "z")
    assert address.startswith(f"https://portal.nersc.gov/cfs/cosmo/data/legacysurvey/{name.split('-')[1]}/{facts.region}/coadd/150/")
    for layer, bands in facts.layers.items():
        assert f"layer={layer}&bands={bands}" in cutout_url(ViewerRecipe(layer=layer, bands=tuple(bands)), 150.0, 2.0)
    assert f"layer={facts.link_layer}&" in viewer_link(150.0, 2.0, facts.link_layer)


def test_desis_cut_is_that_of_the_filters() -> None:
    edge = dict(g=np.array([22.6]), r=np.array([21.0]), z=np.array([19.5]), w1=np.array([17.65]), z_fiber=np.array([21.605]))
    assert not desi_lrg_colours(**edge)[0] and desi_lrg_colours(**edge, system="north")[0]


def test_a_network_says_what_it_was_shown(tmp_path: Path) -> None:
    packaged = str(manifest("models", "small.safetensors"))
    state = load_checkpoint(packaged)
    assert released_bytes(state) == Path(packaged).read_bytes()  # a network that says nothing is written as it was
    assert shown_in_words(state) == "bands g, r, z; it does not say from which release"
    (tmp_path / "net.safetensors").write_bytes(released_bytes(state | {"shown": numbers_seen(np.array([10000, 9011, 12001]))}))
    again = load_checkpoint(str(tmp_path / "net.safetensors"))
    assert model_name(again) == model_name(state)
    said = "bands g, r, z; RELEASE 9011, 10000, 12001 (ls-dr10-south, ls-dr9-north); cameras 90prime, decam, mosaic"
    assert shown_in_words(again) == said
