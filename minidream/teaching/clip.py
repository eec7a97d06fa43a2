"""The exercises of notebook 02, and what its measurements need: embeddings in batches, and facts as targets."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import CLIPConfig, CLIPModel

from minidream.teaching import Exercise, Mistake
from minidream.training.components import pixels, tokenize
from minidream.world.captions import plain_caption
from minidream.world.scene import BACKGROUNDS, COLORS, JITTER, PLACES, SHAPES, SIZES, Scene, Thing, random_scene

BATCH = 100
WHOLE, EXACT = "the whole scene", "exact position"
CPU = torch.device("cpu")
VALUES: dict[str, tuple[str, ...]] = {
    "background": tuple(BACKGROUNDS),
    "colour": tuple(COLORS),
    "shape": SHAPES,
    "size": tuple(SIZES),
    "place": tuple(PLACES),
}


# -- scenes of one thing, fact by fact --------------------------------------------------------------------------------


def _field(fact: str) -> str:
    return fact.replace("colour", "color")


def fact_of(scene: Scene, fact: str) -> str:
    """One of `VALUES` of a scene's first thing, or its background."""
    return scene.background if fact == "background" else str(getattr(scene.things[0], _field(fact)))


def variants(scene: Scene, fact: str) -> dict[str, Scene]:
    """A scene of one thing with every value of one fact, all else as it is."""
    if fact == "background":
        return {value: replace(scene, background=value) for value in VALUES[fact]}
    changed = {value: replace(scene.things[0], **{_field(fact): value}) for value in VALUES[fact]}  # type: ignore[arg-type]
    return {value: replace(scene, things=(thing,)) for value, thing in changed.items()}


def shares_right(scenes: Sequence[Scene], found: Sequence[Scene]) -> dict[str, float]:
    """How often scenes of one thing were found as they are: every fact of them (`WHOLE`), and fact by fact."""
    pairs = list(zip(scenes, found, strict=True))
    whole = sum(scene.facts() == other.facts() for scene, other in pairs) / len(pairs)
    return {WHOLE: whole} | {
        fact: sum(fact_of(scene, fact) == fact_of(other, fact) for scene, other in pairs) / len(pairs)
        for fact in VALUES
    }


def shifted(scene: Scene, rng: random.Random) -> Scene:
    """The same scene, each thing a pixel or two elsewhere in its corner: what no caption tells."""
    moved = (
        replace(thing, offset=(rng.randint(-JITTER, JITTER), rng.randint(-JITTER, JITTER))) for thing in scene.things
    )
    return replace(scene, things=tuple(moved))


def every_single_thing() -> list[Scene]:
    """Every scene of one thing that there is: 3 backgrounds x 6 colours x 6 shapes x 2 sizes x 4 places = 864."""
    return [
        Scene(background, (Thing(place, color, shape, size),))
        for background in BACKGROUNDS
        for color in COLORS
        for shape in SHAPES
        for size in SIZES
        for place in PLACES
    ]


def singles(rng: random.Random, count: int) -> list[Scene]:
    """Scenes of one thing, no two of which a caption would tell alike."""
    scenes: dict[Scene, Scene] = {}
    while len(scenes) < count:
        scene = random_scene(rng, 1)
        scenes[scene.facts()] = scene
    return list(scenes.values())


def couple(rng: random.Random) -> Scene:
    """A scene of two things that differ in colour, shape and size."""
    while True:
        scene = random_scene(rng, 2)
        one, two = scene.things
        if one.color != two.color and one.shape != two.shape and one.size != two.size:
            return scene


# -- embeddings -------------------------------------------------------------------------------------------------------


def newborn(model: CLIPModel, seed: int = 0) -> Any:
    """An untrained CLIP that reads what `model` reads, but small: one layer of width 64 a tower."""
    torch.manual_seed(seed)
    small = {"hidden_size": 64, "intermediate_size": 256, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = model.config.to_dict()
    text, vision = (config[tower] | small for tower in ("text_config", "vision_config"))
    return CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=64)).float()


@torch.no_grad()
def embed_pictures(model: Any, scenes: Sequence[Scene]) -> tuple[Tensor, Tensor]:
    """The drawn scenes' embeddings (N, D), of length 1, and the penultimate layer's patches (N, P, D_v)."""
    embeddings, patches = [], []
    for start in range(0, len(scenes), BATCH):
        drawn = pixels(list(scenes[start : start + BATCH]), CPU, model.config.vision_config.image_size)
        out = model.vision_model(pixel_values=drawn, output_hidden_states=True)
        embeddings.append(F.normalize(model.visual_projection(out.pooler_output)))
        patches.append(out.hidden_states[-2][:, 1:])  # without CLS
    return torch.cat(embeddings), torch.cat(patches)


