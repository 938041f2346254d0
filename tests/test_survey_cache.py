"The copy of bricks: from a web server and from a folder, to a folder and to a bucket, broken off, damaged, over its limit"

import functools
import hashlib
import os
import re
import shutil
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from dark_halo_scope.base.errors import BadInput
from dark_halo_scope.survey import cache
from dark_halo_scope.survey.coadds import read_cutouts
from dark_halo_scope.survey.release import Release
from dark_halo_scope.survey.web import HttpClient, RequestPolicy
from tests.test_survey_files import sky, write_brick

BRICKS = ("1501p022", "1503p022", "1506p022")


def quick():
    "An client that does not wait"
    return HttpClient(RequestPolicy(pause=0.0, tries=2, timeout=2.0), sleep=lambda seconds: None)


@pytest.fixture(scope="module")
def origin(tmp_path_factory):
    "A release of three bricks"
    root = tmp_path_factory.mktemp("origin")
    release = write_brick(root)
    for name in BRICKS[1:]:
        for path in cache.brick_files(release, BRICKS[0], "grz"):
            target = path.replace(BRICKS[0], name)
            Path(target).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, target)
    return release


@pytest.fixture(scope="module")
def portal(origin):
    "The same release behind a web server"

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *args):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=origin.root))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield Release(f"http://127.0.0.1:{server.server_port}")
    server.shutdown()
    server.server_close()


def test_a_copy_from_the_web_reads_like_the_original(origin, portal, tmp_path):
    copy, told = Release(str(tmp_path)), []
    plan = cache.plan_fetch(portal, copy, [BRICKS[0], BRICKS[0], BRICKS[1]])
    result = cache.fetch_files(plan, quick(), lambda done, of, size: told.append((done, of, size)))
    assert result.files == 20 and not result.set_aside and told[-1] == (20, 20, result.size)
    assert "20 files to fetch (0 are here)" in plan.says() and plan.bytes_todo == pytest.approx(2 * (36 + 27 + 1.5 + 0.5) * 1e6)
    ra, dec = sky(np.array([120.0, 240.0]), np.array([150.0, 222.0]))
    ours, theirs = read_cutouts(copy, BRICKS[0], ra, dec), read_cutouts(origin, BRICKS[0], ra, dec)
    assert ours.image.tobytes() == theirs.image.tobytes() and ours.ok.all()
    again = cache.plan_fetch(portal, copy, BRICKS[:2])
    assert not again.todo and again.done == 20


def test_stamps_are_read_over_the_web_by_ranges(origin, tmp_path):
    "The same stamps from a server, reading parts of files"
    sent = []

    class Ranges(SimpleHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_HEAD(self):
            self.reply(False)

        def do_GET(self):
            self.reply(True)

        def reply(self, with_body):
            data = Path(origin.root + self.path).read_bytes()
            wanted = self.headers.get("Range")
            first, last = (int(n) for n in wanted.removeprefix("bytes=").split("-")) if wanted else (0, len(data) - 1)
            part = data[first : last + 1]
            self.send_response(206 if wanted else 200)
            self.send_header("Content-Length", str(len(part)))
            self.send_header("Accept-Ranges", "bytes")
            if wanted:
                self.send_header("Content-Range", f"bytes {first}-{first + len(part) - 1}/{len(data)}")
            self.end_headers()
            if with_body:
                sent.append(len(part))
                self.wfile.write(part)

        def log_message(self, *args):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Ranges)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    ra, dec = sky(np.array([120.0]), np.array([150.0]))
    remote = read_cutouts(Release(f"http://127.0.0.1:{server.server_port}"), BRICKS[0], ra, dec)
    server.shutdown()
    server.server_close()
    assert remote.image.tobytes() == read_cutouts(origin, BRICKS[0], ra, dec).image.tobytes() and sent


