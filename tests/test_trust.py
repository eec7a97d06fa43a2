"""The judges of the judge: verdicts, explanations, damage, tasks never trained, by candidates that know the truth."""

import json
import math
import random
import shutil
from itertools import pairwise

import numpy as np
import pytest
from PIL import Image
from test_evaluation import SEED, SETTINGS, N, Oracle, key

from minidream.errors import UserError
from minidream.evaluation import evaluate, examine, figures, interleaved, robustness, trust
from minidream.explanation import Explanation, pieces_of
from minidream.pictures import fit_picture
from minidream.verification import Verdict
from minidream.world.captions import listed_caption, understand
from minidream.world.corpora import render
from minidream.world.draw import draw
from minidream.world.read import read
from minidream.world.scene import COLORS, SHAPES, SIDE, Scene, Thing, random_scene
from minidream.world.stories import Story, sources, story


class Judge(Oracle):
    """Draws every other picture wrongly and knows which; explains by the sources."""

    def __init__(self):
        super().__init__()
        self.drawn = 0
        told = interleaved.stories("story", N, SEED)
        self.reasons = {key_of(render(each.document_plan)): list(sources(each).values()) for each in told}

    def spoil(self, pictures):
        self.drawn += 1
        return [self.wrong(p) if (self.drawn + at) % 2 else p for at, p in enumerate(pictures)]

    @staticmethod
    def wrong(picture):
        """Fails in every category: another number of things, of a shape and colour that were not there."""
        scene = read(picture)
        shape = next(shape for shape in SHAPES if shape not in [thing.shape for thing in scene.things])
        color = next(color for color in COLORS if color not in [thing.color for thing in scene.things])
        places = ("top left",) if len(scene.things) > 1 else ("top left", "top right")
        return draw(Scene(scene.background, tuple(Thing(place, color, shape, "large") for place in places)))

    def draw(self, captions, seed):
        return self.spoil(super().draw(captions, seed))

    def told(self, document):
        """The truth of the picture that follows. Earlier ones may be wrong: only the texts tell which story it is."""
        if len(document) == 1:
            return understand(document[0])
        (truth,) = {
            scene.facts()
            for before, scene in self.truth.items()
            if len(before) == len(document) and [part for part in before if isinstance(part, str)] == document.texts
        }
        return truth

    def draw_next(self, documents, given, seed):
        return self.spoil([draw(self.told(document)) for document in documents])

    def verify(self, documents, given):
        pairs = [(self.told(document[:-1]), read(document[-1]).facts()) for document in documents]
        return [
            Verdict(0, 1, 0.9 if told == shown else 0.1, listed_caption(told), listed_caption(shown))
            for told, shown in pairs
        ]

    def consensus(self, tries):
        return [[1.0] * len(some) for some in tries]

    def explain(self, document, picture, instead):
        """The last piece of the last source brings most alone; the gradient names what is no source."""
        pieces, parts = pieces_of(document[: [i for i, p in enumerate(document) if not isinstance(p, str)][picture]])
        facts = self.reasons[key_of(document)][picture]
        found = []
        for other in instead:
            (fact,) = changed(read(document.pictures[picture]), read(other), facts)
            named = tuple((part == max(facts[fact])) * (1 + at / 100) for at, part in enumerate(parts))
            against = tuple(float(part not in facts[fact]) for part in parts)
            shares = (named, tuple(0.0 for _ in parts), against)  # alone, left out, gradients
            found.append(Explanation(document.pictures[picture], tuple(pieces), tuple(parts), *shares))
        return found


def key_of(document):
    return tuple(key(part) for part in document)


def changed(scene, other, facts):
    """The fact in which two scenes differ."""
    if scene.background != other.background:
        return [("", "background")]
    (was,) = set(scene.facts().things) - set(other.facts().things)
    (now,) = set(other.facts().things) - set(scene.facts().things)
    return [
        (was.place, what) for what in ("place", "color", "shape", "size") if getattr(was, what) != getattr(now, what)
    ]


# -- statistics ----------------------------------------------------------------------------------------------------


