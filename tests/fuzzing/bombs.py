"""Files made to do harm, and files that are something else than their names say.

Each is small: what they would fill memory or time with is only said or packed.
"""

import functools
import struct
import zlib
from io import BytesIO
from types import MappingProxyType
from typing import Final
from zipfile import ZIP_DEFLATED, ZipFile

from PIL import Image

_DEEP: Final = 100_000
_BOMB_SIDE: Final = 30_000


def bombs(kind: str) -> tuple[bytes, ...]:
    """Returns the files that a reader of such a kind should survive."""
    return (*_OF_KIND[kind](), *_anything())


def _anything() -> tuple[bytes, ...]:
    return (b"", b"\0" * 1000, b"<html>404 Not Found</html>", _zip(), b"\xff\xfe", b"\n" * 10_000)


@functools.cache
def _zip() -> bytes:
    buffer = BytesIO()
    with ZipFile(buffer, "w", ZIP_DEFLATED) as file:
        file.writestr("zeros", b"\0" * 10_000_000)
    return buffer.getvalue()


def _coco() -> tuple[bytes, ...]:
    lists = b'"images": [], "annotations": [], "categories": []'
    return (
        b"[" * _DEEP,
        b'{"a":' * _DEEP,
        b'{"images": ' + b"[" * _DEEP + b"]" * _DEEP + b"}",
        b'{"info": ' + b"[" * _DEEP + b"]" * _DEEP + b", " + lists + b"}",
        b'{"images": [{"id": ' + b"9" * 5000 + b"}]}",
        b'{"images": [' + b'{"id": 1}, ' * 1000 + b"]}",
        b'{"images": [1, "a", null]}',
        b'{"images": [{"id": true, "file_name": "1.jpg"}], "annotations": [], "categories": []}',
        b'{"info": "' + b"x" * 1_000_000,
        b"{" + lists + b"}",
        b"{" + lists + b"} {}",
        b"[]",
        b'[{"image_id": 1, "category_id": 1, "bbox": [0, 0, 1, 1], "score": 0.5}]',
        b"null",
        b"NaN",
        b'"text"',
    )


def _voc() -> tuple[bytes, ...]:
    entities = b"".join(
        b'<!ENTITY e%d "%s">' % (level, b"&e%d;" % (level - 1) * 10) for level in range(1, 10)
    )
    thing = b"<object><name>%s</name></object>"
    document = b"<?xml version='1.0'?><!DOCTYPE a [%s]><annotation>" + thing + b"</annotation>"
    encoded = b'<?xml version="1.0" encoding="%s"?><annotation/>'
    return (
        document % (b'<!ENTITY e0 "lol">' + entities, b"&e9;"),
        document % (b'<!ENTITY e "%s">' % (b"x" * 100_000), b"&e;" * 10_000),
        document % (b'<!ENTITY e SYSTEM "file:///etc/passwd">', b"&e;"),
        document % (b'<!ENTITY e SYSTEM "http://127.0.0.1:9/e">', b"&e;"),
        document % (b'<!ENTITY % p SYSTEM "file:///dev/zero"> %p;', b""),
        b'<!DOCTYPE a SYSTEM "http://127.0.0.1:9/a.dtd"><annotation/>',
        b"<annotation>&e;</annotation>",
        b"<a>" * _DEEP,
        b"<a>" * _DEEP + b"</a>" * _DEEP,
        b"<annotation><object>" + b"<a>" * _DEEP + b"</a>" * _DEEP + b"</object></annotation>",
        b"<annotation>" + b"<object/>" * _DEEP + b"</annotation>",
        b"<annotation><object><name>" + b"x" * 1_000_000 + b"</name></object></annotation>",
        b"<annotation " + b" ".join(b"a%d='1'" % number for number in range(10_000)) + b"/>",
        *(
            encoded % name
            for name in (b"utf-7", b"utf-16", b"nonsense", b"cp037", b"rot13", b"x" * 99)
        ),
        b"<annotation><size><width>1</width></size><object><bndbox/></object></annotation>",
    )


