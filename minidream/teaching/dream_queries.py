"""Notebook 05: a small world for stage I, patients, what a grid of runs says, and the exercises."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from minidream.batch import Batch
from minidream.documents import Document
from minidream.evaluation import creation
from minidream.evaluation.candidate import look
from minidream.evaluation.statistics import paired
from minidream.events import to_image
from minidream.modeling.minidream import MiniDream
from minidream.processing import MiniDreamProcessor
from minidream.teaching import Exercise, Mistake
from minidream.teaching.score_distillation import draw, text_tower, verdicts
from minidream.training.components import tokenize
from minidream.visualization.dream_queries import Measured
from minidream.world.captions import plain_caption
from minidream.world.draw import draw_batch
from minidream.world.prompts import Constraint
from minidream.world.scene import PLACES, SIDE, Scene, Thing

__all__ = ["draw", "verdicts"]

FACTS = ("background", "count", "places", "colors", "shapes", "sizes")
TAKEN = ("background", *(f"{which} {fact}" for which in ("1st", "2nd") for fact in ("place", "color", "shape")))


def little_world() -> tuple[list[Scene], list[str]]:
    """Eight scenes of one large circle for a stage I of seconds (two backgrounds, two places, two colours), and their
    plain captions."""
    scenes = [
        Scene(background, (Thing(place, color, "circle", "large"),))
        for background in ("white", "black")
        for place in ("top left", "bottom right")
        for color in ("red", "cyan")
    ]
    return scenes, [plain_caption(scene) for scene in scenes]


@torch.no_grad()
def by_the_teacher(captions: Sequence[str]) -> Tensor:
    """What the painter's own text encoder says of captions, (M, S, D): what its UNet was made to read."""
    tokenizer, text_model = text_tower()
    states: Tensor = text_model(input_ids=tokenize(tokenizer, list(captions), torch.device("cpu"))["input_ids"])[0]
    return states


def gradients(parts: Mapping[str, nn.Module | nn.Parameter], loss: Callable[[], Tensor]) -> dict[str, str]:
    """What the way back from a loss leaves in each part: the norm of its gradient; "crossed" where it goes through but
    the part is frozen; "-" where it does not come by. Gradients that were there are forgotten."""
    crossed: set[str] = set()

    def watch(name: str) -> Callable[[nn.Module, Any, Any], None]:
        def forward(_: nn.Module, given: Any, out: Any) -> None:
            if isinstance(out, Tensor) and out.requires_grad:
                out.register_hook(lambda _: crossed.add(name))

        return forward

    handles = [
        leaf.register_forward_hook(watch(name))
        for name, part in parts.items()
        if isinstance(part, nn.Module)
        for leaf in part.modules()
        if not list(leaf.children())
    ]
    parameters = {name: [*part.parameters()] if isinstance(part, nn.Module) else [part] for name, part in parts.items()}
    for own in parameters.values():
        for parameter in own:
            parameter.grad = None
    try:
        loss().backward()
    finally:
        for handle in handles:
            handle.remove()
    left = {}
    for name, own in parameters.items():
        square = sum(parameter.grad.square().sum().item() for parameter in own if parameter.grad is not None)
        left[name] = f"{square**0.5:.3f}" if square else "crossed" if name in crossed else "-"
    return left


