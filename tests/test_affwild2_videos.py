"""Affwild2's videos as people have them: other containers, capitals, links, and some that are not there."""

from __future__ import annotations

import shutil

import av
import numpy as np
import pytest
from affwild2_case import LONG, PAIR, SHORT, SILENT, TEST, VALIDATION, decode, scan

from data_pipelines.errors import BadDataError, UsageError
from data_pipelines.media.video import read_frames
from data_pipelines.prepare import prepare
from data_pipelines.readers.affwild2 import Affwild2


def repacked(path, ending):
    """Puts a film into another container, packet by packet or encoded anew."""
    out = path.with_suffix(ending)
    kind = ending[1:].lower()
    if kind == "webm":
        with av.open(str(path)) as source, av.open(str(out), "w", format="webm") as target:
            stream = target.add_stream("libvpx", rate=30, options={"deadline": "realtime", "cpu-used": "8"})
            stream.width, stream.height = source.streams.video[0].width, source.streams.video[0].height
            stream.pix_fmt, stream.codec_context.time_base = "yuv420p", source.streams.video[0].time_base
            for frame in source.decode(video=0):
                frame.pict_type = 0
                target.mux(stream.encode(frame))
            target.mux(stream.encode())
    else:
        kind = {"mkv": "matroska", "mpg": "mpeg", "ts": "mpegts"}.get(kind, kind)
        with av.open(str(path)) as source, av.open(str(out), "w", format=kind) as target:
            streams = {s.index: target.add_stream_from_template(s) for s in source.streams}
            for packet in source.demux():
                if packet.dts is not None:
                    packet.stream = streams[packet.stream.index]
                    target.mux(packet)
    path.unlink()
    return out


@pytest.mark.parametrize("ending", [".MP4", ".mov", ".MKV", ".webm", ".ts", ".flv"])
def test_every_container_is_found_and_tells_the_times_of_its_frames(affwild2_root, ending):
    (path,) = affwild2_root.rglob(f"{VALIDATION.name}.mp4")
    if ending == ".MP4":
        path = path.rename(path.with_suffix(ending))
    else:
        path = repacked(path, ending)
    path.parent.rename(path.parent.with_name("VIDEOS"))
    recordings, sources, left_out = scan(affwild2_root)
    recording = recordings[VALIDATION.name]
    assert recording.attributes["video_frames"] == len(VALIDATION.times_seconds)
    times = recording.annotation.times_seconds
    # Other containers count in thousandths of a second, and from where the first stream begins.
    np.testing.assert_allclose(times - times[0], VALIDATION.times_seconds, atol=2e-3)
    (chunk,) = decode(affwild2_root, sources["visual", VALIDATION.name])
    assert np.isin(chunk.times_seconds, times).all()
    found = next(affwild2_root.rglob(f"VIDEOS/{VALIDATION.name}.*"))
    np.testing.assert_allclose(
        [frame.time_seconds for frame in read_frames(found, size=16)], times, atol=1e-6
    )
    assert not [entry for entry in left_out.values() if entry.damaged]


def test_names_in_capitals_and_hidden_files(affwild2_root):
    expected, _, _ = scan(affwild2_root)
    (affwild2_root / "cropped_aligned").rename(affwild2_root / "Cropped_Aligned")
    edition = (affwild2_root / "VA_Estimation_Challenge").rename(affwild2_root / "va_estimation_challenge")
    (edition / "Train_Set").rename(edition / "TRAIN_SET")
    annotation = edition / "TRAIN_SET" / f"{SHORT.name}.txt"
    annotation.rename(annotation.with_suffix(".TXT"))
    (edition / "TRAIN_SET" / f"._{SHORT.name}.txt").write_bytes(b"a note of a Mac")
    (video,) = affwild2_root.rglob(f"{LONG.name}.mp4")
    video.rename(video.with_name(f"{LONG.name.upper()}.MP4"))
    found, _, left_out = scan(affwild2_root)
    assert list(found) == list(expected) and not [e for e in left_out.values() if e.damaged]
    np.testing.assert_array_equal(
        found[LONG.name].annotation.times_seconds, expected[LONG.name].annotation.times_seconds
    )


