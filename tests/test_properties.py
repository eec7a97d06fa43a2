"""The eleven properties of a correct DreamLLM, numbered as in the paper's notes, on tiny random models."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from tiny import (
    DREAM,
    PATCHES,
    PICTURE,
    QUERIES,
    SIDE,
    tiny_clip,
    tiny_diffusion,
    tiny_inputs,
    tiny_model,
    tiny_pictures,
    tiny_tokenizer,
)
from transformers import DynamicCache, GPT2Config, GPT2LMHeadModel

from minidream.documents import Document
from minidream.errors import UserError
from minidream.modeling.minidream import MiniDream
from minidream.processing import MiniDreamProcessor
from minidream.training.recipes import PRESETS

CLOSE: dict[str, Any] = {"atol": 2e-5, "rtol": 1e-4}
STORY = [
    "a red circle.",
    DREAM,
    PICTURE,
    " a blue star lands above it.",
    DREAM,
    PICTURE,
    " the star turns green.",
    DREAM,
]


@pytest.fixture(scope="module")
def model() -> MiniDream:
    return tiny_model()


@pytest.fixture(scope="module")
def processor() -> MiniDreamProcessor:
    return MiniDreamProcessor(tiny_tokenizer(), QUERIES, PATCHES, SIDE, max_length=256)


def conditions(
    model: MiniDream, plans: list[list[Any]], pictures: torch.Tensor | None = None, **how: Any
) -> torch.Tensor:
    with torch.no_grad():
        features = None if pictures is None else model.encode_pictures(pictures)
        return model(**tiny_inputs(plans, **how), image_features=features).conditions


def a_picture(seed: int) -> Image.Image:
    return Image.fromarray(tiny_pictures(1, seed)[0].permute(1, 2, 0).numpy())


def training_batch(model: MiniDream, processor: MiniDreamProcessor) -> dict[str, Any]:
    documents = [Document(["a red", a_picture(1), " then", a_picture(2), " end"]), Document(["blue", a_picture(3)])]
    batch = processor(documents, mode="interleaved")
    features = model.encode_pictures(batch.pictures[batch.seen])
    latents = model.decoder.encode(batch.pictures[batch.dreamed])
    return {**batch.model_inputs(), "image_features": features, "target_latents": latents}


@pytest.mark.parametrize(
    "changes", [{"prediction_type": "epsilon", "rescale_betas_zero_snr": False}, {}], ids=["epsilon", "v"]
)
def test_1_the_dream_loss_is_the_mean_squared_error_by_hand(changes: dict[str, Any]) -> None:
    model = tiny_model(**changes)
    model.config.dream_weighting = "none"
    latents, noise = torch.randn(2, 2, 4, 4, 4).unbind()
    t, scheduler = torch.tensor([120, 870]), model.decoder.scheduler
    out = model(
        **tiny_inputs([["a red circle", DREAM], ["blue", DREAM]]), target_latents=latents, noise=noise, timesteps=t
    )
    noisy = scheduler.add_noise(latents, noise, t)
    said = model.decoder.unet(noisy, t, encoder_hidden_states=out.conditions).sample
    truth = noise if changes else scheduler.get_velocity(latents, noise, t)
    torch.testing.assert_close(out.dream_loss, ((said - truth) ** 2).mean())
    torch.testing.assert_close(out.loss, 10 * out.dream_loss)


@pytest.mark.parametrize("split", [1, 5, -QUERIES - 2])
def test_2_a_cached_pass_gives_the_condition_of_a_full_pass(model: MiniDream, split: int) -> None:
    """Prefix first, then the rest with the cache: also when the batch is padded on the left."""
    inputs = tiny_inputs([STORY[:5], ["a red circle lies on the left.", DREAM, PICTURE, " then", DREAM]])
    features = model.encode_pictures(tiny_pictures(2))
    mask, queries = inputs["attention_mask"], inputs["query_mask"]
    with torch.no_grad():
        stream = model.embed(inputs["input_ids"], queries, inputs["patch_mask"], features)
        full = model(**inputs, image_features=features).conditions
        split %= stream.shape[1]
        before = model.read(stream[:, :split], mask[:, :split], cache=DynamicCache())
        after = model.read(stream[:, split:], mask, cache=before.past_key_values)
        hidden = torch.cat([before.last_hidden_state, after.last_hidden_state], 1)
    torch.testing.assert_close(model.conditions(hidden, queries), full, **CLOSE)


@settings(max_examples=15, deadline=None)
@given(
    prompt=st.text(min_size=0, max_size=12),
    neighbours=st.lists(st.text(max_size=40), min_size=1, max_size=3),
    side=st.sampled_from(["left", "right"]),
)
def test_3_a_condition_ignores_padding_and_neighbours(
    model: MiniDream, prompt: str, neighbours: list[str], side: str
) -> None:
    alone = conditions(model, [[prompt, DREAM]])
    together = conditions(model, [[prompt, DREAM], *([text, DREAM] for text in neighbours)], padding_side=side)
    torch.testing.assert_close(together[:1], alone, **CLOSE)


def test_3_holds_for_absolute_positions_too() -> None:
    """A GPT-2, whose learned positions (unlike rotary ones) notice when padding is counted."""
    gpt2 = GPT2Config(vocab_size=len(tiny_tokenizer()), n_embd=32, n_layer=2, n_head=2, n_positions=128)
    gpt2.initializer_range = 0.3
    model = MiniDream.from_components(
        GPT2LMHeadModel(gpt2).eval(), tiny_clip(), tiny_diffusion(), QUERIES, tokenizer=tiny_tokenizer()
    )
    plans = [["a red circle", DREAM], ["a much longer caption of another picture", DREAM]]
    alone = conditions(model, plans[:1])
    for side in ("left", "right"):
        inputs = tiny_inputs(plans, side)
        torch.testing.assert_close(model(**inputs).conditions[:1], alone, **CLOSE)
        del inputs["position_ids"]  # the model's own default
        torch.testing.assert_close(model(**inputs).conditions[:1], alone, **CLOSE)


def test_3_pictures_stay_with_their_documents_in_a_padded_batch(model: MiniDream) -> None:
    pictures, plans = tiny_pictures(3), [["x", PICTURE, DREAM], [*STORY[:4], PICTURE, DREAM], ["no picture", DREAM]]
    together = conditions(model, plans, pictures)  # 1 + 2 + 1 conditions
    torch.testing.assert_close(together[:1], conditions(model, plans[:1], pictures[:1]), **CLOSE)
    torch.testing.assert_close(together[1:3], conditions(model, plans[1:2], pictures[1:]), **CLOSE)
    torch.testing.assert_close(together[3:], conditions(model, plans[2:]), **CLOSE)


def test_3_packed_documents_are_read_as_if_alone(
    model: MiniDream, processor: MiniDreamProcessor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Conditions and losses of documents that share a row, no matter what stands beside them."""
    image = Image.fromarray(tiny_pictures(1)[0].permute(1, 2, 0).numpy())
    documents = [
        Document(["a", image]),
        Document(["one", image, "and a longer text", image, "z"]),
        Document(["b c d", image]),
    ]

    def read(some: list[Document], pack: bool = False) -> Any:
        batch = processor(some, pack=pack)
        with torch.no_grad():
            return batch, model(
                **batch.model_inputs(), image_features=model.encode_pictures(batch.pictures[batch.seen])
            )

    batch, packed = read(documents, pack=True)
    order = batch.order.tolist()
    assert len(batch.input_ids) == 2 and order != sorted(order)
    alone = [read([documents[index]]) for index in order]
    torch.testing.assert_close(packed.conditions, torch.cat([out.conditions for _, out in alone]), **CLOSE)
    counts = [(each.labels[:, 1:] != -100).sum() for each, _ in alone]
    mean = sum(count * out.language_loss for count, (_, out) in zip(counts, alone)) / sum(counts)
    torch.testing.assert_close(packed.language_loss, mean, **CLOSE)
    monkeypatch.setattr(model.llm.config, "_attn_implementation", "eager")  # would add the mask, and hide nothing
    with pytest.raises(UserError, match="attn_implementation='sdpa'"):
        read(documents, pack=True)


