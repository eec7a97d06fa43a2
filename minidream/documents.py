"""`Document`: an ordered list of texts and pictures. Everything in minidream takes documents and gives documents.

A document saves itself to Markdown with PNGs beside it, to one self-contained HTML file and to MMC4 JSON, and reads
the same back. A file is written whole or not at all. Taught in notebook 01.
"""

from __future__ import annotations

import base64
import html
import io
import json
import re
from collections.abc import Iterable, Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

from PIL import Image

from minidream.errors import UserError
from minidream.pictures import load_picture, png_bytes, to_rgb, write_files

PICTURE = "<picture>"  # stands for a picture where a document is shown as text
DOCUMENT_SUFFIXES = (".html", ".md", ".json")  # what `save` writes
PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
_DATA_URL = re.compile(r"data:image/(?:png|jpeg|webp);base64,")
_APART = "<!-- -->"  # keeps two texts in a row apart in Markdown
# ![alt](file "title"): brackets within the alt text, and parentheses within the file's name, come in pairs.
_SHOWN = (
    r"""!\[(?:\[[^\[\]]*\]|[^\[\]])*\]\(\s*(<[^<>\n]*>|(?:\([^()\s]*\)|[^\s()])+)(?:\s+(?:"[^"]*"|'[^']*'))?\s*\)"""
)
Part = str | Image.Image


def _data_url(picture: Image.Image) -> str:
    return "data:image/png;base64," + base64.b64encode(png_bytes(picture)).decode()


def _picture_at(source: str, folder: Path, quoted: bool = True) -> Image.Image:
    """The picture of a data URL, or of a file named relative to `folder`; `quoted`, as URLs are."""
    if found := _DATA_URL.match(source):
        try:
            data = base64.b64decode(source[found.end() :])
        except ValueError as error:
            raise UserError(f"a picture within the document is damaged ({error}): embed it again") from None
        return load_picture(io.BytesIO(data))
    if source.startswith("data:"):
        raise UserError("a picture within the document is no base64 PNG, JPEG or WebP: save it beside it, and name it")
    if "://" in source:
        raise UserError(f"the document shows {source} from the web: save the picture beside the document and name it")
    return load_picture(folder / (unquote(source) if quoted else source))


