"Grading without a browser: agreement against other codes, bad input, who is answered, and marks that outlive their server"

import http.client
import itertools
import json
import os
import socket
import sqlite3
import sys
import threading
from contextlib import contextmanager
from urllib.parse import urlparse

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sklearn.metrics import cohen_kappa_score

from dark_halo_scope.base.errors import BadInput
from dark_halo_scope.base.receipts import write_table
from dark_halo_scope.command.cli import main
from dark_halo_scope.search.agreement import cohen_kappa, confusion, fleiss_kappa, votes
from dark_halo_scope.search.grading import Deck, GradeBook, Mark, add_cards, add_graders, opinions, read_deck, record, trail
from dark_halo_scope.search.grading_server import admitted, desk_for, grading_app, public_host, state_of
from dark_halo_scope.stamps.codec import encode

from .grading_desk import NAMES, Served, images, write_list


@pytest.mark.parametrize("seed", range(6))
def test_kappa_of_two_is_scikit_learns(seed):
    rng = np.random.default_rng(seed)
    a, b = rng.integers(-1, 4, (2, 200))
    b = np.where(rng.uniform(size=200) < seed / 6, a, b)
    both = (a >= 0) & (b >= 0)
    for weighting, theirs in (("none", None), ("linear", "linear"), ("quadratic", "quadratic")):
        other = cohen_kappa_score(a[both], b[both], weights=theirs, labels=range(4))
        assert float(cohen_kappa(confusion(a, b), weighting)) == pytest.approx(other, abs=1e-12)


def test_kappa_of_several_is_the_count_of_agreeing_pairs():
    rng = np.random.default_rng(1)
    numbers = np.where(rng.uniform(size=(5, 80)) < 0.5, rng.integers(0, 4, 80), rng.integers(0, 4, (5, 80)))
    agreed = np.mean([a == b for a, b in itertools.combinations(numbers, 2)])
    chance = sum(float(np.mean(numbers == g)) ** 2 for g in range(4))
    assert float(fleiss_kappa(votes(numbers))) == pytest.approx((agreed - chance) / (1 - chance), abs=1e-12)
    assert np.isnan(fleiss_kappa(votes(np.zeros((3, 10), int))))
    with pytest.raises(BadInput, match="the same number"):
        fleiss_kappa(np.array([[2, 0, 0, 0], [1, 0, 0, 0]]))


# ---- bad input


def spoilt(folder, how):
    "Arguments of a list with one thing wrong, and what the message must say"
    arguments = write_list(folder, n=6)
    table, stamps = pq.read_table(folder / "candidates.parquet"), pq.read_table(folder / "stamps.parquet")
    others = {"candidates.parquet": table, "stamps.parquet": stamps}
    if how == "empty":
        others["candidates.parquet"], says = table.slice(0, 0), "candidates.parquet: the candidate list is empty"
    elif how == "name twice":
        others["candidates.parquet"], says = pa.concat_tables([table, table.slice(2, 1)]), NAMES[2]
    elif how == "galaxy twice":
        same = table.set_column(0, "name", pa.array([*NAMES[:5], "another name"])).set_column(
            3, "objid", pa.array([0, 1, 2, 3, 4, 4], pa.int32())
        )
        others["candidates.parquet"], says = same, "(10000, 331, 4)"
    elif how == "a stamp missing":
        others["stamps.parquet"], says = stamps.slice(2), f"2 of 6 candidates (first: {NAMES[4]})"
    elif how == "a stamp twice":
        others["stamps.parquet"], says = pa.concat_tables([stamps, stamps.slice(0, 1)]), "more than one stamp"
    elif how == "no cutout":
        unusable = stamps.set_column(stamps.column_names.index("cutout_ok"), "cutout_ok", pa.array([True, False] * 3))
        others["stamps.parquet"], says = unusable, "no usable stamp for 3 of 6"
    elif how == "blank":
        pixels = images(6)
        pixels[3] = 0
        others["stamps.parquet"], says = pa.table({"name": NAMES[:6], **encode(pixels, "float16")}), NAMES[3]
    elif how == "no name":
        others["candidates.parquet"], says = table.drop_columns(["name"]), "lacks column 'name'"
    else:
        (folder / "names.csv").write_text("name\nDESI-000.0000+00.0000\n")
        arguments, says = [arguments[0], "--lenses", str(folder / "names.csv")], "names.csv: 1 of 1 names are not candidates"
    for name, one in others.items():
        write_table(one, folder / name)
    return arguments, says