def _yolo() -> tuple[bytes, ...]:
    return (
        b"0 " * 1_000_000,
        b"0 " + b"0.5 " * 1_000_000,
        b"0 0.5 0.5 0.1 0.1\r\n" * 20_000,
        b"0" * 1_000_000,
        b"0 0.5 0.5 " + b"9" * 100_000 + b" 0.1",
        b"0 0.5 0.5 0.1 0.1 0.9\n0 0.5 0.5\n",
        b"class x y w h\n0,0.5,0.5,0.1,0.1\n0\t0.5\t0.5\t0.1\t0.1\n",
        "0 0.5 0.5 0.1 0.1\n".encode("utf-16"),
        "٠ ٠.٥ 0.5 0.1 0.1\n".encode(),
        b"1e999 0.5 0.5 0.1 0.1\nnan nan nan nan nan\n",
    )


def _list() -> tuple[bytes, ...]:
    return (
        b"./images/1.jpg\n" * 20_000,
        b"/dev/zero\n/proc/self/mem\n/etc/passwd\n",
        b"/dev/zero.jpg\n../../../1.jpg\nimages\n.\n..\n",
        b"x" * 1_000_000,
        b"x" * 1_000_000 + b".jpg",
        b"images/\0.jpg\n",
        "./images/1.jpg\n".encode("utf-16"),
    )


def _yaml() -> tuple[bytes, ...]:
    aliases = b"".join(
        b"a%d: &a%d [%s]\n" % (level, level, b", ".join([b"*a%d" % (level - 1)] * 10))
        for level in range(1, 10)
    )
    bomb = b"roboflow: &a0 [x, x]\n" + aliases
    nested = b"&a0 [x]"
    for level in range(1, 30):
        nested = b"&a%d [%s, *a%d]" % (level, nested, level - 1)
    return (
        bomb,
        b"train: " + nested + b"\nnames: [a]\n",
        b"train: images\nnames: " + nested + b"\n",
        b"train: images\nnames: [a]\nnc: " + nested + b"\n",
        b"train: images\nnames: [a]\nclasses: " + nested + b"\n",
        b"train: images\nnames: &a [*a]\n",
        b"train: &a {images: *a}\nnames: [a]\n",
        b"train: images\nnames: [" + b"[" * 50_000,
        b"train: images\nnames: " + b"{a: " * 5_000,
        b"train: images\nnames: [" + b", ".join(b"n%d" % number for number in range(20_000)) + b"]",
        b"train: images\nnc: " + b"9" * 5000 + b"\nnames: [a]\n",
        b"train: images\nnames: {0x7fffffffffffffff: a}\n",
        b"train: 2001-99-99\nnames: [a]\n",
        b"? [train, val]\n: images\nnames: [a]\n",
        b"? {train: val}\n: images\nnames: [a]\n",
        b"train: !!python/object/apply:os.system ['true']\nnames: [a]\n",
        b"train: !!binary aW1hZ2Vz\nnames: [a]\n",
        b'train: "images\\0"\nnames: [a]\n',
        b'train: images\nnames: ["\\ud800", b]\n',
        b"train: images\npath: /dev/zero\nnames: [a]\n",
        b"train: images\nnames: [a]\n---\nval: images\n",
    )


def _chunk(kind: bytes, data: bytes) -> bytes:
    checksum = struct.pack(">I", zlib.crc32(kind + data))
    return struct.pack(">I", len(data)) + kind + data + checksum