class Document:
    """An ordered list of `parts`, each a `str` or a `PIL.Image.Image`. Raises `UserError` for any other part."""

    def __init__(self, parts: Iterable[Part] | Part = ()) -> None:
        self.parts: list[Part] = []
        for part in [parts] if isinstance(parts, str | Image.Image) else parts:
            self.append(part)

    def append(self, part: Part) -> None:
        """Add a part at the end. Raises `UserError` if it is neither text nor picture."""
        if not isinstance(part, str | Image.Image):
            raise UserError(f"a document holds texts and pictures, not {type(part).__name__}: leave it out")
        self.parts.append(part)

    def __iter__(self) -> Iterator[Part]:
        return iter(self.parts)

    def __len__(self) -> int:
        return len(self.parts)

    def __getitem__(self, index: Any) -> Any:
        return Document(self.parts[index]) if isinstance(index, slice) else self.parts[index]

    def __add__(self, other: Document) -> Document:
        return Document([*self.parts, *other.parts])

    def __eq__(self, other: object) -> bool:
        """Equal texts, and pictures with equal pixels, in the same order."""
        return isinstance(other, Document) and [_key(part) for part in self] == [_key(part) for part in other]

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"Document({self.text!r})"

    @property
    def texts(self) -> list[str]:
        """The parts that are texts, in order."""
        return [part for part in self.parts if isinstance(part, str)]

    @property
    def pictures(self) -> list[Image.Image]:
        """The parts that are pictures, in order."""
        return [part for part in self.parts if isinstance(part, Image.Image)]

    @property
    def text(self) -> str:
        """All of it as text, with "<picture>" where a picture stands."""
        return " ".join(part.strip() if isinstance(part, str) else PICTURE for part in self.parts)

    def _repr_html_(self) -> str:
        shown, before = [], ""
        for part in self.parts:
            if isinstance(part, str):
                before = part.strip()
                shown.append(f'<p style="white-space:pre-wrap">{html.escape(part)}</p>')
                continue
            alt = html.escape(f"A picture, after the words: {before}" if before else "A picture, before any words")
            width = min(4 * part.width, 512)
            style = "display:block;max-width:100%;image-rendering:pixelated"
            shown.append(f'<img alt="{alt}" width="{width}" style="{style}" src="{_data_url(part)}">')
        style = "background:#fff;color:#222;padding:1em;max-width:40em;font-family:sans-serif"
        return f'<article style="{style}">\n' + "\n".join(shown) + "\n</article>"

    def to_html(self, title: str = "A document") -> str:
        """One self-contained HTML page."""
        head = f'<meta charset="utf-8"><title>{html.escape(title)}</title>'
        return f'<!doctype html>\n<html lang="en"><head>{head}</head><body>\n{self._repr_html_()}\n</body></html>\n'

    def to_mmc4(self) -> dict[str, Any]:
        """An MMC4 record: sentences, and pictures (as data URLs in `raw_url`), each matched to the sentence before it
        (-1: before the first, our one addition to the format)."""
        texts: list[str] = []
        images: list[dict[str, Any]] = []
        for part in self.parts:
            if isinstance(part, str):
                texts.append(part)
                continue
            image = {"image_name": f"{len(images)}.png", "raw_url": _data_url(part)}
            images.append({**image, "matched_text_index": len(texts) - 1, "matched_sim": 1.0})
        matches = [[float(image["matched_text_index"] == index) for index in range(len(texts))] for image in images]
        record = {"url": "", "text_list": texts, "image_info": images, "similarity_matrix": matches}
        return {**record, "could_have_url_duplicate": 0}

    @classmethod
    def from_mmc4(cls, record: dict[str, Any], folder: Path = Path()) -> Document:
        """Read an MMC4 record: each picture after the sentence it is matched to.

        Pictures are data URLs in `raw_url`, or files named `image_name` in `folder`. Raises `UserError` for a record
        without the fields, or a picture that is missing.
        """
        try:
            texts = record["text_list"]
            if not isinstance(texts, list):
                raise TypeError("text_list is no list")
            places: list[list[Part]] = [[], *([text] for text in texts)]
            for info in record["image_info"]:
                url, index = str(info.get("raw_url", "")), int(info["matched_text_index"])
                if not -1 <= index < len(texts):
                    raise UserError(f"a picture is matched to sentence {index}, not there: mend matched_text_index")
                source = url if _DATA_URL.match(url) else info["image_name"]
                places[index + 1].append(_picture_at(source, folder, quoted=False))
        except UserError:
            raise
        except (KeyError, TypeError, AttributeError, ValueError, OverflowError) as error:
            wanted = "text_list and image_info with image_name and matched_text_index"
            raise UserError(f"this is no MMC4 record, which has {wanted}: mend it ({error!r})") from None
        return cls(part for parts in places for part in parts)

    def to_markdown(self, stem: str) -> tuple[str, dict[str, bytes]]:
        """Markdown, and the PNG files that it shows by name: `STEM-1.png` ..."""
        blocks: list[str] = []
        files: dict[str, bytes] = {}
        for part, before in zip(self.parts, [None, *self.parts]):
            if isinstance(part, str):
                blocks += [_APART] if isinstance(before, str) else []
                blocks.append(re.sub(r"([!<])(\\*)(\[|!--)", r"\1\\\2\3", part))
            else:
                files[f"{stem}-{len(files) + 1}.png"] = png_bytes(part)
                blocks.append(f"![picture {len(files)}]({quote(list(files)[-1])})")
        return "\n\n".join(blocks) + "\n", files

    @classmethod
    def from_markdown(cls, content: str, folder: Path = Path()) -> Document:
        """Read Markdown: a picture at each `![alt](file)`, all between two pictures as one text. Blank lines at a
        text's ends are dropped. Raises `UserError` for a picture that is missing."""
        document = cls()
        pieces = re.split(f"{_APART}|{_SHOWN}", content)  # text, file, text ...
        for text, picture in zip(pieces[::2], [*pieces[1::2], None]):
            if words := text.replace("\r\n", "\n").strip("\n"):
                document.append(re.sub(r"([!<])\\(\\*)(\[|!--)", r"\1\2\3", words))
            if picture:
                document.append(_picture_at(picture.strip("<>"), folder))
        return document

    def save(self, path: str | Path) -> Path:
        """Write the document by the path's suffix: .html, .json (MMC4) or .md (PNGs beside it). Returns the path.
        Raises `UserError` for another suffix, OSError if it cannot be written; then nothing is."""
        path = Path(path)
        check_target(path)
        if path.suffix == ".md":
            content, pictures = self.to_markdown(path.stem)
            files = {path.with_name(name): data for name, data in pictures.items()}
        else:
            files = {}
            content = self.to_html(path.stem) if path.suffix == ".html" else json.dumps(self.to_mmc4(), indent=1)
        write_files({**files, path: content.encode()})
        return path

    @classmethod
    def load(cls, path: str | Path) -> Document:
        """Read what `save` wrote, an MMC4 record (.json, or the first line of .jsonl), or a picture file as a document
        of one picture. Raises `UserError`."""
        path = Path(path)
        if path.suffix.lower() in PICTURE_SUFFIXES:
            return cls([load_picture(path)])
        if path.suffix not in (*DOCUMENT_SUFFIXES, ".jsonl"):
            raise UserError(f"{path} is no document (.html, .md, .json, .jsonl) and no picture (.png, .jpg, .webp)")
        try:
            content = path.read_bytes().decode("utf-8-sig")  # some editors begin a file with a mark
        except FileNotFoundError:
            raise UserError(f"{path} does not exist: check the path") from None
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"{path} cannot be read as text: save it as UTF-8 ({error})") from None
        if path.suffix == ".md":
            return cls.from_markdown(content, path.parent)
        if path.suffix == ".html":
            return _Page(content, path).document
        try:
            record = json.loads(content.split("\n", 1)[0] if path.suffix == ".jsonl" else content)
        except (ValueError, RecursionError) as error:
            raise UserError(f"{path} is not JSON: mend it ({error})") from None
        return cls.from_mmc4(record, path.parent)