def test_a_broken_off_copy_goes_on_where_it_stopped(origin, tmp_path):
    copy = Release(str(tmp_path))
    plan = cache.plan_fetch(origin, copy, BRICKS[:1])
    cache.fetch_files(cache.FetchPlan(plan.todo[:4], 0, 0.0))
    Path(plan.todo[4][1]).write_bytes(b"half a file, and no checksum")
    rest = cache.plan_fetch(origin, copy, BRICKS[:1])
    assert rest.done == 4 and len(rest.todo) == 6 and cache.fetch_files(rest).files == 6
    assert all(cache.is_intact(target) for _, target in plan.todo)


def test_files_that_are_broken_or_missing_are_set_aside_and_leave_nothing(origin, portal, tmp_path):
    copy = Release(str(tmp_path))
    plan = cache.plan_fetch(portal, copy, ["0001m002"])
    result = cache.fetch_files(plan, quick())
    assert result.files == 0 and len(result.set_aside) == 10 and all("404" in reason for reason in result.set_aside.values())
    assert not list(tmp_path.rglob("*.fz*"))
    with pytest.raises(BadInput, match="404"):
        cache.ensure_brick(portal, copy, "0001m002", client=quick())


def with_lists(origin, folder):
    "The same release with the survey's list in each brick's folder"
    shutil.copytree(origin.root, folder, dirs_exist_ok=True)
    served = Release(str(folder))
    for name in BRICKS:
        files = sorted(Path(served.coadd_folder(name)).iterdir())
        lines = [f"{hashlib.sha256(file.read_bytes()).hexdigest()} *{file.name}\n" for file in files]
        Path(served.checksums(str(files[0]))).write_text("".join(lines))
    return served


@pytest.mark.parametrize("web", [False, True])
def test_a_file_that_the_surveys_list_does_not_tell_of_is_set_aside(origin, tmp_path, web):
    "A changed bit that leaves a whole FITS file, a broken list, a file that no list names, and a folder without a list"
    served = with_lists(origin, tmp_path / "served")
    bit, no_line = Path(served.coadd(BRICKS[0], "image", "r")), Path(served.coadd(BRICKS[0], "image", "z"))
    data = bytearray(bit.read_bytes())
    data[-4000] ^= 1
    bit.write_bytes(data)
    lists = [Path(served.checksums(served.coadd(name, "maskbits"))) for name in BRICKS]
    lists[0].write_text("".join(line for line in lists[0].read_text().splitlines(True) if no_line.name not in line))
    lists[1].write_text("<html>maintenance</html>")
    lists[2].unlink()
    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(SimpleHTTPRequestHandler, directory=served.root))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    source = Release(f"http://127.0.0.1:{server.server_port}") if web else served
    try:
        result = cache.fetch_files(cache.plan_fetch(source, Release(str(tmp_path / "copy")), BRICKS), quick())
    finally:
        server.shutdown()
        server.server_close()
    aside = {name.rpartition("/")[2]: reason for name, reason in result.set_aside.items()}
    assert len(aside) == 11 and result.files == 19 and result.listed == 8
    line = rf"{bit.name}: SHA-256 is {hashlib.sha256(data).hexdigest()}; expected [0-9a-f]{{64}}, as \S*/{lists[0].name} says"
    assert re.search(line, aside[bit.name])
    assert all(f"{lists[1].name}: line 1 is '<html>" in reason for name, reason in aside.items() if BRICKS[1] in name)
    assert not (tmp_path / "copy" / bit.relative_to(served.root)).exists() and no_line.name not in aside


def test_the_receipt_of_a_copy_counts_what_lists_told_of(origin, tmp_path):
    served = with_lists(origin, tmp_path / "served")
    receipt = cache.copy_bricks(served, Release(str(tmp_path / "copy")), BRICKS[:1])
    assert receipt.run["fetched"] == receipt.run["listed"] == 10
    assert cache.copy_bricks(origin, Release(str(tmp_path / "bare")), BRICKS[:1]).run["listed"] == 0
    assert receipt.name == cache.copy_bricks(origin, Release(str(tmp_path / "again")), BRICKS[:1]).name