def test_links_are_followed_and_a_loop_is_no_second_copy(affwild2_root, tmp_path):
    expected, sources, expected_left_out = scan(affwild2_root)
    elsewhere = tmp_path / "großes Laufwerk (2)"
    elsewhere.mkdir()
    for name in ("batch1", "cropped_aligned"):
        (affwild2_root / name).rename(elsewhere / name)
        (affwild2_root / name).symlink_to(elsewhere / name)
    (affwild2_root / "loop").symlink_to(affwild2_root)
    (affwild2_root / "nowhere.mp4").symlink_to(tmp_path / "none.mp4")
    link = tmp_path / "link"
    link.symlink_to(affwild2_root)
    found, linked_sources, left_out = scan(link)
    assert list(found) == list(expected) and linked_sources == sources and left_out == expected_left_out
    (before,) = decode(affwild2_root, sources["visual", SHORT.name])
    (after,) = decode(link, sources["visual", SHORT.name])
    assert before.frames == after.frames


def test_a_video_that_an_annotation_needs_is_missing_and_counts(affwild2_root, tmp_path):
    for plan in (VALIDATION, TEST):
        next(affwild2_root.rglob(f"{plan.name}.mp4")).unlink()
    shutil.rmtree(affwild2_root / "cropped_aligned" / TEST.name)
    recordings, _, left_out = scan(affwild2_root)
    assert VALIDATION.name not in recordings and left_out[VALIDATION.name].damaged
    assert f"its video is missing: without {VALIDATION.name}.mp4" in left_out[VALIDATION.name].reason
    # Nobody annotated the test set: what is not there of it is not needed.
    assert TEST.name not in recordings and not left_out[TEST.name].damaged
    with pytest.raises(
        BadDataError, match=r"1 of 6 recordings are damaged or lack a file, more than the 5\.0%"
    ):
        prepare(Affwild2(affwild2_root, size=32), tmp_path / "out", workers=1)
    card = prepare(Affwild2(affwild2_root, size=32), tmp_path / "out", workers=1, max_damaged_share=0.2)
    assert card["counts"]["damaged"] == 1


def test_without_its_video_a_recording_has_the_rate_of_a_table(affwild2_root):
    for name in (PAIR.name, VALIDATION.name):
        next(affwild2_root.rglob(f"{name}.mp4")).unlink()
    table = affwild2_root / "rates.csv"
    table.write_text(f"video,rate_hz\n{PAIR.name},29.97\n{VALIDATION.name.upper()},12.5\n\n{SILENT.name},1\n")
    recordings, sources, left_out = scan(affwild2_root, frame_rates="rates.csv")
    for name, rate_hz in [(track.name, 29.97) for track in PAIR.tracks] + [(VALIDATION.name, 12.5)]:
        recording = recordings[name]
        assert recording.sources == {"visual": name} and recording.attributes["video"] == ""
        rows = len(recording.annotation.mask)
        np.testing.assert_allclose(recording.annotation.times_seconds, np.arange(rows) / rate_hz)
        assert f"{rate_hz:g} frames a second of a table" in left_out[name].reason
        assert not left_out[name].damaged
        (chunk,) = decode(affwild2_root, sources["visual", name], frame_rates="rates.csv")
        assert np.isin(chunk.times_seconds, recording.annotation.times_seconds).all()
    # A video that is there has its own times.
    times = recordings[SILENT.name].annotation.times_seconds
    np.testing.assert_allclose(times, SILENT.times_seconds, atol=1e-5)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name,fps\na,30\n", "line 1"),
        ("video,rate_hz\na,fast\n", "line 2"),
        ("video,rate_hz\na,30\na,25\n", "line 3"),
        ("video,rate_hz\na,1e9\n", "line 2"),
        (None, "cannot be read"),
    ],
)
def test_a_bad_table_of_rates_is_told(affwild2_release, tmp_path, text, message):
    path = tmp_path / "rates.csv"
    if text is not None:
        path.write_text(text)
    with pytest.raises((BadDataError, UsageError), match=message):
        scan(affwild2_release, frame_rates=str(path))
