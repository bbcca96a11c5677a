"""From files to RGB pixels: every kind of image, turned upright, or one clear sentence."""

import struct
import zlib
from io import BytesIO
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from dataset_files import gradient
from PIL import Image, ImageOps

from ossa.data.decode import count_pictures, decode_image, read_header
from ossa.errors import DataError


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def saved(tmp_path: Path, image: Image.Image, kind: str = "PNG", **options: Any) -> Path:
    """Returns a file without suffix: kinds are told by content."""
    path = tmp_path / "image"
    path.write_bytes(encoded(image, kind, **options))
    return path


RGB = gradient()


@pytest.mark.parametrize(
    ("kind", "options"),
    [("PNG", {}), ("BMP", {}), ("WEBP", {"lossless": True}), ("TIFF", {})],
)
def test_lossless_kinds_decode_to_the_very_pixels(
    tmp_path: Path, kind: str, options: dict[str, Any]
) -> None:
    decoded = decode_image(saved(tmp_path, Image.fromarray(RGB), kind, **options))
    assert decoded.dtype == np.uint8
    np.testing.assert_array_equal(decoded, RGB)


@pytest.mark.parametrize("kind", ["JPEG", "TIFF"])
def test_cmyk_becomes_the_colours_pillow_sees(tmp_path: Path, kind: str) -> None:
    # Pillow writes CMYK JPEGs inverted, as Adobe does.
    path = saved(tmp_path, Image.fromarray(RGB).convert("CMYK"), kind)
    expected = np.array(Image.open(path).convert("RGB")).astype(int)
    assert np.abs(decode_image(path) - expected).max() <= 2


@pytest.mark.parametrize("mode", ["L", "1", "P", "LA"])
@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_grey_and_palette_images_become_rgb(tmp_path: Path, mode: str, kind: str) -> None:
    image = Image.fromarray(RGB).convert("L").convert(mode)
    expected = np.array(image.convert("RGB"))
    np.testing.assert_array_equal(decode_image(saved(tmp_path, image, kind)), expected)


@pytest.mark.parametrize(
    ("kind", "options"), [("PNG", {}), ("WEBP", {"lossless": True, "exact": True}), ("TIFF", {})]
)
def test_alpha_is_dropped_and_the_colours_stay_as_stored(
    tmp_path: Path, kind: str, options: dict[str, Any]
) -> None:
    alpha = np.arange(96, dtype=np.uint8)[None].repeat(64, axis=0)
    image = Image.fromarray(np.dstack([RGB, alpha]))
    np.testing.assert_array_equal(decode_image(saved(tmp_path, image, kind, **options)), RGB)


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_sixteen_bits_keep_their_high_byte(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"deep{suffix}"
    cv2.imwrite(str(path), RGB[..., ::-1].astype(np.uint16) * 256 + 200)
    np.testing.assert_array_equal(decode_image(path), RGB)


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_grey_of_sixteen_bits_is_scaled_not_clipped(tmp_path: Path, kind: str) -> None:
    path = saved(tmp_path, Image.fromarray(np.array([[0, 256, 65535]], np.uint16)), kind)
    np.testing.assert_array_equal(decode_image(path)[0, :, 0], [0, 1, 255])


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_the_exif_orientation_is_applied_to_pixels_and_size(
    tmp_path: Path, kind: str, orientation: int
) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = saved(tmp_path, Image.fromarray(RGB), kind, exif=exif)
    with Image.open(path) as image:
        expected = np.array(ImageOps.exif_transpose(image).convert("RGB")).astype(int)
    decoded = decode_image(path)
    assert decoded.shape == expected.shape
    assert np.abs(decoded - expected).max() <= 2
    assert read_header(path).size_wh == (decoded.shape[1], decoded.shape[0])


@pytest.mark.parametrize(
    ("reduce_to", "size_wh"),
    # 801 / 2, / 4 and / 8, rounded up, are 401, 201 and 101.
    [(402, (801, 501)), (401, (401, 251)), (201, (201, 126)), (101, (101, 63)), (10, (101, 63))],
)
@pytest.mark.parametrize("orientation", [1, 6])
def test_a_jpeg_is_reduced_while_its_long_side_keeps_what_is_asked(
    tmp_path: Path, reduce_to: int, size_wh: tuple[int, int], orientation: int
) -> None:
    size_full = (801, 501)
    exif = Image.Exif()
    exif[0x0112] = orientation
    big = Image.fromarray(cv2.resize(RGB, size_full))
    path = saved(tmp_path, big, "JPEG", quality=95, exif=exif)
    decoded = decode_image(path, reduce_to=reduce_to, size_wh=read_header(path).size_wh)
    width, height = size_wh if orientation == 1 else size_wh[::-1]
    assert decoded.shape == (height, width, 3)
    expected = cv2.resize(decode_image(path), (width, height), interpolation=cv2.INTER_AREA)
    assert np.abs(decoded - expected.astype(int)).mean() < 3


@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("missing", [2, 20, 500, 3000])
def test_a_jpeg_that_is_cut_short_is_an_error(
    tmp_path: Path, missing: int, progressive: bool
) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 96, 3), np.uint8)
    data = encoded(Image.fromarray(noise), "JPEG", quality=90, progressive=progressive)
    path = tmp_path / "cut.jpg"
    path.write_bytes(data[:-missing])
    assert read_header(path).size_wh == (96, 64)
    with pytest.raises(DataError, match=r"found a damaged one.*cut\.jpg\)"):
        decode_image(path)


