"""Draw the README's pictures with the shipped weights: what `python -m tools.readme --pictures` does."""

from __future__ import annotations

import io
from itertools import pairwise
from pathlib import Path

SAMPLES = Path(__file__).parent.parent / "data" / "samples"
STORY, REVIEW = SAMPLES / "story.png", SAMPLES / "review.png"
PROMPT = "A small blue triangle in the top left and a large orange star in the bottom right on a black background."


def draw_story() -> None:
    """Write `PROMPT`'s story as the README's picture, under each picture the sentence before it."""
    from minidream import Document, MiniDreamPipeline
    from minidream.pictures import write_atomically
    from minidream.visualization import film_strip
    from minidream.visualization.figures import to_png

    story = MiniDreamPipeline.from_pretrained().complete(Document([PROMPT]), seed=7, think=True)
    said = [before for before, part in pairwise(story) if not isinstance(part, str)]
    write_atomically(STORY, to_png(film_strip(story.pictures, [str(words).strip() for words in said])))
    print(story.text)


def draw_review() -> None:
    """Write six of sixty pictures of captions in the order of the model's own verdicts; lesson 09 opens with them."""
    from PIL import Image

    from minidream import Document, MiniDreamPipeline
    from minidream.evaluation.candidate import look, same
    from minidream.evaluation.creation import trials
    from minidream.pictures import write_atomically
    from minidream.visualization.figures import to_png
    from minidream.visualization.trust import review

    pipe = MiniDreamPipeline.from_pretrained()
    asked = trials(10, 0, held_out=False)
    drawn = pipe.draw([caption for caption, _ in asked], seed=list(range(len(asked))))
    verdicts = pipe.review([Document([caption, picture]) for (caption, _), picture in zip(asked, drawn)])
    six = [verdicts[rank] for rank in (0, 1, 2, len(drawn) // 3, 2 * len(drawn) // 3, -1)]
    pictures = [drawn[verdict.document] for verdict in six]
    right = [shown and same(asked[v.document][1].scene, shown) for v, shown in zip(six, look(pictures))]
    differ = [verdict.differences[:1] for verdict in six]
    notes = [
        "told {}, reads {}".format(*(words or "nothing" for words in some[0])) if some else "reads what was told"
        for some in differ
    ]
    alt = "Six pictures by the score of the model's second look, lowest first"
    figure = Image.open(io.BytesIO(to_png(review(pictures, [verdict.score for verdict in six], right, notes, alt=alt))))
    small = io.BytesIO()  # lesson 09 holds it, and may not be large: a palette is enough for flat colours
    paletted = figure.convert("RGB").quantize(256, Image.Quantize.MAXCOVERAGE, kmeans=1, dither=Image.Dither.NONE)
    paletted.save(small, "PNG", optimize=True)
    write_atomically(REVIEW, small.getvalue())
