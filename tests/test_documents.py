"""Documents: what is saved is read back, whatever the picture; bad files give one clear line and leave nothing."""

from __future__ import annotations

import base64
import json
import random
import struct
import time
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from minidream import pictures
from minidream.documents import Document
from minidream.errors import UserError
from minidream.pictures import ORIENTATION, fit_picture, load_picture, png_bytes, write_atomically
from minidream.world.draw import draw
from minidream.world.scene import random_scene


def picture(seed: int) -> Image.Image:
    return draw(random_scene(random.Random(seed)))


def one_line(error: pytest.ExceptionInfo[UserError]) -> str:
    message = str(error.value)
    assert "\n" not in message and ": " in message  # cause: mend
    return message


@pytest.fixture
def document() -> Document:
    texts = [" A <b> & \"c\" 'd' é\n\nnew paragraph.", "![no](picture) <!-- --> !\\[x] ", "<picture>", "The end "]
    return Document([picture(0), texts[0], picture(1), picture(2), texts[1], texts[2], picture(3), texts[3]])


@pytest.mark.parametrize("name", ["story.html", "story.md", "story.json", "two words (1).md"])
def test_saved_documents_are_read_back(document: Document, name: str, tmp_path: Path) -> None:
    assert document.save(tmp_path / "new" / name) == tmp_path / "new" / name
    read = Document.load(tmp_path / "new" / name)
    assert read == document
    assert not list((tmp_path / "new").glob(".*"))
    read.parts[3] = picture(9)
    assert read != document  # pictures count, not only texts


@pytest.mark.parametrize("suffix", [".html", ".md", ".json"])
def test_any_text_is_read_back(suffix: str, tmp_path: Path) -> None:
    words = st.text(alphabet="ab <>&\"'![]()-\\.\tü#*`", min_size=1).filter(lambda text: text.strip("\n"))

    @settings(max_examples=60, deadline=None)
    @given(st.lists(st.one_of(words, st.integers(0, 3).map(picture)), min_size=1, max_size=6))
    def check(parts: list[str | Image.Image]) -> None:
        path = Document(parts).save(tmp_path / f"any{suffix}")
        assert Document.load(path) == Document(parts)

    check()


def test_html_is_self_contained(document: Document) -> None:
    page = document.to_html()
    assert page.count("<img ") == 4 == page.count("data:image/png;base64,") == page.count('alt="A picture')
    assert "http" not in page and "<b>" not in page
    assert 'width="256"' in page and "image-rendering:pixelated" in page and "background:#fff" in page
    assert 'alt="A picture, before any words"' in page


def test_mmc4_has_the_fields_of_the_data_set() -> None:
    record = Document([picture(0), "one", "two", picture(1), picture(2)]).to_mmc4()
    assert record["text_list"] == ["one", "two"]
    assert [info["matched_text_index"] for info in record["image_info"]] == [-1, 1, 1]
    assert record["similarity_matrix"] == [[0, 0], [0, 1], [0, 1]]


def test_mmc4_jsonl_with_files_beside_it(tmp_path: Path) -> None:
    picture(0).save(tmp_path / "a.png")
    info = {"image_name": "a.png", "raw_url": "https://example.org/a.png", "matched_text_index": 0, "matched_sim": 0.3}
    first = {"url": "https://example.org", "text_list": ["one", "two"], "image_info": [info]}
    (tmp_path / "shard.jsonl").write_text(json.dumps(first) + "\n" + json.dumps({"text_list": []}) + "\n")
    assert Document.load(tmp_path / "shard.jsonl") == Document(["one", picture(0), "two"])


def test_markdown_of_a_person(tmp_path: Path) -> None:
    picture(0).save(tmp_path / "my cat.png")
    (tmp_path / "a.md").write_bytes(b'# Hello\r\n\r\nSee ![cat](my%20cat.png "Tom") here.\r\n')
    assert Document.load(tmp_path / "a.md") == Document(["# Hello\n\nSee ", picture(0), " here."])


def test_a_picture_file_is_a_document_of_one_picture(tmp_path: Path) -> None:
    picture(0).save(tmp_path / "A.PNG")
    assert Document.load(tmp_path / "A.PNG") == Document([picture(0)])


