"""The table of stages, the loop, its checkpoints; and all seven stages in `nano` size, end to end."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
from collections import OrderedDict
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tiny import PATCHES, QUERIES, SIDE, tiny_llm, tiny_tokenizer
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from minidream.documents import Document
from minidream.errors import UserError
from minidream.modeling.diffusion import ImageDecoder
from minidream.pipeline import MiniDreamPipeline
from minidream.tokenizer import train_tokenizer
from minidream.training import stages
from minidream.training.checkpoint import atomic_folder
from minidream.training.components import LanguageTask
from minidream.training.dream import DreamTask
from minidream.training.loop import fit, learning_rate, uninterrupted
from minidream.training.optimizers import optimizers_for
from minidream.training.recipes import PRESETS, STAGES, Recipe, recipe_for
from minidream.training.stages import FOLDERS, train
from minidream.weights import save_manifest, verify_manifest

RECIPE = Recipe("vae", steps=8, batch=4, lr=0.05, log_every=1, save_every=3, mixed_precision=False)


class Line:
    """Fit y = 2 x + noise: the smallest task there is. `broken` is the step whose loss is NaN, `stop` the one at
    which the user presses Ctrl-C."""

    def __init__(self, broken: int = -1, stop: int = -1) -> None:
        torch.manual_seed(1)
        self.modules = torch.nn.Linear(1, 1)
        self.broken, self.stop, self.step = broken, stop, -1

    def batch(self, rng: random.Random) -> torch.Tensor:
        self.step += 1
        if self.step == self.stop:
            raise KeyboardInterrupt
        return torch.tensor([[rng.random()] for _ in range(4)])

    def losses(self, batch: torch.Tensor, modules: torch.nn.Module) -> dict[str, torch.Tensor]:
        target = 2 * batch + 0.1 * torch.randn_like(batch)  # noise from torch's generator: it too must be resumed
        loss = (modules(batch) - target).pow(2).mean()
        return {"loss": loss * float("nan") if self.step == self.broken else loss}

    def save(self, folder: Path) -> None: ...


def logged(run: Path) -> list[float]:
    return [json.loads(line)["loss"] for line in (run / "log.jsonl").read_text().splitlines()]


class Layers(Line):
    """The same with matrices inside layers, which Muon moves."""

    def __init__(self, stop: int = -1) -> None:
        super().__init__(stop=stop)
        layers = torch.nn.Sequential(torch.nn.Linear(1, 6), torch.nn.Linear(6, 4), torch.nn.Linear(4, 1))
        self.modules = torch.nn.Sequential(OrderedDict(model=torch.nn.Sequential(OrderedDict(layers=layers))))


@pytest.mark.parametrize("task, muon", [(Line, False), (Layers, True)])
def test_resumed_run_repeats_an_uninterrupted_one_exactly(task: type[Line], muon: bool, tmp_path: Path) -> None:
    recipe, whole, interrupted = replace(RECIPE, muon=muon), task(), task(stop=5)
    fit(whole, recipe, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        fit(interrupted, recipe, tmp_path / "parts")
    with open(tmp_path / "parts" / "log.jsonl", "a") as log:  # as if it had been killed a step later
        log.write('{"step": 6, "loss": 99}\n')
    again = task()
    record = fit(again, recipe, tmp_path / "parts", resume=True)
    assert record["steps"] == recipe.steps
    assert logged(tmp_path / "whole") == logged(tmp_path / "parts")
    assert all(torch.equal(a, b) for a, b in zip(whole.modules.parameters(), again.modules.parameters(), strict=True))


def test_a_probe_is_logged_and_changes_nothing(tmp_path: Path) -> None:
    recipe, alone, probed = replace(RECIPE, log_every=4), Line(), Line()
    fit(alone, recipe, tmp_path / "alone")
    fit(probed, recipe, tmp_path / "probed", probe=lambda: {"probe": torch.rand(()).item()})
    lines = [json.loads(line) for line in (tmp_path / "probed" / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [4, 8] and all(0 <= line["probe"] < 1 for line in lines)
    assert logged(tmp_path / "alone") == logged(tmp_path / "probed")
    assert torch.equal(alone.modules.weight, probed.modules.weight)


def test_the_last_steps_are_logged_though_they_are_no_whole_window_and_kept_by_a_run_with_nothing_to_do(
    tmp_path: Path,
) -> None:
    recipe = replace(RECIPE, steps=5, log_every=2)
    record = fit(Line(), recipe, tmp_path)
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [2, 4, 5] and record["losses"] == {"loss": lines[-1]["loss"]}
    assert fit(Line(), recipe, tmp_path, resume=True)["losses"] == record["losses"]


def test_muon_moves_the_matrices_of_layers_and_adamw_the_rest() -> None:
    trained = dict(Layers().modules.named_parameters()) | {"queries": torch.nn.Parameter(torch.zeros(2, 3))}
    adamw, muon = optimizers_for(trained, replace(RECIPE, muon=True))
    moved = {id(value) for value in muon.param_groups[0]["params"]}
    assert {name for name, value in trained.items() if id(value) in moved} == {
        f"model.layers.{layer}.weight" for layer in range(3)
    }
    assert len(adamw.param_groups[0]["params"]) == len(trained) - 3
    (alone,) = optimizers_for(trained, RECIPE)
    assert len(alone.param_groups[0]["params"]) == len(trained)


def test_dream_queries_move_at_a_rate_of_their_own(tmp_path: Path) -> None:
    class Queries(Line):
        """A query and a weight with the same gradient."""

        def __init__(self) -> None:
            super().__init__()
            self.modules = torch.nn.Module()
            self.modules.dream_queries = torch.nn.Parameter(torch.zeros(1))
            self.modules.weight = torch.nn.Parameter(torch.zeros(1))

        def losses(self, batch: torch.Tensor, modules: torch.nn.Module) -> dict[str, torch.Tensor]:
            return {"loss": (modules.dream_queries + modules.weight).sum()}

    task = Queries()
    fit(task, replace(RECIPE, query_rate=10.0), tmp_path)
    torch.testing.assert_close(task.modules.dream_queries, 10 * task.modules.weight)


def test_ctrl_c_while_weights_move_waits_for_the_end_of_the_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half a step could not be resumed: what comes in the midst of it stops the run after it."""
    moved, whole = torch.optim.AdamW.step, Line()
    fit(whole, RECIPE, tmp_path / "whole")

    def step(self: Any, *arguments: Any) -> Any:
        if not calls:
            signal.raise_signal(signal.SIGINT)
        calls.append(1)
        return moved(self, *arguments)

    calls: list[int] = []
    again = Line()
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(torch.optim.AdamW, "step", step)
        fit(Line(), RECIPE, tmp_path / "parts")
    assert calls == [1]
    fit(again, RECIPE, tmp_path / "parts", resume=True)
    assert logged(tmp_path / "whole") == logged(tmp_path / "parts")
    assert torch.equal(whole.modules.weight, again.modules.weight)


