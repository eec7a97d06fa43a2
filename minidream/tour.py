"""The tour: write a story, go on from a picture file, ask about pictures drawn and given; one HTML page shows it all.

Taught in notebook 00.
"""

from __future__ import annotations

import html
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from PIL import Image

from minidream.documents import Document
from minidream.pictures import load_picture, write_atomically
from minidream.teaching import Bill

SAMPLE = Path(__file__).parent.parent / "data" / "samples" / "picture.png"
STORY = "A large red star in the top left, a small blue circle in the bottom right, on a white background."
EDIT = "Make the background black."  # asks for something of any picture
QUESTIONS = ("What colour is the background?", "How many things are there?", "Is there a star?")
_STYLE = """
body { margin: 2em auto; max-width: 44em; padding: 0 1em; background: #fff; color: #222; font-family: sans-serif }
article { border-left: 4px solid #ccc; margin: 1em 0 } td { padding: .2em 1.5em .2em 0 } .cost { color: #666 }
"""
Result = TypeVar("Result")


@dataclass(frozen=True)
class Section:
    """One chapter of the page. `body` is HTML, `seconds` what it took."""

    title: str
    body: str
    seconds: float


def timed(work: Callable[[], Result]) -> tuple[Result, float]:
    """What `work` gives, and the seconds it takes."""
    began = time.perf_counter()
    result = work()
    return result, time.perf_counter() - began


def answers(pipe: Any, pictures: dict[str, Image.Image]) -> str:
    """Each of `QUESTIONS` about each picture, as HTML tables with the answers."""
    tables = []
    for name, picture in pictures.items():
        asked = [(question, pipe.ask(picture, question).strip()) for question in QUESTIONS]
        rows = "".join(f"<tr><td>{html.escape(q)}</td><td><b>{html.escape(a)}</b></td></tr>" for q, a in asked)
        shown = Document([picture])._repr_html_().replace("A picture, before any words", html.escape(name))
        tables.append(f"<h3>{html.escape(name)}</h3>\n{shown}\n<table>{rows}</table>")
    return "\n".join(tables)


def page(sections: list[Section], cost: str) -> str:
    """The sections as one self-contained HTML page."""
    chapters = "\n".join(
        f'<h2>{html.escape(section.title)}</h2>\n{section.body}\n<p class="cost">{section.seconds:.1f} s</p>'
        for section in sections
    )
    head = f'<meta charset="utf-8"><title>A tour of minidream</title><style>{_STYLE}</style>'
    body = f'<h1>A tour of minidream</h1>\n{chapters}\n<h2>What it cost</h2>\n<p class="cost">{html.escape(cost)}</p>'
    return f'<!doctype html>\n<html lang="en"><head>{head}</head><body>\n{body}\n</body></html>\n'


def main(output: Path = Path("out/tour.html"), picture: Path | None = None, pipe: Any = None) -> Path:
    """Take the tour: write the page `output`, print where it is and what it cost. Returns its path.

    `picture` is a file of the reader's (a sample if None); `pipe` a pipeline (the shipped weights if None).
    Raises `UserError` for a picture that cannot be read or weights that are not there, OSError if it cannot be written.
    """
    bill = Bill()
    given = load_picture(picture or SAMPLE)
    sections: list[Section] = []

    def show(title: str, work: Callable[[], tuple[Result, str]]) -> Result:
        (result, body), seconds = timed(work)
        sections.append(Section(title, body, seconds))
        print(f"{title}: {seconds:.1f} s", flush=True)
        return result

    def opened() -> tuple[Any, str]:
        from minidream.pipeline import MiniDreamPipeline

        loaded = pipe or MiniDreamPipeline.from_pretrained()
        return loaded, "<p>A language model, an eye and a painter, opened from their safetensors files.</p>"

    def completed(beginning: Document, most: int) -> tuple[Document, str]:
        document = model.complete(beginning, seed=0, max_pictures=most, think=True)
        return document, document._repr_html_()

    model = show("The model is opened", opened)
    story = show("A story from a prompt", lambda: completed(Document([STORY]), 3))
    edited = show("Going on from a picture of yours", lambda: completed(Document([given, EDIT]), 1))
    print(f"  the story: {story.text}\n  said to your picture: {edited.text}")
    pictures = {"A picture that was given": given}
    for index, drawn in enumerate(story.pictures, start=1):
        pictures[f"Picture {index} of the story, which it drew"] = drawn
    show("Questions about pictures", lambda: (None, answers(model, pictures)))
    cost = str(bill)
    write_atomically(output, page(sections, cost).encode())
    print(f"written: {output} ({cost})")
    return output
