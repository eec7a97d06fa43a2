"""Does it follow a document? Pictures in their places, right by all that came before them.

Do words and pictures before a question or an order say what it means? Is plain language kept?

A story is fed sentence by sentence; at each picture's place the candidate draws, and goes on from its *own* earlier
pictures. So a fault early in a story stays with it. Taught in notebook 09.
"""

from __future__ import annotations

from collections.abc import Callable, Container
from pathlib import Path
from typing import Any

import numpy as np

from minidream.agreement import FITS
from minidream.documents import Document
from minidream.evaluation.candidate import HALVES, Candidate, dice, look, same
from minidream.evaluation.comprehension import plain
from minidream.evaluation.statistics import Leaf, bootstrap, proportion
from minidream.pipeline import STRIDE
from minidream.sampling import SamplingOptions
from minidream.world.corpora import CLOSING, OPENING, question_text, render, sample
from minidream.world.questions import few_shot as ask_by_example
from minidream.world.scene import Scene
from minidream.world.tell import KINDS, Question, Story


def stories(kind: str, n: int, seed: int, part: str = "seen") -> list[Story]:
    """`n` fresh stories of a kind of `KINDS`."""
    rng = dice(seed, "interleaved", part, kind)
    return [KINDS[kind](rng, HALVES[part]) for _ in range(n)]


Step = Callable[[Candidate, list[Document], list[int], int], list[Document]]  # what each document goes on with


def at_once(candidate: Candidate, documents: list[Document], given: list[int], seed: int) -> list[Document]:
    """The next picture of each document."""
    return [Document([picture]) for picture in candidate.draw_next(documents, given, seed)]


def after_thoughts(
    candidate: Candidate, documents: list[Document], given: list[int], seed: int, tries: int = SamplingOptions.tries
) -> list[Document]:
    """What the candidate tells itself to draw, and the picture drawn after its own words; anew, up to `tries` times in
    all, if it does not read them there clearly (the options `think` and `tries`)."""
    told = candidate.tell_next(documents, given)
    thoughts = [Document([OPENING, words + CLOSING]) if words else Document() for words in told]
    begun = [document + thought for document, thought in zip(documents, thoughts)]
    best = candidate.draw_next(begun, given, seed)
    fits = candidate.fitness(best, told) if tries > 1 else []
    for turn in range(1, tries):
        again = [i for i, fit in enumerate(fits) if told[i] and fit < FITS]
        if not again:
            break
        drawn = candidate.draw_next([begun[i] for i in again], [given[i] for i in again], seed + turn * STRIDE)
        for i, picture, fit in zip(again, drawn, candidate.fitness(drawn, [told[i] for i in again])):
            if fit > fits[i]:
                best[i], fits[i] = picture, fit
    return [thought + Document([picture]) for thought, picture in zip(thoughts, best, strict=True)]


def follow(
    candidate: Candidate, told: list[Story], seed: int, step: Step = at_once
) -> list[list[tuple[Scene, Scene | None]]]:
    """For each story, (truth, what the candidate's picture shows) for every picture that it had to draw."""
    documents = [Document() for _ in told]
    places = [0] * len(told)  # how many parts of each story are in its document
    results: list[list[tuple[Scene, Scene | None]]] = [[] for _ in told]
    noise = dice(seed, "interleaved", "noise")
    while True:
        waiting = []
        for i, story in enumerate(told):
            plan = story.document_plan
            while places[i] < len(plan) and (isinstance(plan[places[i]], str) or places[i] < story.given):
                documents[i] = documents[i] + render(plan[places[i] : places[i] + 1])
                places[i] += 1
            if places[i] < len(plan):
                waiting.append(i)
        if not waiting:
            return results
        added = step(
            candidate, [documents[i] for i in waiting], [told[i].given for i in waiting], noise.randrange(2**31)
        )
        for i, addition, shown in zip(waiting, added, look([each.pictures[-1] for each in added]), strict=True):
            truth = told[i].document_plan[places[i]]
            assert isinstance(truth, Scene)
            results[i].append((truth, shown))
            documents[i] = documents[i] + addition
            places[i] += 1


def kept(truth: Scene, shown: Scene | None) -> bool:
    """Whether a picture keeps what no text told: the background, and the size of the thing in each place."""
    if shown is None:
        return False
    sizes, truly = ({thing.place: thing.size for thing in scene.things} for scene in (shown, truth))
    return shown.background == truth.background and sizes == truly


def placement(candidate: Candidate, n: int, seed: int) -> dict[str, Any]:
    """The share of true stories in which the candidate, after each word, would begin a picture where one stands and
    nowhere else."""
    return by_part("placement", lambda part: proportion(_placed(candidate, stories("story", n, seed, part))))


def _placed(candidate: Candidate, told: list[Story]) -> list[bool]:
    return candidate.places_dreams([render(story.document_plan) for story in told], [story.given for story in told])


