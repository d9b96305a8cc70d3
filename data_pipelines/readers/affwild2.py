"""Reads Affwild2 (valence and arousal) as its release lies on disk.

Layout (reference facts, B1)::

    VA_Set/{Train_Set,Validation_Set}/<name>.txt    or VA_Estimation_Challenge/... in later editions:
                                                    valence,arousal of one frame a line, -5 = not annotated
    cropped_aligned/<name>/00001.jpg                face of frame 1; a missing number = no face found
    <video>.mp4, <video>.avi, ...                   in any folder; for the sound and the times of the frames
    *test_set*.txt                                  names of the test set, which has no annotations

``<name>`` is a video's name, with ``_left`` or ``_right`` behind it where it shows two people: two recordings
with faces of their own and one sound. Endings and folders may be in capitals or small letters, symbolic links
are followed.
"""

from __future__ import annotations

import concurrent.futures
import dataclasses
import functools
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import ClassVar

import numpy as np

from data_pipelines.errors import BadDataError, UsageError
from data_pipelines.media import audio, crops
from data_pipelines.media.frame_times import FrameTimes, KnownFrameTimes, read_frame_times
from data_pipelines.readers import affwild2_files as files
from data_pipelines.readers.affwild2_clocks import clock_of, frame_seconds, read_frame_rates
from data_pipelines.recording import (
    MAX_CHUNK_FRAMES,
    Annotation,
    Chunk,
    LeftOut,
    Recording,
    Source,
    StreamSpec,
)

_NAMED_CROPS = 3
_SCAN_THREADS = 4


