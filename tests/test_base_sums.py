"Digests that sha256sum wrote, beside files that have no checksums of their own"

import hashlib
import os
import time
from types import SimpleNamespace

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dark_halo_scope.base import sums
from dark_halo_scope.base.errors import BadInput
from dark_halo_scope.base.products import Place
from dark_halo_scope.base.sums import listed_sum, parse_sums, with_checksums
from dark_halo_scope.parent.products import sweep_tasks
from dark_halo_scope.survey.fitsfile import open_random
from dark_halo_scope.survey.release import Release, tell_unsummed_images
from dark_halo_scope.survey.sweeps import read_fits_columns

from .test_survey_files import sweep_table

NAMES = st.text(st.characters(codec="utf-8", exclude_categories=("C", "Z"), exclude_characters="/"), min_size=1, max_size=20)


def digest(data):
    return hashlib.sha256(data).hexdigest()


def write_list(folder, name="legacysurvey_dr10_south.sha256sum", **others):
    "A list of all files of a folder; `others` are digests that it gives instead"
    lines = [f"{others.get(path.stem, digest(path.read_bytes()))} *{path.name}" for path in sorted(folder.iterdir()) if path.name != name]
    (folder / name).write_text("\n".join(lines) + "\n")


@pytest.fixture
def notes(tmp_path, monkeypatch):
    "Where notes are left, of files that were changed just now too"
    folder = tmp_path / "notes"
    folder.mkdir()
    monkeypatch.setattr(sums, "_notes", lambda: str(folder))
    monkeypatch.setattr(sums, "SETTLED", -60.0)
    return folder


@given(st.dictionaries(NAMES, st.binary(), max_size=5), st.sampled_from([" ", "*"]), st.sampled_from(["\n", "\r\n", "\n\n"]))
def test_a_list_says_what_was_written_into_it(files, star, end):
    text = "".join(f"{digest(data)} {star}{name}{end}" for name, data in files.items())
    assert parse_sums(text.encode(), "list") == {name: digest(data) for name, data in files.items()}


@pytest.mark.parametrize(
    "line", ["<html>gone</html>", "0" * 64, "0" * 64 + "  ", "0" * 63 + "  a", "0" * 64 + " a", "g" * 64 + "  a", "\0" * 90]
)
def test_a_line_of_another_kind_is_named(line):
    with pytest.raises(BadInput, match=r"^here.sha256sum: line 2 is .*; expected a SHA-256 of 64 digits and the name of a file$"):
        parse_sums(f"{'1' * 64}  good\n{line}\n".encode(), "here.sha256sum")


def test_two_digests_of_one_file_are_refused(tmp_path):
    with pytest.raises(BadInput, match="line 2 gives a another SHA-256"):
        parse_sums(f"{'1' * 64}  a\n{'2' * 64}  a\n".encode(), "list")
    (tmp_path / "a.fits").write_bytes(b"a")
    write_list(tmp_path)
    assert listed_sum(str(tmp_path / "a.fits"))[0] == digest(b"a")
    (tmp_path / "mine.sha256sum").write_text(f"{digest(b'b')}  a.fits\n")
    with pytest.raises(BadInput, match=r"a.fits: .*south.sha256sum and .*mine.sha256sum give it different SHA-256"):
        listed_sum(str(tmp_path / "a.fits"))


