"A cutout service on this machine that behaves, and misbehaves, as the real one is known to, for the tests that ask one"

import io
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlparse

import numpy as np
from astropy.io import fits

DEFAULTS = "grz"  # What the server falls back on
HAS = "griz"


def fits_bytes(hdus):
    "Bytes of a FITS file"
    out = io.BytesIO()
    fits.HDUList(hdus).writeto(out)
    return out.getvalue()


def cutout(ra, dec, bands, size, scale=0.262, cap=3000, dtype=np.float32, kinds=("IMAGE", "INVVAR", "MASKBITS"), galaxy=0.0):
    "What fits-cutout sends, its silent habits included"
    bands = bands if all(band in HAS for band in bands) else DEFAULTS
    size = min(size, cap)
    draw = np.random.default_rng([round(ra * 1e4), round(abs(dec) * 1e4)])
    sky = draw.normal(0.01, 0.004, (len(bands), size, size)).astype(dtype)
    y, x = np.mgrid[:size, :size] - (size - 1) / 2
    sky += (galaxy * np.exp(-np.hypot(x, y) / 4)).astype(dtype)
    covered = dec > -85
    head = fits.Header({"BANDS": bands, "IMAGETYP": "IMAGE", "CD1_1": -scale / 3600, "CD2_2": scale / 3600})
    planes = {"IMAGE": sky * covered, "INVVAR": np.full(sky.shape, 6e4, np.float32) * covered, "MASKBITS": np.zeros((size, size), np.int32)}
    if len(bands) == 1:
        planes |= {"IMAGE": planes["IMAGE"][0], "INVVAR": planes["INVVAR"][0]}
    hdus = [fits.PrimaryHDU(planes["IMAGE"], head)]
    hdus += [fits.ImageHDU(planes[kind], fits.Header({"IMAGETYP": kind, "BANDS": bands})) for kind in kinds[1:]]
    return fits_bytes(hdus)


def psf(bands, fwhm=1.3):
    "What coadd-psf sends"
    y, x = np.mgrid[-31:32, -31:32] * 0.262
    image = np.exp(-(x**2 + y**2) * 4 * np.log(2) / fwhm**2).astype(np.float32)
    kinds = [fits.PrimaryHDU, *[fits.ImageHDU] * 9]
    return fits_bytes([kind(image, fits.Header({"BAND": band, "BANDS": bands})) for kind, band in zip(kinds, bands, strict=False)])


class Service:
    "A local server; `moods` are spent one a request, then it behaves; `galaxy` is the brightest pixel of one in the middle [nmgy]"

    def __init__(self, galaxy=0.0):
        service = self
        self.moods, self.asked, self.running, self.galaxy = [], [], 0, galaxy

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self):
                service.asked.append(self.path)
                parts = urlparse(self.path)
                query = {key: values[0] for key, values in parse_qs(parts.query).items()}
                mood = service.moods.pop(0) if service.moods else "good"
                body = service.answer(parts.path, query)
                try:
                    service.send(self, mood, body)
                except (BrokenPipeError, ConnectionResetError):
                    pass

            def log_message(self, *args):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.address = f"http://127.0.0.1:{self.server.server_port}/viewer"

    def answer(self, path, query):
        "A proper answer"
        if "coadd-psf" in path:
            return psf(query["bands"])
        place, size = (float(query["ra"]), float(query["dec"])), int(query["size"])
        return cutout(*place, query["bands"], size, float(query["pixscale"]), galaxy=self.galaxy)

    def send(self, to, mood, body):
        "The answer in a mood"
        status = mood if isinstance(mood, int) else 200
        if mood == "html":
            body = b"<html><body><h1>Error</h1> No overlap with the <b>layer</b></body></html>"
        to.send_response(status)
        if status == 429:
            to.send_header("Retry-After", "3")
        to.send_header("Content-Length", str(len(body)))
        to.end_headers()
        if mood == "cut off":
            to.wfile.write(body[: len(body) // 2])
            to.close_connection = True
        elif mood == "silent":
            time.sleep(4)
        elif mood == "trickle":
            for k in range(100):
                to.wfile.write(body[k : k + 1])
                to.wfile.flush()
                time.sleep(0.05)
        else:
            to.wfile.write(body)
