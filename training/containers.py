"""How many bytes an audio file's own headers promise: what tells a whole recording from the half of one.

Decoders read to the end of what there is and call it the end, so a file cut in transit would pass as a short one.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import BinaryIO

_STREAMED_BYTES = 0x7FFF_0000  # a writer that could not go back leaves a size from here up to 0xFFFFFFFF: unknown
_OGG_PAGE_BYTES = 65_307
_MP3_SCAN_BYTES = 1 << 18
_EBML = b"\x1a\x45\xdf\xa3"
_SEGMENT = b"\x18\x53\x80\x67"
_OGG_END = 4  # flag of a stream's last page


def promised_bytes(file: BinaryIO) -> int | None:
    """The size in bytes that the headers of an open file promise, or None where they promise nothing.

    Knows RIFF, MP3 with a Xing/Info tag, Ogg, MP4 and Matroska. FLAC tells its length in samples, which the decoder
    checks. The answer may be smaller than the file (tags and padding may follow).
    """
    file.seek(0)
    head = file.read(16)
    if head[:4] == b"RIFF":
        return _riff(file)
    if head[:4] == b"OggS":
        return _ogg(file)
    if head[4:8] == b"ftyp":
        return max(end for _, end in _mp4_boxes(file))
    if head[:4] == _EBML:
        return _matroska(file)
    if _is_mp3(head):
        return _mp3(file, head)
    return None


def is_open_ended(file: BinaryIO) -> bool:
    """Whether nothing in an open file tells its end: a recorder may still write to it, or was ended before it could
    tell. Some formats never tell: AMR, MP3 without a Xing/Info tag, live WebM, fragmented MP4.
    """
    file.seek(0)
    head = file.read(26)
    if head[:4] == b"RIFF":
        _, size = _riff_data(file)
        return size == 0 or (size or 0) >= _STREAMED_BYTES  # a writer fills it in when it is done
    if head[:4] == b"fLaC":
        return len(head) == 26 and not int.from_bytes(head[21:26]) & (1 << 36) - 1  # samples in all: unknown
    if head[:4] == b"OggS":
        return not _ogg_is_ended(file)
    if head[4:8] == b"ftyp":
        return {b"moof"} == {b"moof", b"mfra"} & {kind for kind, _ in _mp4_boxes(file)}
    if head[:5] == b"#!AMR":
        return True
    return (head[:4] == _EBML or _is_mp3(head)) and promised_bytes(file) is None


def _riff(file: BinaryIO) -> int | None:
    start, size = _riff_data(file)
    if size is None:
        return start
    return None if size >= _STREAMED_BYTES else start + size


def _riff_data(file: BinaryIO) -> tuple[int, int | None]:
    """Where the sound begins and its size in bytes as told; None where that has not come yet."""
    offset = 12
    while True:
        file.seek(offset)
        chunk = file.read(8)
        if len(chunk) < 8:
            return offset + 8, None
        size = int.from_bytes(chunk[4:], "little")
        if chunk[:4] == b"data":
            return offset + 8, size
        offset += 8 + size + size % 2


def _ogg(file: BinaryIO) -> int:
    """The end of the last page that has begun."""
    at, page = _ogg_last_page(file)
    if len(page) < 27 or len(page) < 27 + page[26]:
        return file.seek(0, os.SEEK_END) + 1
    return at + 27 + page[26] + sum(page[27 : 27 + page[26]])


def _ogg_is_ended(file: BinaryIO) -> bool:
    _, page = _ogg_last_page(file)
    return len(page) > 5 and bool(page[5] & _OGG_END)


def _ogg_last_page(file: BinaryIO) -> tuple[int, bytes]:
    """Where the last page that has begun lies, and its header; empty where there is none."""
    size = file.seek(0, os.SEEK_END)
    start = max(0, size - 2 * _OGG_PAGE_BYTES)
    file.seek(start)
    tail = file.read()
    at = tail.rfind(b"OggS")
    return (start + at, tail[at : at + 27 + 255]) if at >= 0 else (size, b"")


def _mp4_boxes(file: BinaryIO) -> Iterator[tuple[bytes, int]]:
    """Kind and end of each outer box."""
    size = file.seek(0, os.SEEK_END)
    offset = 0
    while offset < size:
        file.seek(offset)
        box = file.read(16)
        length = int.from_bytes(box[:4])
        if length == 1 and len(box) == 16:
            length = int.from_bytes(box[8:])
        if length == 0:  # "to the end of the file"
            length = size - offset
        offset += max(length, 8)
        yield box[4:8], offset


def _matroska(file: BinaryIO) -> int | None:
    offset = 4
    file.seek(offset)
    header = _ebml_size(file)
    if header is None:
        return None
    file.seek(header, os.SEEK_CUR)
    if file.read(4) != _SEGMENT:
        return None
    size = _ebml_size(file)
    return None if size is None else file.tell() + size


def _ebml_size(file: BinaryIO) -> int | None:
    """A variable-length size at the read position; None for "unknown" (a live recording) or nothing there."""
    first = file.read(1)
    if not first or first[0] == 0:
        return None
    width = 9 - first[0].bit_length()
    mask = (1 << (8 - width)) - 1
    rest = file.read(width - 1)
    value = int.from_bytes(bytes([first[0] & mask]) + rest)
    return None if value == (1 << (7 * width)) - 1 else value


def _is_mp3(head: bytes) -> bool:
    return head[:3] == b"ID3" or (len(head) > 1 and head[0] == 0xFF and head[1] & 0xE0 == 0xE0)


def _mp3(file: BinaryIO, head: bytes) -> int | None:
    """The end of the stream by its Xing/Info tag, which counts bytes from the frame that holds it."""
    start = 0
    if head[:3] == b"ID3":
        start = 10 + sum((byte & 0x7F) << shift for byte, shift in zip(head[6:10], (21, 14, 7, 0), strict=False))
    file.seek(start)
    data = file.read(_MP3_SCAN_BYTES)
    frame = data.find(b"\xff")
    tag = max(data.find(b"Xing", 0, frame + 200), data.find(b"Info", 0, frame + 200))
    if frame < 0 or tag < 0:
        return None
    flags = int.from_bytes(data[tag + 4 : tag + 8])
    if not flags & 2:
        return None
    at = tag + 8 + (4 if flags & 1 else 0)
    return start + frame + int.from_bytes(data[at : at + 4])
