"Phase 4c however it is run: engines, workers, order, restarts, disks, S3, and everything that goes wrong on the way"

import functools
import hashlib
import http.client
import http.server
import json
import os
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlsplit

import boto3
import cloudpickle
import numpy as np
import pyarrow.parquet as pq
import pytest

from dark_halo_scope.base import storage
from dark_halo_scope.base.errors import BadInput
from dark_halo_scope.base.receipts import read_receipt, read_table, receipt_path, write_product, write_receipt
from dark_halo_scope.base.storage import join, list_files, read_bytes, write_bytes
from dark_halo_scope.injection import products as injection
from dark_halo_scope.run import products
from dark_halo_scope.run.engine import Engine, run_tasks, worker_environment
from dark_halo_scope.run.phases import open_run
from dark_halo_scope.run.preflight import preflight
from dark_halo_scope.run.products import Job, Run, do_job, ensure, jobs_of, make, product_files
from dark_halo_scope.trust.products import concat

os.environ.update(worker_environment())  # One folder of compiled kernels for this process and its workers
cloudpickle.register_pickle_by_value(sys.modules[__name__])  # Spark's workers do not find this file by name

SMALL = [
    "mock.rows=2", "mock.columns=2", "mock.lrgs=8", "mock.blue=6", "mock.n_lenses=2", "mock.stars=3",
    "splits.fractions={train: 1.0, val: 0.0, test: 0.0}", "plan.n_total_per_split={train: 96}",
]  # fmt: skip
SECRET = "not-a-real-secret-4711"


@pytest.fixture(scope="module")
def planned(tmp_path_factory: pytest.TempPathFactory) -> Run:
    "A release of four small bricks and a plan of some 70 stamps"
    run = open_run("toy", str(tmp_path_factory.mktemp("planned")), SMALL, workers=1)
    ensure(run, "plan")
    return run


def given(planned: Run) -> list[str]:
    "The planned survey as one that is given, with its list"
    return [
        *SMALL,
        "rooms=[]",
        f"release={planned.address('release')}",
        f"lists.known=[{planned.address('release')}/truth/known_lenses.csv]",
    ]


def run_at(planned: Run, out: str, **engine) -> Run:
    "A run on the planned survey with its products elsewhere"
    run = open_run("toy", out, given(planned), **engine)
    beside = [planned.path(name) for name in read_receipt(planned.address("plan")).run["files"]]
    receipts = [receipt_path(planned.address(name)) for name in ("plan", "parent")]
    for uri in (*list_files(planned.address("plan")), *receipts, *beside):
        write_bytes(read_bytes(uri), join(out, uri.removeprefix(planned.out)))
    return run


def made(run: Run) -> dict[str, str]:
    "Every stamps file by the hash of its bytes, and the name of the product's receipt"
    files = {uri.removeprefix(run.out): hashlib.sha256(read_bytes(uri)).hexdigest() for uri in list_files(run.path("stamps"), ".parquet")}
    return files | {"receipt": read_receipt(run.path("stamps")).name}


