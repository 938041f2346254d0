"Lists as people have them: the right rows, or one clear line; none silently wrong"

import gzip
import io
import warnings

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from astropy.coordinates import Angle, SkyCoord
from astropy.io import fits
from astropy.table import QTable, Table
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dark_halo_scope.base.errors import BadInput
from dark_halo_scope.base.galaxy import galaxy_key
from dark_halo_scope.base.skylist import SetAsideWarning, angles, degrees_of, position_name, read_names, read_positions, typed, unique_names
from dark_halo_scope.base.tables import AnyColumn, read_any_table, text_table

A, B = ("A", 150.1, -2.25), ("B", 10.5, 0.5)
AB = [A, B]
UNNAMED = [("J100024.00-021500.0", 150.1, -2.25), ("J004200.00+003000.0", 10.5, 0.5)]
PLAIN = "name,ra,dec\nA,150.1,-2.25\nB,10.5,0.5\n"


def table() -> Table:
    "A and B"
    return Table({"name": ["A", "B"], "ra": [150.1, 10.5], "dec": [-2.25, 0.5], "z": [0.5, 0.25]})


def written(t, kind: str) -> bytes:
    "An astropy table in a format"
    out = io.BytesIO() if kind in ("fits", "votable", "parquet") else io.StringIO()
    t.write(out, format=kind)
    return out.getvalue() if isinstance(out, io.BytesIO) else out.getvalue().encode()


def parquet(t: pa.Table) -> bytes:
    "A Parquet file"
    sink = pa.BufferOutputStream()
    pq.write_table(t, sink)
    return sink.getvalue().to_pybytes()


def arrow(**types) -> bytes:
    "A and B with columns of other types"
    columns = {"name": pa.array(["A", "B"]), "ra": pa.array([150.1, 10.5]), "dec": pa.array([-2.25, 0.5])}
    return parquet(pa.table({c: v.cast(types[c]) if c in types else v for c, v in columns.items()}))


def by_pandas(**options) -> bytes:
    "A and B as pandas saves them"
    out = io.BytesIO()
    pd.DataFrame({"name": ["A", "B"], "ra": [150.1, 10.5], "dec": [-2.25, 0.5]}).convert_dtypes(**options).to_parquet(out)
    return out.getvalue()


def two_tables() -> bytes:
    "A FITS file with two lists"
    out = io.BytesIO()
    fits.HDUList([fits.PrimaryHDU(), fits.BinTableHDU(table()), fits.BinTableHDU(table())]).writeto(out)
    return out.getvalue()


def picture() -> bytes:
    "A FITS file without a table"
    out = io.BytesIO()
    fits.PrimaryHDU(np.zeros((2, 2))).writeto(out)
    return out.getvalue()


def renamed(**names: str) -> Table:
    "A and B under other column names"
    t = table()
    for old, new in names.items():
        t.rename_column(old, new)
    return t


def in_hours(unit: str) -> Table:
    "Right ascension in hours, and said so by its unit"
    t = table()
    t["ra"] = t["ra"] / 15
    t["ra"].unit = unit
    return t


def two_positions() -> Table:
    "A and B, and where they were seen once; UCDs say which is which"
    t = table()
    t["RAJ2000"], t["DEJ2000"] = t["ra"] + 1, t["dec"] + 1
    for name, ucd in (("ra", "pos.eq.ra;meta.main"), ("dec", "pos.eq.dec;meta.main"), ("RAJ2000", "pos.eq.ra"), ("DEJ2000", "pos.eq.dec")):
        t[name].info.meta = {"ucd": ucd}
    return t


