"The cutout service's client against a local server that behaves, and misbehaves, as the real one is known to"

import gzip
import io
import threading
import time
import tracemalloc
from email.utils import formatdate

import numpy as np
import pytest
from astropy.io import fits
from hypothesis import example, given, settings
from hypothesis import strategies as st

from dark_halo_scope.base.errors import BadInput
from dark_halo_scope.survey.viewer import ViewerRecipe, cutout_url, fetch_cutouts, parse_cutout, psfsize_of
from dark_halo_scope.survey.web import HttpClient, NetworkDown, RequestPolicy, Unavailable

from .cutout_service import Service, cutout


def client(waits=None, **policy):
    "A client that writes its waits down instead of waiting; patient, so that a busy machine is not taken for a silent server"
    return HttpClient(
        RequestPolicy(**({"pause": 0.0, "timeout": 20.0, "longest": 40.0, "connections": 1} | policy)),
        sleep=(waits if waits is not None else []).append,
    )


def fetch(service, folder, n=3, recipe=None, **options):
    "Cutouts at n positions"
    recipe = recipe or ViewerRecipe(service=service.address)
    return fetch_cutouts(np.linspace(150, 151, n), np.linspace(2, 3, n), recipe, str(folder), **({"client": client()} | options))


def test_good_answers_become_cutouts_in_the_survey_s_units(service, tmp_path):
    told = []
    cutouts = fetch(service, tmp_path, progress=lambda done, of: told.append((done, of)))
    assert cutouts.ok.all() and cutouts.image.shape == (3, 3, 64, 64) and cutouts.image.dtype == np.float32
    assert cutouts.maskbits.dtype == np.int32 and (cutouts.invvar == 6e4).all() and told == [(1, 3), (2, 3), (3, 3)]
    np.testing.assert_allclose(cutouts.psfsize, 1.3, rtol=1e-3)
    assert all("layer=ls-dr10-south" in path and "bands=grz" in path for path in service.asked)
    assert cutouts.image.std(axis=(1, 2, 3)).min() > 0 and len(np.unique(cutouts.image[:, 0, 0, 0])) == 3


def test_a_single_band_keeps_its_axis(service, tmp_path):
    cutouts = fetch(service, tmp_path, recipe=ViewerRecipe(service=service.address, bands=("r",)))
    assert cutouts.ok.all() and cutouts.image.shape == (3, 1, 64, 64)


def test_nothing_is_asked_twice(service, tmp_path):
    one = fetch(service, tmp_path)
    asked = len(service.asked)
    two = fetch(service, tmp_path)
    assert (
        asked == 6 == len(service.asked) and one.image.tobytes() == two.image.tobytes() and one.psfsize.tobytes() == two.psfsize.tobytes()
    )


def test_a_run_that_was_cut_short_goes_on_where_it_stopped(service, tmp_path):
    service.moods = ["good", "good", "html", "good", "good"]
    first = fetch(service, tmp_path)
    assert first.ok.tolist() == [True, False, True] and "No overlap with the layer" in first.why[1] and np.isnan(first.image[1]).all()
    asked = len(service.asked)
    second = fetch(service, tmp_path)
    assert second.ok.all() and len(service.asked) == asked + 2


def test_a_spoilt_kept_answer_is_asked_for_again(service, tmp_path):
    one = fetch(service, tmp_path)
    kept = sorted(tmp_path.glob("*.fits"))
    kept[0].write_bytes(kept[0].read_bytes()[:3000])
    kept[1].write_bytes(b"<html>")
    two = fetch(service, tmp_path)
    assert len(service.asked) == 8 and two.ok.all() and one.image.tobytes() == two.image.tobytes()


def test_a_band_that_falls_back_silently_is_noticed(service, tmp_path):
    service.answer = lambda path, query: cutout(150.0, 2.0, "gY" if "fits" in path else "grz", 64)
    cutouts = fetch(service, tmp_path, recipe=ViewerRecipe(service=service.address, bands=("g", "i")), n=1)
    assert not cutouts.ok.any() and "expected 'gi'" in cutouts.why[0]


