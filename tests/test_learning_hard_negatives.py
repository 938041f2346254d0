"""Hard negatives end to end: mined by a first network, looked up by the reader, pasted beside hosts; a whole generation at toy size."""

import json
import shutil
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from dark_halo_scope.base.errors import BadInput
from dark_halo_scope.base.galaxy import galaxy_key
from dark_halo_scope.base.jsonable import read_json
from dark_halo_scope.base.products import Chosen, Inputs, Place
from dark_halo_scope.base.resources import manifest
from dark_halo_scope.base.skylist import read_positions
from dark_halo_scope.base.sphere import near_any
from dark_halo_scope.injection.places import place_tasks
from dark_halo_scope.learning.negatives import NegativeRecipe, negative_sets
from dark_halo_scope.learning.products import with_mined
from dark_halo_scope.learning.recipes import TrainRecipe, make_inputs, reading, training_sets
from dark_halo_scope.learning.training import train
from dark_halo_scope.lists.positions import cut_places
from dark_halo_scope.parent.splits import SplitRecipe
from dark_halo_scope.run import generation
from dark_halo_scope.run.generation import demo_values, run_generation
from dark_halo_scope.run.phases import load_recipe, open_run
from dark_halo_scope.run.products import check_guards, ensure, given, make, products_of, why_not
from dark_halo_scope.stamps.augment import AugmentRecipe, with_neighbours
from dark_halo_scope.stamps.codec import decode
from dark_halo_scope.stamps.reader import Batch, Reader, Reading, ReadRecipe, Selection, StampSet, build_index
from dark_halo_scope.survey.release import Release
from dark_halo_scope.trust.hard_negatives import lookup, mine
from dark_halo_scope.trust.products import mine_negatives

from .stamp_toys import toy_images, write_bricks

TOY = load_recipe("toy").mock | {"n_lenses": 6}
# Twelve bricks have few galaxies: all splits on the sky, and a threshold that some tens of them can set.
FEW = ["splits.nside=256", "splits.salt=toy", "splits.fractions={train: 0.5, val: 0.25, test: 0.25}", "candidates.fpr=0.5"]
NOWHERE = (np.zeros(0), np.zeros(0))


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    "gen6 with a network that rehearses in a moment, on a sky of twelve small bricks: the recipe, the folder it ran in, and what came out"
    folder = tmp_path_factory.mktemp("gen6")
    text = manifest("generations", "gen6.yaml").read_text()
    text = text.replace("{name: convnext_tiny, dropout: 0.1, drop_path: 0.1}", "{name: small_cnn}").replace("epochs: 50", "epochs: 2")
    recipe = folder / "tiny.yaml"
    recipe.write_text(text.replace("gen6_hard_negatives.parquet", str(folder / "nothing_yet.parquet")))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(generation, "DEMO_MOCK", TOY)
        patch.setattr(generation, "DEMO_STAMPS", {"train": 160, "val": 80, "test": 80})
        values = [*demo_values(str(recipe)), *FEW]
        result = run_generation(str(recipe), str(folder / "run"), "demo", overrides=FEW, workers=1)
    return open_run(str(recipe), str(folder / "run"), values, workers=1), result, str(recipe), values


def known_places(run):
    "ra and dec of the lenses and candidates that nothing may come near"
    known = given(run, "known").value
    return known["ra"].to_numpy(), known["dec"].to_numpy()


@pytest.mark.slow
def test_a_generation_from_mining_to_stage_0(tiny):
    run, result, *_ = tiny
    assert result["label"].startswith("demo scale") and len(result["gates"]) >= 10 and "recall" in result["stage0"]
    table, history = pq.read_table(run.path("hard_negatives.parquet")), read_json(run.path("model", "history.json"))
    assert {"ra_key", "dec_key", "brickname", "source_model"} == set(table.column_names) and len(table) >= 1
    assert not near_any(table["ra_key"].to_numpy(), table["dec_key"].to_numpy(), *known_places(run), 11.0).any()
    summary = read_json(run.path("model", "summary.json"))
    for row in history:
        assert row["hard_negatives"] == 5 * len(table) and row["stamps"] == summary["rows"]["train"] + 4 * len(table)
    recipe = summary["recipe"]
    assert recipe["read"]["hard_negatives"] == run.path("hard_negatives.parquet")
    assert recipe["augment"]["neighbours"] == 0.3 and recipe["online"]["enabled"]
    first = read_json(run.path("first", "summary.json"))["recipe"]
    assert first["read"]["hard_negatives"] == "" and first["augment"]["neighbours"] == 0


