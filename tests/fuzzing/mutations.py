"""Ways to spoil a file: those that need no knowledge of its kind."""

import re
import zlib
from collections.abc import Callable
from typing import Final

import numpy as np

Mutation = Callable[[bytes, np.random.Generator], bytes]

_ODD_NUMBERS: Final = (
    *("NaN", "nan", "Infinity", "-Infinity", "inf", "1e999", "-1e999", "1e308", "5e-324", "-0"),
    *("-1", "0", "1", "2", "0.5", "1.0", "65536", "2147483648", "9223372036854775808", "1" * 400),
    *("9" * 5000, "-" + "8" * 5000, "0x10", "1_0", "1,5", "٣", "", "--1", "1e", "true", "null"),
)
_ODD_TEXTS: Final = (
    *('""', "''", "null", "[]", "{}", "[[[[]]]]", '"\\ud800"', "\\x00", "\0", "\x1b[31m", "\u2028"),
    *("../../../../etc/passwd", "/etc/passwd", "café", "名前", "x" * 100_000, "%s%n{0}", "&#0;"),
    *("<", ">", "&lt;", "]]>", "<!--", "*", "&a", "!!python/object:os.system", "\ufeff", "-", "#"),
)
_ODD_BYTES: Final = (0x00, 0x01, 0x7F, 0x80, 0xFE, 0xFF)
_TOKENS: Final = re.compile(rb"[-+.\w]+|[^-+.\w\s]|\s+")
_NUMBERS: Final = re.compile(rb"[-+]?\d+(?:\.\d+)?")
_ENCODINGS: Final = ("utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-8-sig", "cp037", "utf-7")


def flip_bits(data: bytes, rng: np.random.Generator) -> bytes:
    if not data:
        return data
    spoilt = bytearray(data)
    for _ in range(int(rng.integers(1, 9))):
        spoilt[int(rng.integers(len(data)))] ^= 1 << int(rng.integers(8))
    return bytes(spoilt)


def set_bytes(data: bytes, rng: np.random.Generator) -> bytes:
    """Returns the data with one, two or four neighbours all of one odd value."""
    if not data:
        return data
    at, count = int(rng.integers(len(data))), int(rng.choice([1, 2, 4]))
    return data[:at] + bytes([int(rng.choice(_ODD_BYTES))]) * count + data[at + count :]


def set_bytes_of_header(data: bytes, rng: np.random.Generator) -> bytes:
    """Returns the data spoilt in its first 64 bytes, where sizes and kinds stand."""
    return set_bytes(data[:64], rng) + data[64:]


def truncate(data: bytes, rng: np.random.Generator) -> bytes:
    return data[: int(rng.integers(len(data) + 1))]


def _pieces(data: bytes, rng: np.random.Generator) -> tuple[bytes, bytes, bytes, bytes]:
    """Returns the data in four pieces, the middle two short ones."""
    first = int(rng.integers(len(data) + 1))
    second, third = sorted(first + int(rng.integers(1, 200)) for _ in range(2))
    return data[:first], data[first:second], data[second:third], data[third:]


def delete_piece(data: bytes, rng: np.random.Generator) -> bytes:
    before, _, after, rest = _pieces(data, rng)
    return before + after + rest


def repeat_piece(data: bytes, rng: np.random.Generator) -> bytes:
    before, piece, after, rest = _pieces(data, rng)
    return before + piece * int(rng.integers(2, 50)) + after + rest


def swap_pieces(data: bytes, rng: np.random.Generator) -> bytes:
    before, left, right, after = _pieces(data, rng)
    return before + right + left + after


def insert_noise(data: bytes, rng: np.random.Generator) -> bytes:
    at = int(rng.integers(len(data) + 1))
    return data[:at] + rng.bytes(int(rng.integers(1, 64))) + data[at:]


