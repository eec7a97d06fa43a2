"""Why pictures, documents and captions of the shipped weights are wrong, counted: `python -m tools.reasons`.

Writes data/results/reasons.json: of each examination, how many passed, and of the others the first thing that is wrong.
"""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Iterable
from typing import Any

from minidream import Document, MiniDreamPipeline
from minidream.evaluation import creation, interleaved
from minidream.evaluation.candidate import PipelineCandidate, digest, look, same
from minidream.pictures import write_atomically
from minidream.world.captions import understand
from minidream.world.corpora import render
from minidream.world.scene import HELD_OUT_PAIRS, Scene, random_scene
from minidream.world.words import name
from tools.tables import RESULTS

N = 120  # documents of each kind, captions; half as many pictures of each category
REFUSED, THOUGHT, OTHER = "the reader refuses the picture", "it told itself something wrong", "another fact is wrong"
MIXED_UP = "it takes the other name's thing"


def pictures(candidate: PipelineCandidate, held_out: bool) -> Iterable[str]:
    """Pictures of captions, of all categories of creation."""
    asked = creation.trials(N // 2, 12, held_out)
    for (_, constraint), scene in zip(asked, look(candidate.draw([prompt for prompt, _ in asked], 6))):
        yield "" if constraint.satisfied(scene) else OTHER if scene else REFUSED


def documents(candidate: PipelineCandidate, task: str) -> Iterable[str]:
    """Documents with `think`; of one that fails, why its first wrong picture does."""
    kind, right = interleaved.FOLLOWED[task]
    told = interleaved.stories(kind, N, 5)
    thoughts: list[list[Scene | None]] = [[] for _ in told]

    def step(candidate: Any, begun: list[Document], given: list[int], seed: int) -> list[Document]:
        added = interleaved.after_thoughts(candidate, begun, given, seed)
        turn = max(map(len, thoughts))
        waiting = [i for i, story in enumerate(told) if len(story.scenes) - (story.given > 0) > turn]
        for i, addition in zip(waiting, added, strict=True):
            thoughts[i].append(understand(f"({addition[1]}") if len(addition) > 1 else None)
        return added

    for drawn, said in zip(interleaved.follow(candidate, told, 5, step), thoughts):
        wrong = [(truth, shown, thought) for (truth, shown), thought in zip(drawn, said) if not right(truth, shown)]
        if not wrong:
            yield ""
            continue
        truth, shown, thought = wrong[0]
        yield THOUGHT if not right(truth, thought) else OTHER if shown else REFUSED


def names(candidate: PipelineCandidate, bound: int) -> Iterable[str]:
    """What it tells itself to draw of a made-up name, where true pictures bound so many of them."""
    told = [story for story in interleaved.stories("name", 2 * N, 5) if len(story.scenes) == bound + 1]
    said = candidate.tell_next([render(story.document_plan[:-1]) for story in told], [story.given for story in told])
    for story, words in zip(told, said, strict=True):
        *shown, truth = story.scenes
        thought = understand(f"({words})")
        if same(truth, thought):
            yield ""
            continue
        others = {name(scene.things[0]) for scene in shown} - {name(thing) for thing in truth.things}
        yield MIXED_UP if thought and others & {name(thing) for thing in thought.things} else OTHER


def captions(pipe: MiniDreamPipeline) -> Iterable[str]:
    """Captions of scenes with something held out."""
    rng = random.Random("evaluation-why-captions")
    scenes = [random_scene(rng, held_out=True) for _ in range(N)]
    for scene, said in zip(scenes, pipe.caption([render([scene]).pictures[0] for scene in scenes])):
        read = understand(said)
        if same(scene, read):
            yield ""
            continue
        there = {thing.place: thing for thing in read.facts().things} if read else {}
        wrong = [thing for thing in scene.facts().things if there.get(thing.place) != thing]
        unseen = all((thing.color, thing.shape) in HELD_OUT_PAIRS for thing in wrong)
        yield "only things of a held-out pair are misread" if wrong and unseen else OTHER


def main() -> None:
    """Count, print and write."""
    pipe = MiniDreamPipeline.from_pretrained()
    candidate = PipelineCandidate(pipe)
    found = {
        "pictures of captions": pictures(candidate, False),
        "pictures of held-out captions": pictures(candidate, True),
        "stories with think": documents(candidate, "pictures"),
        "facts with think": documents(candidate, "picture_only_facts"),
        "thoughts of the only made-up name": names(candidate, 1),
        "thoughts of one of two made-up names": names(candidate, 2),
        "captions of held-out scenes": captions(pipe),
    }
    result: dict[str, Any] = {"settings": {"weights": digest(pipe.model)}}
    for what, reasons in found.items():
        counted = Counter(reasons)
        result[what] = {"right": counted.pop("", 0)} | dict(counted.most_common())
        print(f"{what}: {result[what]}", flush=True)
    write_atomically(RESULTS / "reasons.json", (json.dumps(result, indent=2) + "\n").encode())


if __name__ == "__main__":
    main()
