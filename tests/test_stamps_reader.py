"""Every stamp once, in an order that nothing but the seed decides; cuts, weights and old files."""

import gc
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from dark_halo_scope.base import storage
from dark_halo_scope.base.errors import BadInput
from dark_halo_scope.stamps import codec, reader
from dark_halo_scope.stamps.reader import Reader, Reading, Selection, StampSet, build_index

from .stamp_toys import toy_images, toy_table, write_bricks


@pytest.fixture(scope="module")
def bricks(tmp_path_factory):
    return write_bricks(tmp_path_factory.mktemp("stamps"), bricks=5, n=37, row_group=8)


@pytest.fixture(scope="module")
def index(bricks):
    return build_index([StampSet(tuple(bricks))])


def shown(index, world, workers, epoch=0, **more):
    "Rows shown in an epoch, over all processes"
    recipe = Reading(batch_size=24, lanes=6, workers=workers, window=40, **more)
    parts = [[b.row for b in Reader(index, recipe, rank, world).batches(epoch)] for rank in range(world)]
    assert len({len(p) for p in parts}) == 1, "processes must take the same number of steps"
    assert len(parts[0]) == Reader(index, recipe).steps(epoch)
    return np.concatenate([row for part in parts for row in part])


GRID = [(world, workers) for world in (1, 2, 3) for workers in (0, 1, 3)]


@pytest.mark.parametrize("world,workers", GRID)
def test_every_stamp_exactly_once(index, world, workers):
    for epoch in (0, 1):
        assert np.array_equal(np.sort(shown(index, world, workers, epoch)), np.arange(len(index)))


def test_the_bug_of_the_earlier_generation_is_caught(index, monkeypatch):
    "Sharding by process only: each of three threads reads everything"

    def by_process_only(n, part, parts):
        return range(n) if parts == 3 else range(part, n, max(parts, 1))

    monkeypatch.setattr(reader, "rank_share", by_process_only)
    counts = np.bincount(shown_raw(index), minlength=len(index))
    assert (counts == 3).all(), "each stamp must have come three times"
    with pytest.raises(AssertionError):
        test_every_stamp_exactly_once(index, 1, 3)


def shown_raw(index):
    recipe = Reading(batch_size=24, lanes=6, workers=3, window=40)
    return np.concatenate([b.row for b in Reader(index, recipe).batches(0)])


def test_threads_and_processes_do_not_change_a_batch(index):
    recipe = Reading(batch_size=12, lanes=6, window=30)
    alone = list(Reader(index, recipe).batches(2))
    for workers in (1, 3):
        again = list(Reader(index, replace(recipe, workers=workers)).batches(2))
        assert all(np.array_equal(a.row, b.row) and torch.equal(a.image, b.image) for a, b in zip(alone, again, strict=True))
    parts = [list(Reader(index, recipe, rank, 3).batches(2)) for rank in range(3)]
    for step, batch in enumerate(alone):
        assert np.array_equal(np.sort(batch.row), np.sort(np.concatenate([p[step].row for p in parts])))


def test_epochs_differ_and_seeds_differ(index):
    orders = [shown(index, 1, 1, epoch, seed=seed).tolist() for epoch, seed in ((0, 0), (1, 0), (0, 1), (0, 0))]
    assert orders[0] == orders[3] and orders[0] != orders[1] and orders[0] != orders[2]


def test_a_shuffled_batch_mixes_bricks(index):
    recipe = Reading(batch_size=32, window=200)
    first = next(Reader(index, recipe).batches(0))
    assert len(set(index.identity["brickname"][first.row])) >= 4


def test_goes_on_from_any_step(index):
    for lanes, world in ((1, 1), (6, 2)):
        recipe = Reading(batch_size=18, lanes=lanes, window=40)
        whole = list(Reader(index, recipe, 0, world).batches(1))
        for start in range(len(whole) + 1):
            rest = list(Reader(index, recipe, 0, world).batches(1, start))
            assert [b.row.tolist() for b in rest] == [b.row.tolist() for b in whole[start:]]