HOWS = ("empty", "name twice", "galaxy twice", "a stamp missing", "a stamp twice", "no cutout", "blank", "no name", "unknown name")


@pytest.mark.parametrize("how", HOWS)
def test_a_list_that_cannot_be_graded_is_one_line(tmp_path, how):
    arguments, says = spoilt(tmp_path, how)
    with pytest.raises(BadInput) as refusal:
        read_deck(arguments[0], lenses=arguments[2])
    assert says in str(refusal.value) and "\n" not in str(refusal.value)


def test_stamps_that_are_not_there(tmp_path):
    arguments = write_list(tmp_path, n=3)
    (tmp_path / "stamps.parquet").unlink()
    with pytest.raises(BadInput, match=r"or stamps.parquet beside it"):
        read_deck(arguments[0])
    with pytest.raises(BadInput, match="nowhere.*expected a Parquet file of stamps"):
        read_deck(arguments[0], stamps=str(tmp_path / "nowhere"))


def dhs(monkeypatch, capsys, *arguments):
    "The command in this process: exit code, output, errors"
    monkeypatch.setattr(sys, "argv", ["dhs", *arguments])
    with pytest.raises(SystemExit) as end:
        main()
    return end.value.code or 0, *capsys.readouterr()


def test_the_command_says_so_and_leaves_nothing(tmp_path, monkeypatch, capsys):
    arguments, says = spoilt(tmp_path, "a stamp missing")
    code, out, err = dhs(monkeypatch, capsys, "grade", *arguments)
    assert code == 2 and says in err and err.count("\n") == 1 and not out
    assert not list(tmp_path.glob("*.sqlite*"))


def test_pixels_find_their_candidate_in_a_folder_of_files(tmp_path):
    arguments = write_list(tmp_path, n=30, lenses=3, others=2)
    (tmp_path / "stamps").mkdir()
    whole = pq.read_table(tmp_path / "stamps.parquet")
    for i in range(3):
        write_table(whole.slice(10 * i, 10), tmp_path / "stamps" / f"{i}.parquet")
    (tmp_path / "stamps.parquet").unlink()
    deck = read_deck(arguments[0], lenses=arguments[2], non_lenses=arguments[4])
    assert np.allclose(deck.images[:30], images(30), rtol=2e-3, atol=2e-5)  # as written, not in the reversed order of the stamps
    assert deck.truth == ("",) * 30 + ("lens",) * 3 + ("non-lens",) * 2


# ---- blindness and the book


def toy_deck(n, truth=None):
    return Deck(tuple(NAMES[:n]), images(n), ("g", "r", "z"), truth or ("",) * n)


def test_nothing_tells_a_planted_card(tmp_path):
    plain, planted = toy_deck(12), toy_deck(12, ("lens", "non-lens", "") * 4)
    book = GradeBook(tmp_path / "book.sqlite")
    secret = add_graders(book, ["Ana"])["Ana"]
    assert state_of(plain, desk_for(plain, "Ana", secret), book) == state_of(planted, desk_for(planted, "Ana", secret), book)
    assert not any(name in json.dumps(state_of(planted, desk_for(planted, "Ana", secret), book)) for name in NAMES[:12])