@pytest.mark.slow
def test_runs_become_one_receipt(tiny, tmp_path):
    run, result, *_ = tiny
    receipt = generation.demo_receipt([run.out])
    (row,) = json.loads(json.dumps(receipt))["generations"]
    summary = read_json(run.path("model", "summary.json"))
    assert row["name"] == "gen6" and row["gates"] == result["gates"] and row["results"]["auroc"] == summary["reported_on"]["auroc"]
    assert row["hard_negatives"] == pq.read_metadata(run.path("hard_negatives.parquet")).num_rows and "recall" in row["anchors"]["verdict"]
    assert row["rehearsed"]["resumed_loss"] == row["rehearsed"]["losses"][-1]
    with pytest.raises(BadInput, match="no generation.json"):
        generation.demo_receipt([str(tmp_path)])


@pytest.mark.slow
def test_a_first_network_without_false_positives_is_told(tiny, tmp_path):
    run, _, recipe, values = tiny
    shutil.copytree(run.out, tmp_path / "run")
    with pytest.raises(BadInput, match="no control of .* passes logit > 2.197"):  # the threshold where no share is asked for
        make(open_run(recipe, str(tmp_path / "run"), [*values, "negatives.mine={}"], workers=1), "hard_negatives")


@pytest.mark.slow
def test_a_recipe_that_feeds_the_control_is_blocked_unless_named(tiny):
    run, _, recipe, values = tiny
    for pairs in ("input", "residual"):
        paired = [*values, f"train.pairs={pairs}", "train.augment={}", "train.online.enabled=false"]
        six = open_run(recipe, run.out, paired, workers=1)
        with pytest.raises(BadInput, match=f"pairs={pairs} feeds the control .* no control exists.*--override 'single_image=REASON'"):
            check_guards(six, six.product("model"))
        named = open_run(recipe, run.out, [*paired, "overrides.single_image=a study"], workers=1)
        check_guards(named, named.product("model"))
    check_guards(run, run.product("model"))


def test_mined_by_a_first_network_and_shown_to_the_second(tmp_path):
    "From false positives to the second network's epochs, known lenses left out; a first network that is sure of nothing is told"
    paths = write_bricks(tmp_path / "stamps", bricks=2, n=48, row_group=16, splits=("train", "train", "val", "test"))
    index = build_index([StampSet(tuple(paths))])
    lens = np.flatnonzero(index.label == 0)[:1]
    known = pa.table({c: index.identity[c][lens] for c in ("ra", "dec")})
    chosen = TrainRecipe(
        read=ReadRecipe(batch_size=16, window=32, hard_negatives="not_yet.parquet", hard_negative_weight=3),
        augment=AugmentRecipe(neighbours=0.5),
        epochs=1,
    )
    product, place = products_of()["hard_negatives"], Place(str(tmp_path / "hard_negatives.parquet"), str(tmp_path))
    stamps = SimpleNamespace(files=lambda: paths, label="toy stamps")
    inputs = Inputs(product, {"stamps": stamps, "known": SimpleNamespace(value=known)})
    recipe = replace(load_recipe("gen6", ["negatives.mine={threshold: 0.0, per_model: 12}"]), train=chosen)
    made = mine_negatives(inputs, Chosen(recipe, product), place)
    table = made.table
    pq.write_table(table, place.uri)
    around = near_any(index.identity["ra"], index.identity["dec"], index.identity["ra"][lens], index.identity["dec"][lens], 11.0)
    places = table["ra_key"].to_numpy(), table["dec_key"].to_numpy()
    assert 1 <= len(table) <= 12 and not near_any(*places, known["ra"].to_numpy(), known["dec"].to_numpy(), 11.0).any()
    assert (around & (index.label == 0)).sum() > 1, "the lens has neighbours that must not enter either"
    model = products_of()["model"]
    second = with_mined(chosen, Inputs(model, {"hard_negatives": SimpleNamespace(uri=place.uri)}))
    train(paths, second, str(tmp_path / "second"), progress=False, device="cpu")
    row = json.loads((tmp_path / "second" / "history.json").read_text())[0]
    assert row["hard_negatives"] == 3 * len(table) and row["stamps"] == len(index) + 2 * len(table)
    first = read_json(str(tmp_path / "first" / "summary.json"))["recipe"]
    assert first["read"]["hard_negatives"] == "" and first["augment"]["neighbours"] == 0
    sure = replace(load_recipe("gen6"), train=chosen)
    with pytest.raises(BadInput, match="no control of .* passes logit > 2.197"):
        mine_negatives(inputs, Chosen(sure, product), place)