@dataclasses.dataclass(frozen=True)
class Affwild2:
    """The reader of Affwild2; see the module for the layout.

    Streams: ``visual``, the face crops, at the times of their frames in the video, and ``audio``, the video's
    sound, stored once for both people of a video. Either may be missing in a recording, not both. A recording
    whose video is missing is left out, for nothing tells when its frames are, but where `frame_rates` does.
    One recording a face track. Its annotation has a row for **every** frame, with a face or without:
    row i is frame number i + 1 of the release, and ``times_seconds[i]`` is its time in the video. A crop's
    time is the very same number, so ``np.searchsorted(annotation.times_seconds, chunk.times_seconds) + 1``
    gives the frame numbers of a chunk exactly, however the frame rate varies.

    The rows go on to the last of: frames in the video, lines of the annotation, numbers of the crops. Beyond
    the video's end the times go on at its mean rate; rows without a line are masked.
    The subject is the video: the release does not tell who is who, and the two people of one video must not
    come apart. Attributes: ``video`` (name; "" where there is none), ``frames`` (rows), ``video_frames``,
    ``annotation_lines``, ``crops``.

    Attributes:
      root: The folder that holds annotations, crops and videos, at most three folders deep.
      edition: ``VA_Set`` or ``VA_Estimation_Challenge``: which annotations, where both are there.
      test_list: File with the names of the test set, one a line; relative to the raw folder, or absolute.
        Without it, the file whose name contains ``test_set``.
      frame_rates: CSV with the header ``video,rate_hz`` and the steady frame rate of videos that are not
        there, e.g. in a copy with face crops alone; relative to the raw folder, or absolute. A video that is
        there has its own times.
      size: Height and width of the stored face crops in pixels; crops of another size are encoded anew.
      sound_rate_hz: Rate of the stored sound, samples a second.
    """

    root: str
    edition: str = ""
    test_list: str = ""
    frame_rates: str = ""
    size: int = 112
    sound_rate_hz: int = audio.PAPER_RATE_HZ

    name: ClassVar[str] = "affwild2"
    version: ClassVar[str] = "2"

    def __post_init__(self) -> None:
        object.__setattr__(self, "root", str(self.root))
        if self.edition not in ("", *files.EDITIONS):
            raise UsageError(f"edition is {self.edition!r}; expected {' or '.join(files.EDITIONS)}")
        if self.size < 8:
            raise UsageError(f"size is {self.size}; expected the crops' height in pixels, at least 8")
        if not audio.MIN_RATE_HZ <= self.sound_rate_hz <= audio.MAX_RATE_HZ:
            raise UsageError(
                f"sound_rate_hz is {self.sound_rate_hz}; expected {audio.MIN_RATE_HZ} to {audio.MAX_RATE_HZ}"
            )

    def settings(self) -> Mapping[str, object]:
        """Every option that changes the result."""
        return {
            "edition": self.edition,
            "test_list": Path(self.test_list).name,
            "frame_rates": dict(sorted(self._rates_hz.items())),
            "size": self.size,
            "sound_rate_hz": self.sound_rate_hz,
        }

    def notes(self) -> Mapping[str, str]:
        """Sentences for the data card."""
        layout = self._layout
        tests = self._test_list_path()
        return {
            "annotations": f"{os.path.commonpath(layout.annotations.values())}; one row a frame, row i is "
            "frame number i + 1 of the release; a line with -5 is masked",
            "face_crop": f"the release's own crops: JPEG files of {self.size}x{self.size} are stored byte by "
            f"byte, others resized and encoded anew ({self._crop_sizes()})",
            "sound": "first audio stream of each video, once for all its people: mean of the channels, "
            f"16-bit PCM at {self.sound_rate_hz} Hz",
            "clock": "times of the video's frames as the file stamps them, from the file's start"
            + ("; by a table of frame rates where the video is not there" if self.frame_rates else ""),
            "subjects": "a video counts as one subject: the release does not tell who is who",
            "test_set": "no list of test videos is there" if tests is None else f"listed in {tests.name}",
        }

    def is_sample(self) -> bool:
        """True if this software made the raw folder."""
        return (Path(self.root) / "SAMPLE.json").is_file()

    def streams(self) -> tuple[StreamSpec, ...]:
        """``visual`` and ``audio``."""
        visual = StreamSpec(
            "visual",
            "frames",
            channels=("red", "green", "blue"),
            units=("0 to 255",) * 3,
            height=self.size,
            width=self.size,
            dtype="uint8",
        )
        sound = StreamSpec(
            "audio",
            "samples",
            channels=("mono",),
            units=("full scale / 32768",),
            rate_hz=float(self.sound_rate_hz),
            dtype="int16",
        )
        return visual, sound

    def scan(self) -> tuple[list[Recording], list[Source], list[LeftOut]]:
        """Finds the recordings and reads the videos' timestamps; see `data_pipelines.recording.Reader.scan`.

        Returns:
          Recordings in the order of part (train, validation, test) and name; their sources; and what is not
          there: damaged recordings and those without their video (both ``damaged``), missing sound or faces,
          lines beyond a video's end, superfluous files.
        """
        layout = self._layout
        rates_hz = self._rates_hz
        parts = dict(layout.parts) | dict.fromkeys(self._test_names(), "test")
        names = sorted(parts, key=lambda name: (("train", "validation", "test").index(parts[name]), name))
        left_out = [
            LeftOut(path, f"another video file has the same name and was taken: {taken}", damaged=False)
            for path, taken in layout.duplicates.items()
        ]
        recordings: list[Recording] = []
        sources: dict[tuple[str, str], Source] = {}
        clocks = self._clocks(sorted({files.video_of(name, layout.videos) for name in names}))
        for name in names:
            try:
                recording, of_recording, remarks = self._recording(name, parts[name], clocks, rates_hz)
            except BadDataError as error:
                left_out.append(LeftOut(name, str(error), damaged=True))
                continue
            left_out.extend(LeftOut(name, remark, damaged=False) for remark in remarks)
            if recording is not None:
                recordings.append(recording)
                sources |= {(source.stream, source.id): source for source in of_recording}
        unused = sorted(set(layout.crops) - set(names))
        left_out.extend(
            LeftOut(name, f"{layout.crops[name]} has face crops but no annotation", damaged=False)
            for name in unused
        )
        return recordings, list(sources.values()), left_out

    def recall(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Takes in what `remembered` gave; see `data_pipelines.recording.Remembering`."""
        self._frame_times.add(arrays)

    def remembered(self) -> dict[str, np.ndarray]:
        """Timestamps of the videos: to find them, all of each file is read."""
        return self._frame_times.to_arrays()

    def decode(self, source: Source) -> Iterator[Chunk]:
        """Decodes one video's sound or face track; see `data_pipelines.recording.Reader.decode`."""
        root = Path(self.root)
        if source.stream == "audio":
            yield from audio.read_chunks(
                root / source.files[0], stream="audio", source=source.id, rate_hz=self.sound_rate_hz
            )
            return
        folder = root / source.files[0]
        if len(source.files) > 1:
            clock: FrameTimes | float = read_frame_times(root / source.files[1])
        else:
            clock = self._rates_hz[files.video_of(source.id, self._rates_hz)]
        times: list[float] = []
        images: list[bytes] = []
        unreadable: list[str] = []
        index = 0
        for number, file in files.crop_files(folder):
            try:
                image = crops.stored_crop((folder / file).read_bytes(), self.size)
            except BadDataError:
                unreadable.append(file)
                continue
            # A full chunk waits for the next crop: the last one tells what could not be read.
            if len(images) == MAX_CHUNK_FRAMES:
                yield Chunk("visual", source.id, index, np.array(times), frames=tuple(images))
                times, images, index = [], [], index + 1
            times.append(float(frame_seconds(clock, number, number)[0]))
            images.append(image)
        if not images:
            raise BadDataError(
                f"none of the {len(unreadable)} images in {folder} can be read; copy them again"
            )
        remarks = (_describe_unreadable(unreadable),) if unreadable else ()
        yield Chunk("visual", source.id, index, np.array(times), frames=tuple(images), left_out=remarks)

    @functools.cached_property
    def _layout(self) -> files.Layout:
        return files.find_layout(Path(self.root), self.edition)

    @functools.cached_property
    def _rates_hz(self) -> dict[str, float]:
        return read_frame_rates(Path(self.root) / self.frame_rates) if self.frame_rates else {}

    @functools.cached_property
    def _frame_times(self) -> KnownFrameTimes:
        return KnownFrameTimes(Path(self.root))

    def __getstate__(self) -> dict[str, object]:
        # What was found stays behind: a worker process needs the options alone.
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}

    def _test_list_path(self) -> Path | None:
        if self.test_list:
            return Path(self.root) / self.test_list
        found = self._layout.test_lists
        if len(found) > 1:
            raise BadDataError(
                f"{self.root} holds {len(found)} lists of a test set, {' and '.join(found[:2])}; choose one: "
                f"test_list={found[0]}"
            )
        return Path(self.root) / found[0] if found else None

    def _test_names(self) -> list[str]:
        path = self._test_list_path()
        names = [] if path is None else files.read_test_list(path)
        both = sorted(set(names) & set(self._layout.parts))
        if both:
            raise BadDataError(
                f"{path} lists {both[0]}, which is annotated in the {self._layout.parts[both[0]]} part; "
                "expected the test set's own videos"
            )
        return names

    def _clocks(self, videos: list[str]) -> dict[str, FrameTimes | str]:
        """The clock of each video that is there, or why it cannot be read."""
        paths = {name: self._layout.videos[name] for name in videos if name in self._layout.videos}

        def read(path: str) -> FrameTimes | str:
            try:
                return self._frame_times.read(path)
            except BadDataError as error:
                return str(error)

        with concurrent.futures.ThreadPoolExecutor(_SCAN_THREADS) as pool:
            return dict(zip(paths, pool.map(read, paths.values()), strict=True))

    def _recording(
        self, name: str, part: str, clocks: Mapping[str, FrameTimes | str], rates_hz: Mapping[str, float]
    ) -> tuple[Recording | None, list[Source], list[str]]:
        """One recording, None where nothing of it can be seen or heard; its sources; and what it lacks."""
        layout = self._layout
        video = files.video_of(name, layout.videos)
        folder = layout.crops.get(name, "")
        numbers = files.crop_numbers(Path(self.root) / folder) if folder else np.zeros(0, np.int64)
        if part == "test" and video not in clocks and not len(numbers):
            return None, [], ["neither a face nor a video is there: no recording is made of it"]
        if video not in clocks:
            video = files.video_of(name, rates_hz)
        clock = clock_of(video, clocks, rates_hz)
        if name in layout.annotations:
            values, mask = files.read_annotation(Path(self.root) / layout.annotations[name])
        else:
            values, mask = np.zeros((0, 2), np.float32), np.zeros(0, bool)
        frames = len(clock.times_seconds) if isinstance(clock, FrameTimes) else 0
        rows = max(frames, len(values), int(numbers.max(initial=0)))
        remarks = _describe_lacks(name, part, clock, len(values), frames, numbers)
        sources = []
        path = layout.videos.get(video) if frames else None
        if len(numbers):
            sources.append(Source("visual", name, (folder,) if path is None else (folder, path)))
        if isinstance(clock, FrameTimes) and clock.has_sound:
            sources.append(Source("audio", video, (path,)))
        if not sources:
            return None, [], [*remarks, "neither a face nor a sound is there: no recording is made of it"]
        missing = rows - len(values)
        annotation = Annotation(
            names=("valence", "arousal"),
            times_seconds=frame_seconds(clock, 1, rows),
            values=np.pad(values, ((0, missing), (0, 0))),
            mask=np.repeat(np.pad(mask, (0, missing))[:, None], 2, axis=1),
        )
        attributes = {
            "video": "" if path is None else video,
            "frames": rows,
            "video_frames": frames,
            "annotation_lines": len(values),
            "crops": len(numbers),
        }
        streams = {source.stream: source.id for source in sources}
        recording = Recording(name, files.base_name(name), streams, annotation, attributes, part)
        return recording, sources, remarks

    def _crop_sizes(self) -> str:
        """What the first crop looks like."""
        for folder in self._layout.crops.values():
            for _, file in files.crop_files(Path(self.root) / folder):
                found = crops.read_jpeg_size((Path(self.root) / folder / file).read_bytes())
                if found:
                    return f"the first one is {found[1]}x{found[0]}"
        return "there is none"


