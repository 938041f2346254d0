"""A run learns, stops, refuses and warns as it should."""

import json
import os
import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch

from dark_halo_scope.base.errors import BadInput
from dark_halo_scope.base.resources import manifest
from dark_halo_scope.learning import training
from dark_halo_scope.learning.checkpoints import (
    calibrator_of,
    load_checkpoint,
    model_name,
    released_bytes,
    save_checkpoint,
    with_calibrator,
)
from dark_halo_scope.learning.loggers import plain_numbers
from dark_halo_scope.learning.losses import LossRecipe, pair_loss, per_stamp_loss
from dark_halo_scope.learning.models import ModelRecipe, build_model, small_cnn
from dark_halo_scope.learning.recipes import OptimRecipe, TrainRecipe, reading
from dark_halo_scope.learning.scoring import calibrated_on, fit_committee, load_committee, predict, score_stamps
from dark_halo_scope.learning.training import (
    Process,
    build_learner,
    epoch_metrics,
    epoch_warnings,
    improved,
    learning_rate,
    run_data,
    to_inputs,
    train,
    train_step,
)
from dark_halo_scope.stamps.augment import AugmentRecipe
from dark_halo_scope.stamps.normalise import NormaliseRecipe
from dark_halo_scope.stamps.reader import Reader, ReadRecipe, StampSet

from .stamp_toys import write_bricks

SPLITS = ("train", "train", "val", "test")


@pytest.fixture(scope="module")
def bricks(tmp_path_factory):
    return write_bricks(tmp_path_factory.mktemp("stamps"), bricks=2, n=64, row_group=16, splits=SPLITS, control=True)


def recipe(**more):
    return replace(TrainRecipe(read=ReadRecipe(batch_size=16, window=32), epochs=2, optim=OptimRecipe(lr=1e-3)), **more)


def weights(folder, name="last.pt"):
    return load_checkpoint(str(Path(folder) / name))["model"]


def test_processes_without_enough_lanes_are_told(bricks, monkeypatch):
    data = run_data(bricks, recipe())
    with pytest.raises(BadInput, match="set lanes to a multiple of 2"):
        Reader(data.train, reading(recipe()), 0, 2)


def test_overfits_64_stamps(bricks):
    chosen = recipe(augment=AugmentRecipe(dihedral=False))
    data, place = run_data(bricks, chosen), Process()
    learner = build_learner(chosen, data.train, place)
    for epoch in range(30):
        for batch in Reader(data.train, reading(chosen)).batches(epoch):
            train_step(learner, to_inputs(batch, chosen, place, epoch), chosen, place, 3e-3 if epoch < 22 else 5e-4)
    _, logit, label = predict(learner.model, data.train, chosen)
    loss = torch.nn.functional.binary_cross_entropy_with_logits(torch.from_numpy(logit), torch.from_numpy(label)).item()
    assert len(label) == 64 and loss < 1e-3, loss


def test_random_labels_teach_nothing(tmp_path):
    paths = write_bricks(tmp_path / "stamps", bricks=2, n=320, row_group=64, splits=("train", "val", "val", "test"), arc=0.0)
    summary = train(paths, recipe(epochs=3), str(tmp_path / "run"), progress=False, device="cpu")
    held = summary["chosen_on"]
    lo, hi = held["intervals"]["auroc"]
    assert lo < 0.5 < hi and 0.35 < held["auroc"] < 0.65


def test_early_stopping_keeps_the_best_and_resumes_to_the_same(tmp_path, bricks):
    chosen = recipe(epochs=6, patience=2, monitor="auroc", min_delta=1.0, optim=OptimRecipe(lr=1e-4))
    summary = train(bricks, chosen, str(tmp_path), progress=False, device="cpu")
    assert summary["finished"] == "early stopping" and summary["epochs"] == 3 and summary["best"]["epoch"] == 0
    again = train(bricks, chosen, str(tmp_path), progress=False, device="cpu")
    assert again["model_id"] == summary["model_id"] and again["reported_on"] == summary["reported_on"]


def test_ctrl_c_ends_with_a_checkpoint(tmp_path, bricks, monkeypatch):
    step, calls = training.train_step, []

    def interrupted(*args):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return step(*args)

    monkeypatch.setattr(training, "train_step", interrupted)
    out = train(bricks, recipe(), str(tmp_path / "a"), progress=False, device="cpu")
    assert out["interrupted"] and out["step"] == 2
    monkeypatch.setattr(training, "train_step", step)
    train(bricks, recipe(), str(tmp_path / "a"), progress=False, device="cpu")
    train(bricks, recipe(), str(tmp_path / "b"), progress=False, device="cpu")
    assert all(torch.equal(a, b) for a, b in zip(weights(tmp_path / "a").values(), weights(tmp_path / "b").values()))