MRT = """Title: Lenses
Table: one
================================================================================
Byte-by-byte Description of file: table1.txt
--------------------------------------------------------------------------------
   Bytes Format Units  Label  Explanations
--------------------------------------------------------------------------------
   1-  1 A1     ---    Name   Name
   3-  4 I2     h      RAh    Hour of right ascension
   6-  7 I2     min    RAm    Minute of right ascension
   9- 12 F4.1   s      RAs    Second of right ascension
  14     A1     ---    DE-    Sign of the declination
  15- 16 I2     deg    DEd    Degree of declination
  18- 19 I2     arcmin DEm    Arcminute of declination
  21- 22 I2     arcsec DEs    Arcsecond of declination
--------------------------------------------------------------------------------
A 10 00 24.0 -02 15 00
B 00 42 00.0 +00 30 00
"""
IPAC = "\\fixlen = T\n|name|   ra  |  dec  |\n|char| double| double|\n A     150.1   -2.25 \n B     10.5    0.5   \n"
VIZIER = '#RESOURCE\n#Name: J/A/1\n\n_RAJ2000\t_DEJ2000\tRAJ2000\tDEJ2000\tName\ndeg\tdeg\t"h:m:s"\t"d:m:s"\t \n---\t---\t---\t---\t---\n150.100\t-02.250\t10 00 24.0\t-02 15 00\tA\n010.500\t+00.500\t00 42 00.0\t+00 30 00\tB\n\n'
LISTS = {
    "plain": (PLAIN, AB),
    "byte-order mark": ("\ufeff" + PLAIN, AB),
    "UTF-16 as Excel's Unicode text": (PLAIN.replace(",", "\t").encode("utf-16"), AB),
    "UTF-16 without a mark": (PLAIN.encode("utf-16-le"), AB),
    "UTF-16, big-endian": (PLAIN.encode("utf-16-be"), AB),
    "Latin-1": (PLAIN.replace("A,", "Å,").encode("latin-1"), [("Å", *A[1:]), B]),
    "Latin-1 with a dash of Windows": (PLAIN.replace("A,", "A\u2013A,").encode("cp1252"), [("A\u2013A", *A[1:]), B]),
    "umlauts and Chinese": (PLAIN.replace("A,", "Älter 鏡,"), [("Älter 鏡", *A[1:]), B]),
    "semicolons": (PLAIN.replace(",", ";"), AB),
    "semicolons, decimal commas": ("name;ra;dec\nA;150,1;-2,25\nB;10,5;0,5\n", AB),
    "quoted decimal commas": ('name,ra,dec\nA,"150,1","-2,25"\nB,"10,5","0,5"\n', AB),
    "tabs": (PLAIN.replace(",", "\t"), AB),
    "bars": ("| name | ra | dec |\n|------|:---|----:|\n| A | 150.1 | -2.25 |\n| B | 10.5 | 0.5 |\n", AB),
    "blanks": ("name   ra     dec\nA  150.1  -2.25\nB  10.5    0.5\n", AB),
    "blanks after commas": (PLAIN.replace(",", ", "), AB),
    "blanks around names": ("  name , ra , dec \n A , 150.1 , -2.25 \n B , 10.5 , 0.5 \n", AB),
    "CRLF": (PLAIN.replace("\n", "\r\n"), AB),
    "bare CR": (PLAIN.replace("\n", "\r"), AB),
    "no last line break": (PLAIN.strip(), AB),
    "blank lines": (PLAIN.replace("\n", "\n\n"), AB),
    "comments": ("# mine\n#\n" + PLAIN + "# end\n", AB),
    "commented header, as TOPCAT writes it": ("# name ra dec\n  A 150.1 -2.25\n  B 10.5 0.5\n", AB),
    "commented header, as numpy writes it": ("#name,ra,dec\nA,150.1,-2.25\nB,10.5,0.5\n", AB),
    "quoted cells": ('"name","ra","dec"\n"A","150.1","-2.25"\n"B","10.5","0.5"\n', AB),
    "a comma in a quoted name": (PLAIN.replace("A,", '"A, the first",'), [("A, the first", *A[1:]), B]),
    "a line break in a quoted name": (PLAIN.replace("A,", '"A\nfirst",'), [("A first", *A[1:]), B]),
    "a delimiter at each end": ("name,ra,dec,\nA,150.1,-2.25,\nB,10.5,0.5,\n", AB),
    "empty rows of a spreadsheet": (PLAIN + ",,\n,,\n", AB),
    "pandas' index": (",name,ra,dec\n0,A,150.1,-2.25\n1,B,10.5,0.5\n", AB),
    "upper case": (PLAIN.replace("name,ra,dec", "NAME,RA,DEC"), AB),
    "Dec": (PLAIN.replace("name,ra,dec", "name,RA,Dec"), AB),
    "RAJ2000": (PLAIN.replace("name,ra,dec", "Name,RAJ2000,DEJ2000"), AB),
    "_RAJ2000": (PLAIN.replace("name,ra,dec", "Name,_RAJ2000,_DEJ2000"), AB),
    "RA_ICRS": (PLAIN.replace("name,ra,dec", "ID,RA_ICRS,DE_ICRS"), AB),
    "lenscat": (PLAIN.replace("name,ra,dec", "name,RA [deg],DEC [deg]"), AB),
    "ra_deg": (PLAIN.replace("name,ra,dec", "source_name,ra_deg,dec_deg"), AB),
    "SExtractor": (PLAIN.replace("name,ra,dec", "name,ALPHA_J2000,DELTA_J2000"), AB),
    "DESI": (PLAIN.replace("name,ra,dec", "TARGETID,TARGET_RA,TARGET_DEC").replace("\nA,", "\n39627,"), [("39627", *A[1:]), B]),
    "the viewer's own file": ("RA,DEC,NAME,COLOR,RADIUS\n150.1,-2.25,A,lime,5\n10.5,0.5,B,lime,5\n", AB),
    "Tractor": (written(renamed(name="type"), "fits"), UNNAMED),
    "VizieR's TSV": (VIZIER, AB),
    "machine-readable table": (MRT, AB),
    "IPAC": (IPAC, AB),
    "ra first, no names": ("ra,dec\n150.1,-2.25\n10.5,0.5\n", UNNAMED),
    "a blank name": (PLAIN.replace("A,", ","), [UNNAMED[0], B]),
    "hours with colons": ("name,ra,dec\nA,10:00:24.0,-02:15:00\nB,00:42:00,+00:30:00\n", AB),
    "hours with blanks": ("name,ra,dec\nA,10 00 24.0,-02 15 00\nB,00 42 00,+00 30 00\n", AB),
    "hours with letters": ("name,ra,dec\nA,10h00m24s,-02d15m00s\nB,0h42m,0d30m\n", AB),
    "typographers' signs": ("name,ra,dec\nA,150.1°,\u22122°15′00″\nB,10.5°,0.5°\n", AB),
    "-0 degrees": ("name,ra,dec\nA,10:00:24,-00:30:00\n", [("A", 150.1, -0.5)]),
    "sexagesimal beside degrees": ("name,RA,DEC,ra_deg,dec_deg\nA,10:00:24,-02:15:00,150.1,-2.25\nB,00:42:00,00:30:00,10.5,.5\n", AB),
    "right ascension a hair below 0": ("name,ra,dec\nA,-1e-20,1\n", [("A", 0.0, 1.0)]),
    "right ascension below 0": ("name,ra,dec\nA,-209.9,-2.25\nB,370,0.5\nC,360,1\n", [A, ("C", 0.0, 1.0)]),
    "exponents": ("name,ra,dec\nA,1.501e2,-2.25E0\nB,10.5,.5\n", AB),
    "a row off the sky": (PLAIN + "C,10,95\nD,-9999,-999\n", AB),
    "a row without a number": (PLAIN + "C,x,1\nD,,\n", AB),
    "a short row": (PLAIN + "C,10\nTotal: 3\n", AB),
    "a row commented out": (PLAIN + "#C,10,1\n", AB),
    "gzip": (gzip.compress(PLAIN.encode()), AB),
    "gzip in two pieces": (gzip.compress(PLAIN[:20].encode()) + gzip.compress(PLAIN[20:].encode()), AB),
    "FITS": (written(table(), "fits"), AB),
    "FITS in upper case": (written(renamed(name="NAME", ra="RA", dec="DEC"), "fits"), AB),
    "FITS in hours": (written(in_hours("h"), "fits"), AB),
    "VOTable": (written(table(), "votable"), AB),
    "VOTable with a main position and another": (written(two_positions(), "votable"), AB),
    "VOTable in hours": (written(in_hours("hourangle"), "votable"), AB),
    "ECSV": (written(table(), "ascii.ecsv"), AB),
    "ECSV with a sky coordinate": (
        written(QTable({"name": ["A", "B"], "where": SkyCoord([150.1, 10.5], [-2.25, 0.5], unit="deg")}), "ascii.ecsv"),
        AB,
    ),
    "Parquet": (arrow(), AB),
    "Parquet, large strings": (arrow(name=pa.large_string()), AB),
    "Parquet, dictionary": (arrow(name=pa.dictionary(pa.int32(), pa.string())), AB),
    "Parquet, string views": (arrow(name=pa.string_view()), AB),
    "Parquet by pandas": (by_pandas(), AB),
    "Parquet by pandas on arrow": (by_pandas(dtype_backend="pyarrow"), AB),
    "Parquet, decimals": (arrow(ra=pa.decimal128(10, 4)), AB),
    # refused in one line
    "decimal commas": ("name,ra,dec\nA,150,1,-2,25\n", "line 2 has 5 cells under 3"),
    "a comma in a name without quotes": (PLAIN + "C, the third,10,1\n", "line 4 has 4 cells under 3"),
    "two declinations": ("name,ra,dec,DEC\nA,150.1,-2.25,11.0\n", "could both be the declination"),
    "two right ascensions": ("name,ra,dec,RA\nA,157.5,-2.25,11.0\n", "could both be the right ascension"),
    "ra twice": ("name,ra,ra,dec\nA,157.5,11.0,-2.25\n", "could both be the right ascension"),
    "two names": ("name,Name,ra,dec\nA,B,157.5,11.0\n", "could both be the name"),
    "a unit that is no angle": (PLAIN.replace("ra,", "ra (pix),"), "is in 'pix|is in 'ra"),
    "B1950": (PLAIN.replace("ra,dec", "RAB1950,DEB1950"), "no column ra, dec among"),
    "galactic": (PLAIN.replace("ra,dec", "l,b"), "no column ra, dec among"),
    "no declination": ("name,ra\nA,150.1\n", "no column dec among"),
    "no header": ("A,150.1,-2.25\nB,10.5,0.5\n", "no line of column names"),
    "header alone": ("name,ra,dec\n", "no row under the column names"),
    "nothing but bad rows": ("name,ra,dec\nA,10,95\n", "line 2: declination 95"),
    "packed sexagesimal": ("name,ra,dec\nA,100024.0,-021500\nB,000012.3,000030.1\n", "'100024.0' is no angle in degrees"),
    "empty": (b"", "is empty"),
    "comments alone": ("# nothing\n", "no column ra, dec"),
    "NUL bytes": (PLAIN.replace("A", "A\0A"), "line 2 holds the control character"),
    "a cell of 200 kB": (PLAIN + f"{'C' * 200_000},1,1\n", "line 4: field larger than field limit"),
    "a quote that is not closed": (PLAIN + '"C,1,1\nD,2,2\n', "unexpected end of data"),
    "a web page": ("<!DOCTYPE html><html></html>", "a web page"),
    "JSON": ('[{"name": "A"}]', "JSON"),
    "Excel": (b"PK\x03\x04" + bytes(100), "an Excel workbook"),
    "HDF5": (b"\x89HDF\r\n\x1a\n" + bytes(100), "HDF5"),
    "cut gzip": (gzip.compress(PLAIN.encode())[:-9], "gzip that ends early"),
    "FITS with two lists": (two_tables(), "several tables"),
    "FITS with a picture": (picture(), "no table"),
    "cut FITS": (written(table(), "fits")[:5770], "not readable as FITS"),
    "FITS that asks for terabytes": (
        written(table(), "fits").replace(b"NAXIS2  =                    2", b"NAXIS2  =       99999999999999"),
        "announces|not readable",
    ),
    "cut Parquet": (arrow()[:-5], "not readable as PARQUET"),
    "cut VOTable": (written(table(), "votable")[:600], "not readable as VOTABLE"),
    "VOTable with rows elsewhere": (
        written(table(), "votable").replace(b"<TABLEDATA>", b'<BINARY><STREAM href="file:///etc/passwd"/></BINARY><TABLEDATA>'),
        "rows lie in another place",
    ),
    "broken ECSV": (written(table(), "ascii.ecsv").replace(b"datatype: float64", b"datatype: float65"), "not readable as ECSV"),
    "random bytes": (np.random.default_rng(1).integers(0, 256, 3000, np.uint8).tobytes(), "expected"),
}