def test_two_people_at_once_from_two_processes_worth_of_connections(tmp_path):
    deck, path = toy_deck(20), tmp_path / "book.sqlite"
    add_graders(GradeBook(path), ["Ana", "Ben"])
    add_cards(GradeBook(path), deck)

    def work(grader, book):
        for i in range(150):
            record(book, grader, [Mark(f"{i:08d}", NAMES[i % 20], "ABC"[i % 3])])

    threads = [threading.Thread(target=work, args=(g, b)) for g, b in (("Ana", GradeBook(path)), ("Ben", GradeBook(path)))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert GradeBook(path).ask("SELECT grader, count(*) FROM mark GROUP BY grader") == [("Ana", 150), ("Ben", 150)]
    assert opinions(GradeBook(path), "Ben")[NAMES[9]] == ("ABC"[149 % 3], "") and len(trail(GradeBook(path), "Ana")) == 150


def test_marks_come_whole_or_not_at_all(tmp_path):
    book = GradeBook(tmp_path / "book.sqlite")
    add_graders(book, ["Ana"])
    add_cards(book, toy_deck(2))
    with pytest.raises(sqlite3.IntegrityError):
        record(book, "Ana", [Mark("00000001", NAMES[0], "A"), Mark("00000002", "not a card", "A")])
    assert opinions(book, "Ana") == {} and record(book, "Ana", [Mark("00000001", NAMES[0], "A")]) == 1


def test_a_book_of_something_else_is_left_alone(tmp_path):
    with sqlite3.connect(tmp_path / "other.sqlite") as other:
        other.execute("CREATE TABLE mine (x)")
    with pytest.raises(BadInput, match="something else"):
        GradeBook(tmp_path / "other.sqlite")
    with pytest.raises(BadInput, match="a local path"):
        GradeBook("s3://bucket/grades.sqlite")
    with pytest.raises(BadInput, match="no such file"):
        GradeBook(tmp_path / "none.sqlite", make=False)
    assert not (tmp_path / "none.sqlite").exists()


# ---- the server


@contextmanager
def serving(folder):
    with open(folder / "log", "w") as log, Served(write_list(folder), ["Ana", "Ben"], log=log) as server:
        server.folder = folder
        yield server


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    "One server for all tests that leave it as it was"
    with serving(tmp_path_factory.mktemp("grading")) as server:
        yield server


def ask(port, method, path, headers=None, body=None, host=None, to="127.0.0.1"):
    "One request with exactly this path and these headers: status, headers, body"
    connection = http.client.HTTPConnection(to, port, timeout=20)
    connection.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
    for name, value in [("Host", f"127.0.0.1:{port}" if host is None else host), *(headers or {}).items()]:
        if value:
            connection.putheader(name, value)
    if body is not None:
        connection.putheader("Content-Length", str(len(body)))
    connection.endheaders(body)
    answer = connection.getresponse()
    out = answer.status, dict(answer.getheaders()), answer.read()
    connection.close()
    return out


def secret_of(served, grader):
    return urlparse(served.addresses[grader]).path.strip("/")


def grade_body(served, grader, ids=("00000001",)):
    state = json.loads(ask(served.port, "GET", f"/{secret_of(served, grader)}/state")[2])
    return state, [{"id": i, "card": state["cards"][0], "grade": "A", "comment": "", "seconds": 1, "undo": False} for i in ids]


def test_no_request_without_the_secret_is_answered(served):
    secret = secret_of(served, "Ana")
    wrong = [
        "",
        secret[:-1],
        secret + "A",
        secret.swapcase(),
        "A" * len(secret),
        "%00",
        secret.replace(secret[3], "%" + f"{ord(secret[3]):02x}")[:-1],
    ]
    for prefix, rest in itertools.product(wrong, ("/", "/state", "/grading.js", "/grading.css", "/grades", "/card/0.png", "/nothing")):
        status, headers, body = ask(served.port, "GET", f"/{prefix}{rest}" if prefix else rest)
        assert (status, body) == (403, b""), (prefix, rest)
        assert "set-cookie" not in {h.lower() for h in headers} and not any("grading" in v for v in headers.values())


def test_no_other_origin_or_host_is_answered(served):
    port, page = served.port, f"/{secret_of(served, 'Ana')}/"
    good = f"http://127.0.0.1:{port}"
    assert (
        ask(port, "GET", page)[0]
        == ask(port, "GET", page, {"Origin": good})[0]
        == ask(port, "GET", page, host=f"localhost:{port}")[0]
        == 200
    )
    for host in ("evil.example", f"evil.example:{port}", "127.0.0.1", f"127.0.0.1:{port + 1}", f"127.0.0.2:{port}", "0.0.0.0"):
        assert ask(port, "GET", page, host=host)[::2] == (403, b""), host
    for origin in (
        "null",
        "http://evil.example",
        f"https://127.0.0.1:{port}",
        f"http://127.0.0.1:{port + 1}",
        f"http://localhost:{port}",
        good + ".evil.example",
    ):
        assert ask(port, "GET", page, {"Origin": origin})[::2] == (403, b""), origin
    for site in ("cross-site", "same-site"):
        assert ask(port, "GET", page, {"Sec-Fetch-Site": site})[0] == 403
    assert ask(port, "GET", page, host=" ")[0] in (400, 403)
    for method in ("OPTIONS", "PUT", "DELETE", "TRACE"):
        assert ask(port, method, page, {"Origin": good})[0] in (403, 405)
    assert not any(name.lower().startswith("access-control") for name in ask(port, "GET", page, {"Origin": good})[1])
    json_ = {"Content-Type": "application/json"}
    body = json.dumps({"marks": grade_body(served, "Ana")[1]}).encode()
    for headers in (json_, json_ | {"Origin": "null"}, json_ | {"Origin": "http://evil.example"}):
        assert ask(port, "POST", page + "grades", headers, body)[0] == 403
    assert ask(port, "POST", page + "grades", {"Origin": good, "Content-Type": "text/plain"}, body)[0] == 400  # what a form can send
    assert GradeBook(served.folder / "candidates.grades.sqlite").ask("SELECT count(*) FROM mark") == [(0,)]


def test_no_path_outside_the_product_is_served(served):
    port, page = served.port, f"/{secret_of(served, 'Ana')}"
    book = "candidates.grades.sqlite"
    tries = [
        "..",
        f"../{book}",
        f"../../{book}",
        f"..%2f{book}",
        f"%2e%2e/{book}",
        f"..\\{book}",
        book,
        "grading.html",
        "grading.py",
        "__init__.py",
        "card/",
        "card/..png",
    ]
    tries += [
        f"card/../../{book}",
        "card/%2e%2e%2fstate.png",
        "/etc/passwd",
        "%2fetc%2fpasswd",
        "../../../../../../etc/passwd",
        "grading.js/../grading.py",
        "state/x",
        "docs",
    ]
    for path in tries:
        status, _, body = ask(port, "GET", f"{page}/{path}")
        assert status in (403, 404) and len(body) < 30, path
    for name, kind in (("", "text/html"), ("grading.js", "text/javascript"), ("grading.css", "text/css"), ("state", "application/json")):
        status, headers, body = ask(port, "GET", f"{page}/{name}")
        headers = {k.lower(): v for k, v in headers.items()}
        assert status == 200 and headers["content-type"].startswith(kind) and len(body) > 500
        assert headers["x-content-type-options"] == "nosniff" and "default-src 'none'" in headers["content-security-policy"]
        assert headers["cross-origin-resource-policy"] == "same-origin" and headers["referrer-policy"] == "no-referrer"


def test_only_this_machine_can_knock(served):
    for address in {socket.gethostbyname(socket.gethostname()), "127.0.0.2"} - {"127.0.0.1"}:
        with pytest.raises(OSError):
            ask(served.port, "GET", "/", to=address)


def test_nonsense_is_refused_and_nothing_kept(served):
    port, page = served.port, f"/{secret_of(served, 'Ben')}/grades"
    headers = {"Origin": f"http://127.0.0.1:{port}", "Content-Type": "application/json"}
    _, (mark,) = grade_body(served, "Ben")
    other = grade_body(served, "Ana")[1][0]["card"]  # another grader's key of a card
    bad = [b"", b"{", b"[]", b"[" * 100_000, b'{"marks": 3}', b"\xff\xfe", b"x" * 300_000]
    bad += [
        json.dumps({"marks": [mark, mark | one]}).encode()
        for one in ({"grade": "Z"}, {"card": other}, {"card": []}, {"comment": None}, {"seconds": 1e9}, {"id": ""})
    ]
    for body in bad:
        status, _, answer = ask(port, "POST", page, headers, body)
        assert status == 400 and json.loads(answer)["error"].startswith("mark"), body[:60]
    assert GradeBook(served.folder / "candidates.grades.sqlite").ask("SELECT count(*) FROM mark WHERE grader = 'Ben'") == [(0,)]


@pytest.mark.parametrize("port", ["taken", -1, 70000])
def test_a_port_that_will_not_do_is_one_line(served, tmp_path, monkeypatch, capsys, port):
    port = served.port if port == "taken" else port
    code, _, err = dhs(monkeypatch, capsys, "grade", *write_list(tmp_path, n=2), "--port", str(port))
    assert code == 2 and f"port {port}: cannot be used" in err and err.count("\n") == 1


def test_the_server_keeps_no_log_of_secrets(served):
    "Of what is answered, and of what is refused"
    grade_body(served, "Ana")
    assert ask(served.port, "GET", f"/{secret_of(served, 'Ben')}/nothing")[0] == 404
    log = (served.folder / "log").read_text() + served.printed()
    assert not any(secret_of(served, grader) in log for grader in ("Ana", "Ben"))
    assert os.stat(served.folder / "candidates.grades.sqlite").st_mode & 0o077 == 0


def test_the_export_from_the_command_line(tmp_path, monkeypatch, capsys):
    arguments = write_list(tmp_path, n=10, lenses=5, others=3)  # of five lenses one is an example
    deck, book = read_deck(arguments[0], lenses=arguments[2], non_lenses=arguments[4]), GradeBook(tmp_path / "candidates.grades.sqlite")
    add_graders(book, ["Ana", "Ben", "Eva"])
    add_cards(book, deck)
    for grader, grades in (("Ana", "AABC" * 5), ("Ben", "ABBC" * 5), ("Eva", "AAAA" * 5)):
        record(book, grader, [Mark(f"{i:08d}", n, g, "=comment, with a comma") for i, (n, g) in enumerate(zip(deck.names, grades))])
    code, out, _ = dhs(monkeypatch, capsys, "grade", *arguments, "--export", str(tmp_path / "out"))
    assert code == 0 and "Ana: 17 of 17 graded" in out and "kappa (fleiss)" in out
    graded = pd.read_csv(tmp_path / "out" / "candidates.csv", keep_default_na=False)
    assert graded["grade"].tolist() == list("AABCAABCAA") and pq.read_table(tmp_path / "out" / "candidates.parquet")[
        "grade"
    ].to_pylist() == list("AABCAABCAA")
    report = json.loads((tmp_path / "out" / "agreement.json").read_text())
    assert [k["n"] for k in report["agreement"]] == [10] * 7 and report["agreement"][-1]["kind"] == "fleiss"
    ana = {(w["at_least"], w["truth"]): (w["value"], w["n"]) for w in report["planted"] if w["grader"] == "Ana"}
    assert ana[("B", "lens")] == (0.75, 4) and ana[("A", "non-lens")] == (1 / 3, 3)  # B C A A, and B C A
    grades = pd.read_csv(tmp_path / "out" / "grades.csv")
    assert (
        len(grades) == 51
        and set(grades["comment"]) == {"'=comment, with a comma"}  # no spreadsheet runs it
        and (tmp_path / "out" / "_votes.parquet.receipt.json").exists()
    )
    assert len(list((tmp_path / "out" / "pictures").glob("*.png"))) == 17 and report["weighed"].keys() == set(deck.names[:10])
    again = pd.read_csv(tmp_path / "out" / "disagreements.csv")["name"].tolist()
    assert again == [n for n, g in zip(deck.names[:10], "AABCAABCAA") if g == "C"] and f"{len(again)} candidates with grades" in out
    second = read_deck(arguments[0], only=str(tmp_path / "out" / "disagreements.csv"))
    assert list(second.names) == again and np.array_equal(second.images[0], deck.images[deck.names.index(again[0])])
    (tmp_path / "strange.csv").write_text("name\nnobody\n")
    with pytest.raises(BadInput, match="1 of 1 names are not candidates"):
        read_deck(arguments[0], only=str(tmp_path / "strange.csv"))


def test_how_many_are_examples_and_how_many_planted_is_asked_for_by_command(tmp_path, monkeypatch, capsys):
    "Of twelve lenses and eight others: two and one of the words, the numbers of the options, and the help that names both"
    arguments = write_list(tmp_path, n=10, lenses=12, others=8)
    told = []
    monkeypatch.setattr("dark_halo_scope.search.grading_server.serve_grading", lambda deck, *rest: told.append(deck))
    for options, examples, planted in (([], 5, 14), (["--examples", "1", "--plants", "4"], 2, 8), (["--examples", "0"], 0, 16)):
        code, out, _ = dhs(monkeypatch, capsys, "grade", *arguments, *options)
        deck = told.pop()
        assert code == 0 and (len(deck.examples.names) if deck.examples else 0) == examples
        assert sum(t != "" for t in deck.truth) == planted and f"{10 + planted} cards, {planted} of them planted" in out
    code, out, _ = dhs(monkeypatch, capsys, "grade", "--help")
    assert code == 0 and "--examples" in out and "--plants" in out and "as hard as" in " ".join(out.split())
    code, _, err = dhs(monkeypatch, capsys, "grade", *arguments, "--examples", "-1")
    assert code == 2 and "'--examples'" in err and "Traceback" not in err


def test_a_proxy_of_this_machine_is_let_in_under_its_own_name_only():
    "What a proxy sends on: the public host, the browser's https origin"
    tokens, hosts = {"Ana": "s" * 43}, ("127.0.0.1:8765", *public_host("https://desk.example.org/grading"))

    def who(host: str, origin: str) -> str | None:
        return admitted("POST", f"/{tokens['Ana']}/grades", [(b"host", host.encode()), (b"origin", origin.encode())], tokens, hosts)

    assert who("desk.example.org", "https://desk.example.org") == who("127.0.0.1:8765", "http://127.0.0.1:8765") == "Ana"
    assert who("desk.example.org", "https://evil.example") is who("127.0.0.1:8765", "https://127.0.0.1:8765") is None
    for wrong in ("desk.example.org", "ftp://desk.example.org", "https://"):
        with pytest.raises(BadInput, match="--address"):
            public_host(wrong)


def test_the_page_is_in_the_package():
    assert callable(grading_app(toy_deck(1), None, {}, ()))


@pytest.fixture
def own(tmp_path):
    "A server of a test's own"
    with serving(tmp_path) as server:
        yield server


def test_what_was_acknowledged_outlives_a_killed_server(own):
    "Marks are posted as fast as they go, by two graders; the server is killed in the middle of them"
    said = {"Ana": [], "Ben": []}

    def work(grader):
        page, i = f"/{secret_of(own, grader)}/grades", 0
        cards = json.loads(ask(own.port, "GET", page.replace("grades", "state"))[2])["cards"]
        headers = {"Origin": f"http://127.0.0.1:{own.port}", "Content-Type": "application/json"}
        try:
            while True:
                mark = {"id": f"{i:08d}", "card": cards[i % 50], "grade": "ABC"[i % 3], "comment": "", "seconds": 0, "undo": False}
                said[grader] += json.loads(ask(own.port, "POST", page, headers, json.dumps({"marks": [mark]}).encode())[2])["saved"]
                i += 1
        except (OSError, ValueError, http.client.HTTPException):
            return

    threads = [threading.Thread(target=work, args=(grader,)) for grader in said]
    for thread in threads:
        thread.start()
    threads[0].join(1.5)
    own.kill()
    for thread in threads:
        thread.join()
    book = GradeBook(own.folder / "candidates.grades.sqlite")
    kept = {g: [i for (i,) in book.ask("SELECT id FROM mark WHERE grader = ? ORDER BY seq", g)] for g in said}
    assert all(len(v) > 20 for v in said.values())
    assert all(
        kept[g][: len(said[g])] == said[g] and len(kept[g]) - len(said[g]) in (0, 1) for g in said
    )  # one may lie between disk and answer
    assert book.ask("PRAGMA integrity_check") == [("ok",)]
