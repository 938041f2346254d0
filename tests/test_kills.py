"Training, the grading desk and Spark's workers, killed at random moments again and again: nothing is lost, doubled, half-written, or waited for"

import http.client
import json
import multiprocessing
import os
import random
import re
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import cloudpickle
import pytest
import torch

from dark_halo_scope.command.cli import main
from dark_halo_scope.learning.checkpoints import content_digest, load_checkpoint
from dark_halo_scope.learning.recipes import OptimRecipe, TrainRecipe
from dark_halo_scope.learning.training import train
from dark_halo_scope.run.engine import MAX_DEATHS, TOO_OFTEN, run_spark
from dark_halo_scope.search.grading import GradeBook
from dark_halo_scope.stamps.reader import ReadRecipe

from .grading_desk import write_list
from .stamp_toys import write_bricks

cloudpickle.register_pickle_by_value(sys.modules[__name__])  # Spark's workers do not find this file by name

# ---- training

FRESH = multiprocessing.get_context("forkserver")  # a process that never trained begins each run
FRESH.set_forkserver_preload(
    ["dark_halo_scope.learning.training", "torch._dynamo", "dark_halo_scope.command.cli", "dark_halo_scope.search.grading_server"]
)
SMALL = TrainRecipe(
    read=ReadRecipe(batch_size=8, window=16), epochs=3, optim=OptimRecipe(lr=1e-3, ema=0.9), checkpoint_steps=1, keep_every=1, loggers=()
)


def learn(bricks: list[str], folder: str) -> None:
    "A small training, begun or gone on with"
    torch.set_num_threads(1)
    train(bricks, SMALL, folder, progress=False, device="cpu")


def left_by(folder: Path) -> dict[str, str]:
    "What a training left, without times: each network by its digest, and the epochs; fails where a file is not whole"
    found = {p.name: content_digest({"model": load_checkpoint(str(p))["model"]}) for p in sorted(folder.glob("*.pt"))}
    for name in ("history.json", "summary.json"):
        if (folder / name).exists():
            found[name] = re.sub(r'"(stamps_per_s|seconds)": [\d.e+-]+', "", (folder / name).read_text()).replace(str(folder), "")
    return found


def kill_trainings(kills: int, seed: int, folder: Path) -> int:
    "Kills trainings until there were enough kills; each goes on until it ends as one that nobody killed. How many ended"
    draw, bricks = (
        random.Random(seed),
        write_bricks(folder / "stamps", bricks=2, n=32, row_group=16, splits=("train", "train", "val", "test")),
    )
    for name in ("warm", "whole"):
        started, process = time.monotonic(), FRESH.Process(target=learn, args=(bricks, str(folder / name)))
        process.start()
        process.join(120)
        seconds = time.monotonic() - started
        assert process.exitcode == 0
    whole, ended = left_by(folder / "whole"), 0
    assert set(whole) >= {"last.pt", "best.pt", "epoch_001.pt", "history.json", "summary.json"}
    while kills or (folder / str(ended)).exists():
        process = FRESH.Process(target=learn, args=(bricks, str(folder / str(ended))))
        process.start()
        process.join(draw.uniform(0, seconds / 2) if kills else 120)  # most are killed before they end
        if process.exitcode is None:
            process.kill()
            process.join()
            assert kills, "a training that nobody kills ends"
            kills -= 1
            left_by(folder / str(ended))
        else:
            assert process.exitcode == 0 and left_by(folder / str(ended)) == whole
            ended += 1
    return ended


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_trainings_outlive_fifty_kills(tmp_path: Path) -> None:
    assert kill_trainings(50, 2, tmp_path) >= 3


# ---- grading


def answer(port: int, method: str, path: str, body: bytes = b"") -> dict:
    "What the desk answers; raises OSError, ValueError or HTTPException where it does not"
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request(method, path, body, {"Origin": f"http://127.0.0.1:{port}", "Content-Type": "application/json"})
        return json.loads(connection.getresponse().read())
    finally:
        connection.close()


def listens(port: int) -> bool:
    "Whether somebody listens on a port"
    with socket.socket() as one:
        return one.connect_ex(("127.0.0.1", port)) == 0


class Grader(threading.Thread):
    "Posts marks one after the other, each again and again until the desk says that it is kept, as the page does"

    def __init__(self, port: int, page: str, cards: list[str]) -> None:
        super().__init__(daemon=True)
        self.port, self.page, self.cards = port, page, cards
        self.kept: list[str] = []
        self.unanswered, self.end = 0, threading.Event()

    def run(self) -> None:
        while not self.end.is_set():
            i = len(self.kept)
            mark = {
                "id": f"{i:08d}",
                "card": self.cards[i % len(self.cards)],
                "grade": "ABC"[i % 3],
                "comment": "",
                "seconds": 0,
                "undo": False,
            }
            try:
                self.kept += answer(self.port, "POST", f"{self.page}grades", json.dumps({"marks": [mark]}).encode())["saved"]
            except (OSError, ValueError, http.client.HTTPException):
                self.unanswered += 1
                time.sleep(0.02)