@torch.no_grad()
def embed_captions(model: Any, tokenizer: Any, captions: Sequence[str]) -> Tensor:
    """The captions' embeddings (N, D), of length 1."""
    embeddings = []
    for start in range(0, len(captions), BATCH):
        tokens = tokenize(tokenizer, list(captions[start : start + BATCH]), CPU, padding="longest")
        embeddings.append(F.normalize(model.text_projection(model.text_model(**tokens).pooler_output)))
    return torch.cat(embeddings)


def similarities(model: Any, tokenizer: Any, scene: Scene, fact: str) -> dict[str, float]:
    """The cosine of a picture of one thing with its caption, for every value that the caption may give to a fact."""
    changed = variants(scene, fact)
    captions = embed_captions(model, tokenizer, [plain_caption(each) for each in changed.values()])
    picture, _ = embed_pictures(model, [scene])
    return dict(zip(changed, (picture @ captions.T)[0].tolist()))


@torch.no_grad()
def clinic(
    model: Any, tokenizer: Any, scenes: Sequence[Scene], captions: Sequence[str]
) -> dict[str, tuple[Tensor, Tensor]]:
    """What four programs make of the same N pictures and K captions: embeddings (N, D) and (K, D), of length 1. Three
    of them open `model` with a bug."""

    def seen(drawn: Tensor) -> Tensor:
        return F.normalize(model.visual_projection(model.vision_model(pixel_values=drawn).pooler_output))

    drawn = pixels(list(scenes), CPU, model.config.vision_config.image_size)
    right, said = seen(drawn), embed_captions(model, tokenizer, captions)
    states = model.text_model(**tokenize(tokenizer, list(captions), CPU)).last_hidden_state
    return {
        "healthy": (right, said),
        "patient 1": (seen(drawn.flip(1)), said),  # the channels
        "patient 2": (seen((drawn + 1) / 2), said),
        "patient 3": (right, F.normalize(model.text_projection(states[:, -1]))),
    }


# -- what a linear probe is asked for ---------------------------------------------------------------------------------


@dataclass
class FactSheet:
    """What is true of N scenes, as K columns of numbers that a linear map can be asked for.

    A fact with values is one column a value: 1 for the true one, 0 for the others. The exact position of the thing in
    a corner is two columns: its pixels off the middle. Where a corner is empty, its columns are 0 and not counted.
    """

    scenes: Sequence[Scene]
    targets: Tensor = field(init=False)  # (N, K)
    _asked: list[tuple[str, slice, Tensor]] = field(init=False, default_factory=list)  # fact, columns, counted rows

    def __post_init__(self) -> None:
        columns: list[Tensor] = []
        everywhere = torch.ones(len(self.scenes), dtype=torch.bool)

        def ask(fact: str, rows: Iterable[Sequence[float]], counted: Tensor = everywhere) -> None:
            block = torch.tensor([list(row) for row in rows], dtype=torch.float64)  # (N, values)
            start = sum(column.shape[1] for column in columns)
            self._asked.append((fact, slice(start, start + block.shape[1]), counted))
            columns.append(block)

        def one_hot(value: Any, values: Iterable[Any]) -> list[float]:
            return [float(value == each) for each in values]

        ask("background", (one_hot(scene.background, BACKGROUNDS) for scene in self.scenes))
        ask("how many things", (one_hot(len(scene.things), (1, 2, 3, 4)) for scene in self.scenes))
        for fact, name in (("colour", "which colours"), ("shape", "which shapes")):
            for value in VALUES[fact]:
                shown = [any(getattr(thing, _field(fact)) == value for thing in scene.things) for scene in self.scenes]
                ask(name, (one_hot(there, (True, False)) for there in shown))
        for place in PLACES:
            here = [next((thing for thing in scene.things if thing.place == place), None) for scene in self.scenes]
            filled = torch.tensor([thing is not None for thing in here])
            ask("which corners", (one_hot(thing is not None, (True, False)) for thing in here))
            for fact in ("size", "colour", "shape"):
                rows = (one_hot(getattr(thing, _field(fact), None), VALUES[fact]) for thing in here)
                ask(f"{fact} in each corner", rows, filled)
            ask(EXACT, (thing.offset if thing else (0.0, 0.0) for thing in here), filled)
        self.targets = torch.cat(columns, dim=1)

    def score(self, predicted: Tensor, rows: slice) -> dict[str, float]:
        """How good predictions (n, K) for these rows are, fact by fact: the share that is right, where the largest
        column is the answer. For the exact position: 1 - squared error / variance, at least 0."""
        truth = self.targets[rows]
        right: dict[str, list[Tensor]] = {}
        whole = torch.ones(len(truth), dtype=torch.bool)
        errors, spread = torch.zeros(()), torch.zeros(())
        for fact, columns, counted in self._asked:
            said, real, where = predicted[:, columns].double(), truth[:, columns], counted[rows]
            if fact == EXACT:
                errors = errors + (said - real)[where].square().sum()
                spread = spread + (real[where] - real[where].mean(0)).square().sum()
                continue
            hit = said.argmax(1) == real.argmax(1)
            right.setdefault(fact, []).append(hit[where])
            whole &= hit | ~where
        shares = {fact: float(torch.cat(hits).double().mean()) for fact, hits in right.items()}
        return shares | {WHOLE: float(whole.double().mean()), EXACT: max(0.0, float(1 - errors / spread))}

    def guess(self, learned: slice, rows: slice) -> dict[str, float]:
        """The score of the answer that is best without looking: the mean of the rows that were learned from."""
        mean = self.targets[learned].mean(0)
        return self.score(mean.expand(len(self.targets[rows]), -1), rows)


