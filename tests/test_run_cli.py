"The command: one line whatever goes wrong, quick to refuse, and recipes that make sense"

import os
import resource
import signal
import subprocess
import sys
import time

import nbformat
import pytest

from dark_halo_scope.base.config import parse_yaml
from dark_halo_scope.base.errors import BadInput
from dark_halo_scope.command import cli
from dark_halo_scope.run.engine import run_spark
from dark_halo_scope.run.phases import load_recipe


def said_by(monkeypatch, capsys, *arguments: str) -> tuple[int, str]:
    "Exit code and error stream of the command, in this process"
    monkeypatch.setattr(sys, "argv", ["dhs", *arguments])
    with pytest.raises(SystemExit) as end:
        cli.main()
    return end.value.code or 0, capsys.readouterr().err


def test_an_exception_that_nobody_foresaw_is_one_line(tmp_path, monkeypatch, capsys):
    from dark_halo_scope.trust import generations

    def broken(uri):
        raise KeyError("rows")

    monkeypatch.setattr(generations, "from_run", broken)
    code, said = said_by(monkeypatch, capsys, "compare", "runs/a", "--out", str(tmp_path / "x.md"))
    assert code == 2 and said.startswith("dhs: ") and "KeyError: 'rows'" in said and len(said.splitlines()) == 1
    monkeypatch.setattr(sys, "argv", ["dhs", "compare", "runs/a", "--out", str(tmp_path / "x.md"), "--debug"])
    with pytest.raises(KeyError):
        cli.main()


def test_the_version_is_an_option_and_a_command(monkeypatch, capsys):
    assert said_by(monkeypatch, capsys, "--version")[0] == said_by(monkeypatch, capsys, "version")[0] == 0


@pytest.mark.parametrize("dec", ["-2.2", "-.5", "-2"])
def test_a_negative_declination_is_an_argument(monkeypatch, capsys, tmp_path, dec):
    code, said = said_by(monkeypatch, capsys, "chance", "150.1", dec, "--theta-e", "1.5", "--out", str(tmp_path))
    assert code == 2 and "run phase6_completeness first" in said


def test_ctrl_c_is_one_line(tmp_path):
    code = "from dark_halo_scope.command import cli; cli.main()"
    wait = "import sys, time; sys.argv = ['dhs', 'compare', 'x']; import dark_halo_scope.trust.generations as g; "
    wait += "g.from_run = lambda uri: (open('started', 'w').close(), time.sleep(60)); "
    child = subprocess.Popen(
        [sys.executable, "-c", wait + code], stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=tmp_path, start_new_session=True
    )
    while not (tmp_path / "started").exists() and child.poll() is None:
        time.sleep(0.05)
    os.killpg(child.pid, signal.SIGINT)
    _, said = child.communicate(timeout=60)
    assert child.returncode == 130 and said.splitlines() == ["dhs: stopped; what was finished is kept, the same command goes on"], said


NOISY = """
import os, time
from pathlib import Path
os.write(2, b"Traceback of a worker\\n")
Path("started").touch()
time.sleep(wait)
"""


@pytest.mark.parametrize(
    ("stopped", "forked"),
    [
        (True, True),
        pytest.param(False, False, marks=pytest.mark.slow),
        pytest.param(False, True, marks=pytest.mark.slow),
        pytest.param(True, False, marks=pytest.mark.slow),
    ],
)
def test_what_a_kernel_says_is_in_a_file_and_ctrl_c_is_one_line(tmp_path, stopped, forked):
    "A notebook whose kernel, forked or from nothing, writes to its terminal, to its end or to Ctrl-C"
    cells = [
        nbformat.v4.new_code_cell(f"wait = {60 if stopped else 0}", metadata={"tags": ["parameters"]}),
        nbformat.v4.new_code_cell(NOISY),
    ]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), tmp_path / "phase0_noise.ipynb")
    code = "import sys; from pathlib import Path; from dark_halo_scope.command import cli; from dark_halo_scope.run import forks, phases; "
    code += f"f = forks.Forks(); f.begin() if {forked} else None; "
    code += "phases.phase_notebook = lambda phase: Path('phase0_noise.ipynb').resolve(); "
    code += "cli.app.command('noise')(lambda: print(phases.run_notebook('phase0_noise', {}, 'logs/noise.ipynb', f))); sys.argv = ['dhs', 'noise']; cli.main()"
    child = subprocess.Popen(
        [sys.executable, "-c", code], stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=tmp_path, start_new_session=True
    )
    while not (tmp_path / "started").exists() and child.poll() is None:
        time.sleep(0.2)
    if stopped:
        time.sleep(1)
        os.killpg(child.pid, signal.SIGINT)
    _, said = child.communicate(timeout=60)
    assert said.splitlines() == (["dhs: stopped; what was finished is kept, the same command goes on"] if stopped else []), said
    assert child.returncode == (130 if stopped else 0) and (tmp_path / "logs" / "noise.err").read_text().startswith(
        "Traceback of a worker\n"
    )


