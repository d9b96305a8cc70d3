"""Sequences about frames, and what their tokens see of face and voice."""

from __future__ import annotations

import dataclasses
import gzip
import json
import pickle

import cv2
import numpy as np
import pytest

from data_pipelines import frame_items, frame_windows
from data_pipelines.datasets import make_stream_windows
from data_pipelines.errors import BadDataError, UsageError
from data_pipelines.grid import Grid
from data_pipelines.items import make_items
from data_pipelines.loader import BlockOrder, Loader
from data_pipelines.media import spectrogram
from data_pipelines.recording import Annotation, Chunk, Recording, StreamSpec
from data_pipelines.source import make_table
from data_pipelines.tasks import find_task

TASK = find_task("valence_arousal")
NAMES = ("valence", "arousal")
RATE_HZ, SIZE, MAX_CHUNK = 2000, 8, 512
GRID, PAPER = Grid("frames", 16), Grid("frames", 16, schedule="paper")
SMALL = Grid("frames", 4, token_step_frames=8)
SOUND = {"features": "log_mel", "window_seconds": 0.5, "mels": 8}
SOUND |= {"fft_samples": 256, "window_samples": 200, "hop_samples": 100}


class Prepared:
    """As much of a prepared set as items and windows ask for; counts what is decoded."""

    path = "fake"

    def __init__(self, videos):
        self.streams = {
            "visual": StreamSpec("visual", "frames", ("r", "g", "b"), ("1",) * 3, height=SIZE, width=SIZE),
            "audio": StreamSpec("audio", "samples", ("mono",), ("1",), rate_hz=float(RATE_HZ), dtype="int16"),
        }
        self.recordings, self._chunks = [], {"visual": [], "audio": []}
        tables = {"visual": {}, "audio": {}}
        for video in videos:
            self.recordings.append(video.recording)
            for stream, chunks in (("visual", video.faces()), ("audio", video.sound())):
                if stream in video.recording.sources:
                    tables[stream][video.recording.id] = _columns(chunks)
                    self._chunks[stream] += chunks
        self._tables = {
            name: make_table(list(one), list(one.values())) for name, one in tables.items() if one
        }

    def table(self, stream):
        return self._tables[stream]

    def read(self, stream, rows):
        return [self._chunks[stream][row] for row in rows]


def _columns(chunks):
    times = [chunk.times_seconds if not chunk.rate_hz else chunk.times_seconds[:0] for chunk in chunks]
    return {
        "length": np.array([len(chunk) for chunk in chunks], np.int32),
        "start_seconds": np.array([chunk.times_seconds[0] for chunk in chunks]),
        "rate_hz": np.array([chunk.rate_hz for chunk in chunks], np.float64),
        "times_seconds": np.concatenate(times),
        "moment_count": np.zeros((len(chunks), 1)),
        "moment_sum": np.zeros((len(chunks), 1)),
        "moment_square_sum": np.zeros((len(chunks), 1)),
    }


class Video:
    """Frames whose colour is their number, an uneven clock, faces where it is said."""

    def __init__(self, name, frames, *, faces=None, labelled=None, group="train", sound=True, rate=0):
        rng = np.random.default_rng(len(name) + frames)
        self.times = np.arange(frames) / rate if rate else np.cumsum(rng.uniform(0.03, 0.05, frames))
        self.faces_at = np.arange(1, frames + 1) if faces is None else np.asarray(faces, np.int64)
        mask = np.zeros(frames, bool)
        mask[(np.arange(1, frames + 1) if labelled is None else np.asarray(labelled, np.int64)) - 1] = True
        values = np.stack([np.arange(frames) / 10_000, -np.arange(frames) / 10_000], 1).astype(np.float32)
        annotation = Annotation(NAMES, self.times, values, np.stack([mask, mask], 1))
        sources = {"visual": name} if len(self.faces_at) else {}
        sources |= {"audio": name} if sound else {}
        self.recording = Recording(name, name, sources, annotation, {}, group)
        self.pcm = rng.integers(-9000, 9000, int(self.times[-1] * RATE_HZ) + 50).astype(np.int16)

    def faces(self):
        chunks = []
        for index, first in enumerate(range(0, len(self.faces_at), MAX_CHUNK)):
            numbers = self.faces_at[first : first + MAX_CHUNK]
            chunks.append(
                Chunk("visual", self.recording.id, index, self.times[numbers - 1], frames=_coded(numbers))
            )
        return chunks

    def sound(self):
        step = 10 * RATE_HZ
        return [
            Chunk(
                "audio", self.recording.id, index, np.array([first / RATE_HZ]), rate_hz=float(RATE_HZ),
                values=self.pcm[first : first + step, None],
            )
            for index, first in enumerate(range(0, len(self.pcm), step))
        ]  # fmt: skip


