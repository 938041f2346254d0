"Keys in the environment and passwords in addresses reach no product, log or message, whether a job ends well or not"

import os
import subprocess
import sys
from pathlib import Path

import pytest

from dark_halo_scope.survey.web import HttpClient, NetworkDown, RequestPolicy, Unavailable

from .cutout_service import Service

KEYS = {
    "AWS_ACCESS_KEY_ID": "AKIA4711NOTAREALKEY0",
    "AWS_SECRET_ACCESS_KEY": "planted/secret+4711",
    "AWS_SESSION_TOKEN": "planted-token-4711",
}
PASSWORD = "planted-passw0rd-4711"
PLANTED = (*KEYS.values(), PASSWORD)
LIST = "name,ra,dec\none,150.1,2.2\ntwo,30.0,-5.0\n"


def leaks(folder: Path, said: str) -> list[str]:
    "Where a planted word stands"
    found = [f"output: {word}" for word in PLANTED if word in said]
    for path in folder.rglob("*"):
        if path.is_file():
            data = path.read_bytes()
            found += [f"{path.relative_to(folder)}: {word}" for word in PLANTED if word.encode() in data or word in path.name]
    return found


def job(folder: Path, *arguments: str, **environment: str) -> tuple[int, list[str], str]:
    "A command with planted keys: its exit code, where they leaked, and what it said"
    done = subprocess.run(
        [sys.executable, "-m", "dark_halo_scope", *arguments],
        cwd=folder,
        env=os.environ | KEYS | environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    said = done.stdout + done.stderr
    return done.returncode, leaks(folder, said), said


@pytest.fixture
def listed(tmp_path: Path) -> Path:
    "A folder with a list of positions"
    (tmp_path / "list.csv").write_text(LIST)
    return tmp_path


@pytest.fixture
def named(service: Service) -> str:
    "The service's address with a name and a password in it"
    return service.address.replace("http://", f"http://ana:{PASSWORD}@")


def test_a_job_that_ends_well_keeps_them_to_itself(listed: Path, named: str) -> None:
    code, found, said = job(listed, "fetch", "list.csv", "--out", "got", DHS_CUTOUT_SERVICE=named)
    assert code == 0 and (listed / "got" / "stamps.parquet").exists(), said
    assert not found, found


def test_a_service_that_is_away_is_named_without_its_password(tmp_path: Path) -> None:
    client = HttpClient(RequestPolicy(pause=0.0, tries=1, failures=1))
    away = f"http://ana:{PASSWORD}@127.0.0.1:9/viewer"
    for wanted in (Unavailable, NetworkDown):
        with pytest.raises(Unavailable) as caught:
            client.get(f"{away}/fits-cutout")
        assert type(caught.value) is wanted and "***@127.0.0.1:9" in str(caught.value) and PASSWORD not in str(caught.value)


@pytest.mark.parametrize("endpoint", [f"ana:{PASSWORD}@127.0.0.1:9", f"ftp://ana:{PASSWORD}@127.0.0.1"])
def test_an_endpoint_that_is_refused_is_named_without_its_password(listed: Path, endpoint: str) -> None:
    code, found, said = job(listed, "verify", "s3://bucket/run", AWS_ENDPOINT_URL=endpoint)
    assert code == 2 and "AWS_ENDPOINT_URL" in said and "127.0.0.1" in said, said
    assert not found, found