def test_bands_in_another_order_are_noticed(service, tmp_path):
    service.answer = lambda path, query: cutout(150.0, 2.0, "zrg", 64)
    assert "bands 'zrg' came back" in fetch(service, tmp_path, n=1).why[0]


@pytest.mark.parametrize(
    "answer, says",
    [
        (lambda: cutout(150.0, 2.0, "grz", 64, cap=60), "shape (3, 60, 60)"),
        (lambda: cutout(150.0, 2.0, "grz", 64, scale=0.524), "pixels of"),
        (lambda: cutout(150.0, 2.0, "grz", 64, kinds=("IMAGE", "INVVAR")), "no MASKBITS"),
        (lambda: cutout(150.0, 2.0, "grz", 64, kinds=("IMAGE",)), "no INVVAR"),
        (
            lambda: cutout(150.0, 2.0, "grz", 64).replace(b"BITPIX  =                  -32", b"BITPIX  =                   77"),
            "broken FITS",
        ),
        (lambda: cutout(150.0, 2.0, "grz", 64)[:4000], "broken FITS"),
        (lambda: b"", "not FITS"),
    ],
)
def test_an_answer_to_another_question_is_not_believed(answer, says, tmp_path):
    with pytest.raises(BadInput) as error:
        parse_cutout(answer(), ViewerRecipe(), "http://viewer/x")
    assert says in str(error.value) and "\n" not in str(error.value) and "http://viewer/x" in str(error.value)


def test_sizes_that_the_server_would_cut_silently_are_refused_before_asking():
    with pytest.raises(BadInput, match="1 to 512"):
        ViewerRecipe(n_pix=4000)
    with pytest.raises(BadInput, match="unknown band 'i'"):
        ViewerRecipe(layer="ls-dr9-north", bands=("g", "i"))
    with pytest.raises(BadInput, match="unknown layer"):
        ViewerRecipe(layer="ls-dr12")


def test_no_image_at_a_position_is_flagged_not_zero(service, tmp_path):
    cutouts = fetch_cutouts(np.array([10.0]), np.array([-88.0]), ViewerRecipe(service=service.address), str(tmp_path), client())
    assert not cutouts.ok[0] and "no g data in 100 %" in cutouts.why[0]


@pytest.mark.parametrize("mood", [429, 500, 502, 503, 504, "cut off", "silent", "trickle"])
def test_a_server_in_a_bad_mood_is_asked_again(service, tmp_path, mood):
    service.moods = [mood]
    waits = []
    cutouts = fetch(service, tmp_path, n=1, client=client(waits, timeout=2.0, longest=3.0))
    assert cutouts.ok.all() and len(service.asked) == 3
    assert [wait for wait in waits if wait > 0] == [3.0 if mood == 429 else 1.0]


def test_waits_double_and_the_last_failure_is_reported(service, tmp_path):
    service.moods = [503] * 10
    waits = []
    cutouts = fetch(service, tmp_path, n=1, client=client(waits, longest_wait=5.0))
    assert not cutouts.ok[0] and "status 503 (5 tries)" in cutouts.why[0] and [wait for wait in waits if wait] == [1, 2, 4, 5]


def test_a_request_that_the_server_calls_wrong_is_not_repeated(service, tmp_path):
    service.moods = [400]
    cutouts = fetch(service, tmp_path, n=1)
    assert "status 400" in cutouts.why[0] and len(service.asked) == 1


def test_requests_keep_their_distance():
    times = [0.0]
    slept = []

    def sleep(seconds):
        slept.append(seconds)
        times[0] += seconds

    class Quick(HttpClient):
        def _once(self, url, partial):
            times[0] += 0.1
            return b"x"

    quick = Quick(RequestPolicy(pause=0.5), sleep=sleep, clock=lambda: times[0])
    for _ in range(4):
        quick.get("http://x")
    np.testing.assert_allclose(slept, [0, 0.4, 0.4, 0.4], atol=1e-9)


