"""Attention caught while drawing: the picture stays the same, the maps are the layers' own; queries are exchanged."""

from __future__ import annotations

import pytest
import torch
from diffusers.models.attention_processor import AttnProcessor
from tiny import QUERIES, tiny_model, tiny_unet

from minidream.errors import UserError
from minidream.modeling.attention import capture_attention
from minidream.modeling.interventions import knock_out, query_similarity, swap
from minidream.modeling.minidream import MiniDream

LAYERS, HEADS, STEPS = 4, 2, 3  # cross-attention layers and their heads in the tiny UNet


@pytest.fixture(scope="module")
def model() -> MiniDream:
    return tiny_model()


def conditions(model: MiniDream, count: int) -> torch.Tensor:
    return torch.randn(count, QUERIES, model.decoder.condition_dim, generator=torch.Generator().manual_seed(0))


def draw(model: MiniDream, condition: torch.Tensor, guidance: float = 2.0) -> torch.Tensor:
    generators = [torch.Generator().manual_seed(i) for i in range(len(condition))]
    return model.decoder.sample(
        condition, model.null_condition().detach(), guidance=guidance, steps=STEPS, generators=generators
    )


def test_the_picture_is_the_same_and_nothing_stays_behind(model: MiniDream) -> None:
    condition = conditions(model, 2)
    before = draw(model, condition)
    with capture_attention(model.decoder.unet, pictures=2) as maps:
        assert torch.equal(draw(model, condition), before)
    assert maps.of(1).shape == (STEPS, LAYERS, HEADS, QUERIES, 4, 4)
    assert len(maps.layers) == LAYERS and maps.layers[0].startswith("down") and maps.layers[-1].startswith("up")
    draw(model, condition)
    assert maps.of(0).shape[0] == STEPS
    assert not any(module._forward_hooks for module in model.decoder.unet.modules())


def test_hooks_are_removed_after_an_error(model: MiniDream) -> None:
    with pytest.raises(ZeroDivisionError), capture_attention(model.decoder.unet):
        raise ZeroDivisionError
    assert not any(module._forward_hooks for module in model.decoder.unet.modules())


def test_each_place_shares_out_its_attention_over_the_queries(model: MiniDream) -> None:
    with capture_attention(model.decoder.unet) as maps:
        draw(model, conditions(model, 1))
    total = maps.of(0).sum(3)
    torch.testing.assert_close(total, torch.ones_like(total))


def test_only_the_conditional_half_of_guidance_is_kept(model: MiniDream) -> None:
    """The first step sees the same noise with guidance and without, so its maps must agree; the null's are others."""
    condition = conditions(model, 1)
    with capture_attention(model.decoder.unet) as guided:
        draw(model, condition, guidance=2.0)
    with capture_attention(model.decoder.unet) as alone:
        draw(model, condition, guidance=1.0)
    with capture_attention(model.decoder.unet) as null:
        draw(model, condition, guidance=0.0)
    torch.testing.assert_close(guided.of(0)[0], alone.of(0)[0])
    assert (guided.of(0)[0] - null.of(0)[0]).abs().max() > 1e-3


def test_a_pictures_maps_do_not_depend_on_its_neighbours(model: MiniDream) -> None:
    condition = conditions(model, 2)
    with capture_attention(model.decoder.unet, pictures=2) as both:
        draw(model, condition)
    with capture_attention(model.decoder.unet) as first:
        draw(model, condition[:1])
    torch.testing.assert_close(both.of(0), first.of(0))
    assert not torch.allclose(both.of(0), both.of(1))


def test_the_maps_are_those_the_layer_computes_with(model: MiniDream) -> None:
    """From the captured shares and the layer's own values one gets the layer's own output."""
    layer = tiny_unet().down_blocks[0].attentions[0].transformer_blocks[0].attn2
    layer.set_processor(AttnProcessor())
    unet = torch.nn.ModuleDict({"attn2": layer})
    hidden = torch.randn(1, 16, 16)
    context = torch.randn(1, QUERIES, 24)
    with capture_attention(unet) as maps, torch.no_grad():
        out = layer(hidden, encoder_hidden_states=context)
        shares = maps.of(0)[0, 0].flatten(2).transpose(1, 2)  # (heads, N, Q)
        values = layer.head_to_batch_dim(layer.to_v(context))
        torch.testing.assert_close(layer.to_out[0](layer.batch_to_head_dim(shares @ values)), out)