def test_auroc_is_the_share_of_pairs_in_order():
    rng = np.random.default_rng(0)
    items = np.stack([rng.integers(0, 6, 60), rng.integers(0, 2, 60)], axis=1).astype(float)
    right, wrong = items[items[:, 1] == 1, 0], items[items[:, 1] == 0, 0]
    pairs = [1.0 if a > b else 0.5 if a == b else 0.0 for a in right for b in wrong]
    assert trust.auroc(items) == pytest.approx(np.mean(pairs))
    assert trust.auroc(np.array([(0.9, 1), (0.1, 0)])) == 1 and trust.auroc(np.array([(0.1, 1), (0.9, 0)])) == 0
    assert math.isnan(trust.auroc(np.array([(0.3, 1), (0.2, 1)])))


def test_what_looking_finds_and_choosing_removes():
    items = np.array([(score / 20, score not in (0, 1, 9, 15)) for score in range(20)], float)
    assert trust.found_by_looking(items) == 0.5  # two of four errors are among the two with the lowest scores
    assert math.isnan(trust.found_by_looking(np.array([(0.5, 1)] * 20)))
    scene = random_scene(random.Random(0))
    judged = [(scene, None if i < 3 else scene, Verdict(i, 0, 0.4 if i < 3 else 0.9, "", "")) for i in range(40)]
    told = trust.flag(judged)
    assert told["auroc"]["low"] == 1 and told["found_by_looking"]["low"] > 0.5  # samples without an error are left out
    assert trust.removed(np.array([(0, 1), (0, 0), (1, 1), (1, 0), (0, 1), (0, 1)])) == 0.5
    assert np.isnan(trust.removed(np.array([(1, 1)])))
    assert trust.removed(np.array([(0.5, 1), (0.75, 0), (0.75, 1)])) == 0  # one error before, in parts; one after
    assert trust._gain([1.0] * 3, [True] * 3)["errors_removed"] is None
    gain = trust._gain([0.0] + [1.0] * 9, [True] * 10)["errors_removed"]
    assert (
        gain is not None and gain["mean"] == gain["low"] == gain["high"] == 1
    )  # samples without an error are left out


# -- sources -------------------------------------------------------------------------------------------------------


def test_the_sources_of_a_story_told_by_hand():
    red = Thing("top left", "red", "circle", "small")
    green, moved = Thing("top left", "green", "circle", "small"), Thing("top right", "green", "circle", "small")
    star = Thing("top left", "blue", "star", "large")
    scenes = [Scene("white", things) for things in ((red,), (green,), (moved,), (moved, star))] + [
        Scene("black", (moved, star))
    ]
    words = [
        "A small red circle ...",
        "It turns green.",
        "It moves right.",
        "A star lands.",
        "The background turns black.",
    ]
    plan = [part for pair in zip(words, scenes) for part in pair]
    found = sources(Story(plan, "story"))
    assert list(found) == [1, 3, 5, 7, 9]
    assert found[1] == {("", "background"): {0}} | {("top left", f): {0} for f in ("place", "color", "shape", "size")}
    assert found[3]["top left", "color"] == {2} and found[3]["top left", "shape"] == {0, 1}
    assert found[5]["top right", "place"] == {4} and found[5]["top right", "color"] == {2, 3}
    assert found[5]["top right", "size"] == {0, 1, 3}
    assert found[7]["top left", "shape"] == {6} and found[7]["top right", "place"] == {4, 5}
    assert found[9]["", "background"] == {8} and found[9]["top left", "color"] == {6, 7}


def test_a_thing_is_not_taken_for_its_twin_that_vanished():
    twin, here = Thing("top left", "red", "circle", "small"), Thing("top right", "red", "circle", "small")
    plan = ["One.", Scene("white", (here,)), "Two.", Scene("white", (here, twin)), "Gone.", Scene("white", (here,))]
    assert sources(Story(plan, "story"))[5]["top right", "color"] == {0, 1, 3}


def test_every_fact_of_every_story_has_a_source_before_it():
    rng = random.Random(0)
    for _ in range(200):
        told = story(rng)
        for index, facts in sources(told).items():
            scene = told.document_plan[index]
            assert set(facts) == {("", "background")} | {
                (t.place, f) for t in scene.things for f in ("place", "color", "shape", "size")
            }
            assert all(parts and max(parts) < index for parts in facts.values())
            # The last sentence changes something, and what it changes has no other source; but for a thing that leaves.
            before = [part for part in told.document_plan[:index] if isinstance(part, Scene)]
            left = bool(before) and len(scene.things) < len(before[-1].things)
            assert any(parts == {index - 1} for parts in facts.values()) or left