def regions(scenes: Sequence[Scene], side: int) -> dict[str, Tensor]:
    """Where the parts of scenes of two things lie on a coarse grid, each (M, side, side) bool: the places that a thing
    covers by a tenth or more, in reading order; the ground beside them in their quarters; the empty quarters.

    Raises ValueError unless all scenes have two things.
    """
    if any(len(scene.things) != 2 for scene in scenes):
        raise ValueError("the regions are those of scenes with two things")
    half = side // 2
    things, quarters = torch.zeros(2, len(scenes), side, side), torch.zeros(len(scenes), side, side)
    for number, scene in enumerate(scenes):
        for index, thing in enumerate(scene.things):
            pixels = torch.from_numpy(draw_batch([Scene("black", (thing,))])).float()  # (1, 64, 64, 3)
            covered = ((pixels - pixels[:, :1, :1]).abs().amax(3) > 40).float()  # unlike the corner: it is no ground
            things[index, number] = F.avg_pool2d(covered, SIDE // side)[0]
            row, column = (half * place for place in PLACES[thing.place])
            quarters[number, row : row + half, column : column + half] = 1
    first, second = things >= 0.1
    taken = quarters.bool()
    ground = taken & ~(first | second)
    return {"first thing": first, "second thing": second, "ground beside": ground, "empty quarters": ~taken}


def facts_right(scenes: Sequence[Scene], pictures: Sequence[Image.Image]) -> list[float]:
    """The share of pictures that have each of the `FACTS` of their scene right."""
    shares = creation.facts([("", Constraint("counting", scene)) for scene in scenes], list(pictures))
    return [shares[fact]["mean"] for fact in FACTS]


def taken_over(own: Sequence[Scene], others: Sequence[Scene], pictures: Tensor) -> list[float]:
    """What came over from elsewhere: for each of `TAKEN`, of the scenes of two things that differ from their `others`
    there, the share whose picture, uint8 (M, 3, H, W), shows the other's. Things are counted in reading order."""
    shown = [_two_things(scene) for scene in look([to_image(picture) for picture in pictures])]
    triples = list(zip(map(_two_things, own), map(_two_things, others), shown, strict=True))
    shares = []
    for fact in range(len(TAKEN)):
        came = [seen[fact] == there[fact] for here, there, seen in triples if here[fact] != there[fact]]
        shares.append(sum(came) / max(1, len(came)))
    return shares


def _two_things(scene: Scene | None) -> list[str | None]:
    """The facts `TAKEN` of a scene; None for what it does not show."""
    things = [*(scene.things if scene else ()), None, None][:2]
    facts = [getattr(thing, fact, None) for thing in things for fact in ("place", "color", "shape")]
    return [scene.background if scene else None, *facts]


def right_padded(processor: MiniDreamProcessor, captions: Sequence[str]) -> Batch:
    """Captions as the released code batches them to draw: padded on the right, *then* the dream block, positions
    counted on through the padding."""
    rows = processor([Document([caption]) for caption in captions], "text", add_eos=False)  # padded on the right
    block = processor.continuation(["dream"] * len(captions))

    def joined(name: str) -> Tensor:
        return torch.cat([getattr(rows, name), getattr(block, name)], dim=1)

    masks = {name: joined(name) for name in ("input_ids", "attention_mask", "query_mask", "patch_mask", "labels")}
    places = torch.arange(masks["input_ids"].shape[1]).expand_as(masks["input_ids"])
    return Batch(**{**vars(rows), **masks, "position_ids": places})


Patient = tuple[Callable[[Sequence[str]], Tensor], Tensor]


def patients(model: MiniDream, processor: MiniDreamProcessor) -> dict[str, Patient]:
    """The bug clinic: how each makes the conditions of captions, and its null condition."""

    def states(batch: Batch) -> Tensor:
        embeddings = model.embed(batch.input_ids, batch.query_mask)
        hidden: Tensor = model.read(embeddings, batch.attention_mask, batch.position_ids).last_hidden_state
        return hidden

    def left_padded(captions: Sequence[str]) -> Batch:
        documents = [Document([caption]) for caption in captions]
        return processor(documents, "text_to_image", padding_side="left", generation_prompt=True)

    @torch.no_grad()
    def healthy(captions: Sequence[str]) -> Tensor:
        batch = left_padded(captions)
        return model.conditions(states(batch), batch.query_mask)

    @torch.no_grad()
    def padded_on_the_right(captions: Sequence[str]) -> Tensor:
        batch = right_padded(processor, captions)
        return model.conditions(states(batch), batch.query_mask)

    @torch.no_grad()
    def off_by_one(captions: Sequence[str]) -> Tensor:
        batch = left_padded(captions)
        return model.conditions(states(batch), batch.query_mask.roll(-1, 1))  # <dream>, and all but the last query

    queries = len(model.dream_queries)
    ids = torch.tensor([[processor.bos, processor.dream, *[processor.im_patch] * queries]])
    with torch.no_grad():
        null = model.null_condition()
        placeholders = model.read(model.embed(ids)).last_hidden_state
        unspliced = model.conditions(placeholders, torch.arange(queries + 2).unsqueeze(0) > 1)
    return {
        "healthy": (healthy, null),
        "patient 1": (padded_on_the_right, null),
        "patient 2": (healthy, unspliced),
        "patient 3": (off_by_one, null),
    }


@torch.no_grad()
def symptoms(model: MiniDream, patient: Patient, short: str, long: str) -> tuple[Tensor, Tensor]:
    """Three examinations: the condition of `short` alone and in a batch with `long`, (2, Q, D); and what is drawn under
    the first, the second, and the first with guidance, uint8 (3, 3, H, W), all from one noise."""
    condition, null = patient
    conditions = torch.stack([condition([short])[0], condition([short, long])[0]])
    drawn = []
    for chosen, guidance in ((conditions[:1], 1.0), (conditions[1:], 1.0), (conditions[:1], 3.0)):
        generator = torch.Generator().manual_seed(0)
        latents = model.decoder.sample(chosen, null, guidance=guidance, steps=10, generators=[generator])
        drawn.append(model.decoder.decode(latents)[0])
    return conditions, torch.stack(drawn)


def measured(content: Mapping[str, Any], part: str, name: str = "") -> dict[str, Measured]:
    """A figure of a grid's settings (see `minidream.ablation`): `run[part][name]`, or `run[part]` itself, for each seed
    in their order; where it is a share, with the 95 % interval of its mean over seeds. Settings whose runs do not have
    it are left out."""
    found: dict[str, dict[int, Any]] = {}
    for run in sorted(content["runs"], key=lambda run: run["seed"]):
        value = run.get(part, {}).get(name) if name else run.get(part)
        if value is not None:
            found.setdefault(run["setting"], {})[run["seed"]] = value
    return {setting: _over_seeds(found[setting]) for setting in _ordered(found)}


def told(found: Mapping[str, Measured], what: str, lowest: bool = False) -> str:
    """A sentence: every setting's mean over its seeds; and who leads, in how many of the seeds that all have."""
    means = {setting: sum(each.values) / len(each.values) for setting, each in found.items()}
    line = f"{what}: " + ", ".join(f"{setting} {mean:.3f}" for setting, mean in means.items())
    best = min if lowest else max
    first = best(means, key=lambda setting: means[setting])
    others = {setting: dict(zip(each.seeds, each.values)) for setting, each in found.items()}
    own = others.pop(first)
    if not others:
        return line
    common = set(own).intersection(*others.values())
    rivals = {seed: [other[seed] for other in others.values()] for seed in common}
    ahead = sum(own[seed] == best(own[seed], *rivals[seed]) and own[seed] not in rivals[seed] for seed in common)
    return f"{line}; {first} leads, alone in {ahead} of {len(common)} seeds"


def _ordered(settings: Mapping[str, Any]) -> list[str]:
    """Numbers by size, names as they come."""
    return sorted(settings, key=lambda setting: int(setting) if setting.isdigit() else 0)


def _over_seeds(found: Mapping[int, Any]) -> Measured:
    """Of runs by seed, each a number or a share's leaf; shares of several seeds have Student's interval of their mean,
    from 0 to 1 at most; one has its own."""
    if not isinstance(next(iter(found.values())), Mapping):
        return Measured([float(value) for value in found.values()], seeds=list(found))
    values = [leaf["mean"] for leaf in found.values()]
    over = paired(values) if len(values) > 1 else next(iter(found.values()))
    return Measured(values, (max(over["low"], 0.0), min(over["high"], 1.0)), list(found))


_SIZES = ((13, 5, 8, 16), (3, 4, 64, 256))  # tokens of both texts, dream queries, patches


def _at(answer: Callable[[int, int, int, int], Sequence[int]]) -> list[tuple[int, ...]]:
    return [tuple(int(place) for place in answer(*each)) for each in _SIZES]


def _from(first: Callable[[int, int, int, int], int]) -> Callable[[int, int, int, int], tuple[int, int]]:
    """Q places from a first one on."""
    return lambda n1, n2, q, p: (first(n1, n2, q, p), first(n1, n2, q, p) + q)


def _second(n1: int, n2: int, q: int, p: int) -> int:
    return n1 + n2 + q + p + 6


WHERE = Exercise(
    "where the second block's queries stand",
    reference=_from(_second),
    right=lambda answer: _at(answer) == [(48, 56), (333, 397)],
    mistakes=(
        Mistake(
            _from(lambda n1, n2, q, p: _second(n1, n2, q, p) - 1),
            lambda answer: _at(answer) == [(47, 55), (332, 396)],
            "one place too early: this takes the state of the second <dream> and loses the last query",
        ),
        Mistake(
            _from(lambda n1, n2, q, p: _second(n1, n2, q, p) + 1),
            lambda answer: _at(answer) == [(49, 57), (334, 398)],
            "one place too late: the first place is 0, and <s> has it",
        ),
        Mistake(
            _from(lambda n1, n2, q, p: n1 + 2),
            lambda answer: _at(answer) == [(15, 23), (5, 69)],
            "those are the first block's",
        ),
        Mistake(
            _from(lambda n1, n2, q, p: n1 + n2 + q + 4),
            lambda answer: _at(answer) == [(30, 38), (75, 139)],
            "between the two texts stands the first picture twice: after its dream block comes its image block",
        ),
        Mistake(
            _from(lambda n1, n2, q, p: n1 + n2 + q + p + 2),
            lambda answer: _at(answer) == [(44, 52), (329, 393)],
            "both blocks of the first picture have a token at either end",
        ),
        Mistake(
            lambda n1, n2, q, p: (_second(n1, n2, q, p), _second(n1, n2, q, p) + q - 1),
            lambda answer: _at(answer) == [(48, 55), (333, 396)],
            "the end of a slice is the first place that does not belong to it: one query is missing",
        ),
    ),
)

TRAINED = Exercise(
    "stage I at the paper's size",
    reference=64 * 4096 + (1024 * 4096 + 4096) + 4096 * 1024,
    right=lambda answer: answer == 8_654_848,
    mistakes=(
        Mistake(
            64 * 4096 + 2 * 1024 * 4096,
            lambda answer: answer == 8_650_752,
            "nearly: one of the two projectors also adds a bias",
        ),
        Mistake(
            64 * 4096 + 2 * 1024 * 4096 + 4096 + 1024,
            lambda answer: answer == 8_655_872,
            "nearly: only the visual projector has a bias; what goes to the painter is a plain product",
        ),
        Mistake(
            2 * 1024 * 4096 + 4096,
            lambda answer: answer == 8_392_704,
            "the queries themselves are learned, too",
        ),
        Mistake(
            64 * 1024 + 2 * 1024 * 4096 + 4096,
            lambda answer: answer == 8_458_240,
            "a dream query stands in the language model's stream: it is as wide as a word",
        ),
    ),
)


def _found(one: Tensor, other: Tensor, centred: bool = True, cosine: bool = True, back: bool = False) -> float:
    mean = torch.cat([one, other]).mean(0) if centred else 0
    one, other = ((features - mean).float() for features in (one, other))
    if cosine:
        one, other = F.normalize(one, dim=-1), F.normalize(other, dim=-1)
    alike = other @ one.T if back else one @ other.T
    return (alike.argmax(1) == torch.arange(len(one))).float().mean().item()


def _examples() -> list[tuple[Tensor, Tensor]]:
    """Pairs of prompts (Q, F) that tell the classic mistakes apart."""
    dice = torch.Generator().manual_seed(34)
    shared, own = 3 * torch.randn(4, generator=dice), torch.randn(16, 4, generator=dice)
    size = 0.3 + 2 * torch.rand(2, 16, 1, generator=dice)
    noise = 0.5 * torch.randn(2, 16, 4, generator=dice)
    one, other = shared + size * (own + noise)
    return [(one, other), (other[:8], one[:8])]


def _shares(answer: Callable[[Tensor, Tensor], float]) -> list[float]:
    return [round(float(answer(one.clone(), other.clone())), 3) for one, other in _examples()]


def _makes(answer: Callable[[Tensor, Tensor], float], **mistake: bool) -> bool:
    return _shares(answer) == _shares(lambda one, other: _found(one, other, **mistake))


FOUND = Exercise(
    "how many queries are found again",
    reference=_found,
    right=_makes,
    mistakes=(
        Mistake(
            lambda one, other: _found(one, other, centred=False),
            lambda answer: _makes(answer, centred=False),
            "first take off what all queries share: the mean over both prompts and all queries",
        ),
        Mistake(
            lambda one, other: _found(one, other, cosine=False),
            lambda answer: _makes(answer, cosine=False),
            "a long vector has large products with everybody: a cosine divides by the lengths",
        ),
        Mistake(
            lambda one, other: _found(one, other, back=True),
            lambda answer: _makes(answer, back=True),
            "you look for the queries of `other` in `one`: the largest of each *row* is asked",
        ),
        Mistake(
            lambda one, other: len(one) * _found(one, other),
            lambda answer: _shares(answer) == [16 * _found(*_examples()[0]), 8 * _found(*_examples()[1])],
            "a share is asked, from 0 to 1: divide by the number of queries",
        ),
        Mistake(
            lambda one, other: 1.0,
            lambda answer: _shares(answer) == [1.0, 1.0],
            "every query is found: is each prompt compared with itself?",
        ),
    ),
)