@pytest.mark.filterwarnings("ignore::dark_halo_scope.base.skylist.SetAsideWarning")
@pytest.mark.parametrize("name", LISTS)
def test_a_list_gives_the_right_rows_or_one_clear_line(name, tmp_path):
    text, expected = LISTS[name]
    uri = tmp_path / "list"
    uri.write_bytes(text if isinstance(text, bytes) else text.encode())
    if isinstance(expected, str):
        with pytest.raises(BadInput, match=expected) as error:
            read_positions(str(uri))
        assert str(error.value).startswith(f"{uri}: ") and len(str(error.value).splitlines()) == 1
        return
    places = read_positions(str(uri)).columns
    assert places["name"].tolist() == [n for n, _, _ in expected]
    np.testing.assert_allclose(places["ra"], [ra for _, ra, _ in expected], atol=1e-9)
    np.testing.assert_allclose(places["dec"], [dec for _, _, dec in expected], atol=1e-9)


def test_there_are_lists_enough():
    assert len(LISTS) >= 60


def test_a_bad_row_is_named_and_set_aside_not_the_list(tmp_path):
    (tmp_path / "list.csv").write_text(PLAIN + "C,10,95\nD,x,1\nE,10\n#F,1,1\nG,1,1\n")
    with pytest.warns(
        SetAsideWarning, match=r"4 of 7 rows set aside \(line 4: declination 95, expected -90 to 90; line 5: ra 'x' is no angle; line 6"
    ) as told:
        places = read_positions(str(tmp_path / "list.csv"))
    assert told[0].filename == __file__, "the warning points at the line that asked for the list"
    assert places.columns["name"].tolist() == ["A", "B", "G"] and places.rows.tolist() == [2, 3, 8]
    assert [(a.row, a.name) for a in places.set_aside] == [(4, "C"), (5, "D"), (6, ""), (7, "")]
    assert "commented out" in places.set_aside[-1].reason