@pytest.mark.parametrize("pairs", ["negatives", "same_batch", "input", "residual"])
def test_every_way_of_pairing_trains(tmp_path, bricks, pairs):
    loss = LossRecipe(contrastive=0.1) if pairs == "same_batch" else LossRecipe("focal")
    summary = train(bricks, recipe(pairs=pairs, epochs=1, loss=loss), str(tmp_path), progress=False, device="cpu")
    shown = {"negatives": 64, "same_batch": 32, "input": 64, "residual": 32}
    assert summary["rows"]["train"] == shown[pairs] and summary["chosen_on"]["n_other"] > 0
    if pairs in ("negatives", "same_batch"):
        assert score_stamps(bricks, summary["checkpoint"], splits=("test",)).num_rows == summary["rows"]["test"] // 2 + 16


def test_a_meta_network_uses_its_columns(tmp_path, bricks):
    chosen = recipe(read=ReadRecipe(batch_size=16, meta_columns=("psfsize_r", "psfdepth_r")), epochs=1)
    train(bricks, chosen, str(tmp_path), progress=False, device="cpu")
    state = load_checkpoint(str(tmp_path / "best.pt"))["model"]
    assert torch.allclose(state["meta_centre"], torch.tensor([1.3, 1200.0]), rtol=0.05) and state["meta_scale"][1] > 50


def test_mixed_precision_keeps_distinct_logits(tmp_path):
    paths = write_bricks(tmp_path / "stamps", bricks=2, n=48, row_group=64, splits=("train", "val", "val", "test"))
    summary = train(paths, recipe(precision="bf16", epochs=1), str(tmp_path / "run"), progress=False, device="cpu")
    logit = score_stamps(paths, summary["checkpoint"])["logit"].to_numpy()
    assert logit.dtype == np.float32 and len(np.unique(logit)) > 0.99 * len(logit)


class Hostile:
    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return os.system, (f"touch {self.marker}",)


def test_hostile_and_broken_checkpoints_are_refused(tmp_path, bricks):
    marker, path = tmp_path / "owned", str(tmp_path / "evil.pt")
    torch.save({"format": 2, "recipe": "{}", "model": Hostile(marker)}, path)
    with pytest.raises(BadInput, match="evil.pt: refused"):
        score_stamps(bricks, path)
    Path(path).write_bytes(pickle.dumps(Hostile(marker)))
    with pytest.raises(BadInput, match="evil.pt"):
        score_stamps(bricks, path)
    assert not marker.exists()
    save_checkpoint({"recipe": TrainRecipe(), "model": build_model().state_dict(), "data": "", "epoch": 0, "step": 0}, path)
    Path(path).write_bytes(Path(path).read_bytes()[:50_000])
    with pytest.raises(BadInput, match="not readable as a checkpoint"):
        load_checkpoint(path)
    other = build_model(ModelRecipe(norm="none")).state_dict()
    save_checkpoint({"recipe": TrainRecipe(), "model": other, "data": "", "epoch": 0, "step": 0}, path)
    with pytest.raises(BadInput, match="not those of 'small_cnn'"):
        score_stamps(bricks, path)


@pytest.mark.parametrize("ending", ["pt", "safetensors"])
def test_a_changed_byte_is_refused_or_changes_nothing(tmp_path, ending):
    "Sixty single bits, anywhere in the file: none gives another network, none ends otherwise than in one line that names the file"
    state = {"recipe": TrainRecipe(), "model": build_model().state_dict(), "data": "toy", "epoch": 1, "step": 3}
    path = tmp_path / f"net.{ending}"
    save_checkpoint(state, str(path)) if ending == "pt" else path.write_bytes(released_bytes(state))
    whole, name = path.read_bytes(), model_name(load_checkpoint(str(path)))
    rng, refused = np.random.default_rng(0), 0
    places = np.concatenate([rng.integers(0, len(whole), 40), rng.integers(0, 4000, 20)])
    for place in places:
        damaged = bytearray(whole)
        damaged[place] ^= 1 << int(rng.integers(8))
        path.write_bytes(damaged)
        try:
            assert model_name(load_checkpoint(str(path))) == name
        except BadInput as error:
            assert str(path) in str(error)
            refused += 1
    assert refused >= 40