def test_ctrl_c_waits_for_the_end_of_a_step() -> None:
    done = False
    with pytest.raises(KeyboardInterrupt), uninterrupted():
        signal.raise_signal(signal.SIGINT)
        done = True
    assert done


def test_a_loss_that_is_not_finite_stops_the_run_with_advice(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"not finite at step 2.*--resume"):
        fit(Line(broken=2), RECIPE, tmp_path)


def test_a_gradient_that_is_not_finite_leaves_the_checkpoint_whole(tmp_path: Path) -> None:
    class Steep(Line):
        """Its third loss is 0, where a root has no slope."""

        def losses(self, batch: torch.Tensor, modules: torch.nn.Module) -> dict[str, torch.Tensor]:
            loss = super().losses(batch, modules)["loss"]
            return {"loss": (loss * 0).sqrt() if self.step == 2 else loss}

    with pytest.raises(UserError, match=r"gradient of stage .* not finite at step 2"):
        fit(Steep(), RECIPE, tmp_path)
    saved = load_file(tmp_path / "checkpoint" / "model.safetensors")
    assert all(torch.isfinite(value).all() for value in saved.values())


def test_a_checkpoint_of_other_settings_is_refused(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        fit(Layers(stop=5), replace(RECIPE, muon=True), tmp_path)
    recipe = replace(RECIPE, muon=True)
    for other, told in (
        (replace(recipe, seed=3), "seed was 0, not 3"),
        (replace(recipe, steps=9), "steps was 8, not 9"),
    ):
        with pytest.raises(UserError, match=f"of another run: {told}. Give the same settings"):
            fit(Layers(), other, tmp_path, resume=True)
    with pytest.raises(UserError, match="began_with was , not another"):
        fit(Layers(), recipe, tmp_path, resume=True, began_with="another")
    with pytest.raises(UserError, match="other settings"):
        fit(Line(), recipe, tmp_path, resume=True)
    assert fit(Layers(), replace(recipe, lr=0.01), tmp_path, resume=True)["steps"] == 8  # as its own advice may be


def test_a_run_that_was_interrupted_between_two_lines_logs_the_same_means(tmp_path: Path) -> None:
    recipe = replace(RECIPE, log_every=4)
    record = fit(Line(), recipe, tmp_path / "whole")
    for stop in (3, 6):
        with pytest.raises(KeyboardInterrupt):
            fit(Line(stop=stop), recipe, tmp_path / "parts")
        assert fit(Line(), recipe, tmp_path / "parts", resume=True)["losses"] == record["losses"]
        assert logged(tmp_path / "whole") == logged(tmp_path / "parts")


def test_a_checkpoint_is_found_again_after_a_kill_between_two_renames(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        fit(Line(stop=5), RECIPE, tmp_path)
    (tmp_path / "checkpoint").rename(tmp_path / ".checkpoint.old")
    whole, again = Line(), Line()
    fit(again, RECIPE, tmp_path, resume=True)
    fit(whole, RECIPE, tmp_path / "whole")
    assert logged(tmp_path) == logged(tmp_path / "whole") and torch.equal(again.modules.weight, whole.modules.weight)


def test_learning_rate_warms_up_and_ends_at_zero() -> None:
    recipe = replace(RECIPE, steps=100, warmup=0.1, lr=1.0)
    rates = [learning_rate(recipe, step) for step in range(100)]
    assert rates[0] == pytest.approx(0.1) and max(rates) == rates[9] == 1.0 and rates[-1] < 1e-3
    assert rates[9:] == sorted(rates[9:], reverse=True)


@pytest.mark.parametrize("turn", [1, 2])
def test_ctrl_c_between_two_renames_loses_nothing(turn: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C just before the first rename, and just before the second: the old folder is in its place at once."""
    with atomic_folder(tmp_path / "w") as folder:
        (folder / "a.txt").write_text("old")
    real, calls = os.rename, []

    def rename(*places: Any) -> None:
        calls.append(places)
        if len(calls) == turn:
            raise KeyboardInterrupt
        real(*places)

    monkeypatch.setattr(os, "rename", rename)
    with pytest.raises(KeyboardInterrupt), atomic_folder(tmp_path / "w") as folder:
        (folder / "a.txt").write_text("new")
    assert (tmp_path / "w" / "a.txt").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["w"]


def test_an_interrupted_save_leaves_the_old_folder(tmp_path: Path) -> None:
    with atomic_folder(tmp_path / "w") as folder:
        (folder / "a.txt").write_text("old")
    with pytest.raises(OSError), atomic_folder(tmp_path / "w") as folder:
        (folder / "a.txt").write_text("new")
        raise OSError("No space left on device")
    assert (tmp_path / "w" / "a.txt").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["w"]


def test_manifest_names_a_flipped_byte_and_a_missing_file(tmp_path: Path) -> None:
    (tmp_path / "a.bin").write_bytes(bytes(100))
    save_manifest(tmp_path)
    verify_manifest(tmp_path)
    (tmp_path / "a.bin").write_bytes(bytes(99) + b"\x01")
    with pytest.raises(UserError, match=r"a\.bin is damaged"):
        verify_manifest(tmp_path)
    (tmp_path / "a.bin").unlink()
    with pytest.raises(UserError, match=r"a\.bin is missing"):
        verify_manifest(tmp_path)


@pytest.mark.parametrize(
    ("stage", "preset", "overrides", "message"),
    [
        ("poetry", "mini", {}, "unknown stage 'poetry'"),
        ("vae", "giant", {}, "unknown preset 'giant'"),
        ("vae", "mini", {"depth": "3"}, "unknown setting 'depth'"),
        ("vae", "mini", {"whitened": "1"}, "trains no condition projector"),
        ("align", "mini", {"query_rate": "0"}, "must be greater than 0"),
        ("vae", "mini", {"steps": "many"}, "expected a number"),
        ("vae", "mini", {"steps": "0"}, "greater than 0"),
        ("vae", "mini", {"lr": "nan"}, "greater than 0"),
        ("vae", "mini", {"weight_decay": "-1"}, "at least 0"),
        ("igpt", "mini", {"condition_dropout": "7"}, "at most 1"),
        ("igpt", "mini", {"teacher": "maybe"}, "expected true or false"),
    ],
)
def test_wrong_settings_are_named(stage: str, preset: str, overrides: dict[str, str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        recipe_for(stage, preset, overrides)


def test_every_preset_has_every_stage() -> None:
    for _, table in PRESETS.values():
        assert set(table) == set(STAGES) == set(FOLDERS)


def test_documents_that_teach_words_alone_may_weigh_more(nano: Path) -> None:
    sizes, recipe = recipe_for("igpt", "nano", {"teacher": "off", "dream_weight": "0"})  # what they draw weighs as ever
    assert not recipe.teacher
    for kind, times in (("text_states", 6), ("seen_states", 6), ("qa", 1)):
        one, six = (replace(recipe, mixture={kind: 1.0}, words_weight=weight) for weight in (1.0, 6.0))
        tasks = [DreamTask(sizes, each, nano, None) for each in (one, six)]
        tasks[1].modules = tasks[0].modules  # a new task has new projectors
        light, heavy = (task.losses(task.batch(random.Random(0)), task.modules)["loss"] for task in tasks)
        torch.testing.assert_close(heavy, times * light)


def test_each_picture_is_asked_about_at_several_noises(nano: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes, recipe = recipe_for("igpt", "nano", {"dream_draws": "3"})
    task = DreamTask(sizes, replace(recipe, mixture={"text_to_image": 1.0}), nano, None)
    asked: list[torch.Tensor] = []
    loss = ImageDecoder.loss

    def watched(*given: Any, timesteps: torch.Tensor, **more: Any) -> torch.Tensor:
        asked.append(timesteps)
        return loss(*given, timesteps=timesteps, **more)

    monkeypatch.setattr(ImageDecoder, "loss", watched)
    batch = task.batch(random.Random(0))
    task.losses(batch, task.modules)
    assert [len(timesteps) for timesteps in asked] == [3 * len(batch["text_to_image"])]


def test_a_stage_before_of_other_sizes_or_damaged_is_refused(nano: Path, tmp_path: Path) -> None:
    sizes, recipe = recipe_for("igpt", "nano")
    with pytest.raises(UserError, match="of other sizes"):
        DreamTask(replace(sizes, queries=2), recipe, nano, nano / "align")
    shutil.copytree(nano / "align", tmp_path / "align")
    file = tmp_path / "align" / "trained.safetensors"
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(UserError, match="is damaged"):
        DreamTask(sizes, recipe, nano, tmp_path / "align")


def test_packed_words_are_learned_as_each_document_alone() -> None:
    task = LanguageTask.__new__(LanguageTask)
    task.tokenizer, task.lengths = tiny_tokenizer(), (QUERIES, PATCHES, SIDE, 200)
    llm = tiny_llm(len(task.tokenizer)).eval()
    texts = ["a small red circle lies on the left. a blue star lands above it.", "a star.", "on the left", "it lands"]
    examples: list[Any] = [SimpleNamespace(document=Document([text]), prompt_parts=0) for text in texts]
    with torch.no_grad():
        together = task._loss(examples, llm)
        alone = torch.stack([task._loss([example], llm) for example in examples])
    tokens = torch.tensor([len(task.tokenizer(text, add_special_tokens=False).input_ids) + 1.0 for text in texts])
    torch.testing.assert_close(together, (alone * tokens).sum() / tokens.sum(), rtol=1e-4, atol=0)


def test_a_stage_names_the_one_it_needs(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="minidream train vae"):
        train("diffusion", "nano", tmp_path)


def test_nano_trains_all_stages_and_the_frozen_parts_stay_frozen(
    nano: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for stage, folder in FOLDERS.items():
        record = json.loads((nano / folder / "training.json").read_text())
        assert record["recipe"]["stage"] == stage and record["seconds"] > 0
        verify_manifest(nano / folder)
    moved = load_file(nano / "igpt" / "trained.safetensors")
    assert {name.split(".")[0] for name in moved} == {
        "llm",
        "visual_projector",
        "dream_queries",
        "condition_projector",
    }
    assert {name.split(".")[0] for name in load_file(nano / "align" / "trained.safetensors")} == {
        "visual_projector",
        "dream_queries",
        "condition_projector",
    }
    shutil.copytree(nano, tmp_path / "again")
    (tmp_path / "again" / "align" / "training.json").unlink()

    def watched(task: Any, *arguments: Any, **options: Any) -> Any:
        before = {name: value.clone() for name, value in task.modules.named_parameters()}
        record = fit(task, *arguments, **options)
        moved = {name for name, value in task.modules.named_parameters() if not torch.equal(value, before[name])}
        assert {name.split(".")[0] for name in moved} == {"visual_projector", "dream_queries", "condition_projector"}
        assert {name.split(".")[0] for name in before} > {"llm", "vision", "decoder"}
        return record

    monkeypatch.setattr(stages, "fit", watched)
    train("align", "nano", tmp_path / "again", resume=True)
    assert (tmp_path / "again" / "align" / "training.json").is_file()


def test_the_parts_open_in_plain_libraries(nano: Path) -> None:
    from diffusers import StableDiffusionPipeline
    from transformers import AutoTokenizer, CLIPModel, LlamaForCausalLM

    pipe = StableDiffusionPipeline.from_pretrained(nano / "stable-diffusion")
    pipe.set_progress_bar_config(disable=True)
    picture = pipe("a small red circle", num_inference_steps=2).images[0]
    assert picture.size == (64, 64)
    assert CLIPModel.from_pretrained(nano / "clip").config.vision_config.image_size == 64
    llm, tokenizer = LlamaForCausalLM.from_pretrained(nano / "llm"), AutoTokenizer.from_pretrained(nano / "llm")
    assert llm.config.vocab_size == len(tokenizer)


@pytest.mark.parametrize("stage", STAGES)
def test_an_interrupted_stage_goes_on_to_the_same_weights(
    nano: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stage: str
) -> None:
    """Bit for bit, with whitening, Muon, the teacher and all that a real stage has."""
    folder, made = FOLDERS[stage], nano / FOLDERS[stage]
    shutil.copytree(nano, tmp_path, dirs_exist_ok=True, ignore=shutil.ignore_patterns(folder, "runs"))
    begin = stages._task

    def stopping(*given: Any) -> Any:
        task = begin(*given)
        batches = iter([task.batch] * 4)

        def batch(rng: random.Random) -> Any:
            for drawn in batches:
                return drawn(rng)
            raise KeyboardInterrupt

        task.batch = batch
        return task

    monkeypatch.setattr(stages, "_task", stopping)
    with pytest.raises(KeyboardInterrupt):
        train(stage, "nano", tmp_path)
    assert len(logged(tmp_path / "runs" / stage)) == 2 and not (tmp_path / folder).exists()
    monkeypatch.setattr(stages, "_task", begin)
    train(stage, "nano", tmp_path, resume=True)
    assert logged(tmp_path / "runs" / stage) == logged(nano / "runs" / stage)
    weights = [file.relative_to(made) for file in made.rglob("*.safetensors")]
    assert weights
    for file in weights:
        once, twice = load_file(made / file), load_file(tmp_path / folder / file)
        assert all(torch.equal(value, twice[name]) for name, value in once.items()), file


def test_nano_is_an_integration_test_that_one_waits_for(nano: Path) -> None:
    records = [
        json.loads((nano / folder / "training.json").read_text()) for folder in FOLDERS.values() if folder != "vae"
    ]
    assert sum(record["seconds"] for record in records) < 90


def test_a_stage_may_begin_with_the_weights_of_an_earlier_run(nano: Path, tmp_path: Path) -> None:
    still = {"steps": "1", "lr": "1e-12"}
    train("clip", "nano", tmp_path / "second", still, init=nano / "clip")
    before, after = (load_file(run / "clip" / "model.safetensors") for run in (nano, tmp_path / "second"))
    assert before.keys() == after.keys()
    assert all(torch.allclose(after[name].float(), value.float(), atol=1e-3) for name, value in before.items())
    record = json.loads((tmp_path / "second" / "clip" / "training.json").read_text())
    assert record["command"].endswith(f"--init {nano / 'clip'}")
    assert record["began_with"] == json.loads((nano / "clip" / "training.json").read_text())

    again = tmp_path / "again"
    shutil.copytree(nano, again)
    train("igpt", "nano", again, still, init=nano / "minidream")
    moved, first = (
        load_file(file) for file in (again / "igpt/trained.safetensors", nano / "minidream/model.safetensors")
    )
    assert all(torch.allclose(value, first[name].float(), atol=1e-3) for name, value in moved.items())
    later = json.loads((again / "igpt" / "training.json").read_text())["began_with"]
    assert [later["recipe"]["stage"], later["began_with"]["recipe"]["stage"]] == ["instruct", "igpt"]


def test_a_painter_may_begin_with_the_weights_of_an_earlier_run(nano: Path, tmp_path: Path) -> None:
    for part in ("vae", "clip"):
        shutil.copytree(nano / part, tmp_path / part)
    train("diffusion", "nano", tmp_path, {"steps": "1", "lr": "1e-12"}, init=nano / "stable-diffusion")
    for part in ("unet", "text_encoder"):
        [file] = (nano / "stable-diffusion" / part).glob("*.safetensors")
        before, after = load_file(file), load_file(tmp_path / "stable-diffusion" / part / file.name)
        assert before.keys() == after.keys()
        assert all(torch.allclose(after[name].float(), value.float(), atol=1e-3) for name, value in before.items())


def test_a_painter_may_leave_its_text_encoder_as_it_is(nano: Path, tmp_path: Path) -> None:
    for part in ("vae", "clip"):
        shutil.copytree(nano / part, tmp_path / part)
    settings = {"steps": "2", "train_text_encoder": "0"}
    train("diffusion", "nano", tmp_path, settings, init=nano / "stable-diffusion")
    for part, alike in {"unet": False, "text_encoder": True}.items():
        [file] = (nano / "stable-diffusion" / part).glob("*.safetensors")
        before, after = load_file(file), load_file(tmp_path / "stable-diffusion" / part / file.name)
        assert all(torch.equal(after[name].float(), value.float()) for name, value in before.items()) == alike


def test_first_weights_stand_for_the_stage_before(nano: Path, tmp_path: Path) -> None:
    """Who goes on from a finished MiniDream needs the frozen parts beside it, and no stage that it contains."""
    for part in ("clip", "llm", "stable-diffusion"):
        shutil.copytree(nano / part, tmp_path / part)
    train("instruct", "nano", tmp_path, {"steps": "1", "lr": "1e-12"}, init=nano / "minidream")
    before, after = (load_file(run / "minidream" / "model.safetensors") for run in (nano, tmp_path))
    assert all(torch.allclose(after[name].float(), value.float(), atol=1e-3) for name, value in before.items())
    kept = (run / "minidream" / "training.igpt.json" for run in (nano, tmp_path))
    assert len({file.read_text() for file in kept}) == 1
    with pytest.raises(UserError, match="igpt, which is not there"):
        train("instruct", "nano", tmp_path)


def test_first_weights_bring_their_own_words(nano: Path, tmp_path: Path) -> None:
    """The corpus may have changed since: other words, other numbers."""
    other = tmp_path / "other"
    tokenizer = train_tokenizer(["a corpus of a few words"], 512)
    config = LlamaConfig.from_pretrained(nano / "llm", vocab_size=len(tokenizer))
    LlamaForCausalLM(config).save_pretrained(other)
    tokenizer.save_pretrained(other)
    shutil.copy(nano / "llm" / "training.json", other)
    save_manifest(other)
    train("language", "nano", tmp_path / "second", {"steps": "1", "lr": "1e-12"}, init=other)
    found = PreTrainedTokenizerFast.from_pretrained(tmp_path / "second" / "llm")
    assert found.get_vocab() == tokenizer.get_vocab()
    before, after = (load_file(folder / "model.safetensors") for folder in (other, tmp_path / "second" / "llm"))
    assert all(torch.allclose(after[name].float(), value.float(), atol=1e-3) for name, value in before.items())


def test_wrong_first_weights_are_refused(nano: Path, tmp_path: Path) -> None:
    for init in (nano / "align", tmp_path / "nothing"):
        with pytest.raises(UserError, match="holds no weights that fit"):
            train("clip", "nano", tmp_path / "second", init=init)
    (tmp_path / "cut").mkdir()
    (tmp_path / "cut" / "model.safetensors").write_bytes((nano / "clip" / "model.safetensors").read_bytes()[:1000])
    with pytest.raises(UserError, match="cannot be read"):
        train("clip", "nano", tmp_path / "second", init=tmp_path / "cut")
    with pytest.raises(UserError, match="name the stage instead of all"):
        train("all", "nano", tmp_path / "second", init=nano / "clip")


def test_a_preset_may_have_larger_pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes, table = PRESETS["nano"]
    monkeypatch.setitem(PRESETS, "nano", (replace(sizes, image_size=128, max_length=768), table))
    train("all", "nano", tmp_path, {"steps": "1"})
    pipe = MiniDreamPipeline.from_pretrained(tmp_path / "minidream")
    assert pipe.draw("a circle", steps=1)[0].size == (128, 128)
