"""Where the records of torch's zip files lie: their directory, read without trusting it.

torch stores every record as it is. So nothing is ever inflated here, and as no two records may share a byte,
all of them together are no larger than the file.
"""

from __future__ import annotations

import mmap
import struct
import zlib
from typing import NamedTuple

from data_pipelines.errors import BadDataError

MAX_RECORDS = 100_000
_END = struct.Struct("<4s4H2LH")
_END_64_LOCATOR = struct.Struct("<4sLQL")
_END_64 = struct.Struct("<4sQ2H2L4Q")
_ENTRY = struct.Struct("<4s6H3L5H2L")
_LOCAL = struct.Struct("<4s5H3L2H")
_LONGEST_COMMENT = 0xFFFF
_IN_EXTRA = 0xFFFFFFFF


class Record(NamedTuple):
    """One stored record: its bytes are `buffer[start : start + size]`."""

    start: int
    size: int
    crc: int


def read_records(buffer: mmap.mmap, file_name: str) -> dict[str, Record]:
    """Name -> record of every file in the archive.

    Raises:
      BadDataError: the archive is cut off or damaged, or compressed, encrypted or overlapping.
    """
    try:
        records = _read_directory(buffer, file_name)
    except struct.error as error:
        raise _damaged(file_name, "its directory ends too early") from error
    end = 0
    for record in sorted(records.values()):
        if record.start < end:
            raise _damaged(file_name, "its records overlap")
        end = record.start + record.size
        if end > len(buffer):
            raise _damaged(file_name, "a record goes on past the end of the file")
    return records


def check(buffer: mmap.mmap, record: Record, name: str, file_name: str) -> None:
    """Compares a record with its checksum.

    Raises:
      BadDataError: they differ.
    """
    with memoryview(buffer) as view, view[record.start : record.start + record.size] as content:
        if zlib.crc32(content) != record.crc:
            raise _damaged(file_name, f"record {name} does not fit its checksum")


def _damaged(file_name: str, why: str) -> BadDataError:
    return BadDataError(f"{file_name} is a zip file that is cut off or damaged: {why}; get the file again")


def _read_directory(buffer: mmap.mmap, file_name: str) -> dict[str, Record]:
    count, position = _find_directory(buffer, file_name)
    if count > MAX_RECORDS:
        raise BadDataError(
            f"{file_name} claims {count:,} records; a file of tensors has at most {MAX_RECORDS:,}. It is "
            "damaged or no file of weights"
        )
    records: dict[str, Record] = {}
    for _ in range(count):
        entry = _ENTRY.unpack_from(buffer, position)
        signature, _, _, flags, method, _, _, crc, stored, size, name_length, extra_length, comment_length = (
            entry[:13]
        )
        if signature != b"PK\x01\x02":
            raise _damaged(file_name, "its directory is broken")
        text = position + _ENTRY.size
        name = buffer[text : text + name_length].decode("utf-8", "replace")
        extra = buffer[text + name_length : text + name_length + extra_length]
        stored, size, local = _with_extra(stored, size, entry[-1], extra, file_name)
        if method or flags & 1 or stored != size:
            raise BadDataError(
                f"{file_name} holds compressed or encrypted records, which torch never writes; unpack it "
                "and save it with torch again"
            )
        if name in records:
            raise _damaged(file_name, "a record is there twice")
        records[name] = Record(_content(buffer, local, file_name), size, crc)
        position = text + name_length + extra_length + comment_length
    return records


def _find_directory(buffer: mmap.mmap, file_name: str) -> tuple[int, int]:
    """Number of entries, and where the first one lies."""
    end = buffer.rfind(b"PK\x05\x06", max(0, len(buffer) - _END.size - _LONGEST_COMMENT))
    if end < 0:
        raise _damaged(file_name, "it has no directory at its end")
    _, _, _, _, count, _, position, _ = _END.unpack_from(buffer, end)
    locator = end - _END_64_LOCATOR.size
    if locator >= 0 and buffer[locator : locator + 4] == b"PK\x06\x07":
        _, _, end_64, _ = _END_64_LOCATOR.unpack_from(buffer, locator)
        if end_64 > len(buffer):
            raise _damaged(file_name, "its directory lies past its end")
        signature, *_, count, _, position = _END_64.unpack_from(buffer, end_64)
        if signature != b"PK\x06\x06":
            raise _damaged(file_name, "its directory is broken")
    if position > len(buffer):
        raise _damaged(file_name, "its directory lies past its end")
    return count, position


def _with_extra(stored: int, size: int, local: int, extra: bytes, file_name: str) -> tuple[int, int, int]:
    """The three numbers, from the extra field where they are too large for the entry itself."""
    if _IN_EXTRA not in (stored, size, local):
        return stored, size, local
    position = 0
    while position + 4 <= len(extra):
        kind, length = struct.unpack_from("<2H", extra, position)
        if kind == 1:
            large = iter(struct.unpack_from(f"<{length // 8}Q", extra, position + 4))
            size, stored, local = (
                next(large, -1) if number == _IN_EXTRA else number for number in (size, stored, local)
            )
            if -1 not in (size, stored, local):
                return stored, size, local
        position += 4 + length
    raise _damaged(file_name, "a record has no size")


def _content(buffer: mmap.mmap, local: int, file_name: str) -> int:
    """Where a record's bytes begin, behind its local header."""
    if local > len(buffer):
        raise _damaged(file_name, "a record lies past the end of the file")
    header = _LOCAL.unpack_from(buffer, local)
    if header[0] != b"PK\x03\x04":
        raise _damaged(file_name, "a record has no header")
    return local + _LOCAL.size + header[-2] + header[-1]
