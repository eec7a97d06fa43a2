"""The bench: fair comparisons, verdicts that can fail, and the whole of it on nano weights."""

from __future__ import annotations

import json
import random
from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny import PATCHES, QUERIES, SIDE, tiny_model, tiny_tokenizer

from minidream import bench as module
from minidream.cli import main
from minidream.documents import Document
from minidream.errors import UserError
from minidream.pipeline import MiniDreamPipeline
from minidream.processing import MiniDreamProcessor
from minidream.training.cache import EncodedPictures
from minidream.training.dream import DreamTask
from minidream.training.recipes import recipe_for
from tools import tables


def test_works_are_repeated_in_turn_and_the_first_round_is_not_counted():
    order = []
    times = module.in_turn(3, lambda: order.append("a"), lambda: (order.append("b"), sum(range(200_000))))
    assert order == ["a", "b"] * 4 and times.shape == (3, 2) and (times[:, 1] > times[:, 0]).all()
    threads = torch.get_num_threads()
    with module.one_thread():
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == threads


def test_a_ratio_is_the_median_of_its_rounds():
    found = module.ratio(np.array([[1.0, 2.0], [3.0, 2.0], [0.2, 2.0], [90.0, 2.0], [1.0, 2.0]]))
    assert found["mean"] == 0.5 and found["low"] == 0.1 and found["high"] == 45 and found["n"] == 5


def test_the_cache_changes_no_token_but_what_is_read_for_it(monkeypatch):
    processor = MiniDreamProcessor(tiny_tokenizer(), QUERIES, PATCHES, SIDE, max_length=200)
    pipe = MiniDreamPipeline(tiny_model(processor), processor)
    prompt = processor([Document(["a small red circle"])], generation_prompt=True).input_ids
    read, places = pipe.model.read, []

    def counted(embeddings, **more):
        places.append(embeddings.shape[1])
        return read(embeddings, **more)

    monkeypatch.setattr(pipe.model, "read", counted)
    (kept, times), (anew, _) = (module.write(pipe, prompt, 30, cached) for cached in (True, False))
    length = prompt.shape[1]
    assert places == [length] + [1] * 29 + list(range(length, length + 30))
    assert torch.equal(kept, anew) and kept.shape[1] == prompt.shape[1] + 30 == prompt.shape[1] + len(times)
    assert len(set(kept[0].tolist())) > 5


def test_neither_packing_nor_the_cache_changes_what_is_learned(nano):
    sizes, recipe = recipe_for("igpt", "nano")
    task = DreamTask(sizes, replace(recipe, batch=24), nano, before=None)
    batch, losses, rows = task.batch(random.Random(0)), [], []
    plainly = EncodedPictures(megabytes=0)
    read = type(task.modules).forward

    def counted(self, input_ids, **more):
        rows[-1] += len(input_ids)
        return read(self, input_ids, **more)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(task.modules), "forward", counted)
        for pack, encoded in ((True, task.encoded), (False, plainly)):
            task.pack, task.encoded = pack, encoded
            rows.append(0)
            losses.append(task.losses(batch, task.modules))
    kept, plain = ({name: v.item() for name, v in some.items() if "language" in name} for some in losses)
    assert kept == pytest.approx(plain, rel=1e-3) and len(kept) > 4
    assert rows[0] < rows[1] == sum(map(len, batch.values())) and not plainly.stored


@pytest.fixture(scope="module")
def result(nano):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "recipe_for", lambda stage: recipe_for(stage, "nano"))
        patch.setattr(module, "TOKENS", 20)
        return module.bench(nano, rounds=2, n=1)


def test_it_measures_everything_it_is_asked(result):
    assert json.loads(json.dumps(result)) == result
    for part, name in module.ASKED:
        assert set(result[part][name]) == {"mean", "low", "high", "n"}
    assert result["settings"]["threads"] == 1 and len(result["settings"]["weights"]) == 64
    assert result["decoding"]["context"] > 300 and result["decoding"]["tokens"] == 20
    # At this size times tell nothing: what is read, in how many rows, the two tests above count.
    assert min(result["decoding"]["without_cache"], result["decoding"]["with_cache"]) > 0
    assert min(result["training"]["neither"], result["training"]["packed_and_cached"]) > 0
    shares = [result["drawing"][name] for name in module.SAMPLERS]
    assert all(share["n"] == 6 for share in shares)
    assert result["drawing"]["difference"]["mean"] == pytest.approx(shares[0]["mean"] - shares[1]["mean"])
    assert result["drawing"]["ddim_50_seconds"] > result["drawing"]["dpm_15_seconds"]


def test_verdicts_and_the_readmes_rows(result, monkeypatch, tmp_path):
    def told(**means):
        leaves = {
            (part, name): {"mean": mean, "low": mean - 0.02, "high": mean + 0.02, "n": 7}
            for (part, name), mean in zip(module.ASKED, means.values(), strict=True)
        }
        return {
            part: {**values, **{name: leaf for (other, name), leaf in leaves.items() if other == part}}
            for part, values in result.items()
        }

    good = told(ratio=0.4, speedup=2, slope=1.25, difference=-0.01)
    bad = told(ratio=0.41, speedup=1.9, slope=1.3, difference=-0.03)
    assert [row[-1] for row in module.verdicts(good)] == ["reached"] * 4
    assert [row[-1] for row in module.verdicts(bad)] == ["short"] * 4
    assert module.table(bad).count("short") == 4 and "ddim_50" in module.table(bad)
    monkeypatch.setattr(tables, "RESULTS", tmp_path)
    (tmp_path / "bench.json").write_text(json.dumps(bad))
    assert tables.speeds().count("✗") == 4 and "0.41 (0.39 to 0.43) ✗" in tables.speeds()
    assert set(tables.SPEEDS) == {row[0] for row in module.verdicts(bad)}


def test_mistakes_are_told_in_one_line(capsys, tmp_path):
    for arguments in ({"rounds": 0}, {"n": 0}):
        with pytest.raises(UserError, match="at least 1"):
            module.bench(**arguments)
    for line, cause in (
        (["--weights", str(tmp_path / "nowhere")], "no weights at"),
        (["--weights", str(tmp_path)], "no MiniDream at"),
        (["--json", str(tmp_path)], "is a folder"),
        (["--rounds", "0"], "out of range"),
    ):
        assert main(["bench", *line]) == 2
        told = capsys.readouterr().err.strip().splitlines()
        assert len(told) == 1 and cause in told[0]
