"The network of a run, learnt by several processes"

import shutil
import sys
from pathlib import Path

import pytest
import torch

from dark_halo_scope.base.errors import BadInput
from dark_halo_scope.base.jsonable import read_json
from dark_halo_scope.command import cli
from dark_halo_scope.learning.checkpoints import load_checkpoint
from dark_halo_scope.run.processes import train_run


@pytest.mark.parametrize("line", ["dhs train", "dhs train --on a.parquet", "dhs train --recipe toy --on a.parquet --against b.parquet"])
def test_the_command_teaches_or_trains(line: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    monkeypatch.setattr(sys, "argv", line.split())
    with pytest.raises(SystemExit) as done:
        cli.main()
    said = capsys.readouterr().err
    assert done.value.code == 2 and "expected --on and --against" in said and len(said.splitlines()) == 1


def test_no_process_is_started_for_nothing(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="--processes 0: expected 1 or more"):
        train_run("toy", str(tmp_path), processes=0)
    with pytest.raises(BadInput, match="run phase4c_inject first"):
        train_run("toy", str(tmp_path), processes=2)


def test_epochs_are_told_while_they_come_and_a_fault_is_one_line(monkeypatch, capsys, tmp_path: Path) -> None:
    "In the place of torchrun a program that says an epoch, noise, and the refusal of one process"
    program = tmp_path / "program"
    program.write_text("#!/bin/sh\necho 'epoch 1/2: loss' >&2\necho 'noise' >&2\necho 'dhs: too few lanes' >&2\nexit 1\n")
    program.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(program))
    monkeypatch.setattr("dark_halo_scope.run.processes.inputs_of", lambda run, name: None)
    with pytest.raises(BadInput, match="^too few lanes$"):
        train_run("toy", str(tmp_path / "run"), processes=2)
    assert capsys.readouterr().err == "epoch 1/2: loss\n"


@pytest.mark.slow
def test_two_processes_learn_what_one_does(toy: Path, tmp_path: Path) -> None:
    "The same lanes, dealt to one process or to two; and what a process refuses arrives as one line"
    # a batch's statistics are each process's own, and Adam makes whole steps of a single-precision gradient's last digits
    lanes, weights = ["train.read.lanes=2", "train.model.norm=none", "train.precision=fp64"], []
    for processes in (1, 2):
        run = tmp_path / str(processes)
        shutil.copytree(toy, run)
        shutil.rmtree(run / "model")
        receipt = train_run("toy", str(run), lanes, processes)
        assert receipt and read_json(str(run / "model" / "history.json"))[-1]["epoch"] >= 1
        weights.append(load_checkpoint(str(run / "model" / "best.pt"))["model"])
    assert weights[0].keys() == weights[1].keys()
    assert all(torch.allclose(weights[0][name], weights[1][name], atol=1e-4) for name in weights[0])
    shutil.rmtree(tmp_path / "2" / "model")
    with pytest.raises(BadInput, match="lanes"):
        train_run("toy", str(tmp_path / "2"), ["train.read.lanes=1"], 2)