def _describe_lacks(
    name: str, part: str, clock: FrameTimes | float, lines: int, frames: int, numbers: np.ndarray
) -> list[str]:
    """What a recording lacks or has too much of, a sentence each."""
    remarks = []
    if not isinstance(clock, FrameTimes):
        remarks.append(f"its video is not there: no sound; times by the {clock:g} frames a second of a table")
    else:
        if not clock.has_sound:
            remarks.append("its video has no sound: the stream audio is missing")
        if part != "test" and lines < frames:
            remarks.append(f"{lines} lines of annotation for {frames} frames: the last ones are masked")
        if lines > frames:
            remarks.append(
                f"{lines} lines of annotation for {frames} frames: times beyond the video's end are estimated"
            )
        beyond = int((numbers > frames).sum())
        if beyond:
            remarks.append(
                f"{beyond} face crops are numbered beyond the video's {frames} frames: times are estimated"
            )
    if not len(numbers):
        remarks.append(f"{files.CROPS_FOLDER}/{name} holds no face: the stream visual is missing")
    return remarks


def _describe_unreadable(names: list[str]) -> str:
    listed = ", ".join(names[:_NAMED_CROPS]) + (" ..." if len(names) > _NAMED_CROPS else "")
    return f"{len(names)} face crops cannot be read and are masked: {listed}"