@pytest.mark.parametrize(
    ("override", "says"), [("mock.dec=-100", "dec=-100"), ("mock.lrg=3", "did you mean 'lrgs'"), ("rooms=[moc]", "no room")]
)
def test_a_mock_that_cannot_be_made_is_refused_when_the_recipe_is_read(override, says, tmp_path):
    with pytest.raises(BadInput, match=says):
        load_recipe("toy", [override], str(tmp_path))


def test_a_refusal_takes_a_small_part_of_what_a_phase_imports(tmp_path):
    "In processor time, beside the import in the same minute"

    def spent(*arguments):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, *arguments], cwd=tmp_path, capture_output=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    whole = spent("-c", "import dark_halo_scope.run.phases")
    for line in ("--help", "fetc", "version", "run phase9"):
        assert spent("-m", "dark_halo_scope", *line.split()) < whole / 3, line


HEAVY = {"torch", "numba", "pandas", "scipy", "astropy", "sklearn", "matplotlib", "h5py", "pyspark", "papermill", "IPython"}


@pytest.mark.parametrize("line", ["--help", "fetc", "version", "run phase9"])
def test_an_answer_without_work_imports_nothing_to_work_with(line, tmp_path):
    "Half a second is 400 modules; a phase imports 3,000"
    command = [sys.executable, "-X", "importtime", "-m", "dark_halo_scope", *line.split()]
    said = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True).stderr
    modules = {row.rsplit("|", 1)[-1].strip() for row in said.splitlines() if row.startswith("import time:")}
    assert "typer" in modules and not HEAVY & {name.split(".")[0] for name in modules} and len(modules) < 500


def test_no_java_is_one_line(monkeypatch):
    pytest.importorskip("pyspark")
    monkeypatch.delenv("PYSPARK_GATEWAY_PORT", raising=False)
    monkeypatch.setenv("JAVA_HOME", "/nowhere")
    with pytest.raises(BadInput, match="finds no Java .JAVA_HOME=/nowhere.; expected Java 17"):
        run_spark(len, [("a", (1,))], "local[1]")


@pytest.mark.parametrize(
    "override, says",
    [
        ("paint.beta=-3", "expected above 1"),
        ("paint.beta=.nan", "finite number"),
        ("paint.gain={g: .nan}", "finite number"),
        ("paint.gain={g: 0}", "positive numbers|above 0"),
        ("sky.pixscale=.nan", "finite number"),
        ("train.optim.lr=.inf", "finite number"),
        ("train.optim.lr=" + "9" * 400, "64 bits"),
        ("train.read.workers=-3", "0 or more"),
        ("plan.n_total_per_split={train: -5}", "0 or more"),
        ("plan.host_mag_r=[.nan, .nan]", "finite number"),
        ("splits.fractions={train: .nan}", "finite number"),
        ("plan.x=[", "not readable as YAML"),
        ("train.epochs=1e400", "expected int"),
        ("gates.core_light=0", "above 0"),
        ("anchors.cuts=[2]", "below 1"),
    ],
)
def test_a_senseless_recipe_is_refused(override, says):
    with pytest.raises(BadInput, match=says) as error:
        load_recipe("toy", [override])
    assert len(str(error.value).splitlines()) == 1


@pytest.mark.parametrize(
    "text, says",
    [
        ("name: a\nname: b\n", "given twice"),
        ("a: &a [1]\nb: *a\n", "anchors"),
        ("a: &a\n  b: *a\n", "anchors"),
        ("- " * 1 + "[" * 2000, "nested too deeply|not readable"),
        ("name: \0", "not readable"),
        ("n: 1" + "0" * 5000, "64 bits"),
        ("n: 0x" + "f" * 30, "64 bits"),
        ("? [1, 2]\n: 3\n", "not readable"),
    ],
)
def test_what_yaml_does_behind_one_s_back_is_refused(text, says):
    with pytest.raises(BadInput, match=says) as error:
        parse_yaml(text, "gen1.yaml")
    assert str(error.value).startswith("gen1.yaml: ") and len(str(error.value).splitlines()) == 1


def test_a_night_is_text_and_a_power_of_ten_a_number():
    assert parse_yaml("a: 2026-11-28\nb: 1e-3\nc: 2020-99-99\nd: 1.5e3\ne: 07", "x") == {
        "a": "2026-11-28",
        "b": 1e-3,
        "c": "2020-99-99",
        "d": 1500.0,
        "e": 7,
    }