def test_it_is_a_list() -> None:
    first, second = Document(["a ", picture(0)]), Document("b")
    both = first + second
    assert len(both) == 3 and both[0] == "a " and both[1:] == Document([picture(0), "b"]) and list(both)[2] == "b"
    assert both.text == "a <picture> b" and both.texts == ["a ", "b"] and len(both.pictures) == 1
    assert len(first) == 2  # adding made a new one
    assert first != "a " and Document() == Document([])
    with pytest.raises(UserError, match="not int"):
        Document([3])  # type: ignore[list-item]


# ---- pictures of every sort


def save_and_load(image: Image.Image, path: Path, **options: object) -> np.ndarray:
    image.save(path, **options)  # type: ignore[arg-type]
    loaded = load_picture(path)
    assert loaded.mode == "RGB"
    return np.asarray(loaded).astype(int)


def test_kinds_of_pictures(tmp_path: Path) -> None:
    red = Image.new("RGB", (8, 4), (200, 30, 40))
    assert (save_and_load(red, tmp_path / "a.webp", lossless=True) == (200, 30, 40)).all()
    cmyk = save_and_load(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), tmp_path / "cmyk.jpg", quality=95)
    assert abs(cmyk - (255, 0, 0)).max() < 12
    deep = Image.fromarray(np.full((4, 4), 32768, np.uint16))
    assert (save_and_load(deep, tmp_path / "deep.png") == 128).all()  # not 255: shown as it looks
    assert (save_and_load(Image.new("1", (4, 4), 1), tmp_path / "bit.png") == 255).all()
    clear = Image.new("RGBA", (4, 4), (0, 0, 0, 0))
    assert (save_and_load(clear, tmp_path / "clear.png") == 255).all()
    half = save_and_load(Image.new("LA", (4, 4), (0, 128)), tmp_path / "half.png")
    assert (abs(half - 127) <= 1).all()
    palette = Image.new("P", (4, 4), 0)
    assert (save_and_load(palette, tmp_path / "palette.png", transparency=0) == 255).all()


def test_animated_pictures_give_their_first_frame(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (8, 8), color) for color in ("red", "blue")]
    for name in ("a.png", "a.webp"):
        loaded = save_and_load(frames[0], tmp_path / name, save_all=True, append_images=frames[1:], duration=99)
        assert abs(loaded - (255, 0, 0)).max() < 8


def test_turned_photographs_stand_upright(tmp_path: Path) -> None:
    image = Image.new("RGB", (16, 8), "white")
    image.paste("red", (0, 0, 8, 8))  # its left half
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees clockwise: left becomes top
    upright = save_and_load(image, tmp_path / "turned.jpg", exif=exif)
    assert upright.shape == (16, 8, 3)
    assert abs(upright[2, 4] - (255, 0, 0)).max() < 30 and abs(upright[13, 4] - 255).max() < 30