def test_further_columns_come_along(tmp_path):
    (tmp_path / "list.csv").write_text(
        "Name,RAJ2000,DEJ2000,z,grade,gaia,code,z,theta_E\nA,150.1,-2.25,0.5,A,5853498713190525696,007,1,\nB,10.5,.5,,B,1,008,2,1.5\n"
    )
    columns = read_positions(str(tmp_path / "list.csv")).columns
    assert list(columns) == ["name", "ra", "dec", "z", "grade", "gaia", "code", "z_2", "theta_E"]
    assert columns["z"][0] == 0.5 and np.isnan(columns["z"][1]) and columns["z_2"].tolist() == [1, 2]
    assert columns["gaia"].tolist() == [5853498713190525696, 1] and columns["code"].tolist() == ["007", "008"]
    assert np.isnan(columns["theta_E"][0]) and columns["theta_E"][1] == 1.5


def test_a_number_that_is_none_sets_its_row_aside(tmp_path):
    (tmp_path / "list.csv").write_text("name,ra,dec,theta_E\nA,150.1,-2.25,~1\nB,10.5,.5,1.5\n")
    with pytest.warns(SetAsideWarning, match="theta_E '~1' is no number"):
        assert read_positions(str(tmp_path / "list.csv")).columns["theta_E"].tolist() == [1.5]