def test_lists_of_folders_below_do_not_count(tmp_path):
    (tmp_path / "below").mkdir()
    for folder in (tmp_path, tmp_path / "below"):
        (folder / "a.fits").write_bytes(b"a")
    write_list(tmp_path / "below")
    assert listed_sum(str(tmp_path / "a.fits")) is None and listed_sum(str(tmp_path / "below" / "a.fits"))


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.data())
def test_any_change_of_a_listed_file_is_one_line(tmp_path, data):
    "Read in order to its end, read anywhere, and packed; the line names the file, its digest, the expected one, and the list"
    folder = tmp_path / "folder"
    folder.mkdir(exist_ok=True)
    whole = data.draw(st.binary(min_size=1, max_size=300))
    at, bit, way = (
        data.draw(st.integers(0, len(whole) - 1)),
        data.draw(st.integers(0, 7)),
        data.draw(st.sampled_from(["flip", "cut", "add"])),
    )
    spoilt = {"flip": whole[:at] + bytes([whole[at] ^ 1 << bit]) + whole[at + 1 :], "cut": whole[:at], "add": whole + whole[at:]}[way]
    path, packed = folder / "a.fits", folder / "b.fits.gz"
    for file in (path, packed):
        file.write_bytes(whole)
    write_list(folder)
    with with_checksums(pa.OSFile(str(path)), str(path), in_order=True) as file:
        start = data.draw(st.integers(0, len(whole)))
        assert file.read_at(7, start) == whole[start : start + 7]
        file.finish()
    assert with_checksums(pa.OSFile(str(path)), str(path)).read() == whole
    path.write_bytes(spoilt)
    packed.write_bytes(spoilt)
    expected = rf"SHA-256 is {digest(spoilt)}; expected {digest(whole)}, as \S*legacysurvey_dr10_south.sha256sum says"
    with pytest.raises(BadInput, match=f"a.fits: {expected}"), with_checksums(pa.OSFile(str(path)), str(path), in_order=True) as file:
        file.read_at(7, start)
        file.finish()
    for file in (path, packed):
        with pytest.raises(BadInput, match=f"{file.name}: {expected}"):
            open_random(str(file))


def test_a_sweep_is_compared_behind_its_last_row(tmp_path):
    path = tmp_path / "sweep-150p000-155p005.fits"
    sweep_table(50).write(path)
    write_list(tmp_path)
    before = read_fits_columns(str(path), ["ra", "flux_r"])
    spoilt = bytearray(path.read_bytes())
    for place in (9000, len(spoilt) - 1):  # a number, and the padding
        path.write_bytes(spoilt[:place] + bytes([spoilt[place] ^ 1]) + spoilt[place + 1 :])
        with pytest.raises(BadInput, match=r"sweep-150p000-155p005.fits: SHA-256 is"):
            read_fits_columns(str(path), ["ra", "flux_r"])
    path.write_bytes(spoilt)
    assert read_fits_columns(str(path), ["ra", "flux_r"]).equals(before)


def test_a_file_with_its_own_checksums_is_not_compared_with_a_list(tmp_path):
    "A copy has its own, of its parts: the list beside it may be of the folder that it was copied from"
    path = sums.write_summed(b"copy", str(tmp_path / "a.fits"))
    write_list(tmp_path, a="1" * 64)
    assert bytes(with_checksums(pa.OSFile(path), path).read_at(4, 0)) == b"copy"


def test_a_file_that_was_compared_is_not_summed_again_until_it_changes(tmp_path, notes, monkeypatch):
    path = tmp_path / "a.fits"
    path.write_bytes(b"whole")
    (tmp_path / "l.sha256sum").write_text(f"{digest(b'whole')}  a.fits\n")
    summed = []
    monkeypatch.setattr(sums, "check_listed", lambda *given, check=sums.check_listed: (summed.append(given[0]), check(*given)))
    for _ in range(3):
        assert open_random(str(path)).read() == b"whole"
    assert summed == [digest(b"whole")]
    os.utime(path)
    assert open_random(str(path)).read() == b"whole" and len(summed) == 2
    time.sleep(0.02)  # the clock of the disk has moved on
    path.write_bytes(b"other")
    with pytest.raises(BadInput, match="expected"):
        open_random(str(path))
    path.write_bytes(b"whole")
    assert open_random(str(path)).read() == b"whole" and len(list(notes.iterdir())) >= 1


def test_a_change_with_the_old_time_put_back_is_seen(tmp_path, notes):
    path = tmp_path / "a.fits"
    path.write_bytes(b"whole")
    (tmp_path / "l.sha256sum").write_text(f"{digest(b'whole')}  a.fits\n")
    open_random(str(path))
    before = path.stat()
    time.sleep(0.02)
    path.write_bytes(b"other")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    with pytest.raises(BadInput, match="expected"):
        open_random(str(path))