def bomb(path: Path, side: int) -> None:
    """A PNG that claims to be huge and holds no pixel: to decode it would fail in another way."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"") + chunk(b"IEND", b""))


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("side", [4001, 10_000, 30_000])
def test_huge_pictures_are_refused_before_they_are_decoded(side: int, tmp_path: Path) -> None:
    bomb(tmp_path / "huge.png", side)
    with pytest.raises(UserError, match="16 megapixels") as error:
        load_picture(tmp_path / "huge.png")
    one_line(error)


def test_pictures_that_cannot_be_read(tmp_path: Path) -> None:
    picture(0).save(tmp_path / "whole.png")
    whole = (tmp_path / "whole.png").read_bytes()
    broken = {"cut.png": whole[:200], "empty.png": b"", "text.png": b"hello", "zero.png": bytes(500)}
    broken["flipped.png"] = whole[:60] + bytes([whole[60] ^ 255]) + whole[61:]
    picture(0).save(tmp_path / "a.gif")
    broken["gif.png"] = (tmp_path / "a.gif").read_bytes()  # a format that we do not ask Pillow to parse
    for name, content in broken.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UserError, match=rf"{name}.*cannot be read as PNG, JPEG or WebP") as error:
            load_picture(tmp_path / name)
        one_line(error)
    with pytest.raises(UserError, match=r"nowhere\.png does not exist") as error:
        load_picture(tmp_path / "nowhere.png")
    one_line(error)
    with pytest.raises(UserError, match="cannot be read"):
        load_picture(tmp_path)


def test_fitting_takes_the_middle_square() -> None:
    exact = picture(0)
    assert fit_picture(exact, 64) is exact
    wide = Image.new("RGB", (300, 100), "black")
    wide.paste("white", (100, 0, 200, 100))
    assert fit_picture(wide, 64).size == (64, 64)
    assert np.asarray(fit_picture(wide, 64)).min() > 250
    assert np.asarray(fit_picture(Image.new("RGBA", (9, 9)), 64)).min() == 255  # clear is white, not black


def test_a_web_page_of_any_hand_is_read_in_order(tmp_path: Path) -> None:
    picture(0).save(tmp_path / "x.png")
    for page, expected in {
        "<p>A <img src=x.png> B</p>": ["A ", picture(0), " B"],
        "<p>one<p>two": ["one", "two"],
        "<p><img src=x.png> end</p>": [picture(0), " end"],
    }.items():
        (tmp_path / "a.html").write_text(page)
        assert Document.load(tmp_path / "a.html") == Document(expected)


def test_nothing_is_written_where_one_file_cannot_be(tmp_path: Path) -> None:
    (tmp_path / "story-2.png").mkdir()
    (tmp_path / "story.md").write_text("old")
    with pytest.raises(FileExistsError):
        Document(["a", picture(0), "b", picture(1)]).save(tmp_path / "story.md")
    assert (tmp_path / "story.md").read_text() == "old" and not (tmp_path / "story-1.png").exists()


# ---- documents that cannot be read

BAD_URL = {"raw_url": "data:image/png;base64,A", "matched_text_index": -1}


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.md", "hello ![x](gone.png)", r"gone\.png does not exist"),
        ("a.md", "![x](https://example.org/a.png)", "from the web"),
        ("a.html", "<h1>nothing of ours</h1>", "neither <p> nor <img>"),
        ("a.html", '<p>a</p><img src="data:image/png;base64,AAAA">', "the picture cannot be read"),
        ("a.json", "{", "not JSON"),
        ("a.jsonl", "", "not JSON"),
        ("a.json", "[]", "no MMC4 record"),
        ("a.json", '{"text_list": []}', "no MMC4 record"),
        ("a.json", '{"text_list": "abc", "image_info": []}', "no MMC4 record"),
        ("a.json", '{"text_list": [null], "image_info": []}', "not NoneType"),
        ("a.json", '{"text_list": [], "image_info": [{"matched_text_index": -1}]}', "no MMC4 record"),
        ("a.json", '{"text_list": [], "image_info": [{"image_name": "gone.png", "matched_text_index": -1}]}', "gone"),
        ("a.json", '{"text_list": ["a"], "image_info": [{"image_name": "x", "matched_text_index": 7}]}', "sentence 7"),
        ("a.json", json.dumps({"text_list": [], "image_info": [BAD_URL]}), "a picture within the document is damaged"),
        ("a.md", f"![x]({BAD_URL['raw_url']})", "a picture within the document is damaged"),
        ("a.html", '<img src="data:image/gif;base64,AAAA">', "no base64 PNG"),
        ("a.html", "<p>a</p><![x[b]]>", "is not HTML"),
        ("a.json", '{"text_list": [], "image_info": [{"matched_text_index": 1e999}]}', "no MMC4 record"),
        ("a.json", "[" * 100_000, "not JSON"),
        ("a.txt", "hello", "no document"),
        ("a.md", b"\xff\xfe", "UTF-8"),
    ],
)  # fmt: skip
def test_documents_that_cannot_be_read(name: str, content: str | bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UserError, match=message) as error:
        Document.load(tmp_path / name)
    assert "\n" not in str(error.value)


def test_an_embedded_picture_that_is_too_large_is_called_so(tmp_path: Path) -> None:
    huge = base64.b64encode(png_bytes(Image.new("RGB", (4001, 4000)))).decode()
    (tmp_path / "a.html").write_text(f'<img src="data:image/png;base64,{huge}">')
    with pytest.raises(UserError, match=r"^the picture is too large: scale it down"):
        Document.load(tmp_path / "a.html")


def test_missing_document(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not exist") as error:
        Document.load(tmp_path / "gone.md")
    one_line(error)


# ---- nothing half-written


def test_unknown_suffix_writes_nothing(document: Document, tmp_path: Path) -> None:
    for name in ("story.pdf", "story"):
        with pytest.raises(UserError, match=r"\.html, \.md or \.json"):
            document.save(tmp_path / name)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("failure", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_a_full_disk_leaves_what_was_there(
    document: Document, failure: BaseException, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = Document(["before", picture(7)])
    before.save(tmp_path / "story.md")
    names = sorted(path.name for path in tmp_path.iterdir())
    write, written = Path.write_bytes, []

    def fills_up(path: Path, content: bytes) -> int:
        written.append(path)
        if len(written) == 3:
            write(path, content[:10])
            raise failure
        return write(path, content)

    monkeypatch.setattr(pictures.Path, "write_bytes", fills_up)
    with pytest.raises(type(failure)):
        document.save(tmp_path / "story.md")
    assert sorted(path.name for path in tmp_path.iterdir()) == names
    assert Document.load(tmp_path / "story.md") == before


def test_a_file_where_a_folder_should_be(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(OSError):
        write_atomically(tmp_path / "file" / "a.html", b"x")
    assert (tmp_path / "file").read_text() == "x"


def test_a_new_markdown_file_replaces_no_picture_of_anothers(document: Document, tmp_path: Path) -> None:
    (tmp_path / "story-7.png").write_bytes(b"mine")
    with pytest.raises(UserError, match=r"story-7\.png, beside .*story\.md, would be replaced"):
        document.save(tmp_path / "story.md")
    assert [file.name for file in tmp_path.iterdir()] == ["story-7.png"]
    document.save(tmp_path / "story-7.md")  # its own are named story-7-1.png ...
    document.save(tmp_path / "story-7.md")  # what it wrote itself it may write anew
    assert Document.load(tmp_path / "story-7.md") == document


@pytest.mark.parametrize(
    "shown",
    [
        "![a](<my (best) file.png>)",
        "![a](b.png 'title')",
        "![a [x] c](b.png)",
        "![a](pic(1).png)",
        '![](pic(1).png "a")',
    ],
)
def test_markdown_pictures_as_others_write_them(shown: str, tmp_path: Path) -> None:
    picture = Image.new("RGB", (4, 4), "teal")
    for name in ("my (best) file.png", "b.png", "pic(1).png"):
        picture.save(tmp_path / name)
    assert Document.from_markdown(f"One.\n\n{shown}\n\nTwo.", tmp_path) == Document(["One.", picture, "Two."])


def test_markdown_of_thousands_of_brackets_is_read_at_once() -> None:
    began = time.perf_counter()
    assert Document.from_markdown("![](" * 20_000).texts and Document.from_markdown("![[" * 20_000).texts
    assert time.perf_counter() - began < 2


def test_a_byte_order_mark_is_no_text_and_a_percent_sign_no_escape(tmp_path: Path) -> None:
    picture = Image.new("RGB", (4, 4), "teal")
    picture.save(tmp_path / "50%25.png")
    (tmp_path / "a.md").write_bytes(b"\xef\xbb\xbf![p](50%2525.png)")
    info = {"image_name": "50%25.png", "matched_text_index": 0}
    record = json.dumps({"text_list": ["a"], "image_info": [info]})
    (tmp_path / "a.json").write_bytes(b"\xef\xbb\xbf" + record.encode())
    assert Document.load(tmp_path / "a.md") == Document([picture])
    assert Document.load(tmp_path / "a.json") == Document(["a", picture])


@pytest.mark.parametrize("orientation", range(1, 9))
def test_an_exif_tag_of_a_wrong_type_does_not_matter(orientation: int, tmp_path: Path) -> None:
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 255, (4, 6, 3), np.uint8))
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    picture.save(tmp_path / "a.png", exif=exif)
    expected = ImageOps.exif_transpose(Image.open(tmp_path / "a.png"))
    assert np.array_equal(load_picture(tmp_path / "a.png"), expected)
    # The same tag after the camera's maker (0x010F), as a fraction (type 5), which no name is.
    entries = struct.pack("<HHHIIHHII", 2, 0x010F, 5, 1, 38, ORIENTATION, 3, 1, orientation)
    exif = b"Exif\0\0II*\0" + struct.pack("<I", 8) + entries + struct.pack("<III", 0, 1, 2)
    picture.save(tmp_path / "b.png", exif=exif)
    assert np.array_equal(load_picture(tmp_path / "b.png"), expected)


def test_the_longest_name_and_a_link_can_be_written_to(tmp_path: Path) -> None:
    write_atomically(tmp_path / ("n" * 251 + ".png"), b"long")
    (tmp_path / "there").mkdir()
    (tmp_path / "link.html").symlink_to(tmp_path / "there" / "a.html")
    write_atomically(tmp_path / "link.html", b"linked")
    assert (tmp_path / "link.html").is_symlink() and (tmp_path / "there" / "a.html").read_bytes() == b"linked"
