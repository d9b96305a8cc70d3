from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_pipelines.errors import BadDataError
from data_pipelines.media import signals
from data_pipelines.recording import MAX_CHUNK_SECONDS


def write(path, lines):
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.fixture
def table(tmp_path):
    rows = [f"{index}\t{0.5 * index}\t{-index}\t7" for index in range(20)]
    return write(tmp_path / "a_bio.csv", ["time\tgsr\tecg\tother", *rows])


def test_columns_come_by_name_in_the_order_asked_for(table):
    values = signals.read_columns(table, ("ecg", "time"))
    assert values.dtype == np.float64 and values.shape == (20, 2)
    np.testing.assert_array_equal(values[:, 0], -np.arange(20))
    np.testing.assert_array_equal(values[:, 1], np.arange(20))


def test_byte_order_mark_quotes_blank_lines_and_windows_line_ends_do_no_harm(tmp_path):
    path = tmp_path / "a.csv"
    path.write_bytes(b'\xef\xbb\xbf"time";"gsr" \r\n0;1.5\r\n\r\n1;2.5\r\n')
    np.testing.assert_array_equal(signals.read_columns(path, ("gsr",), delimiter=";"), [[1.5], [2.5]])


@pytest.mark.parametrize("cell", ["nan", "inf", "-", "", "1,5", "12abc", "NULL"])
def test_a_cell_that_is_no_number_is_named_with_its_line(table, cell):
    lines = table.read_text().splitlines()
    lines[7] = f"6\t{cell}\t-6\t7"
    write(table, lines)
    with pytest.raises(BadDataError, match=r"a_bio\.csv, line 8, column 'gsr'.*not a finite number"):
        signals.read_columns(table, ("time", "gsr"))
    # A column that nobody asked for may hold anything.
    assert signals.read_columns(table, ("time", "ecg")).shape == (20, 2)


def test_a_row_cut_short_is_named_with_its_line(table):
    lines = table.read_text().splitlines()
    lines[-1] = "19\t9"
    write(table, lines)
    with pytest.raises(BadDataError, match="line 21: 2 cells, none for 'ecg'"):
        signals.read_columns(table, ("gsr", "ecg"))


def test_missing_and_double_columns_and_too_few_rows(table, tmp_path):
    with pytest.raises(BadDataError, match="no column named 'emg_corrugator'.*time, gsr, ecg, other"):
        signals.read_columns(table, ("emg_corrugator",))
    with pytest.raises(BadDataError, match="2 columns named 'gsr'"):
        signals.read_columns(write(tmp_path / "b.csv", ["gsr\tgsr", "1\t2"]), ("gsr",))
    with pytest.raises(BadDataError, match="20 rows; expected at least 21"):
        signals.read_columns(table, ("gsr",), minimum_rows=21)


def test_no_file_and_an_empty_one(tmp_path):
    with pytest.raises(BadDataError, match="is missing"):
        signals.read_columns(tmp_path / "none.csv", ("gsr",))
    (tmp_path / "empty.csv").touch()
    with pytest.raises(BadDataError, match="is empty"):
        signals.read_columns(tmp_path / "empty.csv", ("gsr",))
    assert signals.read_columns(write(tmp_path / "h.csv", ["gsr"]), ("gsr",), minimum_rows=0).shape == (0, 1)


def test_bytes_that_are_no_text_get_a_sentence(tmp_path):
    path = tmp_path / "binary.csv"
    path.write_bytes(b"time\tgsr\n" + bytes(range(256)) * 4)
    with pytest.raises(BadDataError, match="binary.csv"):
        signals.read_columns(path, ("gsr",))


def test_times_must_ascend_at_the_expected_rate():
    times = np.arange(100) / 512.0
    signals.check_times("a.csv", times, rate_hz=512.0)
    signals.check_times("a.csv", times[:1], rate_hz=512.0)
    twice = times.copy()
    twice[40] = twice[39]
    with pytest.raises(BadDataError, match="line 42: the time .* does not come after"):
        signals.check_times("a.csv", twice, rate_hz=512.0)
    with pytest.raises(BadDataError, match="512 rows a second.*expected 256"):
        signals.check_times("a.csv", times, rate_hz=256.0)


def test_rows_lie_where_their_times_say_and_a_clock_that_drifts_leaves_no_gap():
    rows = np.delete(np.arange(3000), np.r_[0, 10, 500:700, 2000])
    for rate_hz, step in ((512.0, 1e-6), (512.0, 1e-3), (500.0, 1e-6), (520.0, 1e-6)):
        times = np.round(rows / rate_hz / step) * step
        signals.check_times("a.csv", times, rate_hz=512.0)
        found = signals.place_rows(times, rate_hz=512.0)
        assert (np.diff(found)[np.diff(rows) == 1] == 1).all() and found[0] == 0
        # The long gap is as wide as the clock says, give or take its rounding and drift.
        np.testing.assert_allclose(
            np.diff(found)[np.diff(rows) > 1], np.diff(rows)[np.diff(rows) > 1], rtol=0.03
        )
    with pytest.raises(BadDataError, match="3 rows of the 5121 that its time column spans"):
        signals.check_times("a.csv", np.array([0, 1 / 512, 10.0]), rate_hz=512.0, tolerance=1e9)


@given(
    length=st.integers(0, 400),
    rate_hz=st.sampled_from([1.0, 4.0, 7.3, 10.0]),
    start=st.floats(0.0, 1000.0),
)
def test_chunks_join_to_the_signal(length, rate_hz, start):
    values = np.arange(2 * length, dtype=np.float32).reshape(length, 2)
    chunks = list(signals.signal_chunks(values, stream="s", source="a", rate_hz=rate_hz, start_seconds=start))
    np.testing.assert_array_equal(np.concatenate([chunk.values for chunk in chunks]), values)
    assert [chunk.index for chunk in chunks] == list(range(len(chunks)))
    first = 0
    for chunk in chunks:
        assert len(chunk) <= MAX_CHUNK_SECONDS * rate_hz + 1e-6
        assert chunk.values.dtype == np.float32
        np.testing.assert_allclose(chunk.times_seconds, [start + first / rate_hz], rtol=1e-12)
        first += len(chunk)