def grade(arguments: list[str], port: int, log: str) -> None:
    "`dhs grade` for two people"
    sys.stdout = sys.stderr = open(log, "a")
    sys.argv = ["dhs", "grade", *arguments, "--port", str(port), "--grader", "Ana", "--grader", "Ben"]
    main()


def kill_desks(kills: int, seed: int, folder: Path) -> list[int]:
    "Kills the desk while two people grade, and starts it again, so many times. How many marks of each were kept"
    draw, arguments, graders, book = random.Random(seed), write_list(folder), [], folder / "candidates.grades.sqlite"
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    for left in range(kills, -1, -1):
        desk = FRESH.Process(target=grade, args=(arguments, port, str(folder / "log")))
        desk.start()
        while not listens(port):
            assert desk.exitcode is None, (folder / "log").read_text()[-2000:]
            time.sleep(0.02)
        if not graders:
            for (token,) in GradeBook(book).ask("SELECT token FROM grader ORDER BY name"):
                graders.append(Grader(port, f"/{token}/", answer(port, "GET", f"/{token}/state")["cards"]))
                graders[-1].start()
        if left:
            time.sleep(draw.uniform(0, 1.0))
        else:
            before = [len(grader.kept) for grader in graders]
            while any(len(grader.kept) <= n for grader, n in zip(graders, before)):
                time.sleep(0.02)  # both reached the last desk
            for grader in graders:
                grader.end.set()
                grader.join()
        desk.kill()
        desk.join()
    assert GradeBook(book).ask("PRAGMA integrity_check") == [("ok",)]
    for name, grader in zip(("Ana", "Ben"), graders):
        rows = GradeBook(book).ask("SELECT id, grade FROM mark WHERE grader = ? ORDER BY seq", name)
        assert [i for i, _ in rows] == grader.kept  # each that was answered, once and in order, and no other
        assert rows == [(f"{i:08d}", "ABC"[i % 3]) for i in range(len(rows))]
    return [len(grader.kept) for grader in graders]


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_grades_outlive_fifty_kills_of_the_desk(tmp_path: Path) -> None:
    kept = kill_desks(50, 3, tmp_path)
    assert min(kept) > 50, kept


# ---- Spark


def slow_and_large(task: int) -> bytes:
    "A result that takes a while, and many writes"
    time.sleep(0.1)
    return bytes([task % 256]) * 200_000


def parents() -> dict[int, int]:
    "The parent of every process"
    found = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            found[int(stat.parent.name)] = int(stat.read_text().rsplit(")", 1)[1].split()[1])
        except (FileNotFoundError, ProcessLookupError):
            continue
    return found


def spark_workers() -> list[int]:
    "Python processes that run Spark's tasks for this one"
    above = parents()

    def mine(pid: int) -> bool:
        while pid > 1 and pid != os.getpid():
            pid = above.get(pid, 0)
        return pid == os.getpid()

    def command(pid: int) -> str:
        try:
            return Path(f"/proc/{pid}/cmdline").read_text()
        except (FileNotFoundError, ProcessLookupError):
            return ""

    return [pid for pid in above if "pyspark.daemon" in command(pid) and "pyspark.daemon" in command(above[pid]) and mine(pid)]


class Killer(threading.Thread):
    "Kills random processes of a list, none at once after the last, until there were enough kills"

    def __init__(self, kills: int, seed: int, pids: Callable[[], list[int]], longest: float) -> None:
        super().__init__(daemon=True)
        self.left, self.draw, self.pids, self.longest, self.end = kills, random.Random(seed), pids, longest, threading.Event()

    def run(self) -> None:
        while self.left and not self.end.wait(self.draw.uniform(self.longest / 8, self.longest)):
            if found := self.pids():
                try:
                    os.kill(self.draw.choice(found), signal.SIGKILL)
                    self.left -= 1
                except ProcessLookupError:
                    continue


def kill_spark_workers(kills: int, seed: int) -> tuple[int, int]:
    "Runs tasks on Spark until so many of its processes were killed. How many tasks there were, and how many were set aside"
    killer, n, aside = Killer(kills, seed, spark_workers, 4.0), 0, 0
    killer.start()
    while killer.left:
        for i, outcome in enumerate(run_spark(slow_and_large, [(f"t{i}", i) for i in range(120)], "local[2]")):
            n, aside = n + 1, aside + (not outcome.done)
            assert outcome.name == f"t{i}"
            assert outcome.value == bytes([i % 256]) * 200_000 if outcome.done else outcome.why == TOO_OFTEN
    killer.join()
    return n, aside


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_tasks_outlive_fifty_kills_of_spark_workers() -> None:
    "A task is set aside, by name, only where it lost its worker three times: on a slow machine most of the kills meet the same few tasks"
    from pyspark.sql import SparkSession

    try:
        n, aside = kill_spark_workers(50, 4)
    finally:
        if session := SparkSession.getActiveSession():
            session.stop()
    assert n >= 120 and aside * MAX_DEATHS <= 50, (n, aside)