def test_a_png_with_a_changed_or_missing_chunk_is_an_error_not_black_rows(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 96, 3), np.uint8)
    data = encoded(Image.fromarray(noise), "PNG")
    assert data[37:41] == b"IDAT"  # behind 8 bytes of signature and the header's 25
    path = tmp_path / "damaged.png"
    for damaged, found in (
        (
            data[:1000] + bytes([data[1000] ^ 1]) + data[1001:],
            "byte 33 is not what its checksum says",
        ),
        (data[:-20], "byte 33 is cut short"),
        (data[:-12], f"byte {len(data) - 12} is cut short"),
        (data[:33] + b"\xff\xff\xff\xf0" + data[37:], "byte 33 is cut short"),
    ):
        path.write_bytes(damaged)
        assert read_header(path).size_wh == (96, 64)
        with pytest.raises(DataError, match=rf"found a damaged one: .* {found} .*damaged\.png"):
            decode_image(path)
    path.write_bytes(data + b"behind the end")
    np.testing.assert_array_equal(decode_image(path), noise)


@pytest.mark.parametrize("function", [decode_image, read_header])
def test_missing_empty_and_other_files_are_one_sentence(tmp_path: Path, function: Any) -> None:
    other = tmp_path / "other.jpg"
    other.write_text("<html>404</html>")
    empty = tmp_path / "empty.jpg"
    empty.write_bytes(b"")
    folder = tmp_path / "folder.jpg"
    folder.mkdir()
    for path, found in (
        (tmp_path / "none.jpg", "no such file"),
        (other, "no image"),
        (empty, "no image"),
        (folder, "is a directory"),
    ):
        with pytest.raises(DataError) as raised:
            function(path)
        assert (raised.value.path, raised.value.found) == (path, found)


def _png_chunk(name: bytes, content: bytes) -> bytes:
    checked = name + content
    return struct.pack(">I", len(content)) + checked + struct.pack(">I", zlib.crc32(checked))


def _png(width: int, height: int, *, ahead: bytes = b"", pixels: bytes | None = None) -> bytes:
    rows = bytes(height * (1 + 3 * width)) if pixels is None else pixels
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"".join(
        (
            b"\x89PNG\r\n\x1a\n",
            _png_chunk(b"IHDR", header),
            ahead,
            _png_chunk(b"IDAT", zlib.compress(rows)),
            _png_chunk(b"IEND", b""),
        )
    )


def test_a_png_of_more_chunks_than_any_needs_is_refused_from_its_header(tmp_path: Path) -> None:
    (tmp_path / "good.png").write_bytes(_png(8, 8, ahead=_png_chunk(b"tEXt", b"a\0b") * 900))
    assert decode_image(tmp_path / "good.png").shape == (8, 8, 3)
    (tmp_path / "bad.png").write_bytes(_png(8, 8, ahead=_png_chunk(b"tEXt", b"a\0b") * 1100))
    for read in (read_header, decode_image):
        with pytest.raises(DataError, match="more than 1000 chunks before pixels"):
            read(tmp_path / "bad.png")


def test_a_png_that_inflates_to_more_than_its_pixels_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ossa.data.decode._IDAT_BYTES_UNCHECKED", 1000)
    (tmp_path / "good.png").write_bytes(_png(2000, 500))
    assert decode_image(tmp_path / "good.png").shape == (500, 2000, 3)
    (tmp_path / "bad.png").write_bytes(_png(8, 8, pixels=bytes(5_000_000)))
    with pytest.raises(DataError, match="inflates to more than its pixels"):
        decode_image(tmp_path / "bad.png")


def test_a_jpeg_of_a_thousand_scans_is_refused(tmp_path: Path) -> None:
    stream = BytesIO()
    Image.new("RGB", (64, 64)).save(stream, "JPEG", progressive=True)
    good = stream.getvalue()
    last_scan = good[good.rindex(b"\xff\xda") : -2]
    # What stands behind the image, as in a motion photo, counts not.
    (tmp_path / "good.jpg").write_bytes(good + last_scan * 1000)
    assert decode_image(tmp_path / "good.jpg").shape == (64, 64, 3)
    (tmp_path / "bad.jpg").write_bytes(good[:-2] + last_scan * 1000 + b"\xff\xd9")
    with pytest.raises(DataError, match="more than 100 scans"):
        decode_image(tmp_path / "bad.jpg")


def test_pictures_of_a_file_are_counted_to_a_hundred(tmp_path: Path) -> None:
    frames = [Image.new("L", (8, 8), number) for number in range(120)]
    for name in ("a.gif", "a.tif"):
        frames[0].save(tmp_path / name, save_all=True, append_images=frames[1:3])
        assert count_pictures(tmp_path / name) == 3
        frames[0].save(tmp_path / name, save_all=True, append_images=frames[1:])
        assert count_pictures(tmp_path / name) == 100


@pytest.mark.parametrize(
    "content",
    [
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\n",
        b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        b"P6 8 8 255\n" + bytes(192),
        b"\x76\x2f\x31\x01" + bytes(100),
        b"8BPS\0\1" + bytes(100),
        b"#?RADIANCE\nFORMAT=32-bit_rle_rgbe\n\n-Y 8 +X 8\n" + bytes(256),
    ],
)
def test_what_no_camera_writes_reaches_no_decoder(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(content)
    with pytest.raises(DataError, match="found no image"):
        decode_image(tmp_path / "a.png")
