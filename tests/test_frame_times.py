from __future__ import annotations

import av
import numpy as np
import pytest
from affwild2_case import PAIR

from data_pipelines.errors import BadDataError
from data_pipelines.media import video
from data_pipelines.media.frame_times import read_frame_times
from data_pipelines.media.video_writing import write_video


def test_packets_tell_the_times_that_decoding_does(affwild2_release, tmp_path):
    path = affwild2_release / "batch1" / f"{PAIR.name}.mp4"
    with av.open(str(path)) as container:
        stamps = [packet.pts for packet in container.demux(video=0) if packet.size]
    assert stamps != sorted(stamps)  # pictures out of order
    decoded = [frame.time_seconds for frame in video.read_frames(path, size=16)]
    clock = read_frame_times(path)
    np.testing.assert_allclose(clock.times_seconds, decoded, atol=1e-9)
    assert clock.has_sound and len(decoded) == len(PAIR.times_seconds)


def test_an_avi_without_timestamps_is_decoded_for_them(tmp_path):
    path = tmp_path / "clip.avi"
    write_video(path, [np.full((32, 32, 3), shade, np.uint8) for shade in range(0, 200, 10)], rate_hz=25)
    clock = read_frame_times(path)
    assert len(clock.times_seconds) == 20 and not clock.has_sound
    np.testing.assert_allclose(np.diff(clock.times_seconds), 0.04, atol=1e-6)


def test_files_that_are_no_video(tmp_path):
    (tmp_path / "text.mp4").write_text("no video")
    with pytest.raises(BadDataError, match=r"text\.mp4"):
        read_frame_times(tmp_path / "text.mp4")
    with pytest.raises(BadDataError, match="missing"):
        read_frame_times(tmp_path / "none.mp4")
