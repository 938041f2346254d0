"A TAP service on this machine: the Tractor catalogues of a mock in a small database, asked in jobs as the Universal Worker Service has them"

import io
import math
import sqlite3
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs

import fitsio
import numpy as np
from astropy import units as u
from astropy.io.votable import from_table
from astropy.table import Table
from astropy_healpix import HEALPix

TABLE = "ls_dr10.tractor_s"
UWS = """<?xml version="1.0"?><uws:job xmlns:uws="http://www.ivoa.net/xml/UWS/v1.0" xmlns:xlink="http://www.w3.org/1999/xlink" version="1.1">
<uws:jobId>{id}</uws:jobId><uws:phase>{phase}</uws:phase><uws:executionDuration>600</uws:executionDuration>{error}
<uws:results>{result}</uws:results></uws:job>"""


def tractor_rows(root: str) -> Table:
    "Every row of every brick of a mock, in lower case, with its HEALPix cell at nside 4096"
    files = sorted(Path(root).rglob("tractor-*.fits"))
    rows = np.concatenate([fitsio.read(str(f)) for f in files])
    names = [name for name in rows.dtype.names if rows[name].ndim == 1]
    table = Table({name: np.asarray(rows[name]).astype(rows[name].dtype.newbyteorder("=")) for name in names})
    grid = HEALPix(nside=4096, order="nested")
    table["nest4096"] = np.asarray(grid.lonlat_to_healpix(table["ra"] * u.deg, table["dec"] * u.deg), np.int64)
    return table


def database(rows: Table) -> sqlite3.Connection:
    "The rows in a database of the service's dialect; a logarithm of nothing is an error there, as it is in the real one"
    base = sqlite3.connect(":memory:", check_same_thread=False)
    base.create_function("LOG10", 1, math.log10)
    base.create_function("FLOOR", 1, math.floor)
    columns = {name: rows[name].dtype.kind for name in rows.colnames}
    base.execute(f"CREATE TABLE tractor ({', '.join(columns)})")
    values = [[str(v).strip() for v in rows[n]] if k in "SU" else rows[n].tolist() for n, k in columns.items()]
    base.executemany(f"INSERT INTO tractor VALUES ({', '.join('?' * len(columns))})", zip(*values, strict=True))
    base.execute("CREATE TABLE columns (table_name, column_name)")
    base.executemany("INSERT INTO columns VALUES (?, ?)", [(TABLE, name) for name in columns])
    return base


class TapServer:
    "The service, what it was asked, and how it shall fail"

    def __init__(self, rows: Table) -> None:
        self.rows, self.base, self.lock = rows, database(rows), threading.Lock()
        self.queries: list[str] = []
        self.deleted: list[str] = []
        self.jobs: dict[str, dict] = {}
        self.refuse_after = -1  # Jobs that are answered before the service goes away; -1: all
        self.cut_at = 0  # Rows after which an answer is cut; 0: never
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), self.handler())
        self.url = f"http://127.0.0.1:{self.server.server_port}/tap"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def answer(self, query: str) -> bytes:
        "The rows of a query as a VOTable, in the types of the catalogue"
        plain = query.replace(TABLE, "tractor").replace("TAP_SCHEMA.columns", "columns").replace(f"'{'tractor'}'", f"'{TABLE}'")
        with self.lock:
            found = self.base.execute(plain)
            names, rows = [d[0] for d in found.description], found.fetchall()
        cut = bool(self.cut_at) and len(rows) > self.cut_at
        rows = rows[: self.cut_at] if cut else rows
        types = {n: self.rows[n].dtype if n in self.rows.colnames else np.dtype(np.int64) for n in names}
        data = {}
        for i, name in enumerate(names):
            text = types[name].kind in "SU" or name == "column_name"
            data[name] = np.array([r[i] for r in rows], "U32" if text else types[name])
        votable = from_table(Table(data, names=names))
        out = io.BytesIO()
        votable.to_xml(out)
        status = b'<INFO name="QUERY_STATUS" value="OK"/>'
        after = b'<INFO name="QUERY_STATUS" value="OVERFLOW"/>' if cut else b""
        body = out.getvalue().replace(b'<RESOURCE type="results">', b'<RESOURCE type="results">' + status)
        return body.replace(b"</RESOURCE>", after + b"</RESOURCE>")

    def handler(server) -> type[BaseHTTPRequestHandler]:
        "What answers a request"

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *args: object) -> None:
                "Nothing"

            def say(self, code: int, body: bytes = b"", kind: str = "text/xml", **headers: str) -> None:
                self.send_response(code)
                for name, value in {"Content-Type": kind, "Content-Length": str(len(body)), **headers}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(body)

            def form(self) -> dict[str, str]:
                text = self.rfile.read(int(self.headers.get("Content-Length", 0))).decode()
                return {k.upper(): v[0] for k, v in parse_qs(text).items()}

            def do_POST(self) -> None:
                form, path = self.form(), self.path.removeprefix("/tap")
                if path == "/sync":
                    return self.say(200, server.answer(form["QUERY"]), "application/x-votable+xml")
                if path == "/async":
                    if server.refuse_after == 0:
                        return self.say(503, b"gone for lunch", "text/plain")
                    server.refuse_after -= 1
                    name = f"job{len(server.jobs)}"
                    server.jobs[name] = {"query": form["QUERY"], "phase": "PENDING", "polls": 0}
                    server.queries.append(form["QUERY"])
                    return self.say(303, Location=f"{server.url}/async/{name}")
                job = server.jobs[path.split("/")[2]]
                if path.endswith("/phase") and form.get("PHASE") == "RUN":
                    job["phase"] = "EXECUTING"
                self.say(303, Location=f"{server.url}/async/{path.split('/')[2]}")

            def do_GET(self) -> None:
                parts = self.path.partition("?")[0].removeprefix("/tap").strip("/").split("/")
                if len(parts) < 2 or parts[1] not in server.jobs:
                    return self.say(404, b"", "text/plain")
                job = server.jobs[parts[1]]
                if parts[2:] == ["results", "result"]:
                    return self.say(200, job["body"], "application/x-votable+xml")
                if job["phase"] == "EXECUTING":
                    try:
                        job["body"], job["phase"] = server.answer(job["query"]), "COMPLETED"
                    except sqlite3.Error as error:
                        job["phase"], job["said"] = "ERROR", str(error)
                if parts[2:] == ["phase"]:
                    return self.say(200, job["phase"].encode(), "text/plain")
                result = f'<uws:result id="result" xlink:href="{server.url}/async/{parts[1]}/results/result"/>' if "body" in job else ""
                error = (
                    f'<uws:errorSummary type="fatal" hasDetail="false"><uws:message>{job["said"]}</uws:message></uws:errorSummary>'
                    if "said" in job
                    else ""
                )
                self.say(200, UWS.format(id=parts[1], phase=job["phase"], result=result, error=error).encode())

            def do_DELETE(self) -> None:
                server.deleted.append(self.path.rsplit("/", 1)[-1])
                self.say(200)

        return Handler

    def close(self) -> None:
        "Ends it"
        self.server.shutdown()
        self.server.server_close()