@pytest.fixture(scope="module")
def reference(planned: Run, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    "What one worker makes in a process of its own"
    run = run_at(planned, str(tmp_path_factory.mktemp("reference")), workers=1)
    assert run_once(planned, run).returncode == 0
    assert len(made(run)) == 5
    return made(run)


SCRIPT = """
import sys
from dark_halo_scope.run.phases import open_run
from dark_halo_scope.run.products import make
out, workers, *overrides = sys.argv[1:]
print(make(open_run("toy", out, overrides, workers=int(workers)), "stamps").name, flush=True)
"""


def start(planned: Run, run: Run, workers: int) -> subprocess.Popen:
    "Phase 4c in a process of its own"
    return subprocess.Popen(
        [sys.executable, "-c", SCRIPT, run.out, str(workers), *given(planned)], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


def run_once(planned: Run, run: Run) -> subprocess.Popen:
    "Phase 4c in a process of its own, to its end"
    process = start(planned, run, 1)
    process.communicate(timeout=240)
    return process


# The same bytes


def test_two_workers_in_shuffled_order(planned: Run, reference: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run, ordered = run_at(planned, str(tmp_path), workers=2), injection.paint_tasks
    monkeypatch.setattr(injection, "paint_tasks", lambda *arguments: ordered(*arguments)[::-1])
    make(run, "stamps")
    assert made(run) == reference


def test_another_recipe_makes_other_bytes(planned: Run, reference: dict, tmp_path: Path) -> None:
    "So that the comparisons of this page can fail"
    run_at(planned, str(tmp_path))
    other = open_run("toy", str(tmp_path), [*given(planned), "paint.beta=3.4"], workers=1)
    make(other, "stamps")
    assert not set(made(other).values()) & set(reference.values())


# What is read


def test_a_limit_reads_only_what_it_needs(planned: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    "A plan in groups of 16 rows: ten stamps ask for the first group alone, and every brick's rows are found where they lie"
    run, plan = run_at(planned, str(tmp_path), workers=1), read_table(planned.address("plan"))
    whole = read_receipt(run.address("plan"))
    piece = write_product(plan, f"{run.address('plan')}/plan-00000.parquet", "injection_plan", {}, row_group_size=16)
    write_receipt(
        replace(whole, run=whole.run | {"sizes": {"plan-00000": piece.run["files"]["plan-00000.parquet"][0]}}), run.address("plan")
    )
    name, read = whole.name, []
    group = pq.ParquetFile.read_row_group
    monkeypatch.setattr(pq.ParquetFile, "read_row_group", lambda self, i, *more, **named: read.append(i) or group(self, i, *more, **named))
    few = [job.task.values for _, job in jobs_of(open_run("toy", run.out, given(planned), limit=10), "stamps")]
    mine = injection.brick_rows(**few[0])["tasks"]
    assert set(read) == {0} and sum(values["rows"][3] for values in few) == 10 and set(mine["brickname"].to_pylist()) == {few[0]["brick"]}
    for brick, file, first, n in injection.plan_bricks(run.address("plan"), name):
        mine = injection.plan_rows(file, name, first, n)
        assert mine.equals(plan.slice(first, n)) and set(mine["brickname"].to_pylist()) == {brick}
    mixed = plan.take(np.random.default_rng(1).permutation(len(plan)))
    receipt = write_product(mixed, run.path("mixed"), "injection_plan", {})
    with pytest.raises(BadInput, match="sorted by brick"):
        injection.plan_bricks(run.path("mixed"), receipt.name)


def test_preflight_knows_size_and_missing_bricks(planned: Run, reference: dict, tmp_path: Path) -> None:
    run = run_at(planned, str(tmp_path / "out"), workers=1)
    look = preflight(run)
    assert len(look.bricks) == 4 and not look.missing and "every brick is there" in look.says()
    table = planned.path("release", "south", "survey-bricks-dr10-south.fits.gz")
    for uri in (table, receipt_path(table)):
        write_bytes(read_bytes(uri), join(str(tmp_path / "tables alone"), uri.removeprefix(planned.address("release"))))
    lost = preflight(open_run("toy", run.out, [*given(planned), f"release={tmp_path}/tables alone"]))
    assert set(lost.missing) == set(look.bricks) and all(name in lost.says() for name in look.bricks)
    with pytest.raises(BadInput, match="4 of 4 bricks are not there.*phase4b_cache"):
        lost.require()
    lost.require(allow_missing=True)
    make(run, "stamps")
    size = sum(Path(uri).stat().st_size for uri in product_files(run, "stamps"))
    assert abs(look.size / size - 1) < 0.25


def test_preflight_takes_a_release_on_the_web_for_readable(planned: Run, tmp_path: Path) -> None:
    "Its coadds are not asked for one by one: they are named as not cached, and the run may start"
    handler = functools.partial(Quiet, directory=planned.address("release"))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    run = run_at(planned, str(tmp_path))
    remote = preflight(open_run("toy", run.out, [*given(planned), f"release=http://127.0.0.1:{server.server_port}"]))
    assert remote.remote and set(remote.missing) == set(remote.bricks) and len(remote.bricks) == 4
    remote.require()
    server.shutdown()
    server.server_close()


class Quiet(http.server.SimpleHTTPRequestHandler):
    "Serves a folder without a word"

    def log_message(self, *arguments) -> None:
        pass


def test_training_reads_shards(planned: Run, reference: dict, tmp_path: Path) -> None:
    "Phase 4d's files feed the trainer: every stamp of an epoch, once"
    from dark_halo_scope.learning.training import train

    run_at(planned, str(tmp_path))
    values = [*given(planned), "shards.per_shard=30", "train.epochs=1", "train.read.batch_size=8", "train.choose_on=train"]
    run = open_run("toy", str(tmp_path), values, workers=1)
    make(run, "stamps")
    assert make(run, "shards").identity["bricks"] > 1
    train(product_files(run, "shards"), run.recipe.train, str(tmp_path / "model"), progress=False)
    (epoch,) = json.loads((tmp_path / "model" / "history.json").read_text())
    usable = concat(product_files(run, "stamps"), ["cutout_ok"])["cutout_ok"].to_numpy(zero_copy_only=False).sum()
    assert epoch["stamps"] == epoch["unique_stamps"] == usable


@pytest.fixture(scope="module")
def stop_spark() -> Iterator:
    "Ends the session, so that the next one may have another master"

    def stop() -> None:
        from pyspark.sql import SparkSession

        if session := SparkSession.getActiveSession():
            session.stop()

    yield stop
    stop()


@pytest.mark.parametrize("cores", [pytest.param(1, marks=pytest.mark.slow), 2])
def test_spark(cores: int, planned: Run, reference: dict, tmp_path: Path, stop_spark) -> None:
    stop_spark()
    run = run_at(planned, str(tmp_path), engine="spark", master=f"local[{cores}]")
    make(run, "stamps")
    assert made(run) == reference


@pytest.mark.slow
def test_phases_2_to_4a_on_spark(planned: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop_spark) -> None:
    "Counts, regions, the parent sample and a plan in several files: the same content whichever engine read the sweeps and drew the lenses"
    stop_spark()
    parts = injection.plan_parts
    monkeypatch.setattr(injection, "plan_parts", lambda rows: parts(rows, 20))
    run = open_run("toy", str(tmp_path), given(planned), engine="spark", master="local[1]")
    again = open_run("toy", str(tmp_path / "local"), given(planned), workers=1)
    for one in (run, again):
        ensure(one, "plan")
    assert read_receipt(run.address("plan")).identity["parts"] > 1
    for product in ("density", "parent", "plan"):
        ours, theirs = (read_receipt(one.address(product)) for one in (run, again))
        assert ours.identity == theirs.identity and ours.identity["rows"] > 0 and ours.run["engine"] == "spark"
    assert read_table(run.path("regions.parquet")).equals(read_table(again.path("regions.parquet")))


# A cluster whose machine is lost


def free_port() -> int:
    "A port that nobody listens on"
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


@pytest.fixture
def cluster(tmp_path: Path, stop_spark) -> Iterator[str]:
    "Spark's own cluster, a master and three workers of one core as processes; its address"
    import pyspark

    stop_spark()
    port, home = free_port(), Path(pyspark.__file__).parent
    common = {"cwd": tmp_path, "stdout": (tmp_path / "cluster.log").open("w"), "stderr": subprocess.STDOUT, "start_new_session": True}
    common["env"] = {**os.environ, "SPARK_HOME": str(home), "SPARK_SCALA_VERSION": "2.13", "SPARK_LOCAL_IP": "127.0.0.1"}
    java = ["java", "-Xmx512m", "-cp", f"{home}/jars/*"]
    master = [*java, "org.apache.spark.deploy.master.Master", "--host", "127.0.0.1", "--port", str(port), "--webui-port", str(free_port())]
    started = [subprocess.Popen(master, **common)]
    url = f"spark://127.0.0.1:{port}"
    for k in range(3):
        worker = ["org.apache.spark.deploy.worker.Worker", "--host", "127.0.0.1", "--cores", "1", "--memory", "1g"]
        worker += ["--webui-port", str(free_port()), "--work-dir", str(tmp_path / f"worker{k}"), url]
        started.append(subprocess.Popen([*java, *worker], **common))
    yield url
    stop_spark()
    for process in started:
        process.kill()
        process.wait()


def parent_of(pid: int) -> int:
    "The process that started a process"
    return int(Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[1])


def losing_a_machine(folder: str, job: Job) -> dict:
    "Paints a brick; whoever comes first loses the cluster's worker that it runs on, with everything on it"
    try:
        (Path(folder) / "lost").touch(exist_ok=False)
    except FileExistsError:
        return do_job(job)
    line = [os.getpid()]
    while "deploy.worker.Worker" not in (command := Path(f"/proc/{line[-1]}/cmdline").read_text()) and line[-1] > 1:
        line.append(parent_of(line[-1]))
    assert "deploy.worker.Worker" in command, line
    (Path(folder) / "lost").write_text(str(line[-1]))
    for pid in reversed(line):
        os.kill(pid, signal.SIGKILL)
    return {}


@pytest.mark.slow
def test_a_cluster_that_loses_a_machine(cluster: str, planned: Run, reference: dict, tmp_path: Path, monkeypatch) -> None:
    "Three workers, one killed with its executor while it paints: the others paint its bricks, and every byte is as one process writes it"
    run = run_at(planned, str(tmp_path / "out"), engine="spark", master=cluster)
    monkeypatch.setattr(products, "do_job", functools.partial(losing_a_machine, str(tmp_path)))
    make(run, "stamps")
    lost = int((tmp_path / "lost").read_text())
    assert made(run) == reference and not (alive(lost) and "deploy.worker" in Path(f"/proc/{lost}/cmdline").read_text())
    logs = [p.name for k in range(3) for p in (tmp_path / f"worker{k}").glob("app-*/*")]
    assert len(logs) >= 3, logs  # an executor on each of the three


# Workers and parents that die


def dying(folder: str, job: Job) -> dict:
    "Paints a brick; the first time, its process is killed when the file is written under its temporary name and not yet renamed"
    mark = Path(folder) / job.task.name
    if not mark.exists():
        mark.touch()
        os.replace = lambda *names: os.kill(os.getpid(), signal.SIGKILL)  # type: ignore[assignment]
    return do_job(job)


@pytest.mark.parametrize("kind", ["local", pytest.param("spark", marks=pytest.mark.slow)])
def test_worker_killed_mid_brick(kind: str, planned: Run, reference: dict, tmp_path: Path, monkeypatch, stop_spark) -> None:
    marks = tmp_path / "marks"
    marks.mkdir()
    run = run_at(planned, str(tmp_path / "out"), engine=kind, workers=2, master="local[2]" if kind == "spark" else "")
    monkeypatch.setattr(products, "do_job", functools.partial(dying, str(marks)))
    make(run, "stamps")
    assert len(list(marks.iterdir())) == 4 and made(run) == reference
    assert list(Path(run.path("stamps")).rglob(".*.parquet.*"))  # the killed ones left their temporary files, which no reader lists


def poisoned(name: str) -> str:
    "A task that no worker survives"
    if name == "bad":
        os.kill(os.getpid(), signal.SIGKILL)
    return name


@pytest.mark.parametrize("engine", [Engine("local", 2), Engine("spark", master="local[2]")], ids=["local", "spark"])
def test_poisoned_task_is_set_aside(engine: Engine) -> None:
    outcomes = run_tasks(engine, poisoned, [(name, name) for name in ("a", "bad", "c")])
    assert [o.value for o in outcomes] == ["a", None, "c"] and "died 3 times" in outcomes[1].why


def children(pid: int) -> list[int]:
    "Processes that a process started"
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            if int(stat.read_text().rsplit(")", 1)[1].split()[1]) == pid:
                found.append(int(stat.parent.name))
        except (FileNotFoundError, ProcessLookupError):
            continue
    return found


def alive(pid: int) -> bool:
    "Whether a process runs and is no zombie"
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


@pytest.mark.parametrize("workers", [1, 2])
def test_parent_killed_then_resumed(workers: int, planned: Run, reference: dict, tmp_path: Path) -> None:
    run = run_at(planned, str(tmp_path), workers=1)
    parent = start(planned, run, workers)
    while not list((tmp_path / "stamps").rglob("*.receipt.json")):
        assert parent.poll() is None, parent.stderr
        time.sleep(0.005)
    family = children(parent.pid)
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    done = {p: p.stat().st_mtime_ns for p in (tmp_path / "stamps").rglob("*.parquet") if Path(receipt_path(p)).exists()}
    assert done and not Path(receipt_path(run.path("stamps"))).exists()
    deadline = time.monotonic() + 60
    while any(map(alive, family)) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert not any(map(alive, family)), "workers outlive their parent"
    make(run, "stamps")
    assert made(run) == reference
    assert {p: p.stat().st_mtime_ns for p in done} == done  # what was finished was not made again


def test_two_runs_race_for_one_output(planned: Run, reference: dict, tmp_path: Path) -> None:
    run = run_at(planned, str(tmp_path), workers=1)
    racers = [start(planned, run, 1) for _ in range(2)]
    said = [racer.communicate(timeout=240) for racer in racers]
    assert [racer.returncode for racer in racers] == [0, 0], said
    assert said[0][0].splitlines()[-1] == said[1][0].splitlines()[-1]
    assert made(run) == reference and not list((tmp_path / "stamps").rglob(".*"))


# Disks


def test_full_disk(planned: Run, reference: dict, tmp_path: Path) -> None:
    run = run_at(planned, str(tmp_path), workers=1)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))  # the system refuses a write half way, as a full disk does
    try:
        with pytest.raises(BadInput, match="bricks set aside.*cannot be written"):
            make(run, "stamps")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not [p for p in (tmp_path / "stamps").rglob("*") if p.is_file()]  # nothing half-written, under no name
    make(run, "stamps")
    assert made(run) == reference


def test_left_overs_of_a_killed_run(planned: Run, reference: dict, tmp_path: Path) -> None:
    run = run_at(planned, str(tmp_path), workers=1)
    target = tmp_path / next(name for name in reference if name != "receipt").strip("/")
    target.parent.mkdir(parents=True)
    stale, fresh = target.with_name(f".{target.name}.aaaaaa.bbbb"), target.with_name(f".{target.name}.cccccc.dddd")
    for file in (stale, fresh, target):
        file.write_bytes(b"PAR1 half a file")
    os.utime(stale, (1e9, 1e9))
    make(run, "stamps")
    assert made(run) == reference
    assert not stale.exists() and fresh.exists()  # a fresh one may be another run's, at work


# S3


class Proxy(http.server.BaseHTTPRequestHandler):
    "Hands requests on to the server, spoiling some of them"

    protocol_version = "HTTP/1.1"
    target = ""
    spoil = staticmethod(lambda number, method: "")  # (number of the request, method) -> "", "500", "slow", "cut"
    count = 0
    spoiled: list[str] = []
    lock = threading.Lock()

    def handle_any(self) -> None:
        with self.lock:
            Proxy.count += 1
            fault = Proxy.spoil(Proxy.count, self.command)
            if fault:
                Proxy.spoiled.append(f"{fault} {self.command}")
        if "chunked" in self.headers.get("Transfer-Encoding", ""):
            body = b""
            while size := int(self.rfile.readline().split(b";")[0], 16):
                body += self.rfile.read(size)
                self.rfile.readline()
            while self.rfile.readline().strip():
                continue
        else:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if fault == "500":
            self.answer(500, {}, b"<Error><Code>InternalError</Code><Message>We encountered an internal error.</Message></Error>")
            return
        if fault == "slow":
            time.sleep(0.1)
        connection = http.client.HTTPConnection(Proxy.target)
        passed = {k: v for k, v in self.headers.items() if k.lower() not in ("transfer-encoding", "content-length", "expect")}
        connection.request(self.command, self.path, body, passed | {"Content-Length": str(len(body))})
        response = connection.getresponse()
        self.answer(response.status, dict(response.getheaders()), response.read(), fault == "cut")

    def answer(self, status: int, headers: dict, body: bytes, cut: bool = False) -> None:
        self.send_response_only(status)
        for name, value in headers.items():
            if name.lower() not in ("content-length", "transfer-encoding", "connection"):
                self.send_header(name, value)
        length = headers.get("Content-Length", str(len(body))) if self.command == "HEAD" else str(len(body))
        self.send_header("Content-Length", length)
        self.end_headers()
        if cut:
            self.wfile.write(body[: len(body) // 2])
            self.wfile.flush()
            self.connection.shutdown(socket.SHUT_RDWR)
            self.close_connection = True
        elif self.command != "HEAD":
            self.wfile.write(body)

    do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = handle_any

    def log_message(self, *arguments) -> None:
        pass


@pytest.fixture(scope="module")
def moto(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    "An S3 server on this machine: its address"
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [str(Path(sys.executable).with_name("moto_server")), "-H", "127.0.0.1", "-p", str(port)]
    log = (tmp_path_factory.mktemp("moto") / "log").open("w")
    server = subprocess.Popen(command, stdout=log, stderr=log)
    for _ in range(600):
        with socket.socket() as one:
            if one.connect_ex(("127.0.0.1", port)) == 0:
                break
        time.sleep(0.1)
    yield f"http://127.0.0.1:{port}"
    server.kill()
    server.wait()


@pytest.fixture
def bucket(moto: str, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> str:
    "An empty bucket, and an environment that names the server"
    monkeypatch.setenv("AWS_ENDPOINT_URL", moto)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "someone")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    name = f"bucket-{abs(hash(request.node.name)) % 10**9}"
    boto3.client("s3", endpoint_url=moto).create_bucket(Bucket=name)
    return f"s3://{name}"


@pytest.fixture
def proxy(bucket: str, moto: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Proxy]]:
    "The server behind a proxy that can be told to spoil requests"
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Proxy)
    server.daemon_threads = True
    Proxy.target, Proxy.count, Proxy.spoiled = urlsplit(moto).netloc, 0, []
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.server_port}")
    yield Proxy
    Proxy.spoil = staticmethod(lambda number, method: "")
    server.shutdown()


def test_s3_has_the_same_bytes_and_no_secret(bucket: str, planned: Run, reference: dict) -> None:
    run = run_at(planned, join(bucket, "run"), workers=2)
    make(run, "stamps")
    assert made(run) == reference
    texts = {uri: read_bytes(uri) for uri in list_files(bucket, ".json")}
    receipts = sorted(uri.split("/run/", 1)[-1] for uri in texts if uri.endswith(".receipt.json"))
    assert len(receipts) == 8, receipts  # three products, the plan's file, four bricks
    assert not any(SECRET.encode() in text for text in texts.values())
    assert read_receipt(run.path("stamps")).run["skipped"] == 0
    again = read_receipt(run.path("stamps"))
    assert make(run, "stamps").run == again.run  # a second run makes nothing again


@pytest.mark.parametrize(
    ("fault", "every"), [pytest.param("500", 7, marks=pytest.mark.slow), pytest.param("slow", 3, marks=pytest.mark.slow), ("cut", 7)]
)
def test_s3_faults(fault: str, every: int, proxy: type[Proxy], bucket: str, planned: Run, reference: dict) -> None:
    "Requests are spoiled in turn; nothing is lost, doubled or half-written"
    run = run_at(planned, join(bucket, "run"), workers=1)
    proxy.spoil = staticmethod(lambda number, method: fault if number % every == 0 and (fault != "cut" or method in ("GET", "PUT")) else "")
    make(run, "stamps")
    assert made(run) == reference
    assert len(proxy.spoiled) > 5 and {text.split()[1] for text in proxy.spoiled} >= {"GET", "PUT"}
    assert len(list_files(run.path("stamps"))) == 8


def test_s3_that_never_answers_well(proxy: type[Proxy], bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    "One line that names the address; no secret in it"
    monkeypatch.setattr(storage, "S3_ATTEMPTS", 2)
    proxy.spoil = staticmethod(lambda number, method: "500")
    for function in (lambda uri: write_bytes(b"pixels", uri), read_bytes, list_files):
        with pytest.raises(BadInput) as caught:
            function(join(bucket, "stamps.parquet"))
        assert bucket in str(caught.value) and "\n" not in str(caught.value) and SECRET not in str(caught.value)


def test_s3_conditional_put(bucket: str, moto: str, monkeypatch: pytest.MonkeyPatch) -> None:
    "A run that is overtaken: the same bytes are fine, others are refused and the winner's stay"
    uri, client = join(bucket, "one"), storage._s3_client(moto, "us-east-1")
    write_bytes(b"winner", uri)
    assert read_bytes(uri) == b"winner"
    with monkeypatch.context() as patch:
        patch.setattr(client, "list_objects_v2", lambda **names: {})  # as it was before the winner wrote
        write_bytes(b"winner", uri)
        with pytest.raises(BadInput, match="another run has just written something else"):
            write_bytes(b"loser", uri)
    assert read_bytes(uri) == b"winner"
    write_bytes(b"next", uri)  # replacing what one has seen is allowed
    assert read_bytes(uri) == b"next"


def test_s3_lists_more_than_a_page(bucket: str, moto: str) -> None:
    client = boto3.client("s3", endpoint_url=moto)
    for i in range(1100):  # a page of a listing holds 1,000 keys
        client.put_object(Bucket=bucket.removeprefix("s3://"), Key=f"stamps/{i % 7}/{i:05d}.parquet", Body=b"")
    found = list_files(join(bucket, "stamps"), ".parquet")
    assert len(found) == len(set(found)) == 1100 and found == sorted(found)


def test_s3_without_a_bucket_or_credentials(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BadInput, match="s3://no-such-bucket-here/x: cannot be written \\(NoSuchBucket\\)"):
        write_bytes(b"x", "s3://no-such-bucket-here/x")
    assert json.loads(read_bytes(write_bytes(b"{}", join(bucket, "x")))) == {}