@pytest.mark.parametrize("what", ["color", "shape", "size", "place", "background"])
def test_otherwise_changes_one_fact(what):
    rng = random.Random(1)
    for _ in range(30):
        scene = random_scene(rng)
        fact = ("", what) if what == "background" else (scene.things[0].place, what)
        other = trust.otherwise(scene, fact, rng)
        if other is None:
            assert what == "place" and len(scene.things) == 4
        else:
            assert changed(scene, other, None) == [fact]


# -- candidates that know everything -------------------------------------------------------------------------------


def test_a_judge_who_knows_is_always_right_and_choosing_by_it_leaves_no_error():
    found = examine(Judge(), SETTINGS | {"what": "trust"})["trust"]
    for part in ("captions", "stories"):
        assert found[part]["auroc"]["mean"] == found[part]["auroc_readable"]["mean"] == 1
        assert found[part]["named"]["mean"] == 1
        assert found[part]["right_at_score"]["0.0-0.2"]["mean"] == 0
        assert found[part]["right_at_score"]["0.8-1.0"]["mean"] == 1
        assert found[part]["right_at_score"]["0.4-0.6"] is None
        assert found[part]["first"]["mean"] < 1 and found[part]["best_of_4"]["mean"] == 1
        assert found[part]["errors_removed"]["mean"] == 1
    assert found["captions"]["found_by_looking"]["mean"] == pytest.approx(7 / 36, abs=1e-3)  # half of 72 are wrong
    assert {value["mean"] for value in found["explanations"]["agreement"].values() if value} == {1}
    assert found["explanations"]["gradient"]["overall"]["mean"] == 0
    assert 0.2 < found["explanations"]["chance"]["overall"]["mean"] < 0.8


def test_a_quiet_sentence_and_the_others_sentence_are_no_reasons():
    scenes = [Scene("white", (Thing("top left", color, "circle", "small"),)) for color in ("red", "green")]
    told = Story(
        ["There is a circle. The background is white.", scenes[0], "All is quiet. It turns green.", scenes[1]], "story"
    )
    pieces, parts = pieces_of(render(told.document_plan)[:3])
    explanation = Explanation(draw(scenes[1]), tuple(pieces), tuple(parts), (), (), ())
    facts = sources(told)[3]
    reasons = {fact: trust._reasons(told, explanation, fact, facts[fact]) for fact in facts}
    assert reasons["top left", "color"] == [False, False, False, False, True]
    assert reasons["top left", "shape"] == [True, False, True, False, False]
    assert reasons["", "background"] == [False, True, True, False, False]


# -- damage --------------------------------------------------------------------------------------------------------


def test_damage_leaves_the_truth_and_grows_with_its_level():
    scenes = [random_scene(random.Random(at)) for at in range(12)]
    pictures = [draw(scene) for scene in scenes]
    off = {}
    for (kind, level), damage in robustness.damages().items():
        shown = [damage(picture, number) for number, picture in enumerate(pictures)]
        assert all(isinstance(picture, Image.Image) and picture.mode == "RGB" for picture in shown)
        if kind == "file" or (kind, level) in (("none", "0"), ("noise", "5"), ("shift", "1"), ("jpeg", "90")):
            fitted = [read(fit_picture(picture, SIDE)) for picture in shown]
            assert [scene and scene.facts() for scene in fitted] == [scene.facts() for scene in scenes], (kind, level)
        if kind != "file":
            difference = [np.abs(np.asarray(a, int) - np.asarray(b, int)).mean() for a, b in zip(shown, pictures)]
            off.setdefault(kind, []).append(np.mean(difference))
    assert off.pop("none") == [0]
    assert set(off) == {"noise", "blur", "jpeg", "shift", "scale", "palette", "rotation"}
    assert all(0 < a < b for curve in off.values() for a, b in pairwise(curve)), off