def orders(candidate: Candidate, n: int, seed: int) -> dict[str, Any]:
    """The share of the reader's pictures with an order ("Make the star green.") or a sentence that changes them ("The
    star turns green.") after which the candidate would begin a picture at once."""
    return by_part("orders", lambda part: proportion(_begun(candidate, n, seed, part)))


def _begun(candidate: Candidate, n: int, seed: int, part: str) -> list[bool]:
    told = [*stories("edit", n - n // 2, seed, part), *stories("continued", n // 2, seed, part)]
    # A picture, words, and the picture that is due: all stories of both kinds begin so.
    return candidate.places_dreams([render(story.document_plan[:3]) for story in told], [2] * len(told))


FOLLOWED: dict[str, tuple[str, Callable[[Scene, Scene | None], bool]]] = {
    "pictures": ("story", same),
    "picture_only_facts": ("facts", kept),
    "edits": ("edit", same),
    "made_up_names": ("name", same),
    "composition": ("composition", same),
    "subjects": ("subject", same),
    "continued": ("continued", same),
}  # the kind of document, and what makes each picture of it right
THOUGHT = ("pictures", "picture_only_facts", "edits", "made_up_names", "continued")


def followed(name: str, candidate: Candidate, n: int, seed: int) -> dict[str, Any]:
    """The share of documents in which *every* picture is right; `name` is one of `FOLLOWED`."""
    return by_part(name, lambda part: _right(name, candidate, n, seed, part))


def thinking(name: str, candidate: Candidate, n: int, seed: int) -> dict[str, Any]:
    """The same, where the candidate tells itself before each picture what it is to draw, and looks whether it did;
    `name` is one of `THOUGHT`."""
    return by_part("thinking", lambda part: {name: _right(name, candidate, n, seed, part, after_thoughts)})


def _right(name: str, candidate: Candidate, n: int, seed: int, part: str, step: Step = at_once) -> Leaf:
    kind, right = FOLLOWED[name]
    drawn = follow(candidate, stories(kind, n, seed, part), seed, step)
    return proportion([all(right(truth, shown) for truth, shown in story) for story in drawn])


def by_part(name: str, figure: Callable[[str], Any]) -> dict[str, Any]:
    """The figure on what training shows, and under `held_out` that on what it never shows."""
    return {name: figure("seen"), "held_out": {name: figure("held_out")}}


SHOTS = (0, 1, 2, 4)


def shots(count: int, n: int, seed: int, part: str) -> list[list[tuple[Scene, Question]]]:
    """`n` times `count` answered questions and one to answer."""
    rng = dice(seed, "interleaved", part, "few_shot", str(count))
    return [ask_by_example(rng, count, HALVES[part]) for _ in range(n)]


def few_shot(candidate: Candidate, n: int, seed: int) -> dict[str, Any]:
    """The share of right answers to a question of which only the answers before say what it means, by their number."""
    return by_part(
        "few_shot", lambda part: {f"{k}": proportion(_answered(candidate, shots(k, n, seed, part))) for k in SHOTS}
    )


def _answered(candidate: Candidate, asked: list[list[tuple[Scene, Question]]]) -> list[bool]:
    said = candidate.ask([_before(each) for each in asked], [each[-1][1].question for each in asked])
    return [plain(text) == each[-1][1].answer for text, each in zip(said, asked, strict=True)]


def _before(asked: list[tuple[Scene, Question]]) -> Document:
    """All that comes before the last question."""
    *answered, (last, _) = asked
    told = [(scene, question_text(question.question), f" {question.answer}") for scene, question in answered]
    return render([*(part for shot in told for part in shot), last])


def perplexity(candidate: Candidate, llm: Path | None, n: int, seed: int) -> dict[str, Any]:
    """Perplexity of `n` plain texts without pictures to the language model in the folder `llm`, as it was `before` it
    learned of pictures, and to the candidate's, `after`; `kept` is the first by the second. None without the folder."""
    if llm is None:
        return {"perplexity": None}
    rng = dice(seed, "interleaved", "perplexity")
    texts = [sample("plain_text", rng) for _ in range(n)]
    documents = [text.document for text in texts]
    said = [text.prompt_parts for text in texts]
    given: list[Container[int]] = [range(parts) if isinstance(parts, int) else parts for parts in said]
    before, after = (candidate.surprise(documents, given, folder) for folder in (llm, None))
    losses = np.array([(old.loss, new.loss, old.tokens) for old, new in zip(before, after, strict=True)])

    def leaf(weights: tuple[int, int]) -> Leaf:
        return bootstrap(losses, lambda drawn: float(np.exp(drawn[:, :2].sum(0) @ weights / drawn[:, 2].sum())))

    return {"perplexity": {"before": leaf((1, 0)), "after": leaf((0, 1)), "kept": leaf((1, -1))}}