def test_a_file_that_changes_while_it_is_read_is_not_noted(tmp_path, notes):
    path = tmp_path / "a.fits"
    path.write_bytes(b"whole")
    (tmp_path / "l.sha256sum").write_text(f"{digest(b'whole')}  a.fits\n")
    with with_checksums(pa.OSFile(str(path)), str(path), in_order=True) as file:
        file.read_at(5, 0)
        time.sleep(0.02)
        path.write_bytes(b"other")
        file.finish()
    with pytest.raises(BadInput, match="expected"):
        open_random(str(path))


def test_a_file_that_was_changed_just_now_is_not_noted(tmp_path, notes, monkeypatch):
    "Its time on the disk may be the same after the next change"
    monkeypatch.setattr(sums, "SETTLED", 2.0)
    (tmp_path / "a.fits").write_bytes(b"whole")
    (tmp_path / "l.sha256sum").write_text(f"{digest(b'whole')}  a.fits\n")
    for _ in range(2):
        open_random(str(tmp_path / "a.fits"))
    assert not list(notes.iterdir()) and sums.compared_note(str(tmp_path / "a.fits")) is None


def test_a_folder_of_notes_that_is_not_there_changes_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(sums, "SETTLED", -60.0)
    (tmp_path / "a.fits").write_bytes(b"whole")
    (tmp_path / "l.sha256sum").write_text(f"{digest(b'whole')}  a.fits\n")
    for folder in ("", str(tmp_path / "gone")):
        monkeypatch.setattr(sums, "_notes", lambda folder=folder: folder)
        assert open_random(str(tmp_path / "a.fits")).read() == b"whole"
    (tmp_path / "gone").write_bytes(b"a file in its place")
    assert open_random(str(tmp_path / "a.fits")).read() == b"whole"


def test_sweeps_that_nothing_tells_of_are_counted_before_they_are_read(tmp_path, capsys):
    "Those with checksums of their own, and those in a list, are not among them"
    release = Release(str(tmp_path))
    places = [release.sweep(f"{ra:03d}p000-{ra + 5:03d}p005") for ra in (150, 155, 160)]
    os.makedirs(os.path.dirname(places[0]))
    for place in places:
        sweep_table(5).write(place)
    recipe = SimpleNamespace(catalogue=SimpleNamespace(tap=False, hats=""), selection=None)
    inputs = {"release": SimpleNamespace(uri=str(tmp_path))}
    place = Place(str(tmp_path / "density.parquet"), str(tmp_path))

    def said():
        assert len(sweep_tasks(inputs, recipe, place)) == 3
        return capsys.readouterr().out

    assert "3 of 3 sweeps have no checksums beside them" in said()
    sums.write_summed(open(places[0], "rb").read(), places[0])
    with open(release.checksums(places[1]), "w") as file:
        file.write(f"{'1' * 64} *{os.path.basename(places[1])}\n")
    line = said()
    assert line.startswith("1 of 3 sweeps") and "the survey's legacysurvey_dr10_south_sweep_10.1.sha256sum there" in line
    assert sums.unsummed(places) == [places[2]]
    sums.write_summed(open(places[2], "rb").read(), places[2])
    assert said() == ""


def test_coadds_that_nothing_tells_of_are_named_before_they_are_painted(tmp_path, capsys):
    "The first brick's images; with a list beside them nothing is said, nor of the portal's, whose folders cannot be listed"
    release = Release(str(tmp_path))
    images = [release.coadd("1501p022", "image", band) for band in "gr"]
    os.makedirs(os.path.dirname(images[0]))
    for image in images:
        open(image, "wb").close()
    tell_unsummed_images(release, ["1501p022", "1501p025"], "gr")
    line = capsys.readouterr().out
    assert line.startswith("2 of 2 images of 1501p022, the first brick, have no checksums beside them")
    assert "the survey's legacysurvey_dr10_south_coadd_150_1501p022.sha256sum there" in line
    with open(release.checksums(images[0]), "w") as file:
        file.writelines(f"{'1' * 64} *{os.path.basename(image)}\n" for image in images)
    tell_unsummed_images(release, ["1501p022"], "gr")
    tell_unsummed_images(Release(), ["1501p022"], "gr")
    tell_unsummed_images(release, [], "gr")
    assert capsys.readouterr().out == ""