def test_curves_begin_where_nothing_is_damaged():
    class Reader(Oracle):
        """Reads what can be read; answers by what it reads."""

        def caption(self, pictures):
            read_ = [read(fit_picture(picture, SIDE)) for picture in pictures]
            return [listed_caption(scene) if scene else "mud" for scene in read_]

        def ask(self, shown, questions):
            return ["yes"] * len(shown)

    found = examine(Reader(), SETTINGS | {"what": "robustness", "n": 8})
    curves = found["robustness"]
    assert curves["none"]["0"]["caption"]["mean"] == curves["file"]["webp"]["caption"]["mean"] == 1
    assert curves["noise"]["40"]["caption"]["mean"] < curves["noise"]["5"]["caption"]["mean"] == 1
    assert list(curves["blur"]) == ["0.5", "1", "1.5", "2"] and len(list(figures(found))) == 2 * (1 + 7 * 4 + 7)
    assert len({leaf["mean"] for path, leaf in figures(found) if path[-1] == "vqa"}) == 1  # the same questions
    assert set(examine(Oracle(), SETTINGS | {"what": "interleaved"})) == {"settings", "interleaved"}  # not in others


# -- tasks never trained -------------------------------------------------------------------------------------------


def test_zero_shot_tasks_stand_beside_those_it_knows():
    asked = []

    class Seer(Judge):
        def ask(self, shown, questions):
            asked.append((list(shown), list(questions)))
            return ["yes"] * len(shown)

        def draw_next(self, documents, given, seed):
            assert given == [0] * N
            if not documents[0].pictures:
                return [Image.effect_noise((64, 64), 90).convert("RGB") for _ in documents]
            return [draw(self.truth[key_of(document)]) for document in documents]

    found = examine(Seer(), SETTINGS | {"what": "zero_shot"})["zero_shot"]
    assert found["silent_stories"]["with_pictures"]["mean"] == 1
    assert found["silent_stories"]["words_alone"]["mean"] == 0
    (documents, first), (pictures, second) = asked
    assert first == second and [document.pictures[-1].tobytes() for document in documents] == [
        picture.tobytes() for picture in pictures
    ]


# -- bad input -----------------------------------------------------------------------------------------------------


def test_interrupted_it_goes_on_after_what_is_finished(tmp_path, monkeypatch):
    partial = tmp_path / "trust.json.partial"
    whole = examine(Judge(), SETTINGS | {"what": "trust"})

    def interrupted(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(trust, "documents", interrupted)
        with pytest.raises(KeyboardInterrupt):
            examine(Judge(), SETTINGS | {"what": "trust"}, partial=partial)
    assert partial.is_file()
    with monkeypatch.context() as patch:
        patch.setattr(trust, "captions", interrupted)  # it is not done again
        found = examine(Judge(), SETTINGS | {"what": "trust"}, partial=partial)
    assert found["trust"]["captions"] == whole["trust"]["captions"]
    assert list(found["trust"]) == ["captions", "stories", "explanations"]


def test_none_of_it_is_measured_with_no_scene():
    for what in ("trust", "robustness", "zero_shot"):
        with pytest.raises(UserError, match="--n 0"):
            evaluate(what, n=0)


def test_weights_of_another_configuration_are_examined_or_refused(nano, tmp_path):
    """`nano` has another width, number of queries and layers than the shipped weights: all is read from its folder."""
    for what in ("trust", "zero_shot"):
        found = evaluate(what, n=1, weights=nano, steps=1)
        assert all(leaf is None or 0 <= leaf["low"] <= leaf["high"] <= 1 for _, leaf in figures(found))
    for part in ("clip", "stable-diffusion"):
        shutil.copytree(nano / part, tmp_path / part)
    mixed = tmp_path / "mixed"
    shutil.copytree(nano / "minidream", mixed, ignore=shutil.ignore_patterns("manifest.json"))
    settings = json.loads((mixed / "processor.json").read_text())
    (mixed / "processor.json").write_text(json.dumps(settings | {"num_dream_queries": 9}))
    with pytest.raises(UserError, match="the processor writes 9 dream queries") as raised:
        evaluate("trust", n=1, weights=mixed)
    assert "\n" not in str(raised.value)