@pytest.mark.parametrize(
    "change", [lambda b: b[:-2880], lambda b: b[: len(b) // 2], lambda b: b"<html></html>", lambda b: b + b"trailing" * 400, lambda b: b""]
)
def test_a_file_that_is_not_whole_is_not_kept(origin, tmp_path, change):
    path = tmp_path / "image.fits.fz"
    path.write_bytes(change(Path(origin.coadd(BRICKS[0], "image", "r")).read_bytes()))
    with pytest.raises(BadInput):
        cache.fetch_file(str(path), str(tmp_path / "copy.fits.fz"), quick())
    assert [file.name for file in tmp_path.iterdir()] == ["image.fits.fz"]


def test_damage_is_found(origin, tmp_path):
    copy = Release(str(tmp_path))
    cache.fetch_files(cache.plan_fetch(origin, copy, BRICKS[:1]))
    path = Path(copy.coadd(BRICKS[0], "invvar", "g"))
    whole = path.read_bytes()
    for k in (0, 3000, len(whole) - 1):
        path.write_bytes(whole[:k] + bytes([whole[k] ^ 1]) + whole[k + 1 :])
        assert not cache.is_intact(str(path))
    path.write_bytes(whole)
    assert cache.is_intact(str(path))


def test_the_least_recently_used_bricks_go_first(origin, tmp_path):
    copy = Release(str(tmp_path))
    cache.fetch_files(cache.plan_fetch(origin, copy, BRICKS))
    sizes = {}
    for age, name in enumerate(("1503p022", "1501p022", "1506p022")):
        files = list(Path(copy.coadd_folder(name)).iterdir())
        sizes[name] = sum(file.stat().st_size for file in files)
        for file in files:
            os.utime(file, (1e9 + age, 1e9 + age))
    cache.mark_used(copy, "1503p022")
    assert cache.trim(copy, sum(sizes.values())) == []
    assert cache.trim(copy, sum(sizes.values()) - 1) == ["1501p022"]
    assert cache.trim(copy, 1, keep=["1506p022"]) == ["1503p022"]
    assert cache.ensure_brick(origin, copy, "1501p022", max_bytes=sizes["1501p022"] * 1.5) is copy
    assert [path.name for path in Path(copy.path("coadd")).glob("*/*")] == ["1501p022"]


def test_a_bucket_is_not_trimmed():
    with pytest.raises(BadInput, match="local disk"):
        cache.trim(Release("s3://bucket/dr10"), 0)


def test_a_copy_in_a_bucket(origin, monkeypatch):
    moto = pytest.importorskip("moto.server")
    server = moto.ThreadedMotoServer(port=0)
    server.start()
    try:
        host, port = server.get_host_and_port()
        for name, value in {"AWS_ENDPOINT_URL": f"http://{host}:{port}", "AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "x"}.items():
            monkeypatch.setenv(name, value)
        import boto3

        boto3.client("s3", region_name="us-east-1").create_bucket(Bucket="stars")
        copy = Release("s3://stars/dr10")
        result = cache.fetch_files(cache.plan_fetch(origin, copy, BRICKS[:1]))
        assert result.files == 10 and not cache.plan_fetch(origin, copy, BRICKS[:1]).todo
        ra, dec = sky(np.array([120.0, 300.0]), np.array([150.0, 222.0]))
        assert read_cutouts(copy, BRICKS[0], ra, dec).image.tobytes() == read_cutouts(origin, BRICKS[0], ra, dec).image.tobytes()
        assert cache.is_intact(copy.coadd(BRICKS[0], "image", "r"))
        client = boto3.client("s3", region_name="us-east-1")
        name = copy.coadd(BRICKS[0], "image", "r").removeprefix("s3://stars/")
        client.delete_object(Bucket="stars", Key=f"{name}.sha256")
        line = f"{'0' * 64} *{name.rpartition('/')[2]}\n".encode()
        client.put_object(Bucket="stars", Key=f"{name.rpartition('/')[0]}/legacysurvey.sha256sum", Body=line)
        with pytest.raises(BadInput, match="image-r.fits.fz: SHA-256 is .*; expected 000"):
            read_cutouts(copy, BRICKS[0], ra, dec)
    finally:
        server.stop()