# -- exercises --------------------------------------------------------------------------------------------------------


def _near(value: float) -> Callable[[Any], bool]:
    return lambda answer: abs(float(answer) - value) < 0.02 * value


GUESSING = Exercise(
    "the loss of a guess",
    reference=math.log(32_768),
    right=_near(math.log(32_768)),
    mistakes=(
        Mistake(1 / 32_768, _near(1 / 32_768), "that is the chance of being right; the loss is its negative logarithm"),
        Mistake(15, _near(15), "that is the logarithm to base 2; cross-entropy takes the natural one"),
        Mistake(
            math.log10(32_768), _near(math.log10(32_768)), "that is the logarithm to base 10; take the natural one"
        ),
        Mistake(
            2 * math.log(32_768), _near(2 * math.log(32_768)), "the loss is the mean of both directions, not their sum"
        ),
        Mistake(32_768, _near(32_768), "that is the number of candidates; how surprised is one who has no idea which?"),
    ),
)

_LOGITS = torch.tensor([[4.0, 1.0, 0.0], [3.0, 2.0, -1.0], [0.5, 1.5, 1.0]])
_PAIRS = torch.arange(3)


def _contrastive(logits: Tensor) -> Tensor:
    return (F.cross_entropy(logits, _PAIRS) + F.cross_entropy(logits.T, _PAIRS)) / 2


def _gives(wrong: Callable[[Tensor], Tensor]) -> Callable[[Any], bool]:
    """Recognises an answer that computes what `wrong` computes."""
    return lambda answer: torch.allclose(torch.as_tensor(answer(_LOGITS)).float(), wrong(_LOGITS), atol=1e-4)


CONTRASTIVE = Exercise(
    "the contrastive loss",
    reference=_contrastive,
    right=_gives(_contrastive),
    mistakes=tuple(
        Mistake(example, _gives(example), hint)
        for example, hint in (
            (
                lambda logits: F.cross_entropy(logits, _PAIRS),
                "each picture looks for its caption; let each caption look for its picture too (transpose)",
            ),
            (
                lambda logits: F.cross_entropy(logits.T, _PAIRS),
                "each caption looks for its picture; let each picture look for its caption too",
            ),
            (
                lambda logits: F.cross_entropy(logits, _PAIRS) + F.cross_entropy(logits.T, _PAIRS),
                "both directions are there; CLIP takes their mean, you took their sum",
            ),
            (
                lambda logits: -logits.diagonal().mean(),
                "this pulls true pairs together and pushes nothing apart: a model that gives the same vector to "
                "everything would win; take a softmax over each row and column",
            ),
            (
                lambda logits: -_contrastive(logits),
                "the sign: a loss falls as the true pairs become more likely",
            ),
        )
    ),
)

NEVER = Exercise(
    "what no such CLIP will keep",
    reference="exact position",
    right=lambda answer: answer == "exact position",
    mistakes=(
        Mistake(
            "who is where",
            lambda answer: answer == "who is where",
            "the captions say it, and part 7 taught it by putting exchanged pairs into the batch",
        ),
        Mistake(
            "shape", lambda answer: answer == "shape", "the captions say it, and batches with neighbours ask for it"
        ),
        Mistake(
            "background",
            lambda answer: answer == "background",
            "the captions say it, and it was the first thing that the small CLIP of part 3 learned",
        ),
    ),
    otherwise='choose one of "background", "shape", "who is where", "exact position"',
)
