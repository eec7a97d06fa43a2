"""Grids of ablations: what is shared and what varies, files that are gone on with and never overwritten, mistakes."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from minidream import cli
from minidream.ablation import BUDGETS, GRIDS, ablate, rewrite, stage_one, synergy
from minidream.ablation.grids import recipe_of
from minidream.ablation.results import table
from minidream.documents import Document
from minidream.errors import UserError
from minidream.evaluation.candidate import same
from minidream.evaluation.comprehension import parse_caption
from minidream.evaluation.interleaved import follow, stories
from minidream.events import End, TextPiece
from minidream.pipeline import MiniDreamPipeline
from minidream.score_distillation import clip_alignment_loss
from minidream.training.dream import DreamTask
from minidream.world.captions import caption, understand
from minidream.world.draw import draw
from minidream.world.scene import random_scene

NANO = BUDGETS["nano"]
BASE = GRIDS["queries"]["8"]


def fake_run(budget: Any, variables: dict[str, Any], seed: int, parts: Path) -> dict[str, Any]:
    return {"creation": {"overall": {"mean": seed, "low": 0, "high": 1, "n": 1}}, "seconds": 1.0}


@pytest.fixture
def grid(nano: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """`grid(NAME, ...)` does its runs by name only, into `tmp_path/NAME.json`; `grid.done` lists them."""
    done: list[tuple[dict[str, Any], int]] = []

    def run(budget: Any, variables: dict[str, Any], seed: int, parts: Path) -> dict[str, Any]:
        done.append((variables, seed))
        return fake_run(budget, variables, seed, parts)

    monkeypatch.setattr(stage_one, "run", run)

    def call(name: str, **options: Any) -> dict[str, Any]:
        return ablate(name, **{"file": tmp_path / f"{name}.json", "preset": "nano", "weights": nano, **options})

    call.done = done  # type: ignore[attr-defined]
    return call


def test_the_grids_differ_in_one_thing_and_share_one_run() -> None:
    for name, varied in (("queries", "queries"), ("alignment", "loss"), ("target", "target")):
        settings = list(GRIDS[name].values())
        assert BASE in settings
        assert len({setting[varied] for setting in settings}) == len(settings) >= 2
        assert all({**setting, varied: BASE[varied]} == BASE for setting in settings)


def test_only_queries_and_condition_projector_move_in_every_setting() -> None:
    for name in ("queries", "alignment", "target"):
        for variables in GRIDS[name].values():
            sizes, recipe = recipe_of(BUDGETS["mini"], variables, 3)
            assert recipe.trainable == ("dream_queries", "condition_projector") and recipe.seed == 3
            assert recipe.mixture == {"single_object": 1.0} and sizes.queries == variables["queries"]
    weights = {loss: recipe_of(NANO, {**BASE, "loss": loss}, 0)[1] for loss in ("dream", "alignment", "both")}
    assert [recipe.dream_weight > 0 for recipe in weights.values()] == [True, False, True]
    assert [recipe.alignment_weight > 0 for recipe in weights.values()] == [False, True, True]


def test_the_alignment_loss_is_the_one_by_hand_and_needs_no_unet(nano: Path) -> None:
    sizes, recipe = recipe_of(NANO, {**BASE, "loss": "alignment"}, 0)
    task = DreamTask(sizes, recipe, nano, None)
    batch = task.batch(random.Random(0))
    (examples,) = batch.values()
    task.modules.decoder.unet.register_forward_hook(lambda *_: pytest.fail("the UNet was asked"))
    losses = task.losses(batch, task.modules)
    pipe = MiniDreamPipeline(task.modules, task.processor)
    condition = pipe.condition([Document([str(example.plan[0])]) for example in examples])
    pooled = task.teach([*[example.scenes[0] for example in examples], None], torch.device("cpu")).pooler_output
    by_hand = clip_alignment_loss(torch.cat([condition, task.modules.null_condition()]), pooled)
    torch.testing.assert_close(losses["single_object/alignment"], by_hand)
    torch.testing.assert_close(losses["loss"], recipe.alignment_weight * by_hand)
    assert "single_object/dream" not in losses


def test_the_held_back_loss_is_zero_for_who_says_what_the_teacher_says(nano: Path) -> None:
    task = DreamTask(*recipe_of(NANO, BASE, 0), nano, None)
    held_back = stage_one.HeldBack(task, MiniDreamPipeline(task.modules, task.processor), 4)
    scenes = [understand(str(document[0])) for document in held_back.captions]
    states = task.teach(scenes, torch.device("cpu")).last_hidden_state
    assert held_back._loss(states, held_back.taught) < 1e-8
    found = held_back()
    assert found["teacher"] > 1e-4 and found["noise"] > 1e-4 and found == held_back()


def test_a_run_is_decided_by_its_seed_and_its_curve_begins_untrained(nano: Path) -> None:
    one, again, other = (stage_one.run(NANO, BASE, seed, nano) for seed in (0, 0, 1))
    assert [point["step"] for point in one["curve"]] == [0, 2, 4]
    assert one["curve"] == again["curve"] and one["facts"] == again["facts"]
    assert one["curve"][0] != other["curve"][0]
    assert one["dream_loss"] == {name: one["curve"][-1][name] for name in ("noise", "teacher")}
    assert one["curve"][0]["teacher"] != one["curve"][-1]["teacher"]
    assert one["parameters"] == 8 * 32 + 32 * 32  # queries and projector of the nano width
    assert one["creation"]["overall"]["n"] == 2 * NANO.n == one["facts"]["scene"]["n"]


def test_more_seeds_than_the_exact_test_bears_are_refused_before_the_work(grid: Any) -> None:
    with pytest.raises(UserError, match="21 seeds are too many for its exact test: give at most 20"):
        grid("synergy", seeds=list(range(21)))
    assert not grid.done


def test_finished_runs_are_not_repeated_and_seeds_may_be_added(grid: Any, tmp_path: Path) -> None:
    grid("target", seeds=[0])
    assert len(grid.done) == 2
    content = grid("target", seeds=[1, 0, 1])
    assert len(grid.done) == 4 and [seed for _, seed in grid.done[2:]] == [1, 1]
    assert content == json.loads((tmp_path / "target.json").read_text())
    assert content["command"] == "minidream ablate target --preset nano --seeds 0 1"
    assert content["settings"]["steps"] == NANO.steps and set(content["settings"]["weights"]) == {
        "llm", "clip", "stable-diffusion"
    }  # fmt: skip


def test_a_run_that_two_processes_did_is_kept_once(grid: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def slow(budget: Any, variables: dict[str, Any], seed: int, parts: Path) -> dict[str, Any]:
        with monkeypatch.context() as patch:  # meanwhile another does the same
            patch.setattr(stage_one, "run", fake_run)
            grid("target", seeds=[seed])
        return fake_run(budget, variables, seed, parts)

    with monkeypatch.context() as patch:
        patch.setattr(stage_one, "run", slow)
        content = grid("target", seeds=[0])
    assert len(content["runs"]) == 2


def test_a_run_of_another_grid_is_taken_over(grid: Any, tmp_path: Path) -> None:
    grid("target", seeds=[0])
    content = grid("alignment", seeds=[0, 1])
    taken = [run for run in content["runs"] if run.get("taken_from")]
    assert [(run["setting"], run["seed"], run["taken_from"]) for run in taken] == [("dream", 0, "target")]
    assert len(grid.done) == 2 + 5
    (tmp_path / "alignment.json").unlink()
    (tmp_path / "target.json").write_text("{")  # another grid's damage is not this one's
    grid("alignment", seeds=[0])
    assert len(grid.done) == 7 + 3


def test_an_interruption_keeps_what_is_finished(grid: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def run(budget: Any, variables: dict[str, Any], seed: int, parts: Path) -> dict[str, Any]:
        if seed == 2:
            raise KeyboardInterrupt
        return fake_run(budget, variables, seed, parts)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(stage_one, "run", run)
        grid("target", seeds=[0, 1, 2])
    kept = json.loads((tmp_path / "target.json").read_text())["runs"]
    assert [run["seed"] for run in kept] == [0, 1]
    grid("target", seeds=[0, 1, 2])
    assert len(grid.done) == 4 and list(tmp_path.glob("*")) == [tmp_path / "target.json"]


@pytest.mark.parametrize(
    "change, message",
    [
        ({"version": 0}, r"another version \(0, not 1\)"),
        ({"ablation": "queries"}, r"another ablation \(queries, not target\)"),
        ({"settings": {**vars(NANO), "steps": 9}}, r"another steps \(9, not 4\)"),
        ({"runs": [{}]}, "does not hold an ablation's runs"),
        (None, "does not hold an ablation's runs"),
    ],
)
def test_another_file_is_refused_and_left(grid: Any, tmp_path: Path, change: Any, message: str) -> None:
    grid("target", seeds=[0])
    file = tmp_path / "target.json"
    before = "[1, 2" if change is None else json.dumps(json.loads(file.read_text()) | change)
    file.write_text(before)
    with pytest.raises(UserError, match=message + ".*--json"):
        grid("target", seeds=[0, 1])
    assert file.read_text() == before


@pytest.mark.parametrize(
    "name, options, message",
    [
        ("colours", {}, "unknown ablation 'colours': choose one of queries, alignment, target, rewrite, synergy"),
        ("target", {"preset": "tiny"}, "unknown preset 'tiny': choose one of nano, mini"),
        ("target", {"seeds": []}, "seeds are whole numbers"),
        ("target", {"seeds": [0, 1.5]}, "seeds are whole numbers"),
        ("target", {"seeds": [-1]}, "seeds are whole numbers"),
        ("target", {"queries": [4]}, "does not vary the number of queries"),
        ("queries", {"queries": [0, 4]}, "at least 1 dream query"),
        ("queries", {"queries": [4, 400]}, "400 dream queries .* context of 384 tokens: take at most 318"),
        ("queries", {"weights": Path("nowhere")}, "no weights at nowhere/llm"),
    ],
)
def test_mistakes_are_told_before_anything_is_written(
    grid: Any, tmp_path: Path, name: str, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        grid(name, **options)
    assert not grid.done and not list(tmp_path.iterdir())


def test_as_many_queries_as_it_says_do_fit(nano: Path) -> None:
    """The longest captions beside the longest dream block that is let through."""
    sizes, recipe = recipe_of(NANO, {**BASE, "queries": 318}, 0)
    task = DreamTask(sizes, recipe, nano, None)
    rng = random.Random(0)
    captions = [caption(random_scene(rng, 4), rng) for _ in range(50)]
    inputs = task.processor([Document([text]) for text in captions], "text_to_image", generation_prompt=True)
    assert inputs.query_mask.sum() == 50 * 318


def test_a_caption_is_what_stands_in_brackets() -> None:
    ends: list[str] = []

    def stream(documents: list[Document], **options: Any) -> Iterator[Any]:
        assert options["max_pictures"] == 0 and all(document[-1] == " (" for document in documents)
        for number in range(len(documents)):
            yield TextPiece(number, f"A red star. {number}.) Then (it goes.)")
            yield from (End(number, reason) for reason in ends)

    rewriter = rewrite.Rewriter.__new__(rewrite.Rewriter)
    rewriter.pipe, rewriter.blind = SimpleNamespace(stream=stream), False
    seen = Document(["(Once.)", Image.new("RGB", (64, 64))])
    documents = [seen, Document([*seen[:1], Image.new("RGB", (64, 64), "red")]), Document(["Twice."])]
    assert rewriter.tell_next(documents, [0, 1, 1]) == [f"A red star. {number}." for number in range(3)]
    ends.append("interrupted")
    with pytest.raises(KeyboardInterrupt):  # half of a caption is none
        rewriter.tell_next(documents, [0, 1, 1])


def test_a_blind_rewriter_reads_all_words_and_no_picture() -> None:
    read: list[Document] = []

    def stream(documents: list[Document], **options: Any) -> Iterator[Any]:
        read.extend(documents)
        yield from (TextPiece(number, "A star.)") for number in range(len(documents)))

    rewriter = rewrite.Rewriter.__new__(rewrite.Rewriter)
    rewriter.pipe, rewriter.blind = SimpleNamespace(stream=stream), True
    picture = Image.new("RGB", (64, 64))
    documents = [Document(["Once.", picture, twice]) for twice in ("Twice.", " Thrice.")]
    assert rewriter.tell_next(documents, [2, 2]) == ["A star."] * 2
    assert [document.texts for document in read] == [["Once. Twice.", " ("], ["Once. Thrice.", " ("]]


def test_who_writes_the_truth_draws_the_story() -> None:
    """`follow` with a rewriter whose captions are true and whose painter is perfect."""
    told = stories("facts", 5, 0)
    truths = {id(story): iter(story.scenes[1:]) for story in told}
    rng = random.Random(0)

    class Knowing(rewrite.Rewriter):
        def __init__(self) -> None:
            self.written = []
            self.paint = lambda captions, seed: [draw(understand(text)) for text in captions]

        def tell_next(self, documents: list[Document], given: list[int]) -> list[str]:
            pictures = [len(document.pictures) for document in documents]
            waiting = [story for story in told if len(story.scenes) > max(pictures)]
            return [caption(next(truths[id(story)]), rng) for story in waiting]

    knowing = Knowing()
    assert all(same(*pair) for story in follow(knowing, told, 0) for pair in story)
    truly = [parse_caption(text) == story.scenes[1].facts() for text, story in zip(knowing.written, told)]
    assert truly == [True] * 5 and parse_caption("A star.") is None


def test_all_ways_are_measured_from_end_to_end(nano: Path, tmp_path: Path) -> None:
    content = ablate("rewrite", [0], tmp_path / "rewrite.json", "nano", nano)
    runs = {run["setting"]: run for run in content["runs"]}
    assert set(runs) == {"direct", "rewrite", "blind"}
    figures = {"first", "first_kept", "all", "all_kept"}
    for kind in ("stories", "facts"):
        assert set(runs["direct"][kind]) == figures
        for way in ("rewrite", "blind"):
            assert set(runs[way][kind]) == {*figures, "captions"}
            assert all(leaf["n"] == NANO.stories for leaf in runs[way][kind].values())
    assert "minidream" in content["settings"]["weights"]


def test_who_learns_jointly_and_who_learns_one_thing_learn_from_the_same(nano: Path) -> None:
    for documents in ("one picture", "interleaved", "interleaved, after stage I"):
        batches, weights = [], {}
        for learns in ("comprehension", "creation", "joint"):
            sizes, recipe = synergy.recipe_of(NANO, {"learns": learns, "documents": documents}, 3)
            task = DreamTask(sizes, recipe, nano, None)
            batches.append(task.batch(random.Random(0)))
            losses = task.losses(batches[-1], task.modules)
            parts = {name.split("/")[1] for name in losses if "/" in name and losses[name].requires_grad}
            assert ("dream" in parts) == (learns != "comprehension")
            weights[learns] = (recipe.language_weight, recipe.dream_weight)
            assert recipe.seed == 3 and set(recipe.trainable) == {
                "llm", "visual_projector", "dream_queries", "condition_projector"
            }  # fmt: skip
        assert batches[0] == batches[1] == batches[2]
        assert ("single_edit" in batches[0]) == (documents != "one picture")
        assert weights["joint"] == (weights["comprehension"][0], weights["creation"][1])
        assert weights["comprehension"][1] == weights["creation"][0] == 0


def test_students_after_stage_one_begin_with_what_it_moved(nano: Path) -> None:
    variables = {"learns": "joint", "documents": "interleaved, after stage I"}
    sizes, recipe = synergy.recipe_of(NANO, variables, 3)
    assert recipe.steps == NANO.steps // 2
    moved = load_file(nano / "align" / "trained.safetensors")["dream_queries"]
    task = DreamTask(sizes, recipe, nano, synergy.begun(variables, nano))
    assert torch.equal(task.modules.dream_queries, moved)
    assert synergy.begun({"learns": "joint", "documents": "one picture"}, nano) is None


def test_what_a_setting_does_not_learn_is_not_examined(nano: Path, tmp_path: Path) -> None:
    content = ablate("synergy", [0], tmp_path / "synergy.json", "nano", nano)
    assert len(content["runs"]) == 9 and content["settings"]["steps"] == 2
    assert "align" in content["settings"]["weights"]
    for run in content["runs"]:
        learns = run["variables"]["learns"]
        assert ("comprehension" in run) == (learns != "creation")
        assert ("creation" in run) == ("stories" in run) == (learns != "comprehension")
    assert "comprehension / captions" in table(content) and "stories / edits" in table(content)


def synergy_runs(**values: list[float]) -> dict[str, Any]:
    """Runs of `joint, one picture` and `comprehension, one picture` with these captions right, seed by seed."""
    return {
        "runs": [
            {"setting": f"{learns}, one picture", "seed": seed, "comprehension": {"captions": {"mean": mean}}}
            for learns, means in values.items()
            for seed, mean in enumerate(means)
        ]
    }


def test_gains_are_differences_of_runs_of_one_seed() -> None:
    content = synergy_runs(joint=[0.9, 0.8, 0.7], comprehension=[0.7, 0.7, 0.4])
    content["runs"].reverse()  # their order does not matter
    (gain,) = synergy.gains(content, "one picture").values()
    assert (list(gain.before), list(gain.after)) == ([0.7, 0.7, 0.4], [0.9, 0.8, 0.7])
    assert gain.differences == pytest.approx([0.2, 0.1, 0.3]) and gain.difference["mean"] == pytest.approx(0.2)
    assert gain.difference["low"] < 0.2 < gain.difference["high"] and gain.p == 2 / 8
    assert str(gain).startswith("0.600 to 0.800, +0.200 (-0.048 to +0.448), p = 0.250")
    assert synergy.verdicts(content) == f"captions, the whole scene, one picture: alone to jointly {gain}"


def test_gains_need_two_seeds_that_both_settings_have() -> None:
    content = synergy_runs(joint=[0.9, 0.8], comprehension=[0.7])
    assert synergy.gains(content, "one picture") == {} and synergy.verdicts(content) == ""
    assert synergy.compare(content, "joint, one picture", "creation, one picture", "comprehension", "captions") is None
    assert synergy.gains(synergy_runs(joint=[0.9, 0.8], comprehension=[0.7, 0.6]), "interleaved") == {}


def test_the_table_has_a_column_for_each_setting() -> None:
    runs = [
        {"setting": setting, **fake_run(None, {}, seed, Path())} for setting, seed in [("a", 0), ("b", 0), ("a", 1)]
    ]
    lines = table({"runs": runs}).splitlines()
    assert lines[0].split() == ["a", "b"]
    assert lines[1].split("  ")[0] == "creation / overall" and "0.500 (0.000-1.000)" in lines[1]


def test_the_command_line(grid: Any, nano: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "mine.json"
    given = ["ablate", "queries", "--preset", "nano", "--weights", str(nano), "--json", str(file)]
    assert cli.main([*given, "--seeds", "0", "1", "--queries", "2", "3"]) == 0
    assert "creation / overall" in capsys.readouterr().out
    assert json.loads(file.read_text())["command"].endswith("--seeds 0 1 --queries 2 3")
    before = file.read_bytes()
    for wrong in (["--seeds", "one"], ["--seeds", "1.5"], ["--queries", "0"], ["--queries", "500"]):
        assert cli.main([*given, *wrong]) == 2
        assert len(capsys.readouterr().err.splitlines()) == 1
    assert cli.main(["ablate", "colours"]) == 2
    assert file.read_bytes() == before