def test_hst_sources_without_a_bank_name_the_command(tmp_path):
    for name in ("gen5", "gen5_prime"):
        with pytest.raises(BadInput, match="names no bank: make one with dhs bank, then --set bank=FILE"):
            run_generation(name, str(tmp_path / name), "demo")
        with pytest.raises(BadInput, match="nowhere.h5"):
            run_generation(name, str(tmp_path / name), "demo", overrides=["bank=nowhere.h5"])
        assert not (tmp_path / name).exists()


def test_mined_table_raises_what_the_reader_shows(tmp_path):
    paths = write_bricks(tmp_path / "stamps", bricks=2, n=40, splits=("train", "train", "val", "test"))
    index = build_index([StampSet(tuple(paths))])
    p = np.linspace(0.99, 0.5, len(index))
    scores = {
        "ra": index.identity["ra"],
        "dec": index.identity["dec"],
        "brickname": index.identity["brickname"],
        "label": index.label,
        "p_lens": p,
    }
    mined, _ = mine({"a": scores}, (np.zeros(0), np.zeros(0)))
    pq.write_table(mined, tmp_path / "mined.parquet")
    pq.write_table(lookup(mined), tmp_path / "lookup.parquet")
    wanted = np.flatnonzero((index.label == 0) & (p > 0.9))
    for name in ("mined", "lookup"):
        recipe = Reading(hard_negatives=str(tmp_path / f"{name}.parquet"), hard_negative_weight=3, batch_size=16)
        raised = build_index([StampSet(tuple(paths))], recipe=recipe)
        rows = np.concatenate([b.row for b in Reader(raised, recipe).batches(0)])
        assert np.array_equal(np.flatnonzero(np.bincount(rows) == 3), wanted) and len(rows) == len(index) + 2 * len(wanted)
    pq.write_table(pa.table({"x": [1.0]}), tmp_path / "other.parquet")
    for name, words in (("other", "expected ra, dec or ra_key"), ("absent", "no such file")):
        with pytest.raises(BadInput, match=words):
            build_index([StampSet(tuple(paths))], recipe=Reading(hard_negatives=str(tmp_path / f"{name}.parquet")))


def batch(pairs="none", n=24):
    painted, unpainted, _ = toy_images(n)
    label = torch.from_numpy((np.arange(n) % 2).astype(np.float32)) if pairs == "none" else torch.ones(n)
    control = torch.from_numpy(unpainted) if pairs == "same_batch" else None
    return Batch(torch.from_numpy(painted), label, torch.ones(n), torch.empty(n, 0), np.arange(n), control)


def test_a_recipe_pastes_beside_negatives_only_and_anew_each_epoch():
    recipe = TrainRecipe(augment=AugmentRecipe(dihedral=False, neighbours=0.6))
    plain = replace(recipe, augment=AugmentRecipe(dihedral=False))
    given = batch()
    kept = given.image.clone()
    epochs = [make_inputs(given, recipe, epoch).image for epoch in (0, 0, 1)]
    bare = make_inputs(given, plain, 0).image
    changed = (epochs[0] != bare).flatten(1).any(dim=1)
    assert torch.equal(given.image, kept), "the batch itself stays as it was"
    assert torch.equal(epochs[0], epochs[1]) and not torch.equal(epochs[0], epochs[2])
    assert not changed[given.label > 0.5].any() and 0.2 < changed[given.label < 0.5].float().mean() < 1
    assert torch.equal(make_inputs(given, recipe).image, make_inputs(given, plain).image), "nothing is pasted outside training"
    pair = batch("same_batch")
    made = make_inputs(pair, replace(recipe, pairs="same_batch"), 0).image
    alone = make_inputs(pair, replace(plain, pairs="same_batch"), 0).image
    assert torch.equal(made[:24], alone[:24]) and not torch.equal(made[24:], alone[24:])
    for pairs in ("input", "residual"):
        with pytest.raises(BadInput, match="side by side"):
            replace(recipe, pairs=pairs)