def test_the_index_holds_no_footer_and_ninety_bytes_a_stamp(tmp_path):
    "A parsed footer and its schema hold each other until the garbage is collected: 7 MB a shard, seven tenths of a gigabyte for a hundred"
    paths = write_bricks(tmp_path, bricks=3, n=40, row_group=8)
    footers = lambda: sum(isinstance(thing, pq.FileMetaData) for thing in gc.get_objects())
    gc.collect()
    gc.disable()
    try:
        before = footers()
        index = build_index([StampSet(tuple(paths))])
        assert len(list(Reader(index, Reading(batch_size=24)).batches(0))) == 5
        assert footers() == before
    finally:
        gc.enable()
    columns = [index.unit, index.row, index.label, index.weight, index.copies, *index.scale]
    assert (sum(column.nbytes for column in columns) + index.identity.nbytes) / len(index) <= 90


def test_files_wait_for_the_index_and_not_in_memory():
    "However slow it is to take them in, no more than are read side by side"
    started, taken = [], 0
    with ThreadPoolExecutor(reader.SIDE_BY_SIDE) as pool:
        for answer in reader._in_order(pool, lambda item: started.append(item) or item, range(50)):
            time.sleep(0.002)
            assert answer == taken and len(started) <= taken + 1 + reader.SIDE_BY_SIDE
            taken += 1
    assert taken == 50


def test_text_of_rows_is_what_the_files_say(tmp_path):
    "Names equally long or not, a column that is text in one file and a number or nothing in the next, more values than a byte counts"
    names = [[f"{k:016x}" for k in range(300)], ["short", "a longer name", ""]]
    kinds = [pa.array([f"kind {k}" for k in range(300)]), pa.array([1.5, 2.5, None])]
    for k, (task, kind) in enumerate(zip(names, kinds)):
        table = pa.table({"task_id": task, "kind": kind, "label": np.ones(len(task)), "brickname": ["b"] * len(task)})
        images = codec.encode_npz(np.zeros((len(task), 3, 4, 4), np.float32))
        pq.write_table(table.append_column("stamp_npz", images), tmp_path / f"{k}.parquet")
    for order in ((0, 1), (1, 0)):
        files = tuple(str(tmp_path / f"{k}.parquet") for k in order)
        index = build_index([StampSet(files)], Selection(splits=()), Reading(keep_columns=("kind",)))
        assert [name.decode() for name in index.identity["task_id"]] == sum((names[k] for k in order), [])
        texts = [text for text in index.identity["kind"] if isinstance(text, str)]
        assert texts == kinds[0].to_pylist() and [x for x in index.identity["kind"] if not isinstance(x, str)][:2] == [1.5, 2.5]


def test_pixels_labels_and_metadata_belong_to_their_row(tmp_path):
    for kind in codec.CODECS:
        paths = write_bricks(tmp_path / kind, bricks=2, n=21, row_group=8, codec=kind, control=True)
        recipe = Reading(batch_size=7, with_control=True, meta_columns=("psfsize_r", "psfdepth_r"), window=20)
        index = build_index([StampSet(tuple(paths))], recipe=recipe)
        table = pa.concat_tables([pq.read_table(p, partitioning=None) for p in paths])
        pixels, control = codec.decode(table), codec.decode(table, "ctrl_stamp")
        for batch in Reader(index, recipe).batches(0):
            assert np.array_equal(batch.image.numpy(), pixels[batch.row]) and np.array_equal(batch.control.numpy(), control[batch.row])
            assert batch.label.tolist() == [0.0 if c else 1.0 for c in table["is_control"].take(batch.row).to_pylist()]
            assert np.allclose(batch.meta[:, 1], table["psfdepth_r"].to_numpy()[batch.row])


def test_bands_are_taken_in_the_order_asked_for(bricks):
    recipe = Reading(bands=("z", "r"), shuffle=False)
    batch = next(Reader(build_index([StampSet(tuple(bricks))], recipe=recipe), recipe).batches())
    assert np.array_equal(batch.image[:37].numpy(), codec.decode(toy_table(37))[:, [2, 1]])


