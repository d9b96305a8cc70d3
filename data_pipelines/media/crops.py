"""Face crops that are files already: kept byte by byte where they are what is stored, else made so."""

from __future__ import annotations

import cv2

from data_pipelines.errors import BadDataError
from data_pipelines.media.video import decode_jpeg, encode_jpeg

_START, _END = b"\xff\xd8", b"\xff\xd9"
# Frame headers of JPEG; C4, C8 and CC in this range are tables.
_FRAME_MARKERS = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_WITHOUT_LENGTH = frozenset((0x01, *range(0xD0, 0xD8)))
_START_OF_SCAN = 0xDA


def read_jpeg_size(data: bytes) -> tuple[int, int] | None:
    """Height and width that a JPEG file's header tells, without decoding; None where it is no whole JPEG.

    Whole means that it begins and ends as a JPEG does; what lies between is not looked at.
    """
    if data[:2] != _START or data.rstrip(b"\0")[-2:] != _END:
        return None
    place = 2
    while place + 9 <= len(data) and data[place] == 0xFF:
        marker = data[place + 1]
        if marker == 0xFF or marker in _WITHOUT_LENGTH:
            place += 1 if marker == 0xFF else 2
        elif marker in _FRAME_MARKERS:
            return int.from_bytes(data[place + 5 : place + 7]), int.from_bytes(data[place + 7 : place + 9])
        elif marker == _START_OF_SCAN:
            return None
        else:
            place += 2 + int.from_bytes(data[place + 2 : place + 4])
    return None


def stored_crop(data: bytes, size: int) -> bytes:
    """What is stored of an image file.

    Args:
      data: The file's content.
      size: Height and width of the stored crops.

    Returns:
      The same bytes where they are a JPEG of that size; else the picture, resized and encoded anew.

    Raises:
      BadDataError: It is no picture, or a JPEG that was cut short.
    """
    found = read_jpeg_size(data)
    if found == (size, size):
        return data
    if data[:2] == _START and found is None:
        raise BadDataError("it is cut short")
    image = decode_jpeg(data)
    shrinks = min(image.shape[:2]) > size
    image = cv2.resize(image, (size, size), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
    return encode_jpeg(image)