def with_checksums(png: bytes) -> bytes:
    """Returns a PNG with the right checksum behind every chunk, so that decoders read on."""
    parts, at = [png[:8]], 8
    while at + 12 <= len(png):
        end = at + 8 + int.from_bytes(png[at : at + 4], "big")
        named = png[at + 4 : end]
        parts += [png[at : at + 4], named, zlib.crc32(named).to_bytes(4, "big")]
        at = end + 4
    return b"".join([*parts, png[at:]])


def _with_token(
    data: bytes, rng: np.random.Generator, pattern: re.Pattern[bytes], new: str
) -> bytes:
    found = list(pattern.finditer(data))
    if not found:
        return data
    token = found[int(rng.integers(len(found)))]
    return data[: token.start()] + new.encode("utf-8", "surrogatepass") + data[token.end() :]


def odd_number(data: bytes, rng: np.random.Generator) -> bytes:
    """Returns the text with one of its numbers replaced by one that is no such number."""
    return _with_token(data, rng, _NUMBERS, _ODD_NUMBERS[int(rng.integers(len(_ODD_NUMBERS)))])


def other_number(data: bytes, rng: np.random.Generator) -> bytes:
    """Returns the text with one of its numbers replaced by another of them: ids stand twice."""
    found = _NUMBERS.findall(data)
    if not found:
        return data
    return _with_token(data, rng, _NUMBERS, found[int(rng.integers(len(found)))].decode())


def odd_text(data: bytes, rng: np.random.Generator) -> bytes:
    return _with_token(data, rng, _TOKENS, _ODD_TEXTS[int(rng.integers(len(_ODD_TEXTS)))])


def _shuffled(parts: list[bytes], rng: np.random.Generator) -> list[bytes]:
    """Returns the parts with one deleted, repeated or exchanged with another."""
    if not parts:
        return parts
    one, other, what = (int(rng.integers(bound)) for bound in (len(parts), len(parts), 3))
    if what == 0:
        return parts[:one] + parts[one + 1 :]
    if what == 1:
        return parts[:one] + parts[one : one + 1] * int(rng.integers(2, 4)) + parts[one + 1 :]
    parts = list(parts)
    parts[one], parts[other] = parts[other], parts[one]
    return parts


def shuffle_tokens(data: bytes, rng: np.random.Generator) -> bytes:
    return b"".join(_shuffled(_TOKENS.findall(data), rng))


def shuffle_lines(data: bytes, rng: np.random.Generator) -> bytes:
    return b"".join(_shuffled(data.splitlines(keepends=True), rng))


def other_line_ends(data: bytes, rng: np.random.Generator) -> bytes:
    """Returns the text with the line ends of Windows, of old Macs, or none that text has."""
    return data.replace(
        b"\n", (b"\r\n", b"\r", b"\x0b", b"\xe2\x80\xa8", b"")[int(rng.integers(5))]
    )


def other_encoding(data: bytes, rng: np.random.Generator) -> bytes:
    text = data.decode("utf-8", "replace")
    return text.encode(_ENCODINGS[int(rng.integers(len(_ENCODINGS)))], "replace")


_OF_BYTES: Final[tuple[Mutation, ...]] = (
    *(flip_bits, set_bytes, set_bytes_of_header, truncate),
    *(delete_piece, repeat_piece, swap_pieces, insert_noise),
)
_OF_TEXT: Final[tuple[Mutation, ...]] = (
    *(odd_number, odd_number, other_number, odd_text, odd_text),
    *(shuffle_tokens, shuffle_lines, other_line_ends, other_encoding),
    *(flip_bits, truncate, repeat_piece, insert_noise),
)
_IMAGES: Final = frozenset({"JPEG", "PNG", "TIFF", "WEBP", "BMP"})


def mutations(kind: str) -> tuple[Mutation, ...]:
    """Returns the ways to spoil a file of such a kind."""
    return _OF_BYTES if kind in _IMAGES else _OF_TEXT