def test_every_published_list_is_read(real_data):
    for path in sorted((real_data / "catalogues").glob("*.csv*")):
        ours = read_any_table(str(path), lambda names: [])
        theirs = pd.read_csv(path, dtype=str, keep_default_na=False)
        for column in ours.columns:
            assert column.values.tolist() == [" ".join(v.split()) for v in theirs[column.header]], (path, column.header)


angle = st.floats(0, 359.999999).map(lambda x: round(x, 6))
height = st.floats(-89.999, 89.999).map(lambda x: round(x, 6))
words = st.text(
    st.characters(codec="utf-8", exclude_categories=("Cc", "Cs", "Zs", "Zl", "Zp", "Cf", "Cn"), exclude_characters='",;\t|#'),
    min_size=1,
    max_size=8,
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    rows=st.lists(st.tuples(words, angle, height), min_size=1, max_size=5),
    encoding=st.sampled_from(["utf-8", "utf-8-sig", "utf-16"]),
    delimiter=st.sampled_from([",", ";", "\t", "|"]),
    end=st.sampled_from(["\n", "\r\n", "\r"]),
    heads=st.sampled_from([("name", "ra", "dec"), ("NAME", "RAJ2000", "DEJ2000"), (" Source Name", "RA (deg) ", "Dec")]),
    order=st.permutations([0, 1, 2]),
)
def test_what_is_written_is_read_whatever_the_spelling(tmp_path, rows, encoding, delimiter, end, heads, order):
    lines = [delimiter.join(str(cells[i]) for i in order) for cells in (heads, *rows)]
    (tmp_path / "list").write_bytes((end.join(lines) + end).encode(encoding))
    columns = read_positions(str(tmp_path / "list")).columns
    assert columns["name"].tolist() == [n for n, _, _ in rows]
    assert columns["ra"].tolist() == [a for _, a, _ in rows] and columns["dec"].tolist() == [d for _, _, d in rows]


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(kind=st.sampled_from(sorted(LISTS)), where=st.floats(0, 1), byte=st.integers(0, 255), cut=st.booleans())
def test_a_damaged_list_is_read_or_refused_in_one_line(tmp_path, kind, where, byte, cut):
    text = LISTS[kind][0]
    data = bytearray(text if isinstance(text, bytes) else text.encode())[:20_000]
    if data:
        at = min(int(where * len(data)), len(data) - 1)
        data = data[:at] if cut else data[:at] + bytes([byte]) + data[at + 1 :]
    (tmp_path / "list").write_bytes(bytes(data))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SetAsideWarning)
        try:
            columns = read_positions(str(tmp_path / "list")).columns
        except BadInput as error:
            assert len(str(error).splitlines()) == 1 and str(tmp_path / "list") in str(error)
            return
    assert len(columns["ra"]) and (np.abs(columns["dec"]) <= 90).all() and ((columns["ra"] >= 0) & (columns["ra"] < 360)).all()