@functools.cache
def png_bomb(width: int = _BOMB_SIDE, height: int = _BOMB_SIDE) -> bytes:
    """Returns a whole PNG of black pixels, one bit each: 30,000 x 30,000 of them are 109 kB."""
    packed = zlib.compressobj(9)
    row = bytes(1 + -(-width // 8))
    body = b"".join(packed.compress(row) for _ in range(height)) + packed.flush()
    header = struct.pack(">2I5B", width, height, 1, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + _chunk(b"IHDR", header)
        + _chunk(b"IDAT", body)
        + _chunk(b"IEND", b"")
    )


def _png() -> tuple[bytes, ...]:
    sound = png_bomb(8, 8)
    zeros = zlib.compress(b"\0" * 50_000_000, 9)
    behind_header = 33
    sides = 2**31 - 1
    sizes = ((30_000, 30_000), (sides, sides), (0, 0), (1, sides), (1, 10**8), (10**8, 1))
    return (
        png_bomb(),
        *(
            sound[:8] + _chunk(b"IHDR", struct.pack(">2I5B", *size, 1, 0, 0, 0, 0)) + sound[33:]
            for size in sizes
        ),
        *(
            sound[:behind_header] + _chunk(name, words + zeros) + sound[behind_header:]
            for name, words in ((b"zTXt", b"a\0\0"), (b"iTXt", b"a\0\1\0\0\0"), (b"iCCP", b"a\0\0"))
        ),
        sound[:behind_header] * 2 + sound[behind_header:],
        sound[:behind_header] + _chunk(b"eXIf", b"II*\0" + b"\xff" * 50) + sound[behind_header:],
    )


def _saved(kind: str, **options: object) -> bytes:
    buffer = BytesIO()
    Image.new("RGB", (96, 64), (9, 99, 199)).save(buffer, kind, **options)
    return buffer.getvalue()


def _jpeg() -> tuple[bytes, ...]:
    sound = _saved("JPEG")
    starts = ((sound, b"\xff\xc0"), (_saved("JPEG", progressive=True), b"\xff\xc2"))
    sizes = ((30_000, 30_000), (65_535, 65_535), (10_000, 10_000), (0, 0), (1, 65_535))
    return (
        *(
            data[: data.index(start) + 5]
            + struct.pack(">2H", *size)
            + data[data.index(start) + 9 :]
            for data, start in starts
            for size in sizes
        ),
        sound[:2] + (b"\xff\xe1\xff\xff" + b"Exif\0\0II*\0" + b"\xff" * 65_523) + sound[2:],
        sound[:2] + b"\xff\xe2\0\x10MPF\0II*\0" + b"\xff" * 6 + sound[2:],
        sound[:2] + b"\xff\xd8" * 10_000 + sound[2:],
    )


def _bmp() -> tuple[bytes, ...]:
    sound = _saved("BMP")
    sizes = ((30_000, 30_000), (10_000, 10_000), (-96, 64), (96, -64), (96, -(2**31)), (0, 0))
    return tuple(sound[:18] + struct.pack("<2i", *size) + sound[26:] for size in sizes)


def _tiff() -> tuple[bytes, ...]:
    files = []
    for options in ({}, {"compression": "tiff_lzw"}, {"compression": "tiff_adobe_deflate"}):
        sound = _saved("TIFF", **options)
        for side in (30_000, 10_000, 0, 2**31):
            spoilt = sound
            for tag, old in ((256, 96), (257, 64)):  # ImageWidth, ImageLength
                entry = next(
                    struct.pack("<HHI", tag, kind, 1) + struct.pack(layout, old)
                    for kind, layout in ((3, "<H"), (4, "<I"))
                    if struct.pack("<HHI", tag, kind, 1) + struct.pack(layout, old) in sound
                )
                new = struct.pack("<HHI", tag, 4, 1) + struct.pack("<I", side)
                start = spoilt.index(entry)
                spoilt = spoilt[:start] + new + spoilt[start + 12 :]
            files.append(spoilt)
        first = int.from_bytes(sound[4:8], "little")
        files.append(sound[:4] + struct.pack("<I", 2**31) + sound[8:])
        files.append(sound[:first] + b"\xff" * 100 + sound[first:])
    return tuple(files)


def _webp() -> tuple[bytes, ...]:
    sound = _saved("WEBP", lossless=True)
    width, height = 16_383, 16_383
    lossless_at = sound.index(b"VP8L") + 9
    bits = struct.pack("<I", (width - 1) | (height - 1) << 14)
    canvas = b"VP8X" + struct.pack("<I", 10) + b"\2\0\0\0" + b"\xff\xff\x00" * 2
    return (
        sound[:lossless_at] + bits + sound[lossless_at + 4 :],
        sound[:4] + struct.pack("<I", len(sound) + 10) + b"WEBP" + canvas + sound[12:],
        sound[:4] + b"\xff\xff\xff\xff" + sound[8:],
    )


_OF_KIND: Final = MappingProxyType(
    {
        **{"coco": _coco, "voc": _voc, "voc list": _list, "yolo": _yolo, "yolo list": _list},
        **{"data.yaml": _yaml, "JPEG": _jpeg, "PNG": _png, "TIFF": _tiff, "WEBP": _webp},
        "BMP": _bmp,
    }
)
