"""The reader: exact on clean and on blemished pictures, and never a guess on mud."""

import ast
import io
import random
import time
from collections.abc import Callable
from itertools import combinations, pairwise, product

import numpy as np
import pytest
from PIL import Image, ImageFilter

from minidream.world import read as reader
from minidream.world.draw import draw, draw_batch
from minidream.world.read import read, read_batch
from minidream.world.scene import BACKGROUNDS, COLORS, SHAPES, SIDE, SIZES, Scene, Thing, random_scene

RNG = random.Random("reader")
SCENES = [random_scene(RNG, held_out=None) for _ in range(1500)]
PICTURES = draw_batch(SCENES)


def single(shape: str = "circle", size: str = "large", color: str = "red", ground: str = "white", **more) -> Scene:
    return Scene(ground, (Thing(more.get("place", "top left"), color, shape, size, more.get("offset", (0, 0))),))


def jpeg(pictures: np.ndarray, quality: int = 75) -> np.ndarray:
    def one(picture: np.ndarray) -> np.ndarray:
        file = io.BytesIO()
        Image.fromarray(picture).save(file, "JPEG", quality=quality)
        return np.asarray(Image.open(file))

    return np.stack([one(picture) for picture in pictures])


def noisy(pictures: np.ndarray, sigma: float = 0.05) -> np.ndarray:
    noise = np.random.default_rng(0).normal(0, 255 * sigma, pictures.shape)
    return np.clip(pictures + noise + 0.5, 0, 255).astype(np.uint8)


def blurred(pictures: np.ndarray) -> np.ndarray:
    soft = (Image.fromarray(picture).filter(ImageFilter.GaussianBlur(0.8)) for picture in pictures)
    return np.stack([np.asarray(picture) for picture in soft])


def tinted(pictures: np.ndarray) -> np.ndarray:
    shift = np.random.default_rng(1).integers(-15, 16, (len(pictures), 1, 1, 3))
    return np.clip(pictures + shift, 0, 255).astype(np.uint8)


def shifted(pictures: np.ndarray) -> np.ndarray:
    return np.roll(pictures, (1, -1), (1, 2))


def blend(*pictures: np.ndarray, share: float = 0.5) -> np.ndarray:
    first, second = (picture.astype(float) for picture in pictures)
    return (share * first + (1 - share) * second + 0.5).astype(np.uint8)


def test_every_scene_is_read_exactly_with_its_offsets() -> None:
    assert read_batch(PICTURES) == SCENES  # asked: 99.9 %


def test_every_thing_is_read_on_every_background() -> None:
    facts = product(SHAPES, SIZES, COLORS, BACKGROUNDS)
    scenes = [single(*fact, offset=(RNG.randint(-2, 2), RNG.randint(-2, 2))) for fact in facts]
    assert read_batch(draw_batch(scenes)) == scenes


@pytest.mark.parametrize(
    "blemish, least", [(jpeg, 0.995), (noisy, 0.995), (blurred, 0.995), (tinted, 0.995), (shifted, 0.995)]
)
def test_blemishes_do_not_matter(blemish: Callable[[np.ndarray], np.ndarray], least: float) -> None:
    pictures = blemish(PICTURES)
    assert np.any(pictures != PICTURES)
    found = read_batch(pictures)
    assert np.mean([a is not None and a.facts() == b.facts() for a, b in zip(found, SCENES)]) >= least
    assert not [b for a, b in zip(found, SCENES) if a is not None and a.facts() != b.facts()]  # refuses, not guesses


def test_the_hardest_thing_survives_jpeg() -> None:
    """Orange on grey differs in tint only, and JPEG halves the tints' resolution."""
    offsets = product(range(-2, 3), repeat=2)
    scenes = [single(shape, "small", "orange", "grey", offset=at) for at, shape in product(offsets, SHAPES)]
    found = read_batch(jpeg(draw_batch(scenes)))
    assert np.mean([seen is not None and seen.facts() == scene.facts() for seen, scene in zip(found, scenes)]) >= 0.97


@pytest.mark.parametrize("ground", BACKGROUNDS)
def test_half_way_between_two_colors_is_refused(ground: str) -> None:
    mud = []
    for first, second in combinations(COLORS, 2):
        half = (np.add(COLORS[first], COLORS[second])) / 2
        if min(np.linalg.norm(half - color) for color in COLORS.values()) < 40:
            continue  # yellow and red do make orange
        mud.append(blend(*draw_batch([single("square", "large", color, ground) for color in (first, second)])))
    assert len(mud) >= 13
    assert read_batch(np.stack(mud)) == [None] * len(mud)


@pytest.mark.parametrize("size", SIZES)
def test_half_way_between_two_shapes_is_refused(size: str) -> None:
    pairs = [draw_batch([single(a, size), single(b, size)]) for a, b in combinations(SHAPES, 2)]
    found = read_batch(np.stack([blend(*pair) for pair in pairs]))
    assert sum(scene is not None for scene in found) <= (size == "small")  # of 15: see `LEFT_OVER`


def test_half_way_between_two_sizes_is_refused() -> None:
    pairs = [draw_batch([single(shape, size) for size in SIZES]) for shape in SHAPES]
    assert read_batch(np.stack([blend(*pair) for pair in pairs])) == [None] * len(SHAPES)


def test_half_way_between_two_scenes_is_refused() -> None:
    mud = blend(PICTURES[:-1], PICTURES[1:])
    different = [a.facts() != b.facts() for a, b in pairwise(SCENES)]
    found = [scene for scene, differs in zip(read_batch(mud), different) if differs]
    assert sum(scene is not None for scene in found) / len(found) <= 0.003  # yellow and red do make orange