@settings(max_examples=100, deadline=None)
@given(ra=angle, dec=height)
def test_angles_and_names_are_astropy_s(ra, dec):
    place = SkyCoord(ra, dec, unit="deg")
    for style in ({"sep": ":"}, {"sep": " "}, {}):
        a, d = place.ra.to_string("hour", precision=5, **style), place.dec.to_string("deg", precision=5, alwayssign=True, **style)
        assert abs(degrees_of(a, True) - ra) < 1e-7 and abs(degrees_of(d, False) - dec) < 1e-7
    name = position_name(ra, dec)
    sign = name.index("-") if "-" in name else name.index("+")
    back_ra = Angle(f"{name[1:3]}h{name[3:5]}m{name[5:sign]}s").deg
    back_dec = Angle(f"{name[sign]}{name[sign + 1 : sign + 3]}d{name[sign + 3 : sign + 5]}m{name[sign + 5 :]}s").deg
    assert -1e-9 <= ra - back_ra < 0.01 / 240 + 1e-9 and -1e-9 <= abs(dec) - abs(back_dec) < 0.1 / 3600 + 1e-9


@pytest.mark.parametrize(
    ("unit", "degrees"),
    [
        *((name, 1.0) for name in ("", "deg", "degree", "degrees", "d", "Deg")),
        *((name, 15.0) for name in ("h", "hour", "hours", "hourangle")),
        *(("rad", 57.29577951308232), ("radian", 57.29577951308232), ("arcmin", 1 / 60), ("arcsec", 1 / 3600), ("mas", 1 / 3.6e6)),
    ],
)
def test_a_unit_in_brackets_is_an_angle_of_so_many_degrees(unit, degrees):
    column = AnyColumn(f"RA [{unit}]", np.array(["1.5", "-2"], object))
    values, why = angles(column, True, "list")
    assert values == pytest.approx([1.5 * degrees, -2 * degrees], rel=1e-6, abs=1e-12) and not why


def test_names_alone(tmp_path):
    (tmp_path / "a.csv").write_text("\ufeffName;why\nA;x\nB;\n")
    assert read_names(str(tmp_path / "a.csv")) == ["A", "B"]
    (tmp_path / "b.csv").write_text("title\nA\n")
    with pytest.raises(BadInput, match="no column name"):
        read_names(str(tmp_path / "b.csv"))


@given(st.lists(st.sampled_from(["A", "B", "A (2)", "C"]), max_size=12))
def test_unique_names_are_unique(names):
    made = unique_names(names)
    assert len(set(made)) == len(names) and all(m == n or m.startswith(f"{n} (") for m, n in zip(made, names))
    assert all(m == n for i, (m, n) in enumerate(zip(made, names)) if n not in names[:i] or made[i] == n)


