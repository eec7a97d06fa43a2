"""The shipped weights: small, whole, with their record, and as good as the README says they are."""

from __future__ import annotations

import json
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from minidream.agreement import clarity
from minidream.documents import Document
from minidream.evaluation.candidate import PipelineCandidate, look, same
from minidream.evaluation.comprehension import parse_caption, plain
from minidream.evaluation.creation import trials
from minidream.evaluation.interleaved import after_thoughts
from minidream.events import Picture, Thought, collect
from minidream.pipeline import MiniDreamPipeline
from minidream.weights import MANIFEST, find_weights
from minidream.world.draw import draw_batch
from minidream.world.questions import ask
from minidream.world.scene import random_scene
from tools import tables

ROOT = Path(__file__).parent.parent
WEIGHTS = ROOT / "data" / "weights"
PARTS = ("align", "clip", "llm", "minidream", "stable-diffusion")


@pytest.fixture(scope="module")
def pipe() -> MiniDreamPipeline:
    return MiniDreamPipeline.from_pretrained()


def test_they_are_small_and_hold_nothing_that_could_be_executed() -> None:
    files = [file for file in WEIGHTS.rglob("*") if file.is_file()]
    assert {file.suffix for file in files} == {".json", ".safetensors"}
    assert sum(file.stat().st_size for file in files) <= 40e6
    assert {file.relative_to(WEIGHTS).parts[0] for file in files} == set(PARTS)


@pytest.mark.parametrize("part", PARTS)
def test_each_part_is_whole_and_says_what_made_it(part: str) -> None:
    folder = find_weights(part)  # verifies the manifest
    assert (folder / MANIFEST).is_file()
    record = json.loads((folder / "training.json").read_text())
    assert record["steps"] == record["recipe"]["steps"] and record["seconds"] > 0
    assert "train" in record["command"] and "seed" in record["recipe"] and record["losses"]


def test_reconstructions_read_back_exactly(pipe: MiniDreamPipeline) -> None:
    rng = random.Random("shipped-vae")
    scenes = [random_scene(rng) for _ in range(64)]
    pictures = torch.from_numpy(draw_batch(scenes)).permute(0, 3, 1, 2)
    rebuilt = pipe.model.decoder.decode(pipe.model.decoder.encode(pictures)).permute(0, 2, 3, 1).numpy()
    found = look([Image.fromarray(np.ascontiguousarray(picture)) for picture in rebuilt])
    assert sum(same(scene, shown) for scene, shown in zip(scenes, found)) >= 62


def test_what_is_half_mixed_is_less_clear_than_what_is_drawn(pipe: MiniDreamPipeline) -> None:
    rng = random.Random("shipped-clarity")
    drawn = draw_batch([random_scene(rng) for _ in range(64)])
    mixed = (drawn.astype(int) + drawn[::-1]) // 2
    clear, smudged = (
        clarity(pipe.model, pipe.processor, [Image.fromarray(picture) for picture in some.astype(np.uint8)])
        for some in (drawn, mixed)
    )
    assert np.mean(clear) > 0.8 and np.mean(np.array(clear) > smudged) > 0.9


def test_drawing_and_answering_are_as_good_as_measured(pipe: MiniDreamPipeline) -> None:
    """A few dozen of the evaluation's own trials: far fewer than it takes, enough to notice a broken model."""
    measured = tables.read("evaluation.json")
    asked = trials(6, seed=1, held_out=False)
    shown = look(pipe.draw([prompt for prompt, _ in asked], seed=list(range(len(asked)))))
    right = [constraint.satisfied(scene) for (_, constraint), scene in zip(asked, shown)]
    assert np.mean(right) >= measured["creation"]["seen"]["overall"]["mean"] - 0.2

    rng = random.Random("shipped-vqa")
    scenes = [random_scene(rng) for _ in range(48)]
    questions = [ask(scene, "background" if i % 2 else "count", rng) for i, scene in enumerate(scenes)]
    pictures = [Image.fromarray(picture) for picture in draw_batch(scenes)]
    answers = pipe.ask(pictures, [question.question for question in questions], max_tokens=8)
    said = [plain(answer) == question.answer for answer, question in zip(answers, questions)]
    assert np.mean(said) >= measured["comprehension"]["vqa"]["seen"]["overall"]["mean"] - 0.2


def test_what_it_thinks_while_it_writes_is_what_is_examined(pipe: MiniDreamPipeline) -> None:
    """The option `think` of the loop, and the step whose pictures `evaluate` measures, say and draw the same; of later
    pictures, too, which are told from what was told before."""
    candidate, document = PipelineCandidate(pipe), Document(["A large red star in the top left on a grey background."])
    thoughts = 0
    for event in pipe.stream(document, think=True, tries=1, max_pictures=2, seed=4):
        if isinstance(event, Thought):
            assert candidate.tell_next([document], [1]) == [event.text] and parse_caption(event.text) is not None
            [added] = after_thoughts(candidate, [document], [1], 4, tries=1)
            thoughts += 1
        elif isinstance(event, Picture):
            apart = np.abs(np.asarray(added.pictures[0], dtype=int) - np.asarray(event.image, dtype=int)).max()
            assert apart <= 2 or thoughts > 1  # the stream's noise of a later picture is another
            document = document + added[:2] + Document([event.image])
        else:
            collect(document, event)
    assert thoughts == 2