@pytest.mark.parametrize("ground", BACKGROUNDS)
@pytest.mark.parametrize("size", SIZES)
def test_half_a_thing_is_refused(ground: str, size: str) -> None:
    mud = draw_batch([single(shape, size, color, ground) for shape, color in product(SHAPES, COLORS)])
    left, top = mud.copy(), mud.copy()
    left[:, :, :16] = top[:, :16] = BACKGROUNDS[ground]
    found = read_batch(np.concatenate([left, top]))
    assert sum(scene is not None for scene in found) <= (size == "small")  # of 72: see `LEFT_OVER`


def test_a_thing_of_two_colors_is_refused() -> None:
    for first, second in combinations(COLORS, 2):
        pictures = draw_batch([single("square", "large", color) for color in (first, second)])
        pictures[0, :, 16:] = pictures[1, :, 16:]
        assert read(pictures[0]) is None, (first, second)


@pytest.mark.parametrize("color", COLORS)
def test_a_fifth_thing_is_refused(color: str) -> None:
    for places in (["top left"], ["top left", "top right", "bottom left", "bottom right"]):
        picture = draw(Scene("white", tuple(Thing(place, "blue", "star", "small") for place in places)))
        assert read(picture) is not None
        middle = np.asarray(picture).copy()
        middle[26:38, 26:38] = COLORS[color]
        assert read(middle) is None
        edge = np.asarray(picture).copy()
        edge[27:37, 2:12] = COLORS[color]
        assert read(edge) is None


@pytest.mark.parametrize("color", [(255, 105, 180), (120, 60, 160), (130, 80, 40), (160, 220, 80), (255, 255, 255)])
def test_a_color_that_is_not_of_the_world_is_refused(color: tuple[int, int, int]) -> None:
    picture = np.full((SIDE, SIDE, 3), BACKGROUNDS["black"], np.uint8)
    picture[6:26, 6:26] = color
    assert read(picture) is None
    picture[6:26, 6:26] = COLORS["red"]
    assert read(picture) is not None


@pytest.mark.parametrize("ground", [(200, 200, 200), (84, 84, 84), (238, 138, 22), (240, 220, 180), (30, 30, 90)])
def test_a_background_that_is_not_of_the_world_is_refused(ground: tuple[int, int, int]) -> None:
    picture = np.asarray(draw(single(ground="white"))).copy()
    picture[np.all(picture == BACKGROUNDS["white"], axis=2)] = ground
    assert read(picture) is None


def test_other_mud_is_refused() -> None:
    random_pixels = np.random.default_rng(0).integers(0, 256, (50, SIDE, SIDE, 3), dtype=np.uint8)
    empty = np.stack([np.full((SIDE, SIDE, 3), ground, np.uint8) for ground in BACKGROUNDS.values()])
    two_grounds = PICTURES[:200].copy()
    for picture, scene in zip(two_grounds, SCENES):
        picture[:, 32:] = BACKGROUNDS[next(ground for ground in BACKGROUNDS if ground != scene.background)]
    upside_down = draw_batch([single(shape, size) for shape in ("triangle", "star") for size in SIZES])[:, ::-1]
    cut = np.roll(PICTURES, 16, 2)  # things cut by the middle line
    blots = np.stack([np.asarray(Image.fromarray(p).filter(ImageFilter.GaussianBlur(4))) for p in PICTURES[:200]])
    for mud in (random_pixels, empty, two_grounds, upside_down, cut, blots):
        assert not any(read_batch(mud))


def test_a_third_size_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    from minidream.world import draw as renderer

    renderer._coverage.cache_clear()
    monkeypatch.setitem(renderer.SIZES, "small", 9.3)  # the tables are shared; the reader's templates are made already
    try:
        pictures = draw_batch([single(shape, "small") for shape in SHAPES])
    finally:
        renderer._coverage.cache_clear()
    assert read_batch(pictures) == [None] * len(SHAPES)


def test_the_reader_is_deterministic_and_batches_do_not_matter() -> None:
    some = jpeg(PICTURES[:130], 40)
    together = read_batch(some)
    assert together == read_batch(some) == [read(picture) for picture in some]
    assert read_batch(some[:0]) == []
    before = some.copy()
    read_batch(some)
    np.testing.assert_array_equal(some, before)


def test_pictures_of_another_size_or_type_are_refused() -> None:
    for wrong in (np.zeros((1, 32, 32, 3), np.uint8), np.zeros((1, SIDE, SIDE, 3), np.float32), np.zeros((SIDE, SIDE))):
        with pytest.raises(ValueError, match=r"uint8 pictures \(B, 64, 64, 3\), not"):
            read_batch(wrong)
    with pytest.raises(ValueError, match="uint8 pictures"):
        read(Image.new("RGB", (128, 128)))
    assert read(draw(SCENES[0]).convert("RGBA")) == SCENES[0]


def test_the_reader_shares_no_code_with_the_renderer() -> None:
    with open(reader.__file__, encoding="utf8") as file:
        tree = ast.parse(file.read())
    imported = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    names = {name.name for node in ast.walk(tree) if isinstance(node, ast.Import) for name in node.names}
    assert {module for module in imported | names if module.startswith("minidream")} == {"minidream.world.scene"}


def test_reading_is_fast() -> None:
    def seconds() -> float:
        start = time.process_time(), time.perf_counter()
        read_batch(PICTURES[:256])
        return min(time.process_time() - start[0], time.perf_counter() - start[1])

    assert 256 / min(seconds() for _ in range(5)) >= 1000