def _coded(numbers):
    pictures = [np.full((SIZE, SIZE, 3), (n % 256, n // 256, 7), np.uint8) for n in numbers]
    return tuple(cv2.imencode(".png", picture)[1].tobytes() for picture in pictures)


def _numbers(pictures):
    """The frame numbers that a window shows."""
    red, green, blue = np.moveaxis(pictures[..., 0, 0, :].astype(int), -1, 0)
    return np.where(red == 7, blue + 256 * green, 0)


def _loader(prepared, grid, **streams):
    items = make_items(prepared, TASK, grid)
    windows = {
        name: make_stream_windows(prepared, name, grid, options, training=frozenset())
        for name, options in streams.items()
    }
    return Loader(items, windows)


@pytest.mark.parametrize("part", ["train", "validation"])
def test_the_papers_schedule_is_the_references_to_the_index(golden, part):
    """Golden: every sequence that the reference makes of synthetic videos with gaps."""
    with gzip.open(golden / "windows_videos.json.gz") as file:
        videos = sorted(json.load(file), key=lambda video: video["video"])
    with gzip.open(golden / "windows.json.gz") as file:
        wanted = json.load(file)["val" if part == "validation" else part]
    # A frame has a face and a label, or neither of both.
    prepared = Prepared(
        Video(v["video"], v["frames"], faces=v["labelled"], labelled=v["labelled"], group=part)
        for v in videos
    )
    loader = _loader(prepared, PAPER, visual={})
    assert len(loader.items) == len(wanted)
    step = 1 if part == "train" else 7
    for row in range(0, len(wanted), step):
        item = loader.load_item(row)
        recording = prepared.recordings[loader.items.recording[row]]
        assert recording.id == wanted[row]["video"]
        clips = np.array([clip or [0] * 8 for clip in wanted[row]["clips"]])
        np.testing.assert_array_equal(_numbers(item["inputs"]["visual"]), clips)
        # The label is that of the newest frame that a token sees.
        newest = clips[:, -1]
        np.testing.assert_array_equal(item["label_mask"][:, 0], newest > 0)
        values = np.where(newest > 0, recording.annotation.values[newest - 1, 0], 0)
        np.testing.assert_array_equal(item["labels"][:, 0], values)


def test_every_frame_is_a_target_once_whatever_it_lacks():
    gap = np.r_[1:100, 400:601]
    videos = [
        Video("a", 1300, faces=gap, labelled=np.r_[1:50, 700:1200]),
        Video("b", 40, faces=[], labelled=[], group="test"),
        Video("c", 512, sound=False, group="validation"),
    ]
    prepared = Prepared(videos)
    items = make_items(prepared, TASK, GRID)
    for number, video in enumerate(videos):
        own = items.recording == number
        frames = items.token_frames[own]
        assert np.array_equal(np.sort(frames[frames >= 0]), np.arange(len(video.times)))
        np.testing.assert_array_equal(items.start_seconds[own], video.times[frames[:, 0]])
        real = frames >= 0
        np.testing.assert_array_equal(
            items.label_mask[own][real], video.recording.annotation.mask[frames[real]]
        )
        assert not items.label_mask[own][~real].any()
        known = items.label_mask[own]
        np.testing.assert_array_equal(
            items.labels[own][known],
            np.where(real[..., None], video.recording.annotation.values[frames], 0)[known],
        )
        assert len(np.unique(items.block[own])) == -(-len(video.times) // 512)
    assert (items.token_frames == items.targets).all()
    assert len({(block, number) for block, number in zip(items.block, items.recording, strict=True)}) == 5


def test_labels_of_training_come_later_by_the_reaction_time():
    prepared = Prepared([Video("a", 600)])
    items = make_items(prepared, TASK, dataclasses.replace(GRID, label_shift_seconds=0.4))
    clock = prepared.recordings[0].annotation.times_seconds
    real = items.token_frames >= 0
    frames, shifted = items.token_frames[real], items.labels[real][:, 0] * 10_000
    known = items.label_mask[real][:, 0]
    np.testing.assert_array_equal(known, clock[frames] + 0.4 <= clock[-1])
    nearest = np.abs(clock[None] - (clock[frames] + 0.4)[:, None]).argmin(1)
    np.testing.assert_allclose(shifted[known], nearest[known], atol=1e-3)
    assert (shifted[known] > frames[known]).all()


def test_tokens_see_the_frames_that_end_at_their_target():
    video = Video("a", 70, faces=np.r_[1:20, 60:71])
    loader = _loader(Prepared([video]), SMALL, visual={"frames": 3, "reach_frames": 8})
    for row in range(len(loader.items)):
        item = loader.load_item(row)
        shown = _numbers(item["inputs"]["visual"])
        for token, target in enumerate(loader.items.token_frames[row] + 1):
            own = [n for n in video.faces_at if target - 7 <= n <= target] if target else []
            assert item["masks"]["visual"][token] == bool(own)
            assert set(shown[token]) <= set(own or [0])
            assert not own or (shown[token, -1] == own[-1] and (np.diff(shown[token]) >= 0).all())
            assert item["label_mask"][token].all() == bool(own)  # nothing is said where nothing is seen


def test_a_block_is_decoded_once(monkeypatch):
    decoded = []
    plain = frame_windows.decode_picture

    def counted(encoded, *rest):
        decoded.append(encoded)
        return plain(encoded, *rest)

    monkeypatch.setattr(frame_windows, "decode_picture", counted)
    loader = _loader(Prepared([Video("a", 600)]), GRID, visual={})
    first = [loader.load_item(row)["inputs"]["visual"] for row in range(32)]
    assert len(decoded) == len(set(decoded)) <= 512
    # With no room at all everything is the same, and decoded anew.
    decoded.clear()
    tight = _loader(Prepared([Video("a", 600)]), GRID, visual={"decoded_bytes": 0})
    tight = pickle.loads(pickle.dumps(tight.streams["visual"]))
    loader = dataclasses.replace(loader, streams={"visual": tight})
    again = [loader.load_item(row)["inputs"]["visual"] for row in range(32)]
    assert all(np.array_equal(x, y) for x, y in zip(first, again, strict=True))
    assert len(decoded) > 3 * len(set(decoded))


def test_sound_ends_at_the_target_and_begins_with_silence():
    video = Video("a", 900)
    loader = _loader(Prepared([video]), SMALL, audio=SOUND)
    options = {key: SOUND[key] for key in ("mels", "fft_samples", "window_samples", "hop_samples")}
    for row in (0, 5, 37, len(loader.items) - 1):
        item = loader.load_item(row)
        assert item["inputs"]["audio"].dtype == np.float32
        for token, frame in enumerate(loader.items.token_frames[row]):
            if frame < 0:
                assert not item["masks"]["audio"][token] and not item["inputs"]["audio"][token].any()
                continue
            end = round(video.times[frame] * RATE_HZ)
            wave = spectrogram.left_pad(video.pcm[max(end - 1000, 0) : end], 1000)
            wanted = spectrogram.log_mel(wave, RATE_HZ, **options)
            np.testing.assert_array_equal(item["inputs"]["audio"][token], wanted)
            assert item["masks"]["audio"][token]


def test_the_papers_sound_reaches_back_to_the_frame_32_before():
    video = Video("a", 300)
    slow = SOUND | {"window_seconds": 2.0, "reach_frames": 32}
    loader = _loader(Prepared([video]), GRID, audio=slow)
    options = {key: SOUND[key] for key in ("mels", "fft_samples", "window_samples", "hop_samples")}
    item = loader.load_item(3)
    for token, frame in enumerate(loader.items.token_frames[3][:9]):
        first, end = (round(video.times[max(f, 0)] * RATE_HZ) for f in (frame - 32, frame))
        wanted = spectrogram.log_mel(spectrogram.left_pad(video.pcm[first:end], 4000), RATE_HZ, **options)
        np.testing.assert_array_equal(item["inputs"]["audio"][token], wanted)


# A hop a frame: one new spectrum of 11, and the two at the ends; 1.25 hops: five new ones.
@pytest.mark.parametrize(("rate", "reach_frames", "share"), [(20, 0, 0.3), (16, 0, 0.65), (20, 7, 0.6)])
def test_windows_of_a_steady_rate_share_their_spectra(monkeypatch, rate, reach_frames, share):
    made = []
    plain = spectrogram.MelPower.__call__

    def counted(maker, *rest):
        made.append(plain(maker, *rest))
        return made[-1]

    monkeypatch.setattr(spectrogram.MelPower, "__call__", counted)
    video = Video("a", 250, rate=rate)
    own = SOUND | {"reach_frames": reach_frames}
    loader = _loader(Prepared([video]), SMALL, audio=own)
    options = {key: SOUND[key] for key in ("mels", "fft_samples", "window_samples", "hop_samples")}
    rows = np.random.default_rng(0).permutation(len(loader.items))
    items = {row: loader.load_item(row) for row in rows}
    needed = 11 * sum(int(item["masks"]["audio"].sum()) for item in items.values())
    assert sum(power.shape[1] for power in made) < share * needed
    for row, item in items.items():
        for token, frame in enumerate(loader.items.token_frames[row]):
            if not item["masks"]["audio"][token]:
                continue
            end = round(video.times[frame] * RATE_HZ)
            begin = max(end - 1000, round(video.times[max(frame - reach_frames, 0)] * RATE_HZ))
            begin = begin if reach_frames else max(end - 1000, 0)
            wave = spectrogram.left_pad(video.pcm[begin:end], 1000)
            np.testing.assert_array_equal(
                item["inputs"]["audio"][token], spectrogram.log_mel(wave, RATE_HZ, **options)
            )


def test_missing_streams_are_masks():
    videos = [Video("mute", 64, sound=False), Video("faceless", 64, faces=[]), Video("both", 64)]
    loader = _loader(Prepared(videos), SMALL, visual={"frames": 2, "reach_frames": 8}, audio=SOUND)
    seen = {}
    for row, number in enumerate(loader.items.recording):
        item = loader.load_item(row, np.random.default_rng(0))
        for stream, mask in item["masks"].items():
            seen.setdefault((videos[number].recording.id, stream), []).append(mask.any())
            assert item["inputs"][stream][~mask].sum() == 0
        assert item["label_mask"].any()
    absent = {key for key, there in seen.items() if not any(there)}
    assert absent == {("mute", "audio"), ("faceless", "visual")}
    padding = loader.load_item(-1)
    assert not any(mask.any() for mask in padding["masks"].values()) and not padding["label_mask"].any()


def test_augmentation_changes_what_is_seen_and_nothing_under_the_mask():
    video = Video("a", 64, faces=np.r_[40:65])
    options = {"frames": 2, "reach_frames": 8, "augment": {"brightness": 0.2, "contrast": 0.2}}
    loader = _loader(Prepared([video]), SMALL, visual=options)
    plain, once, again, other = (
        loader.load_item(9, rng and np.random.default_rng(rng)) for rng in (None, 1, 1, 2)
    )
    mask = plain["masks"]["visual"]
    assert mask.any() and not mask.all()
    pictures = [item["inputs"]["visual"] for item in (plain, once, again, other)]
    assert np.array_equal(pictures[1], pictures[2]) and not np.array_equal(pictures[1], pictures[3])
    assert not np.array_equal(pictures[0], pictures[1]) and not any(p[~mask].any() for p in pictures)


def test_training_sees_every_row_once_an_epoch_and_blocks_together():
    rows, block = np.arange(100, 180), np.repeat(np.arange(20), 4)
    order = BlockOrder(rows, block, seed=3, mixed_blocks=2)
    epochs = [[order[e * 80 + i] for i in range(80)] for e in range(2)]
    assert all(np.array_equal(np.sort(epoch), rows) for epoch in epochs) and epochs[0] != epochs[1]
    assert [order[i] for i in range(80)] == epochs[0] == BlockOrder(rows, block, 3, 2).epoch(0).tolist()
    for epoch in epochs:
        groups = (np.array(epoch) - 100).reshape(10, 8) // 4
        assert all(len(set(group)) == 2 for group in groups)


def test_batches_do_not_depend_on_the_number_of_processes_and_go_on():
    from data_pipelines.loader import Shard

    loader = _loader(Prepared([Video("a", 200), Video("b", 150)]), SMALL, audio=SOUND)
    rows = range(len(loader.items))
    whole = loader.train(rows, global_batch_size=4, seed=1)
    parts = [loader.train(rows, global_batch_size=4, seed=1, shard=Shard(i, 2)) for i in range(2)]
    for _ in range(3):
        one, (left, right) = next(whole), (next(part) for part in parts)
        assert set(one["index"]) == {*left["index"], *right["index"]}
    state = whole.get_state()
    wanted = next(whole)["index"].tolist()
    again = loader.train(rows, global_batch_size=4, seed=1)
    again.set_state(state)
    assert next(again)["index"].tolist() == wanted


def test_what_cannot_be_is_a_sentence():
    prepared = Prepared([Video("a", 40)])
    for options, message in (
        ({"kind": "frame"}, "frames"),
        ({"schedule": "all"}, "every_frame or paper"),
        ({"schedule": "paper", "tokens": 4}, "16 tokens 32 frames"),
        ({"label_shift_seconds": -1.0}, "at least 0"),
        ({"label_shift_seconds": 0.4, "kind": "clip"}, "set it to 0 with grid.kind='clip'"),
    ):
        with pytest.raises(UsageError, match=message):
            Grid(**({"kind": "frames", "tokens": 16} | options))
    with pytest.raises(BadDataError, match="no sequence of the 1 training"):
        make_items(prepared, TASK, PAPER)
    with pytest.raises(UsageError, match="needs the labels stress"):
        make_items(prepared, find_task("stress"), GRID)
    for stream, options, message in (
        ("visual", {"frames": 9, "reach_frames": 8}, "no more than"),
        ("visual", {"features": "log_mel"}, "one channel"),
        ("audio", {}, "log_mel"),
        ("audio", {"features": "mfcc"}, "mfcc"),
        ("audio", SOUND | {"window_seconds": 0.01}, "longer than half"),
        ("audio", SOUND | {"colour": 1}, "does not fit"),
    ):
        with pytest.raises(UsageError, match=message):
            make_stream_windows(prepared, stream, GRID, options, training=frozenset())
    whole = dataclasses.replace(prepared.recordings[0].annotation, times_seconds=None)
    prepared.recordings = [dataclasses.replace(prepared.recordings[0], annotation=whole)]
    with pytest.raises(UsageError, match="one for every frame"):
        make_items(prepared, TASK, GRID)


def test_frames_at_other_times_than_the_annotations_are_refused():
    prepared = Prepared([Video("a", 40)])
    annotation = prepared.recordings[0].annotation
    moved = dataclasses.replace(annotation, times_seconds=annotation.times_seconds + 1e-3)
    with pytest.raises(BadDataError, match="row for every frame"):
        frame_items.stored_frames(
            prepared, dataclasses.replace(prepared.recordings[0], annotation=moved), "visual"
        )