def test_typed_keeps_what_numbers_would_lose():
    for cells in (["007"], ["1", "x"], ["123456789012345678901"], ["", ""], ["12345678901234567", ""]):
        assert typed(np.array(cells, object)).tolist() == cells


def test_a_bomb_of_columns_is_refused(tmp_path):
    "A header that announces more columns or rows than the file can hold"
    data = bytearray(written(table(), "fits"))
    data = data.replace(b"TFIELDS =                    4", b"TFIELDS =                  999")
    (tmp_path / "list.fits").write_bytes(bytes(data))
    with pytest.raises(BadInput):
        read_positions(str(tmp_path / "list.fits"))


@pytest.mark.parametrize("kind", ["rows that repeat", "one long text"])
def test_a_parquet_bomb_is_refused_before_it_goes_off(tmp_path, monkeypatch, kind):
    "Some kilobytes that unpack to 60 megabytes or more"
    import tracemalloc

    import pyarrow as pa
    import pyarrow.parquet as pq

    from dark_halo_scope.base import tables

    monkeypatch.setattr(tables, "MAX_BYTES", 1_000_000)
    path, zeros = tmp_path / "list.parquet", np.zeros(12_000_000)
    if kind == "rows that repeat":
        pq.write_table(pa.table({"ra": zeros, "dec": zeros}), path, compression="zstd")
    else:
        pq.write_table(pa.table({"ra": zeros[:2], "dec": zeros[:2], "name": ["x" * 60_000_000, "y"]}), path, compression="zstd")
    assert path.stat().st_size < 200_000
    before = pa.total_allocated_bytes()
    tracemalloc.start()
    with pytest.raises(BadInput, match="when unpacked"):
        read_positions(str(path))
    assert tracemalloc.get_traced_memory()[1] < 20e6 and pa.total_allocated_bytes() - before < 20e6
    tracemalloc.stop()


@given(st.lists(st.tuples(st.integers(0, 2**15 - 1), st.integers(0, 2**22 - 1), st.integers(0, 2**26 - 1)), min_size=1, max_size=20))
def test_keys_of_galaxies_sort_and_differ_as_their_three_numbers_do(rows):
    columns = dict(zip(("release", "brickid", "objid"), np.transpose(rows), strict=True))
    keys = galaxy_key(columns)
    assert [rows[i] for i in np.argsort(keys, kind="stable")] == sorted(rows) and len(set(keys.tolist())) == len(set(rows))


@pytest.mark.parametrize("name", ["release", "brickid", "objid"])
def test_the_greatest_number_that_the_message_names_is_the_greatest_that_fits(name):
    "A number one above it, or below 0, is refused by name"
    sound = {"release": [10_000, 9_010], "brickid": [343_928, 1], "objid": [0, 77]}
    with pytest.raises(BadInput, match=rf"^{name} from \d+ to 9999999999: expected whole numbers from 0 to ([\d,]+)$") as error:
        galaxy_key(sound | {name: [9_999_999_999, sound[name][0]]})
    greatest = int(str(error.value).rsplit(" ", 1)[1].replace(",", ""))
    assert len(galaxy_key(sound | {name: [greatest, 0]})) == 2
    for number in (greatest + 1, -1):
        with pytest.raises(BadInput, match=rf"^{name} from .*{number}"):
            galaxy_key(sound | {name: [0, number]})


@pytest.mark.parametrize(
    ("second", "rows", "unit"),
    [("---- ----- -----\n", [3, 4], ""), ("n    deg   deg\n---- ----- -----\n", [4, 5], "deg"), ("", [2, 3], "")],
    ids=["ruled", "units and ruled", "plain"],
)
def test_a_rule_below_the_header_is_no_row(second, rows, unit):
    "And the line between header and rule holds the units"
    text = f"name ra    dec\n{second}A    150.1 -2.25\nB    10.5  0.5\n"
    table = text_table(text, lambda names: sorted({"ra", "dec"} - {*names}), "list.txt")
    assert table.rows.tolist() == rows and not table.set_aside
    assert [c.values.tolist() for c in table.columns] == [["A", "B"], ["150.1", "10.5"], ["-2.25", "0.5"]]
    assert table.columns[1].unit == unit