def test_pasted_light_is_fainter_and_bluer_and_away_from_the_host():
    images = torch.from_numpy(toy_images(400)[1])
    recipe = AugmentRecipe(neighbours=1.0, neighbour_fainter=(1.0, 1.0), neighbour_bluer=0.5, neighbour_reach=(12.0, 12.0))
    added = (with_neighbours(images, recipe, np.arange(400)) - images).double()
    y, x = np.mgrid[:64, :64] - 31.5
    core = (images - images[..., :4, :].median()).double()[..., torch.from_numpy(np.hypot(x, y) < 6)].sum(dim=(0, 2))
    light = added.clamp(min=0).sum(dim=(0, 2, 3))
    assert 0.25 < light[1] / images[:, 1].double().sum() < 0.55 and (light[0] / light[1]) > 1.1 * (core[0] / core[1])
    peak = added[:, 2].flatten(1).argmax(dim=1).numpy()
    away = np.hypot(peak // 64 - 31.5, peak % 64 - 31.5)
    assert np.all(np.abs(away - 12) < 2.5)
    with pytest.raises(BadInput, match="in order"):
        AugmentRecipe(neighbour_reach=(9.0, 3.0))


def test_training_with_neighbours_is_deterministic(tmp_path):
    paths = write_bricks(tmp_path / "stamps", bricks=2, n=32, splits=("train", "train", "val", "test"))
    chosen = TrainRecipe(read=ReadRecipe(batch_size=16, window=32), augment=AugmentRecipe(neighbours=0.5), epochs=1)
    runs = [train(paths, chosen, str(tmp_path / name), progress=False, device="cpu") for name in "ab"]
    other = train(paths, replace(chosen, augment=AugmentRecipe()), str(tmp_path / "c"), progress=False, device="cpu")
    assert runs[0]["reported_on"] == runs[1]["reported_on"] != other["reported_on"]


def look_alikes(folder, n=24):
    "A fetched list: rows of no split, without a cutout before painting or what a painter asks of a host"
    (path,) = write_bricks(folder, bricks=1, n=n, splits=("none",))
    table = pq.read_table(path).drop_columns(["theta_E", "arc_snr", "metrics_ok", "theta_over_psf", "magnification"])
    pq.write_table(table, path)
    return path


@pytest.mark.parametrize("pairs", ["none", "negatives", "same_batch"])
def test_real_look_alikes_reach_training_as_a_class(tmp_path, pairs):
    paths = write_bricks(tmp_path / "stamps", bricks=2, n=48, row_group=16, splits=("train", "train", "val", "test"), control=True)
    rings = look_alikes(tmp_path / "rings")
    chosen = TrainRecipe(read=ReadRecipe(batch_size=16, window=32), epochs=1, pairs=pairs)
    plain = train(paths, chosen, str(tmp_path / "plain"), progress=False, device="cpu")
    (shown,) = negative_sets(NegativeRecipe(stamps=(rings,), split="train", weight=2), NOWHERE)
    summary = train([*paths, shown], chosen, str(tmp_path / "more"), progress=False, device="cpu")
    rows = [json.loads((tmp_path / name / "history.json").read_text())[0] for name in ("plain", "more")]
    assert summary["rows"]["train"] == plain["rows"]["train"] + 24 and rows[1]["stamps"] == rows[0]["stamps"] + 48
    assert rows[1]["prevalence"] < rows[0]["prevalence"]
    (judged,) = negative_sets(NegativeRecipe(stamps=(rings,), split="val"), NOWHERE)
    train([*paths, judged], chosen, str(tmp_path / "judged"), progress=False, device="cpu")
    row = json.loads((tmp_path / "judged" / "history.json").read_text())[0]
    assert row["diagnostics"]["false_alarms"][judged.name]["stamps"] == 24 and row["stamps"] == rows[0]["stamps"]


def test_an_impostor_list_reaches_the_batches_of_a_run(toy, tmp_path, monkeypatch):
    "From a list of places, cut from the release, to the pixels that the network is shown; another list under the same name trains anew"
    shutil.copytree(toy, tmp_path / "run")
    places = read_positions(str(toy / "release" / "truth" / "impostors.csv"))
    cut_places(places, str(tmp_path / "rings"), Release(str(toy / "release")))
    stamps = tmp_path / "rings" / "stamps.parquet"
    images = {image.tobytes() for image in decode(pq.read_table(stamps))}
    shown, batches = [], Reader.batches

    def watched(self, *arguments, **more):
        for batch in batches(self, *arguments, **more):
            shown.extend((image.tobytes(), float(label)) for image, label in zip(batch.image.numpy(), batch.label))
            yield batch

    monkeypatch.setattr(Reader, "batches", watched)
    before = read_json(str(toy / "model" / "history.json"))
    run = open_run("toy", str(tmp_path / "run"), [f"negatives.stamps=['{stamps}']", "negatives.split=train"], workers=1)
    ensure(run, "model")
    rows = read_json(run.path("model", "history.json"))
    assert len(images) >= 10 and images <= {image for image, label in shown if label == 0}
    assert [row["stamps"] for row in rows] == [row["stamps"] + len(images) for row in before]
    assert not why_not(run, "model")
    pq.write_table(pq.read_table(stamps).slice(1), stamps)
    again = open_run("toy", str(tmp_path / "run"), [f"negatives.stamps=['{stamps}']", "negatives.split=train"], workers=1)
    assert why_not(again, "model") == "made of other inputs (look_alikes)"


def test_look_alikes_are_no_lenses_in_a_batch_of_pairs(tmp_path):
    paths = write_bricks(tmp_path / "stamps", bricks=1, n=16, control=True)
    (rings,) = negative_sets(NegativeRecipe(stamps=(look_alikes(tmp_path / "rings"),), split="train"), NOWHERE)
    chosen = TrainRecipe(read=ReadRecipe(batch_size=64), pairs="same_batch")
    index = build_index(training_sets([*paths, rings], "same_batch"), chosen.select, reading(chosen))
    (batch,) = Reader(index, reading(chosen)).batches()
    made, real = make_inputs(batch, chosen), torch.from_numpy(index.set_name[batch.row] == rings.name)
    assert int(real.sum()) == 24 and torch.equal(batch.control[real], batch.image[real]) and not torch.equal(batch.control, batch.image)
    assert not made.label[: len(batch)][real].any() and made.label[: len(batch)][~real].all()
    assert not made.weight[len(batch) :][real].any() and made.weight[len(batch) :][~real].all() and made.weight[: len(batch)].all()


def test_known_lenses_are_taken_out_of_a_fetched_list(tmp_path):
    "A list of look-alikes may hold a lens that was found since: its row is no negative"
    path = look_alikes(tmp_path / "rings")
    rows = pq.read_table(path).slice(3, 2)
    lenses = rows["ra"].to_numpy(), rows["dec"].to_numpy() + 5 / 3600
    (rings,) = negative_sets(NegativeRecipe(stamps=(path,), split="train"), lenses)
    index, every = build_index([rings]), build_index([replace(rings, avoid=None)])
    gone = near_any(every.identity["ra"], every.identity["dec"], *lenses, 11.0)
    assert gone.sum() >= 2 and index.lost["known lens"] == gone.sum() == len(every) - len(index)
    assert not near_any(index.identity["ra"], index.identity["dec"], *lenses, 11.0).any()


def test_galaxies_of_two_lists_have_two_keys_and_one_galaxy_has_one():
    "Numbered by their rows, the first places of two lists in one brick were one galaxy: split by host, they leaked"
    rng = np.random.default_rng(4)
    rings, mergers = ({"name": np.arange(50).astype(str), "ra": 150 + rng.random(50) / 5, "dec": 2 + rng.random(50) / 5} for _ in range(2))
    mergers = {c: np.concatenate([v, rings[c][:1]]) for c, v in mergers.items()}
    one, two = (galaxy_key(place_tasks(t)) for t in (rings, mergers))
    assert len(np.unique(one)) == 50 and set(one) & set(two) == {one[0]} and two[-1] == one[0]
    assert np.array_equal(galaxy_key(place_tasks({c: v[::-1] for c, v in rings.items()})), one[::-1])


def test_look_alikes_are_dealt_by_the_sky(tmp_path):
    path = look_alikes(tmp_path / "rings")
    for splits, inside in ((SplitRecipe(fractions={"train": 1.0}), 24), (SplitRecipe(fractions={"val": 1.0}), 0)):
        (rings,) = negative_sets(NegativeRecipe(stamps=(path,)), NOWHERE, splits)
        if inside:
            assert len(build_index([rings])) == inside
        else:
            with pytest.raises(BadInput, match="no stamp is left in"):
                build_index([rings])


def test_injections_that_could_not_be_measured_are_not_learnt_from(tmp_path):
    (path,) = write_bricks(tmp_path, bricks=1, n=40)
    table = pq.read_table(path)
    ok = np.arange(40) % 4 != 1  # ten of the twenty injections, and no control
    pq.write_table(table.set_column(table.column_names.index("metrics_ok"), "metrics_ok", pa.array(ok)), path)
    index = build_index([StampSet((path,))])
    assert index.lost["ring masked"] == 10 and len(index) == 30
    assert len(build_index([StampSet((path,))], Selection(metrics_ok=False))) == 40