class _Page(HTMLParser):
    """The `document` of an HTML page: its <p> and <img>, also where one stands in the other or is never closed."""

    def __init__(self, content: str, path: Path) -> None:
        super().__init__()
        self.document, self._folder = Document(), path.parent
        self._words: str | None = None  # of the <p> that is open
        try:
            self.feed(content)
            self.close()
        except AssertionError as error:  # of Python's own parser
            raise UserError(f"{path} is not HTML: mend it ({error})") from None
        self._close_words()
        if not len(self.document):
            raise UserError(f"{path} holds neither <p> nor <img>: is it a page that minidream saved?")

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "p":
            self._close_words()
            self._words = ""
        elif tag == "img":
            inside = self._words is not None
            self._close_words()
            self._words = "" if inside else None
            self.document.append(_picture_at(dict(attrs).get("src") or "", self._folder))

    def handle_data(self, data: str) -> None:
        self._words = None if self._words is None else self._words + data

    def handle_endtag(self, tag: str) -> None:
        if tag == "p" and self._words is not None:
            self.document.append(self._words)
            self._words = None

    def _close_words(self) -> None:
        """End a text that something else than </p> ends."""
        if self._words and self._words.strip():
            self.document.append(self._words)
        self._words = None


def as_document(prompt: Part | Document) -> Document:
    """A prompt as a document. Raises `UserError` for the name of a file that is there: it would be read as words."""
    if isinstance(prompt, str) and prompt.endswith((*PICTURE_SUFFIXES, *DOCUMENT_SUFFIXES)) and Path(prompt).is_file():
        raise UserError(f"{prompt} is the name of a file: open it with Document.load({prompt!r})")
    return prompt if isinstance(prompt, Document) else Document([prompt])


def check_target(path: Path) -> None:
    """Raise `UserError` if a document cannot be saved at `path`; nor may a new Markdown file's pictures take the place
    of others."""
    if path.suffix not in DOCUMENT_SUFFIXES:
        raise UserError(f"{path} has no suffix that a document is saved by: name it .html, .md or .json")
    if path.suffix == ".md" and not path.exists() and path.parent.is_dir():
        own = re.compile(rf"{re.escape(path.stem)}-\d+\.png")
        if taken := sorted(file.name for file in path.parent.iterdir() if own.fullmatch(file.name)):
            raise UserError(f"{taken[0]}, beside {path}, would be replaced: choose another name, or move it away")


def _key(part: Part) -> object:
    return part if isinstance(part, str) else (part.size, to_rgb(part).tobytes())