def test_4_condition_k_reacts_to_what_came_before_and_to_nothing_after(model: MiniDream) -> None:
    pictures = tiny_pictures(2)
    base = conditions(model, [STORY], pictures)  # three conditions, two pictures seen
    for changed, same_until in ((0, 1), (1, 2)):
        other = pictures.clone()
        other[changed] = 255 - other[changed]
        found = conditions(model, [STORY], other)
        torch.testing.assert_close(found[:same_until], base[:same_until], **CLOSE)
        for k in range(same_until, 3):  # every later image sees every earlier one
            assert (found[k] - base[k]).abs().max() > 1e-3, f"condition {k} did not react to picture {changed}"
    retold = conditions(model, [[*STORY[:6], " something else entirely", DREAM]], pictures)
    torch.testing.assert_close(retold[:2], base[:2], **CLOSE)
    assert (retold[2] - base[2]).abs().max() > 1e-3


def test_4_the_next_word_reacts_to_what_came_before_and_to_nothing_after(model: MiniDream) -> None:
    def logits(pictures: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            inputs = tiny_inputs([STORY])
            return model(**inputs, image_features=model.encode_pictures(pictures)).logits[0]

    patches = tiny_inputs([STORY])["patch_mask"][0].nonzero().flatten()
    pictures = tiny_pictures(2)
    base = logits(pictures)
    for changed in (0, 1):
        other = pictures.clone()
        other[changed] = 255 - other[changed]
        moved = (logits(other) - base).abs().amax(-1)  # of each token
        begins = int(patches[changed * PATCHES])
        assert moved[:begins].max() < 2e-5 and moved[begins:].min() > 1e-4


@pytest.mark.parametrize("stage", ["align", "igpt", "instruct"])
def test_5_gradients_reach_what_is_trained_and_nothing_frozen(processor: MiniDreamProcessor, stage: str) -> None:
    model = tiny_model()
    model.train_only(PRESETS["mini"][1][stage].trainable)
    model(**training_batch(model, processor)).loss.backward()
    assert model.dream_queries.grad.abs().sum() > 0
    assert model.visual_projector.weight.grad.abs().sum() > 0 and model.visual_projector.bias.grad.abs().sum() > 0
    assert model.condition_projector.weight.grad.abs().sum() > 0
    reached = [p.grad is not None and bool(p.grad.abs().sum() > 0) for p in model.llm.parameters()]
    assert all(reached) if stage != "align" else not any(reached)
    assert all(p.grad is None for part in (model.vision, model.decoder) for p in part.parameters())


def test_5_the_dream_loss_alone_teaches_the_language_model() -> None:
    """The gradient goes through the frozen UNet into the LLM and to the pictures seen before."""
    model = tiny_model().train_only(["llm", "dream_queries", "visual_projector"])
    inputs, latents = tiny_inputs([["a", PICTURE, DREAM]]), model.decoder.encode(tiny_pictures(1))
    model(
        **inputs, image_features=model.encode_pictures(tiny_pictures(1)), target_latents=latents
    ).dream_loss.backward()
    assert model.llm.get_input_embeddings().weight.grad.abs().sum() > 0
    assert model.visual_projector.weight.grad.abs().sum() > 0


def test_6_labels_are_those_of_the_papers_table(processor: MiniDreamProcessor) -> None:
    p = processor
    text, more, answer = (p.encode(words) for words in ("a red circle", " then", " yes"))
    no = -100
    dream_block, image_block = [no] * (QUERIES + 2), [no] * (PATCHES + 2)
    dreamed_here = [p.dream] + [no] * (QUERIES + 1)
    picture = a_picture(1)
    none = [no] * len(text)
    expected = [
        (["a red circle", picture], "text_to_image", 0, [no, *none, *dream_block, no]),
        ([picture, "a red circle"], "image_to_text", 0, [no, *image_block, *text, p.eos]),
        (["a red circle", picture, " then"], "interleaved", 0, [no, *text, *dreamed_here, *image_block, *more, p.eos]),
        ([picture, "a red circle", " yes"], "image_to_text", 2, [no, *image_block, *none, *answer, p.eos]),
    ]
    for parts, mode, prompt_parts, labels in expected:
        batch = p([Document(parts)], mode=mode, prompt_parts=[prompt_parts])
        assert batch.labels[0].tolist() == labels, mode
        valid = batch.labels != no
        assert torch.equal(batch.labels[valid], batch.input_ids[valid])


def test_6_the_shifted_loss_predicts_each_label_from_what_stands_before_it(model: MiniDream) -> None:
    inputs = tiny_inputs([["a red circle lies on the left.", DREAM]])
    labels = inputs["input_ids"].clone()
    labels[:, -QUERIES - 1 :] = -100  # queries and <dream_end>; <dream> stays a target
    out = model(**inputs, labels=labels)
    chances = out.logits[0].log_softmax(-1)
    rows = [-chances[i - 1, labels[0, i]] for i in range(1, labels.shape[1]) if labels[0, i] != -100]
    torch.testing.assert_close(out.language_loss, torch.stack(rows).mean())
    torch.testing.assert_close(out.loss, out.language_loss)


def test_7_one_set_of_queries_gives_each_context_its_own_condition(model: MiniDream) -> None:
    inputs = tiny_inputs([["a red circle", DREAM, " a blue star", DREAM], ["red", DREAM, " x", DREAM]])
    stream = model.embed(inputs["input_ids"], inputs["query_mask"])
    blocks = stream[inputs["query_mask"]].view(4, QUERIES, -1)
    for block in blocks:
        torch.testing.assert_close(block, model.dream_queries)
    found = conditions(model, [["a red circle", DREAM, " a blue star", DREAM], ["red", DREAM, " x", DREAM]])
    for i in range(4):
        for j in range(i):
            assert (found[i] - found[j]).abs().max() > 1e-3
    assert (found[0][0] - found[0][1]).abs().max() > 1e-3  # and each query its own part of it


@pytest.mark.parametrize("solver", ["dpm", "ddim"])
def test_8_guidance_one_is_conditional_and_zero_unconditional(model: MiniDream, solver: str) -> None:
    condition, null = conditions(model, [["a red circle", DREAM], ["a blue star", DREAM]]), model.null_condition()

    def sample(condition: torch.Tensor, null: torch.Tensor | None, guidance: float) -> torch.Tensor:
        generators = [torch.Generator().manual_seed(seed) for seed in (1, 2)]
        how: dict[str, Any] = {"guidance": guidance, "steps": 4, "solver": solver, "generators": generators}
        return model.decoder.sample(condition, null, **how)

    alone, empty = sample(condition, None, 1.0), sample(null.expand_as(condition), None, 1.0)
    rows: list[int] = []
    handle = model.decoder.unet.register_forward_pre_hook(lambda _, args: rows.append(len(args[0])))
    torch.testing.assert_close(sample(condition, null, 1.0), alone, **CLOSE)
    torch.testing.assert_close(sample(condition, null, 0.0), empty, **CLOSE)
    handle.remove()
    assert set(rows) == {2}  # neither end pays for the other branch
    # The mixed formula runs into both ends, so the shortcuts are it.
    torch.testing.assert_close(sample(condition, null, 1 + 1e-6), alone, atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(sample(condition, null, 1e-6), empty, atol=1e-3, rtol=1e-3)
    assert (alone - empty).abs().max() > 1e-4
    assert (sample(condition, null, 3.0) - alone).abs().max() > 1e-4


def test_9_no_valid_label_gives_language_loss_zero(model: MiniDream) -> None:
    inputs = tiny_inputs([["a red circle", DREAM]])
    out = model(**inputs, labels=torch.full_like(inputs["input_ids"], -100))
    assert out.language_loss.item() == 0 and out.loss.isfinite() and out.dream_loss.item() == 0
    first_only = torch.full_like(inputs["input_ids"], -100)
    first_only[:, 0] = 2  # nothing stands before it, so it is no target
    assert model(**inputs, labels=first_only).language_loss.item() == 0


@pytest.mark.parametrize(
    ("stage", "moves"), [("align", set()), ("igpt", {"llm"}), ("instruct", {"llm"})], ids=["I", "II", "III"]
)
def test_10_each_stage_moves_what_the_freeze_table_says(
    processor: MiniDreamProcessor, stage: str, moves: set[str]
) -> None:
    model = tiny_model().train_only(PRESETS["mini"][1][stage].trainable)
    assert model.training and not model.vision.training and not model.decoder.unet.training
    before = {name: value.clone() for name, value in model.named_parameters()}
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2, weight_decay=0.1)
    model(**training_batch(model, processor)).loss.backward()
    optimizer.step()
    moved = {name.split(".")[0] for name, value in model.named_parameters() if not torch.equal(value, before[name])}
    assert moved == {"dream_queries", "visual_projector", "condition_projector"} | moves


def test_11_dropout_and_guidance_ask_the_same_null_condition(model: MiniDream, processor: MiniDreamProcessor) -> None:
    empty = processor([Document([""])], mode="text_to_image", generation_prompt=True)
    null = model.null_condition()
    torch.testing.assert_close(model(**empty.model_inputs()).conditions, null, **CLOSE)

    asked: list[torch.Tensor] = []
    handle = model.decoder.unet.register_forward_pre_hook(
        lambda _, args, kwargs: asked.append(kwargs["encoder_hidden_states"]), with_kwargs=True
    )
    try:
        inputs, latents = tiny_inputs([["a red circle", DREAM], ["a blue star", DREAM]]), torch.randn(2, 4, 4, 4)
        model.train()
        out = model(**inputs, target_latents=latents, condition_dropout=1.0)
        torch.testing.assert_close(asked[-1], null.expand_as(out.conditions), **CLOSE)
        model.eval()
        model(**inputs, target_latents=latents, condition_dropout=1.0)  # evaluation drops nothing
        torch.testing.assert_close(asked[-1], out.conditions, **CLOSE)
        model.decoder.sample(out.conditions.detach(), model.null_condition(), guidance=2.0, steps=1)
        torch.testing.assert_close(asked[-1][:2], null.expand(2, -1, -1), **CLOSE)
    finally:
        handle.remove()
        model.eval()
