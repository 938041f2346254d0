"Workers that are killed at any moment, whatever they are handing back: nothing is lost, doubled, or waited for"

import gc
import os
import random
import resource
import signal
import sys
import threading
import time
from pathlib import Path

import cloudpickle
import pytest

from dark_halo_scope.base.errors import BadInput
from dark_halo_scope.run import engine
from dark_halo_scope.run.engine import TOO_OFTEN, Outcome, run_local

cloudpickle.register_pickle_by_value(sys.modules[__name__])  # Workers do not find this file by name

LARGE = 200_000  # Of a result, more than a pipe holds [bytes]


def large(task: int) -> bytes:
    "A result that takes many writes"
    return bytes([task % 256]) * LARGE


def children() -> list[int]:
    "Worker processes of this one"
    listed = Path(f"/proc/{os.getpid()}/task").glob("*/children")
    return [int(pid) for one in listed for pid in one.read_text().split()]


class Killer:
    "Kills random workers at random moments until there were enough kills"

    def __init__(self, kills: int, seed: int) -> None:
        self.left, self._draw, self._end = kills, random.Random(seed), threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def _run(self) -> None:
        while self.left and not self._end.wait(self._draw.uniform(0.0, 0.05)):
            if pids := children():
                try:
                    os.kill(self._draw.choice(pids), signal.SIGKILL)
                except ProcessLookupError:
                    continue
                self.left -= 1

    def __enter__(self) -> "Killer":
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._end.set()
        self._thread.join()


def outlive(kills: int, seed: int) -> None:
    "Runs tasks with large results until so many workers were killed"
    with Killer(kills, seed) as killer:
        while killer.left:
            outcomes = run_local(large, [(f"t{i}", i) for i in range(300)], 2)
            assert [o.name for o in outcomes] == [f"t{i}" for i in range(300)]
            for i, o in enumerate(outcomes):
                assert o.value == large(i) if o.done else o.why.startswith(TOO_OFTEN), o.why


@pytest.mark.timeout(60)
def test_fifteen_kills_while_large_results_come_back() -> None:
    outlive(15, 1)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_two_hundred_kills_while_large_results_come_back() -> None:
    outlive(200, 2)


def half_a_message(task: int) -> int:
    "Dies in the middle of handing back a result, as the first worker to do so"
    if task == 1:
        for fd in map(int, os.listdir("/proc/self/fd")):
            try:
                if "pipe" in os.readlink(f"/proc/self/fd/{fd}") and fd > 2:
                    os.write(fd, LARGE.to_bytes(8, "little") + bytes(1000))
            except OSError:
                continue
        os.kill(os.getpid(), signal.SIGKILL)
    return task


def stops_itself(task: tuple[int, str]) -> int:
    "Task 1 is stopped whenever it runs, task 2 the first time"
    number, marker = task
    if number == 1 or number == 2 and not Path(marker).exists():
        if number == 2:
            Path(marker).touch()
        os.kill(os.getpid(), signal.SIGSTOP)
    return number


@pytest.mark.skipif(not Path("/proc").exists(), reason="the system does not tell of stopped processes")
@pytest.mark.timeout(60)
def test_a_stopped_worker_is_not_waited_for_for_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    "It keeps its pipes open and says nothing; its task is begun again, and set aside by name when that happens every time"
    monkeypatch.setattr(engine, "MAX_STOPPED", 1)
    before = set(children())  # other tests of this process may have left theirs
    outcomes = run_local(stops_itself, [(f"t{i}", (i, str(tmp_path / "once"))) for i in range(6)], 2)
    assert [o.value for o in outcomes if o.done] == [0, 2, 3, 4, 5]
    assert outcomes[1].name == "t1" and outcomes[1].why == f"{TOO_OFTEN}, the last time ended here after it was stopped for 1 s"
    assert set(children()) <= before


@pytest.mark.timeout(60)
def test_half_a_result_is_not_waited_for() -> None:
    "The very moment that hung: a part of a message is in the pipe, and its writer is gone"
    outcomes = run_local(half_a_message, [(f"t{i}", i) for i in range(6)], 2)
    assert [o.value for o in outcomes if o.done] == [0, 2, 3, 4, 5]
    assert outcomes[1].why.startswith(TOO_OFTEN) and "SIGKILL" in outcomes[1].why and "memory" in outcomes[1].why


def greedy(task: int) -> int:
    "Wants more memory than it may have"
    if task == 2:
        resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30))
        return len(bytearray(1 << 32))
    return task


def test_a_task_without_memory_is_named_and_set_aside() -> None:
    outcomes = run_local(greedy, [(f"t{i}", i) for i in range(4)], 2)
    assert [o.done for o in outcomes] == [True, True, False, True] and "MemoryError" in outcomes[2].why


class Unpackable:
    "Cannot be sent to another process"

    def __reduce__(self) -> str:
        raise TypeError("no way to pack this")


def unpackable(task: int) -> object:
    return Unpackable() if task else 0


def test_a_result_that_cannot_be_packed_is_set_aside() -> None:
    outcomes = run_local(unpackable, [("a", 0), ("b", 1)], 2)
    assert outcomes[0] == Outcome("a", 0) and "no way to pack this" in outcomes[1].why and outcomes[1].name == "b"


def test_too_few_open_files_is_one_line() -> None:
    gc.collect()  # what earlier tests left open is not closed in the midst of this one
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    taken = set(map(int, os.listdir("/proc/self/fd")))
    free = [n for n in range(len(taken) + 2) if n not in taken]
    try:
        resource.setrlimit(
            resource.RLIMIT_NOFILE, (free[1], hard)
        )  # the limit is of numbers, not of a count: two are left below it, with the one that the listing took
        with pytest.raises(BadInput, match="ulimit"):
            run_local(abs, [("a", -1), ("b", -2)], 2)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_no_worker_is_left_behind() -> None:
    before = set(children())
    run_local(abs, [("a", -1), ("b", -2)], 2)
    time.sleep(0.1)
    assert set(children()) <= before