def test_smaller_layers_are_repeated_and_unequal_heads_averaged() -> None:
    unet = tiny_unet()
    small = unet.down_blocks[0].attentions[0].transformer_blocks[0].attn2
    large = unet.up_blocks[1].attentions[0].transformer_blocks[0].attn2
    both = torch.nn.ModuleDict({"one": torch.nn.ModuleDict({"attn2": small}), "attn2": large})
    large.heads = 4
    context = torch.randn(1, QUERIES, 24)
    with capture_attention(both) as maps, torch.no_grad():
        small(torch.randn(1, 4, 16), encoder_hidden_states=context)
        large(torch.randn(1, 16, 16), encoder_hidden_states=context)
    caught = maps.of(0)
    assert caught.shape == (1, 2, 1, QUERIES, 4, 4)
    blocks = caught[0, 0, 0].unfold(1, 2, 2).unfold(2, 2, 2).flatten(3)  # (Q, 2, 2, 4): what one place became
    assert torch.equal(blocks, blocks[..., :1].expand_as(blocks))


def test_mistakes_are_told(model: MiniDream) -> None:
    with capture_attention(model.decoder.unet) as maps:
        pass
    with pytest.raises(UserError, match="no attention was caught"):
        maps.of(0)
    with capture_attention(model.decoder.unet) as maps:
        draw(model, conditions(model, 1))
    with pytest.raises(UserError, match="picture 1 is not among"):
        maps.of(1)
    with capture_attention(model.decoder.unet, pictures=3), pytest.raises(UserError, match="draw as many at once"):
        draw(model, conditions(model, 1))


def test_knock_out_replaces_a_query_by_what_it_says_of_nothing(model: MiniDream) -> None:
    condition, null = conditions(model, 2), model.null_condition().detach()
    before = condition.clone()
    out = knock_out(condition, 1, null)
    assert torch.equal(condition, before)
    assert torch.equal(out[:, 1], null[:, 1].expand(2, -1)) and torch.equal(out[:, [0, 2, 3]], condition[:, [0, 2, 3]])
    assert torch.equal(knock_out(condition, range(QUERIES), null), null.expand_as(condition))


def test_swap_exchanges_queries_and_twice_is_nothing(model: MiniDream) -> None:
    one, other = conditions(model, 2).chunk(2)
    mixed = swap(one, other, [0, 3])
    assert torch.equal(mixed[0][:, [0, 3]], other[:, [0, 3]]) and torch.equal(mixed[0][:, [1, 2]], one[:, [1, 2]])
    back = swap(*mixed, [0, 3])
    assert torch.equal(back[0], one) and torch.equal(back[1], other)


@pytest.mark.parametrize("queries", [-1, QUERIES, [0, 9]])
def test_a_query_that_is_not_there_is_told(model: MiniDream, queries: int | list[int]) -> None:
    with pytest.raises(UserError, match="numbered from 0 to 3"):
        knock_out(conditions(model, 1), queries, model.null_condition())


def test_conditions_that_do_not_fit_are_told(model: MiniDream) -> None:
    with pytest.raises(UserError, match="do not fit together"):
        swap(conditions(model, 2), conditions(model, 3), 0)


def test_similarity_compares_queries_across_prompts_only() -> None:
    own = torch.eye(3).repeat(4, 1, 1)  # each query says its own thing, whatever the prompt
    same = query_similarity(own)
    torch.testing.assert_close(same.diagonal(), torch.ones(3))
    assert (same - torch.eye(3))[~torch.eye(3, dtype=torch.bool)].max() < 0
    torch.testing.assert_close(query_similarity(own + 7), same)  # what all share does not count

    features = torch.randn(3, 2, 4, 5, generator=torch.Generator().manual_seed(1))
    unit = torch.nn.functional.normalize((features.flatten(2) - features.flatten(2).mean((0, 1))), dim=-1)
    by_hand = torch.stack([unit[m] @ unit[n].T for m in range(3) for n in range(3) if m != n]).mean(0)
    torch.testing.assert_close(query_similarity(features), by_hand)
    with pytest.raises(UserError, match="at least two prompts"):
        query_similarity(features[:1])