def test_a_tensor_that_is_not_finite_is_refused_by_name(tmp_path):
    state = {"recipe": TrainRecipe(), "model": build_model().state_dict(), "data": "", "epoch": 0, "step": 0}
    state["model"]["head.weight"][0, 3] = torch.nan
    save_checkpoint(state, str(tmp_path / "net.pt"))
    with pytest.raises(BadInput, match="net.pt: tensor 'head.weight' has 1 of 128 numbers that are not finite"):
        load_checkpoint(str(tmp_path / "net.pt"))


def test_the_packaged_network_keeps_the_name_of_its_weights_and_recipe():
    path = str(manifest("models", "small.safetensors"))
    assert load_committee(path).name == "36eaa311278821dc" and "loggers" not in load_checkpoint(path)["written"]


def test_probabilities_are_calibrated_or_no_numbers(tmp_path, bricks):
    path = train(bricks, recipe(), str(tmp_path), progress=False, device="cpu")["checkpoint"]
    bare = load_committee(path)
    assert bare.calibrator is None and np.isnan(score_stamps(bricks, path)["p_lens"].to_numpy()).all()
    with_calibrator(path, calibrator := calibrated_on(bare, bricks, "val", "isotonic"))
    scores, again = score_stamps(bricks, path, ("test",)), load_committee(path)
    assert again.calibrator == calibrator == calibrator_of(load_checkpoint(path)) and again.name == bare.name
    assert calibrator.n == 32 and calibrator.hosts == 32
    assert np.array_equal(scores["p_lens"].to_numpy(), calibrator(scores["logit"].to_numpy()).astype(np.float32))
    assert np.isnan(load_committee([path, path]).probability(np.zeros(3, np.float32))).all(), (
        "a committee has none of its own before it is fitted"
    )


def saved(path, chosen):
    model = build_model(chosen.model, chosen.channels, len(chosen.read.meta_columns))
    save_checkpoint({"recipe": chosen, "model": model.state_dict(), "data": "", "epoch": 0, "step": 0}, str(path))
    return str(path)


def test_a_checkpoint_that_does_not_fit_the_data_is_refused_by_name(tmp_path, bricks):
    bands = saved(tmp_path / "bands.pt", recipe(read=ReadRecipe(bands=("g", "i"))))
    with pytest.raises(BadInput, match="unknown band 'i'"):
        score_stamps(bricks, bands)
    small = write_bricks(tmp_path / "small", bricks=1, n=8, size=48)
    with pytest.raises(BadInput, match="n_pix = 64"):
        score_stamps(small, saved(tmp_path / "ok.pt", recipe()))
    with pytest.raises(BadInput, match="trained with bands"):
        score_stamps(bricks, [str(tmp_path / "ok.pt"), bands])
    run = str(tmp_path / "run")
    train(bricks, recipe(epochs=1), run, progress=False, device="cpu")
    with pytest.raises(BadInput, match="normalise.method: outer and full"):
        train(bricks, recipe(epochs=1, normalise=NormaliseRecipe("full")), run, progress=False, device="cpu")
    with pytest.raises(BadInput, match="other data"):
        train(bricks[:1], recipe(epochs=1), run, progress=False, device="cpu")


def test_a_monitor_that_cannot_be_measured_is_refused_before_the_first_epoch(tmp_path, bricks, monkeypatch):
    def no_step(*args):
        raise AssertionError("a step was taken")

    monkeypatch.setattr(training, "train_step", no_step)
    faults = {
        "tpr@fpr0.0001": r"cannot be measured on split 'val': 16 negative galaxies, 43,819 needed; so few reach a false-positive rate of 0\.24",
        "tpr@fpr0.01": "none of the tpr@fpr",
        "auc": "is not measured .known: .*recall@precision0.95",
    }
    for monitor, words in faults.items():
        with pytest.raises(BadInput, match=words):
            train(bricks, recipe(monitor=monitor, epochs=1), str(tmp_path / monitor), progress=False, device="cpu")
    with pytest.raises(BadInput, match="split 'val' holds 16 lenses among 16 stamps; expected both classes"):
        train([StampSet(tuple(bricks), only="injected")], recipe(), str(tmp_path / "one"), progress=False, device="cpu")
    with pytest.raises(BadInput, match="logger 'tensorbord'.*did you mean 'tensorboard'"):
        recipe(loggers=("tensorbord",))