def test_an_answer_without_end_is_refused(service):
    with pytest.raises(BadInput, match="longer than 1000 bytes"):
        client(max_bytes=1000).get(cutout_url(ViewerRecipe(service=service.address), 150.0, 2.0))


def test_nobody_there():
    with pytest.raises(Unavailable, match="2 tries"):
        client(tries=2).get("http://127.0.0.1:9/x")


def test_a_dead_network_ends_a_list_after_three_failures(tmp_path):
    "Before: five tries and 15 s a position, one after another, and nothing said before the end"
    waits, recipe = [], ViewerRecipe(service="http://127.0.0.1:9/viewer")
    with pytest.raises(BadInput, match=r"\d failures in a row.*0 of 5000 positions.*the same command goes on"):
        fetch_cutouts(np.linspace(150, 151, 5000), np.linspace(2, 3, 5000), recipe, str(tmp_path), client(waits, connections=3))
    assert sum(waits) < 20


def test_a_service_that_dies_in_the_middle_ends_the_list_and_keeps_what_came(service, tmp_path):
    first = fetch(service, tmp_path, n=4)
    service.moods = [503] * 100
    with pytest.raises(BadInput, match="status 503"):
        fetch(service, tmp_path, n=40, client=client([], tries=2))
    service.moods = []
    asked = len(service.asked)
    assert fetch(service, tmp_path, n=4).image.tobytes() == first.image.tobytes() and len(service.asked) == asked


def test_the_circuit_closes_again_after_its_rest(service):
    times = [0.0]
    one = HttpClient(RequestPolicy(pause=0.0, tries=1, failures=2, rest=10.0), sleep=lambda s: None, clock=lambda: times[0])
    for _ in range(2):
        with pytest.raises(Unavailable):
            one.get("http://127.0.0.1:9/x")
    good = cutout_url(ViewerRecipe(service=service.address), 150.0, 2.0)
    with pytest.raises(NetworkDown):
        one.get(good)
    times[0] = 11.0
    assert one.get(good) and one.get(good)


def test_connections_are_kept_open_and_few(service, tmp_path):
    lock, now, most, ports = threading.Lock(), [0], [0], set()
    answer = service.answer

    def slow(path, query):
        with lock:
            now[0] += 1
            most[0] = max(most[0], now[0])
        time.sleep(0.03)
        with lock:
            now[0] -= 1
        return answer(path, query)

    service.answer, send = slow, service.send
    service.send = lambda to, mood, body: (ports.add(to.client_address[1]), send(to, mood, body))
    one = fetch(service, tmp_path / "a", n=12, client=client(connections=3))
    assert one.ok.all() and most[0] == 3 and len(ports) <= 3
    alone = fetch(service, tmp_path / "b", n=12)
    assert alone.image.tobytes() == one.image.tobytes() and most[0] == 3


class Headers(Service):
    "A service that sends other headers"

    def __init__(self, status=200, **headers):
        super().__init__()
        self.status, self.headers = [*(status if isinstance(status, list) else [status])], headers

    def send(self, to, mood, body):
        "The body with these headers"
        to.send_response(self.status.pop(0) if len(self.status) > 1 else self.status[0])
        body = gzip.compress(body) if self.headers.get("Content-Encoding") else body
        for name, value in ({"Content-Length": str(len(body)), "Connection": "close"} | self.headers).items():
            to.send_header(name, value)
        to.end_headers()
        to.wfile.write(body)
        to.close_connection = True


def test_a_packed_answer_is_unpacked(tmp_path):
    service = Headers(**{"Content-Encoding": "gzip"})
    assert fetch(service, tmp_path).ok.all()
    service.headers = {}
    plain = service.answer
    service.answer = lambda path, query: gzip.compress(plain(path, query))
    assert fetch(service, tmp_path / "magic").ok.all()
    service.server.shutdown()


def test_a_bad_length_costs_nothing(tmp_path):
    service = Headers(**{"Content-Length": "abc"})
    assert fetch(service, tmp_path).ok.all()
    service.server.shutdown()