def test_the_earlier_npz_column_is_read(tmp_path):
    images, control, _ = toy_images(20)
    table = pa.table(
        {"stamp_npz": codec.encode_npz(images), "ctrl_stamp_npz": codec.encode_npz(control), "is_control": np.arange(20) % 2 == 0}
    )
    pq.write_table(table, tmp_path / "old.parquet", row_group_size=8)
    recipe = Reading(batch_size=20, with_control=True)
    index = build_index([StampSet((str(tmp_path / "old.parquet"),))], Selection(splits=()), recipe)
    batch = next(Reader(index, recipe).batches())
    assert np.array_equal(batch.image.numpy(), images) and np.array_equal(batch.control.numpy(), control) and batch.label.sum() == 10


def test_cuts_act_on_injections_only(bricks):
    cut = Selection(min_theta_over_psf=1.2, min_arc_snr=10, min_magnification=5, exclude_bricks=("0003p000",))
    index, every = build_index([StampSet(tuple(bricks))], cut), build_index([StampSet(tuple(bricks))])
    assert set(index.identity["brickname"]) == {"0001p000", "0002p000", "0004p000", "0005p000"}
    assert (index.label == 0).sum() == 4 * 19 and 0 < index.label.sum() < every.label.sum()
    assert len(index) + sum(index.lost.values()) == len(every)
    snr = pa.concat_tables([pq.read_table(p, partitioning=None) for p in bricks])["arc_snr"].to_numpy()
    task = dict(zip(every.identity["task_id"], snr))
    assert all(task[t] >= 10 for t, label in zip(index.identity["task_id"], index.label) if label)


def test_stamps_whose_ring_is_masked_can_be_left_out(tmp_path):
    path = write_bricks(tmp_path, bricks=1, n=20)[0]
    table = pq.read_table(path, partitioning=None)
    snr = table["arc_snr"].to_numpy().copy()
    snr[[1, 3]] = 0
    pq.write_table(table.set_column(table.column_names.index("arc_snr"), "arc_snr", pa.array(snr)), path)
    every, seen = (build_index([StampSet((path,))], Selection(exclude_arc_snr_0=out)) for out in (False, True))
    assert len(every) == 20 and len(seen) == 18 and seen.lost["arc_snr = 0"] == 2 and (seen.label == 0).sum() == 10


def test_weights_balance_and_hard_negatives(bricks, index, tmp_path):
    few = build_index([StampSet(tuple(bricks), weight=2.5), StampSet(tuple(bricks[:1]), name="real", weight=1.0, label=1)])
    recipe = Reading(batch_size=32)
    rows = np.concatenate([b.row for b in Reader(few, recipe).batches(0)])
    counts = np.bincount(rows, minlength=len(few))
    assert set(counts[: 5 * 37]) == {2, 3} and (counts[5 * 37 :] == 1).all() and abs(counts[: 5 * 37].mean() - 2.5) < 0.15
    snr = build_index([StampSet(tuple(bricks))], Selection(min_arc_snr=30))
    with pytest.raises(BadInput, match="arc_snr_g"):
        build_index([StampSet(tuple(bricks))], Selection(min_arc_snr_g=25))
    balanced = np.concatenate([b.row for e in range(40) for b in Reader(snr, Reading(positive_fraction=0.5)).batches(e)])
    assert abs(snr.label[balanced].mean() - 0.5) < 0.07 and snr.label.mean() < 0.35
    assert len(np.unique(balanced)) == len(snr), "over a few epochs every control is seen"
    hard = np.flatnonzero(index.label == 0)[:3]
    pq.write_table(pa.table({"ra": index.identity["ra"][hard] + 1e-8, "dec": index.identity["dec"][hard]}), tmp_path / "hard.parquet")
    recipe = Reading(hard_negatives=str(tmp_path / "hard.parquet"), hard_negative_weight=5)
    mined = build_index([StampSet(tuple(bricks))], recipe=recipe)
    rows = np.concatenate([b.row for b in Reader(mined, recipe).batches(0)])
    assert (np.bincount(rows)[hard] == 5).all() and len(rows) == len(mined) + 12