def test_scores_do_not_depend_on_company(bricks, tmp_path):
    path = saved(tmp_path / "m.pt", recipe())
    both, one = score_stamps(bricks, path), score_stamps(bricks[1:], path)
    assert both["logit"].to_pylist()[64:] == one["logit"].to_pylist()
    swapped = score_stamps(bricks[::-1], path)
    assert dict(zip(both["task_id"].to_pylist(), both["logit"].to_pylist())) == dict(
        zip(swapped["task_id"].to_pylist(), swapped["logit"].to_pylist())
    )


def test_a_fitted_committee_listens_to_the_member_that_knows(tmp_path):
    "Beside a network that learnt, one with random weights and a louder voice: the mean suffers, the fit does not"
    paths = write_bricks(tmp_path / "stamps", bricks=2, n=240, row_group=64, splits=("train", "val", "test", "spare"), arc=0.02)
    chosen = recipe(epochs=6, optim=OptimRecipe(lr=2e-3))
    good = train(paths, chosen, str(tmp_path / "good"), progress=False, device="cpu")["checkpoint"]
    loud = load_checkpoint(saved(tmp_path / "loud.pt", chosen))
    loud["model"]["head.weight"] *= 1e5
    save_checkpoint(loud, str(tmp_path / "loud.pt"))
    pair = load_committee([good, str(tmp_path / "loud.pt")])
    fitted = fit_committee(pair, paths, ("spare",))
    found = {}
    for name, committee in (("good", load_committee(good)), ("mean", pair), ("fitted", fitted)):
        scores = score_stamps(paths, committee, ("test",))
        label, logit = scores["label"].to_numpy(), scores["logit"].to_numpy()
        found[name] = epoch_metrics(logit, label)["auroc"]
        assert logit.dtype == np.float32 and set(scores["model_id"].to_pylist()) == {committee.name}
    assert found["good"] > 0.9 > found["mean"] and found["fitted"] > found["good"] - 0.02, found
    for splits, words in ((("train",), "learnt from or was chosen on split 'train'"), (("val",), "split 'val'")):
        with pytest.raises(BadInput, match=words):
            fit_committee(pair, paths, splits)
    controls = [StampSet(tuple(paths), only="controls")]
    with pytest.raises(BadInput, match="both classes"):
        fit_committee(pair, controls, ("spare",))


def test_fine_tuning_freezes_and_thaws(tmp_path, bricks):
    "From a weights file: the backbone stands still in the first epoch, batch statistics included, and moves in the second"
    given = small_cnn(3).state_dict()
    safetensors.torch.save_file(given, tmp_path / "backbone.safetensors")
    model = ModelRecipe(weights=str(tmp_path / "backbone.safetensors"))
    train(bricks, recipe(model=model, freeze_epochs=1, keep_every=1), str(tmp_path / "run"), progress=False, device="cpu")
    first, second = (weights(tmp_path / "run", f"epoch_00{k}.pt") for k in (1, 2))
    head = torch.equal(first["head.weight"], second["head.weight"])
    assert all(torch.equal(first[f"backbone.{k}"], v) for k, v in given.items()) and not head
    assert not any(torch.equal(second[f"backbone.{k}"], v) for k, v in given.items())


def test_losses_against_their_formulas():
    logit, label = torch.linspace(-6, 6, 25).double(), (torch.arange(25) % 2).double()
    p = torch.sigmoid(logit)
    right = torch.where(label > 0.5, p, 1 - p)
    focal = torch.where(label > 0.5, 0.25, 0.75) * (1 - right) ** 2 * -right.log()
    assert torch.allclose(per_stamp_loss(logit, label, LossRecipe("focal")), focal)
    soft = label * 0.9 + 0.05
    smooth = -(soft * p.log() + (1 - soft) * (1 - p).log())
    assert torch.allclose(per_stamp_loss(logit, label, LossRecipe(label_smoothing=0.1)), smooth)
    assert torch.allclose(per_stamp_loss(logit, label, LossRecipe("focal", alpha=0.5, gamma=0.0)), -0.5 * right.log())
    a, b = torch.zeros(2, 4), torch.tensor([[3.0, 3, 3, 3], [0.5, 0.5, 0.5, 0.5]])
    assert torch.allclose(pair_loss(a, b, 1.0), torch.tensor([0.0, 0.25]))