@pytest.mark.parametrize(
    "text, wait",
    [
        ("7", 7),
        ("²", 1),
        ("soon", 1),
        ("-3", 1),
        ("1e3", 1),
        # the id says no time: every worker must collect the same names
        pytest.param(formatdate(time.time() + 3600, usegmt=True), 60, id="in an hour"),
    ],
)
def test_retry_after_in_every_spelling(tmp_path, text, wait):
    service, waits = Headers([503, 200], **{"Retry-After": text}), []
    assert fetch(service, tmp_path, n=1, client=client(waits)).ok.all()
    assert [w for w in waits if w > 0.5] == [wait]
    service.server.shutdown()


def test_a_redirect_to_a_file_is_refused():
    service = Headers(302, Location="file:///etc/passwd")
    with pytest.raises(BadInput, match="no address on the web"):
        client().get(cutout_url(ViewerRecipe(service=service.address), 150.0, 2.0))
    service.server.shutdown()


def bomb(sides: str, key: str) -> bytes:
    "A compressed FITS picture that announces more pixels than it has"
    out = io.BytesIO()
    fits.HDUList([fits.PrimaryHDU(), fits.CompImageHDU(np.zeros((64, 64), np.float32))]).writeto(out)
    data = out.getvalue()
    for axis in ("1", "2"):
        data = data.replace(f"{key}NAXIS{axis} =                   64".encode(), f"{key}NAXIS{axis} = {sides:>20}".encode())
    return data


def test_a_picture_that_asks_for_149_gib_is_refused_before_memory_is_taken():
    data = bomb("200000", "Z")
    assert len(data) < 20_000 and b"200000" in data
    tracemalloc.start()
    with pytest.raises(BadInput, match="announces 200000 x 200000"):
        parse_cutout(data, ViewerRecipe(), "http://viewer/x")
    assert tracemalloc.get_traced_memory()[1] < 50e6
    tracemalloc.stop()


def test_gzip_without_end_is_refused():
    with pytest.raises(BadInput, match="when unpacked"):
        parse_cutout(gzip.compress(bytes(200_000_000)), ViewerRecipe(), "http://viewer/x")
    service = Headers(**{"Content-Encoding": "gzip"})
    service.answer = lambda path, query: bytes(3_000_000)
    with pytest.raises(BadInput, match="when unpacked"):
        client(max_bytes=1_000_000).get(service.address)
    service.server.shutdown()


@settings(max_examples=80, deadline=None)
@given(where=st.floats(0, 1), change=st.binary(max_size=4), cut=st.booleans())
@example(where=0.005859375, change=b"\x00", cut=False)  # A card of the header that cannot be parsed
def test_a_damaged_answer_is_the_answer_or_one_line(where, change, cut):
    whole = cutout(150.0, 2.0, "grz", 64)
    at = int(where * (len(whole) - 4))
    data = whole[:at] if cut else whole[:at] + change + whole[at + len(change) :]
    try:
        assert parse_cutout(data, ViewerRecipe(), "http://viewer/x").image.shape == (3, 64, 64)
    except BadInput as error:
        assert len(str(error).splitlines()) == 1 and str(error).startswith("http://viewer/x: ")


def test_positions_off_the_sky_are_refused_before_asking(service, tmp_path):
    with pytest.raises(BadInput, match="position"):
        fetch_cutouts(np.array([np.nan]), np.array([0.0]), ViewerRecipe(service=service.address), str(tmp_path), client())
    assert not service.asked


def test_psfsize_of_a_moffat_is_what_the_survey_would_write():
    y, x = np.mgrid[-40:41, -40:41] * 0.262
    beta, alpha = 3.5, 1.2
    moffat = (1 + (x**2 + y**2) / alpha**2) ** -beta
    assert psfsize_of(moffat) == pytest.approx(alpha * 2 * np.sqrt(2 * np.log(2)) * 0.5 * np.sqrt(2 * beta - 1) / (beta - 1), rel=2e-3)