def test_bad_input_is_named(bricks, tmp_path):
    with pytest.raises(BadInput, match="no stamp is left"):
        build_index([StampSet(tuple(bricks))], Selection(splits=("test",)))
    with pytest.raises(BadInput, match="expected a Parquet file"):
        build_index([StampSet((str(tmp_path / "nothing"),))])
    with pytest.raises(BadInput, match="unknown band 'i'"):
        build_index([StampSet(tuple(bricks))], recipe=Reading(bands=("g", "i")))
    with pytest.raises(BadInput, match="ctrl_stamp"):
        build_index([StampSet(tuple(bricks))], recipe=Reading(with_control=True))
    with pytest.raises(BadInput, match="2 processes"):
        Reader(build_index([StampSet(tuple(bricks))]), Reading(), 0, 2)
    for leak in ("theta_E", "arc_snr", "is_control", "src_dmag", "weight", "magnification", "arc_flux_r", "logit"):
        with pytest.raises(BadInput, match="metadata column"):
            Reading(meta_columns=("psfsize_r", leak))
    torn = tmp_path / "torn.parquet"
    torn.write_bytes(open(bricks[0], "rb").read()[:5000])
    with pytest.raises(BadInput, match="torn.parquet"):
        build_index([StampSet((str(torn),))])


@pytest.mark.parametrize("workers", [0, 2])
def test_an_error_while_reading_reaches_the_caller(tmp_path, workers):
    path = write_bricks(tmp_path, bricks=1, n=40)[0]
    index = build_index([StampSet((path,))])
    data = bytearray(open(path, "rb").read())
    data[30000:60000] = b"\xff" * 30000
    open(path, "wb").write(data)
    with pytest.raises(BadInput, match="row group|expected one codec"):
        list(reader.prefetched(Reader(index, Reading(workers=workers)).batches()))


def test_stopping_early_leaves_no_thread(index):
    import threading

    before = threading.active_count()
    stream = reader.prefetched(Reader(index, Reading(batch_size=4, workers=3)).batches())
    next(stream)
    stream.close()
    assert threading.active_count() == before


@pytest.fixture
def bucket(monkeypatch):
    server = pytest.importorskip("moto.server").ThreadedMotoServer(port=0)
    server.start()
    host, port = server.get_host_and_port()
    for name, value in {"AWS_ENDPOINT_URL": f"http://{host}:{port}", "AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "x"}.items():
        monkeypatch.setenv(name, value)
    import boto3

    boto3.client("s3", region_name="us-east-1").create_bucket(Bucket="stamps")
    yield "s3://stamps"
    server.stop()


def test_a_bucket_reads_as_a_folder_does(tmp_path, bucket):
    "Both codecs, shuffled, with controls and hard negatives, from a prefix; what is missing or torn there is named"
    rows = {"ra": [151.0], "dec": [0.0]}
    for kind in codec.CODECS:
        for path in write_bricks(tmp_path / kind, bricks=2, n=30, row_group=8, codec=kind, control=True):
            storage.write_bytes(open(path, "rb").read(), storage.join(bucket, kind, path.rsplit("/", 1)[-1]))
        pq.write_table(pa.table(rows), tmp_path / "hard.parquet")
        storage.write_bytes((tmp_path / "hard.parquet").read_bytes(), f"{bucket}/hard.parquet")
        shown = []
        for root, hard in ((str(tmp_path / kind), str(tmp_path / "hard.parquet")), (f"{bucket}/{kind}", f"{bucket}/hard.parquet")):
            recipe = Reading(batch_size=16, window=24, workers=2, with_control=True, hard_negatives=hard)
            index = build_index([StampSet((root,))], recipe=recipe)
            shown.append(list(Reader(index, recipe).batches(3)))
            assert index.copies.sum() == len(index) + 4
        for here, there in zip(*shown, strict=True):
            assert np.array_equal(here.row, there.row) and torch.equal(here.image, there.image) and torch.equal(here.control, there.control)
    with pytest.raises(BadInput, match="s3://stamps/none"):
        build_index([StampSet((f"{bucket}/none",))])
    storage.write_bytes(open(path, "rb").read()[:5000], f"{bucket}/torn.parquet")
    with pytest.raises(BadInput, match="torn.parquet"):
        build_index([StampSet((f"{bucket}/torn.parquet",))])