@pytest.mark.parametrize("channels", [3, 6])
def test_networks_by_name_give_one_float32_logit_a_stamp(channels):
    for name in ("efficientnet_b0", "resnet10t"):
        logit, features = build_model(ModelRecipe(name), channels).eval()(torch.zeros(2, channels, 64, 64))
        assert logit.shape == (2,) and logit.dtype == torch.float32 and features.ndim == 2
    with pytest.raises(BadInput, match="did you mean 'resnet18'"):
        build_model(ModelRecipe("resnet81"))


def test_schedule_and_improvement():
    cosine = OptimRecipe(lr=1e-3, min_lr=1e-6, warmup_steps=10)
    assert learning_rate(cosine, 0, 10, 0) == pytest.approx(1e-4) and learning_rate(cosine, 10, 10, 999) == pytest.approx(1e-6)
    optimiser = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1e-3)
    reference = torch.optim.lr_scheduler.CosineAnnealingWarmRestarts(optimiser, T_0=10, T_mult=2, eta_min=1e-6)
    for epoch in range(50):
        mine = learning_rate(OptimRecipe(lr=1e-3, min_lr=1e-6, schedule="restarts"), epoch, 50, 0)
        assert mine == pytest.approx(optimiser.param_groups[0]["lr"], rel=1e-9)
        optimiser.step()
        reference.step()
    low, high = TrainRecipe(monitor="loss", min_delta=0.01), TrainRecipe(monitor="auroc")
    assert improved(0.5, 0.52, low) and not improved(0.515, 0.52, low) and improved(0.9, 0.8, high) and not improved(0.8, 0.9, high)


def test_epoch_metrics_against_sklearn():
    from sklearn import metrics as reference

    rng = np.random.default_rng(0)
    label = rng.random(5000) < 0.3
    logit = (rng.normal(size=5000) + 1.5 * label).astype(np.float32)
    got = epoch_metrics(logit, label)
    tn, fp, fn, tp = reference.confusion_matrix(label, logit >= 0).ravel()
    assert (got["tn"], got["fp"], got["fn"], got["tp"]) == (tn, fp, fn, tp)
    assert got["auroc"] == pytest.approx(reference.roc_auc_score(label, logit)) and got["accuracy"] == pytest.approx((tp + tn) / 5000)
    assert got["auprc"] == pytest.approx(reference.average_precision_score(label, logit))
    fpr, tpr, _ = reference.roc_curve(label, logit, drop_intermediate=False)
    assert got["tpr@fpr0.01"] == pytest.approx(tpr[fpr <= 0.01].max()) and got["tpr@fpr0.0001"] is None


def test_calibration_is_the_libraries_own():
    "15 bins of equal numbers, computed here by hand; a small split has as many bins as stamps"
    rng = np.random.default_rng(1)
    logit = rng.normal(size=3000).astype(np.float32)
    label = rng.random(3000) < 1 / (1 + np.exp(-2 * logit))
    p = np.sort(1 / (1 + np.exp(-logit.astype(float))))
    y = label[np.argsort(logit, kind="stable")]
    by_hand = sum(abs(a.sum() - b.sum()) for a, b in zip(np.split(p, 15), np.split(y, 15))) / 3000
    got = epoch_metrics(logit, label)
    assert got["ece"] == pytest.approx(by_hand, rel=1e-9) and got["ece"] > 2 * got["ece_chance"] > 0
    assert 0 < epoch_metrics(logit[:8], np.arange(8) % 2)["ece"] < 1


def test_tensorboard_holds_what_the_history_holds(tmp_path, bricks):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    train(bricks, recipe(diagnose_every=2), str(tmp_path), progress=False, device="cpu")
    history = json.loads((tmp_path / "history.json").read_text())
    events = EventAccumulator(str(tmp_path / "events"))
    events.Reload()
    wanted = set(plain_numbers(history[0])) | set(plain_numbers(history[1]))
    assert set(events.Tags()["scalars"]) == wanted >= {"train/loss", "choose/auroc", "choose/fpr_at_tpr0.5", "diagnostics/bricks"}
    assert len(list((tmp_path / "events").iterdir())) == 1, "one writer per run"
    for epoch, row in enumerate(history):
        for name, value in (("train/loss", row["loss"]), ("choose/auroc", row["choose"]["auroc"]), ("train/lr", row["lr"])):
            event = events.Scalars(name)[epoch]
            assert event.step == epoch and event.value == pytest.approx(value, rel=1e-6)


@pytest.mark.slow
def test_a_compiled_network_learns_the_same(tmp_path, bricks):
    "Loss to float32 rounding; the checkpoint is an ordinary one, and goes on uncompiled"
    runs = [train(bricks, recipe(compile=c), str(tmp_path / str(c)), progress=False, device="cpu") for c in (False, True)]
    rows = [json.loads((tmp_path / str(c) / "history.json").read_text()) for c in (False, True)]
    assert rows[0][0]["loss"] == pytest.approx(rows[1][0]["loss"], rel=1e-3)
    assert runs[0]["reported_on"]["auroc"] == pytest.approx(runs[1]["reported_on"]["auroc"], abs=0.02)
    assert weights(tmp_path / "True").keys() == weights(tmp_path / "False").keys()
    assert score_stamps(bricks, runs[1]["checkpoint"]).num_rows == 128


def test_warnings_are_named():
    quiet = {"top_tied_others": 0, "fpr@tpr0.5": 0.01, "fpr@tpr0.85": 0.1, "binary_score_frac": 0.1, "loss": 0.3, "split": "val"}
    quiet |= {"accuracy_lens": 0.99, "accuracy_other": 0.99, "n_lens": 500, "n_other": 500, "auroc": 0.85}
    row = {"epoch": 3, "choose": quiet, "loss": 0.3, "gradient_max": 1.0, "early_gradient": 0.1, "lr": 1e-3, "stamps": 100}
    row |= {"unique_stamps": 100, "prevalence": 0.5}
    assert epoch_warnings(row, 1e-3) == [] == epoch_warnings(row | {"early_gradient": None}, 1e-3)
    faults = {
        "ties": {"choose": quiet | {"top_tied_others": 40}},
        "collapse": {"choose": quiet | {"fpr@tpr0.85": 0.01}},
        "overconfident": {"choose": quiet | {"binary_score_frac": 0.93}},
        "perfect: all 500 lenses": {"choose": quiet | {"accuracy_lens": 1.0}},
        "perfect: all 500 others": {"choose": quiet | {"accuracy_other": 1.0}},
        "train/val gap": {"choose": quiet | {"loss": 0.5}},
        "training loss": {"loss": 1e-4, "choose": quiet | {"loss": 0.05}},
        "gradient norm": {"gradient_max": 11.0},
        "vanishing": {"early_gradient": 1e-6},
        "learning rate": {"lr": 2e-3},
        "repeats": {"stamps": 800},
        "prevalence: 4.0% lenses in training, 50.0% on val": {"prevalence": 0.04},
        "slow: AUROC 0.850 on val after 20 epochs": {"epoch": 19},
    }
    for name, fault in faults.items():
        found = epoch_warnings(row | fault, 1e-3)
        assert len(found) == 1 and found[0].startswith(name), found


def test_a_rate_that_the_optimiser_did_not_take_is_warned_of(tmp_path, bricks, monkeypatch):
    "The check compares the schedule with what the optimiser holds, so an optimiser that forgets shows"
    step = training.train_step

    def forgetful(learner, inputs, recipe, place, rate):
        result = step(learner, inputs, recipe, place, 0.5 * rate)
        return result

    monkeypatch.setattr(training, "train_step", forgetful)
    train(bricks, recipe(epochs=1), str(tmp_path), progress=False, device="cpu")
    (row,) = json.loads((tmp_path / "history.json").read_text())
    assert any(w.startswith("learning rate: the optimiser moved with") for w in row["warnings"])


def test_epochs_are_kept_by_name_and_diagnosed(tmp_path, bricks):
    train(bricks, recipe(epochs=3, keep_epochs=(0, 2), diagnose_every=2), str(tmp_path), progress=False, device="cpu")
    assert sorted(p.name for p in tmp_path.glob("epoch_*.pt")) == ["epoch_001.pt", "epoch_003.pt"]
    history = json.loads((tmp_path / "history.json").read_text())
    assert ["diagnostics" in row for row in history] == [False, True, True]
    assert not any(warning.startswith("learning rate") for row in history for warning in row["warnings"])
    found, chosen = history[1]["diagnostics"], history[1]["choose"]
    assert found["confusion"] == {name: chosen[name] for name in ("tp", "fp", "fn", "tn")} and set(found["false_alarms"]) == {"sim"}
    assert found["arc_snr_0"]["stamps"] == 0 and 0 < chosen["precision@recall0.95"] <= 1
