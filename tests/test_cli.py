"""The command line: each mistake gives one line and exit code 2, Ctrl-C gives 130, and nothing is half-written.

A pipeline that knows no model stands in where only the command line is examined; `nano` weights where all of it is.
"""

from __future__ import annotations

import errno
import json
import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from PIL import Image

from minidream import cli, pictures
from minidream.documents import Document
from minidream.errors import UserError
from minidream.training.recipes import STAGES
from minidream.world.scene import SIDE

PROMPT = "A large red circle in the top left on a white background."


class Painter:
    """Stands in for `MiniDreamPipeline`: paints one colour and remembers what it was asked."""

    asked: list[tuple[str, tuple[Any, ...], dict[str, Any]]]
    failure: BaseException | None

    @classmethod
    def from_pretrained(cls, weights: Any = None) -> type[Painter]:
        return cls

    @classmethod
    def _note(cls, verb: str, *arguments: Any, **options: Any) -> None:
        cls.asked.append((verb, arguments, options))
        if cls.failure is not None:
            raise cls.failure

    @classmethod
    def draw(cls, captions: list[str], **options: Any) -> list[Image.Image]:
        cls._note("draw", captions, **options)
        return [Image.new("RGB", (SIDE, SIDE), "red") for _ in captions]

    @classmethod
    def complete(cls, document: Document, **options: Any) -> Document:
        cls._note("complete", document, **options)
        return document + Document([Image.new("RGB", (SIDE, SIDE), "blue"), " The end."])

    @classmethod
    def ask(cls, asked: Document, question: str, **options: Any) -> str:
        cls._note("ask", asked, question, **options)
        return " red"


@pytest.fixture
def painter(monkeypatch: pytest.MonkeyPatch) -> type[Painter]:
    Painter.asked, Painter.failure = [], None
    monkeypatch.setitem(sys.modules, "minidream.pipeline", SimpleNamespace(MiniDreamPipeline=Painter))  # type: ignore[arg-type]
    return Painter


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Every test runs in an empty folder of its own, with the environment as it was."""
    before = dict(os.environ)
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    os.environ.clear()
    os.environ.update(before)


def fails(capsys: pytest.CaptureFixture[str], message: str, *arguments: str, code: int = 2) -> str:
    """Run a command line that must fail with `code` and one line on stderr that matches `message`."""
    assert cli.main(arguments) == code
    out, err = capsys.readouterr()
    assert out == "" and err.endswith("\n") and err.count("\n") == 1 and "Traceback" not in err
    assert err.startswith("minidream: ")
    assert re.search(message, err), err
    return err


# ---- what it does


def test_help_is_light_and_fast() -> None:
    """0.5 s is the promise; what takes the time is torch, so this looks at the imports, not at a clock."""
    code = "import sys; from minidream.cli import main\ntry: main(['--help'])\nfinally: print(sorted(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ, **_path()})
    assert done.returncode == 0, done.stderr
    for command in ("write", "draw", "ask", "train", "evaluate", "tour"):
        assert f"    {command}" in done.stdout
    for heavy in ("torch", "numpy", "PIL", "transformers", "diffusers"):
        assert f"'{heavy}'" not in done.stdout


def test_nobody_is_advised_of_packages_that_nothing_needs() -> None:
    code = "from minidream.cli import main\ntry: main(['--help'])\nexcept SystemExit: pass\n"
    code += "from diffusers import StableDiffusionPipeline as pipe; print(pipe.__name__)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ, **_path()})
    assert done.stdout.endswith("StableDiffusionPipeline\n") and done.stderr == ""


def _path() -> dict[str, str]:
    return {"PYTHONPATH": str(Path(cli.__file__).parent.parent)}


@pytest.mark.parametrize("suffix", [".html", ".md", ".json"])
def test_write(painter: type[Painter], suffix: str, capsys: pytest.CaptureFixture[str], here: Path) -> None:
    Image.new("RGB", (90, 70), "green").save("given.jpg")
    target = here / "new" / f"story{suffix}"
    options = [
        "--seed",
        "7",
        "--guidance",
        "2.5",
        "--steps",
        "9",
        "--temperature",
        "0.5",
        "--max-pictures",
        "2",
        "--no-think",
        "--tries",
        "3",
        *shlex.split("--top-p 0.9 --max-tokens 40 --solver ddim"),
    ]
    assert cli.main(["write", PROMPT, "--picture", "given.jpg", "-o", str(target), *options]) == 0
    ((verb, (document,), given),) = painter.asked
    assert verb == "complete" and document.texts == [PROMPT] and document.pictures[0].size == (90, 70)
    drawn = {"seed": 7, "guidance": 2.5, "steps": 9, "max_pictures": 2, "tries": 3}
    words = {"temperature": 0.5, "top_p": 0.9, "max_tokens": 40, "think": False}
    assert given == {**drawn, **words, "solver": "ddim"}
    assert Document.load(target) == Painter.complete(document)
    out, err = capsys.readouterr()
    assert out == f"<picture> {PROMPT} <picture> The end.\nwritten: {target}\n" and err == ""


def test_options_not_given_are_left_to_the_pipeline(painter: type[Painter], here: Path) -> None:
    assert cli.main(["write", PROMPT]) == 0 and cli.main(["draw", PROMPT]) == 0
    assert [options for _, _, options in painter.asked] == [{"think": True}, {}]
    assert Document.load(here / "out" / "story.html").texts == [PROMPT, " The end."]
    assert Image.open(here / "out" / "drawing.png").getpixel((0, 0)) == (255, 0, 0)


def test_draw(painter: type[Painter], here: Path) -> None:
    assert cli.main(["draw", PROMPT, "-o", "a.PNG", "--seed", "3", "--guidance", "0", "--steps", "1"]) == 0
    assert painter.asked == [("draw", ([PROMPT],), {"seed": 3, "guidance": 0.0, "steps": 1})]
    assert [path.name for path in here.iterdir()] == ["a.PNG"]


def test_ask_about_a_picture_and_a_document(painter: type[Painter], capsys: pytest.CaptureFixture[str]) -> None:
    Image.new("RGB", (8, 8)).save("a.png")
    Document(["Look: ", Image.new("RGB", (8, 8)), " black."]).save("a.md")
    for file, parts in (("a.png", 1), ("a.md", 3)):
        assert cli.main(["ask", file, "What colour is it?"]) == 0
        assert capsys.readouterr().out == "red\n"
        assert len(painter.asked.pop()[1][0]) == parts


def test_train_passes_everything_on(monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[Any] = []
    monkeypatch.setitem(sys.modules, "minidream.training.stages", SimpleNamespace(train=lambda *a: called.append(a)))  # type: ignore[arg-type]
    for stage in (*STAGES, "all"):
        assert cli.main(["train", stage]) == 0
        assert called.pop() == (stage, "mini", None, {}, False, None)
    line = "train clip --preset nano --resume --set steps=9 --set lr=1e-4 --out w --init v"
    assert cli.main(line.split()) == 0
    assert called == [("clip", "nano", Path("w"), {"steps": "9", "lr": "1e-4"}, True, Path("v"))]


def test_evaluate_writes_json_and_prints_the_table(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], here: Path
) -> None:
    from minidream import evaluation

    called: list[dict[str, Any]] = []

    def evaluate(**options: Any) -> dict[str, Any]:
        called.append(options)
        if "partial" in options:
            options["partial"].parent.mkdir()
            options["partial"].write_text("{}")
        return {"settings": {"n": 4}}

    monkeypatch.setattr(evaluation, "evaluate", evaluate)
    monkeypatch.setattr(evaluation, "table", lambda result: f"n = {result['settings']['n']}")
    assert cli.main(["evaluate"]) == 0
    assert cli.main(["evaluate", "creation", "--n", "4", "--seed", "1", "--weights", ".", "--json", "a/b.json"]) == 0
    assert cli.main(["evaluate", "--processes", "2"]) == 0
    assert called[0] == {"what": "all"}
    assert called[1] == {
        "what": "creation", "n": 4, "seed": 1, "weights": Path("."), "partial": Path("a/b.json.partial")
    }  # fmt: skip
    assert called[2] == {"what": "all", "processes": 2}
    assert json.loads((here / "a" / "b.json").read_text()) == {"settings": {"n": 4}}
    assert not (here / "a" / "b.json.partial").exists()
    assert capsys.readouterr().out == "n = 4\n" * 3


def test_tour_with_a_stand_in(painter: type[Painter], capsys: pytest.CaptureFixture[str], here: Path) -> None:
    assert cli.main(["tour", "-o", "t.html"]) == 0
    page = (here / "t.html").read_text()
    assert page.count("<h2>") == 5 and page.count("<img ") == page.count("data:image/png;base64,") == 5
    assert "src=" in page and "http" not in page
    assert [verb for verb, *_ in painter.asked] == ["complete", "complete"] + ["ask"] * 6
    sample = painter.asked[1][1][0]
    assert isinstance(sample[0], Image.Image) and sample[0].size == (SIDE, SIDE)  # it begins with the picture
    out = capsys.readouterr().out
    assert re.search(r"written: t\.html \(\d+ s on \d+ CPU cores, \d+ s of CPU time, [\d.]+ GB of memory\)", out)
    Image.new("RGB", (100, 80), "green").save("mine.webp")
    assert cli.main(["tour", "-o", "t.html", "--picture", "mine.webp"]) == 0
    assert painter.asked[-7][1][0][0].size == (100, 80)


# ---- bad input


@pytest.mark.parametrize(
    ("message", "arguments"),
    [
        ("PROMPT: it is empty, say", ["write", ""]),
        ("PROMPT: it is empty, say", ["write", " \n "]),
        ("CAPTION: it is empty, say", ["draw", ""]),
        ("QUESTION: it is empty, say", ["ask", "a.png", ""]),
        ("not valid UTF-8", ["draw", "\udcff"]),
        ("required: PROMPT", ["write"]),
        ("COMMAND", []),
        ("invalid choice: 'paint'", ["paint", "x"]),
        ("unrecognized arguments: --wrong", ["draw", "x", "--wrong"]),
        ("unrecognized arguments: --see", ["draw", "x", "--see", "1"]),
        ("steps.*'0' is out of range, give a whole number from 1 to 1000", ["draw", "x", "--steps", "0"]),
        ("steps.*whole number", ["draw", "x", "--steps", "2.5"]),
        ("steps.*1001", ["write", "x", "--steps", "1001"]),
        ("guidance.*from 0 to 30", ["draw", "x", "--guidance=-1"]),
        ("guidance.*'nan'", ["draw", "x", "--guidance", "nan"]),
        ("guidance.*'inf'", ["draw", "x", "--guidance", "inf"]),
        ("seed.*'-1'", ["draw", "x", "--seed=-1"]),
        ("seed.*'abc'", ["draw", "x", "--seed", "abc"]),
        ("temperature.*from 0 to 5", ["write", "x", "--temperature", "9"]),
        ("max-pictures.*'-2'", ["write", "x", "--max-pictures=-2"]),
        ("invalid choice: 'everything'.*clip", ["train", "everything"]),
        ("invalid choice: 'huge'.*mini", ["train", "clip", "--preset", "huge"]),
        ("'steps' is not of the form key=value", ["train", "clip", "--set", "steps"]),
        ("unknown setting 'wings'", ["train", "clip", "--preset", "nano", "--set", "wings=2", "--out", "w"]),
        ("--set steps=-1: must be greater", ["train", "clip", "--preset", "nano", "--set", "steps=-1", "--out", "w"]),
        ("invalid choice: 'art'", ["evaluate", "art"]),
        ("n.*'0' is out of range", ["evaluate", "--n", "0"]),
        ("no weights at nowhere", ["evaluate", "--weights", "nowhere"]),
    ],
)
def test_wrong_arguments(
    message: str, arguments: list[str], painter: type[Painter], capsys: pytest.CaptureFixture[str], here: Path
) -> None:
    fails(capsys, message, *arguments)
    assert not list(here.iterdir()) and not painter.asked


def test_wrong_files(painter: type[Painter], capsys: pytest.CaptureFixture[str], here: Path) -> None:
    (here / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n and no more")
    (here / "words.md").write_text("only words")
    (here / "gap.md").write_text("a ![](gone.png) b")
    before = sorted(here.iterdir())
    for message, arguments in {
        r"gone\.png does not exist: check": ["ask", "gone.png", "What?"],
        r"gone\.html does not exist": ["ask", "gone.html", "What?"],
        r"broken\.png cannot be read as PNG, JPEG or WebP": ["ask", "broken.png", "What?"],
        r"words\.md holds no picture": ["ask", "words.md", "What?"],
        r"gone\.png does not exist: ": ["ask", "gap.md", "What?"],
        r"a\.txt is no document .* and no picture": ["ask", "a.txt", "What?"],
        r"none\.png does not exist": ["write", PROMPT, "--picture", "none.png"],
        r"broken\.png cannot": ["write", PROMPT, "--picture", "broken.png"],
        r"broken\.png cannot be": ["tour", "--picture", "broken.png"],
        r"story\.pdf .*\.html, \.md or \.json": ["write", PROMPT, "-o", "story.pdf"],
        r"a\.jpg .*end in \.png": ["draw", PROMPT, "-o", "a.jpg"],
        r"tour\.md .*end in \.html": ["tour", "-o", "tour.md"],
        r"words\.md is a file, not a folder": ["write", PROMPT, "-o", "words.md/story.html"],
        r"words\.md is a file, not a folder: ": ["train", "clip", "--preset", "nano", "--out", "words.md"],
        r"words\.md is a file, not": ["evaluate", "--json", "words.md/a.json"],
    }.items():
        fails(capsys, message, *arguments)
    (here / "folder.png").mkdir()
    fails(capsys, r"folder\.png is a folder: name a file in it", "draw", PROMPT, "-o", "folder.png")
    (here / "folder.png").rmdir()
    assert sorted(here.iterdir()) == before and not painter.asked  # known before the work, not after it


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_place_without_permission(painter: type[Painter], capsys: pytest.CaptureFixture[str], here: Path) -> None:
    (here / "closed").mkdir(mode=0o500)
    fails(capsys, "closed may not be written to", "write", PROMPT, "-o", "closed/a.html")


def test_place_without_permission_as_anyone(
    painter: type[Painter], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cli.os, "access", lambda path, mode: False)
    fails(capsys, "may not be written to: choose another place for a.html", "write", PROMPT, "-o", "a.html")
    assert not painter.asked


def test_full_disk(painter: type[Painter], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, content: bytes) -> int:
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    monkeypatch.setattr(pictures.Path, "write_bytes", full)
    Path("old").mkdir()
    for arguments in (["write", PROMPT, "-o", "old/a.md"], ["draw", PROMPT, "-o", "old/a.png"]):
        fails(capsys, r"old/.*No space left on device: free some space", *arguments)
        assert not list(Path("old").iterdir())


def test_errors_of_libraries_that_save(painter: type[Painter], capsys: pytest.CaptureFixture[str]) -> None:
    from safetensors import SafetensorError

    painter.failure = SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")
    fails(capsys, "No space left on device: free some space", "draw", PROMPT)
    painter.failure = OSError("line one\nline two")  # as transformers raises them
    fails(capsys, "line one line two: check the path", "draw", PROMPT)
    painter.failure = RuntimeError("a defect of ours")
    with pytest.raises(RuntimeError, match="defect"):  # a defect is not dressed up as a mistake of the user's
        cli.main(["draw", PROMPT])


def test_errors_of_the_pipeline(painter: type[Painter], capsys: pytest.CaptureFixture[str], here: Path) -> None:
    for text in ("the document has more pictures than the context holds: leave some out", "no weights: train them"):
        painter.failure = UserError(text)
        fails(capsys, text, "write", PROMPT)
    assert not (here / "out").exists()


def test_interrupted(painter: type[Painter], capsys: pytest.CaptureFixture[str], here: Path) -> None:
    painter.failure = KeyboardInterrupt()
    for arguments in (["write", PROMPT], ["draw", PROMPT], ["tour"]):
        assert cli.main(arguments) == 130
        assert capsys.readouterr().err == "minidream: interrupted\n"
    assert not (here / "out").exists()


@pytest.mark.parametrize(
    ("given", "told"), [("--json a.json", "are kept, go on with the same"), ("", "nothing is kept")]
)
def test_interrupted_evaluation(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], given: str, told: str
) -> None:
    from minidream import evaluation

    def evaluate(**_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(evaluation, "evaluate", evaluate)
    fails(capsys, f"interrupted: .*{told}", "evaluate", *given.split(), code=130)


def test_the_solvers_it_names_are_all() -> None:
    from minidream.modeling.diffusion import SOLVERS

    (choices,) = [
        action.choices for action in cli._parser()._subparsers._group_actions[0].choices["draw"]._actions
        if action.dest == "solver"
    ]  # fmt: skip
    assert set(choices) == set(SOLVERS)


def test_interrupted_training(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def train(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setitem(sys.modules, "minidream.training.stages", SimpleNamespace(train=train))  # type: ignore[arg-type]
    given = "train clip --preset nano --out w --init 'a b' --set steps=9 --set lr=0.1"
    fails(capsys, f"interrupted.*`minidream {given} --resume`", *shlex.split(given), code=130)


@pytest.mark.parametrize(
    "place, message", [("/dev/null", "a device"), ("\udcff.png", "not valid UTF-8"), (".", "a folder|not named")]
)
def test_places_that_no_file_can_have(
    place: str, message: str, painter: type[Painter], capsys: pytest.CaptureFixture[str], here: Path
) -> None:
    fails(capsys, message, *(("evaluate", "--json", place) if "null" in place else ("draw", PROMPT, "-o", place)))


# ---- all of it, with weights


@pytest.fixture
def weights(nano: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MINIDREAM_WEIGHTS", str(nano))
    return nano


def test_no_weights(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, here: Path) -> None:
    monkeypatch.setenv("MINIDREAM_WEIGHTS", str(here / "nowhere"))
    fails(capsys, "no weights at .*nowhere", "draw", PROMPT)
    assert not (here / "out").exists()


def test_commands_with_weights(weights: Path, capsys: pytest.CaptureFixture[str], here: Path) -> None:
    assert cli.main(["draw", PROMPT, "-o", "a.png", "--steps", "2"]) == 0
    first = (here / "a.png").read_bytes()
    assert cli.main(["draw", PROMPT, "-o", "a.png", "--steps", "2", "--seed", "0"]) == 0
    assert (here / "a.png").read_bytes() == first
    assert cli.main(["draw", PROMPT, "-o", "b.png", "--steps", "2", "--seed", "1"]) == 0
    assert (here / "b.png").read_bytes() != first
    assert cli.main(["ask", "a.png", "What colour is the circle?"]) == 0
    assert cli.main(["write", PROMPT, "--picture", "a.png", "--max-pictures", "1", "--steps", "1", "-o", "a.json"]) == 0
    assert str(Document.load(here / "a.json")[1]).startswith(PROMPT)
    assert capsys.readouterr().err == ""


def test_ctrl_c_while_a_picture_is_drawn(
    weights: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, here: Path
) -> None:
    """The pipeline gives what it has when interrupted; the command line must not take that for a whole document."""
    from minidream import generation

    real, calls = generation.stream, []

    def press(*arguments: Any) -> Iterator[Any]:
        calls.append(arguments)
        for event in real(*arguments):
            yield event
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr("minidream.pipeline.stream", press)
    before = signal.getsignal(signal.SIGINT)
    for arguments in (["write", PROMPT, "-o", "a.html"], ["tour", "-o", "a.html"]):
        assert cli.main(arguments) == 130
        assert capsys.readouterr().err == "minidream: interrupted\n"
    assert len(calls) == 2 and not list(here.iterdir())
    assert signal.getsignal(signal.SIGINT) is before


def test_a_document_longer_than_the_context_is_told_in_one_line(
    weights: Path, capsys: pytest.CaptureFixture[str], here: Path
) -> None:
    Document([Image.new("RGB", (SIDE, SIDE)) for _ in range(60)]).save("many.html")
    assert cli.main(["ask", "many.html", "How many?"]) == 0
    (told,) = [line for line in capsys.readouterr().err.splitlines() if "context" in line]
    assert re.match(
        r"minidream: the prompt is longer than the context of 384 tokens: its first \d+ parts are not", told
    )
    fails(capsys, r"context of \d+ tokens: shorten", "write", "word " * 400)


def test_one_byte_flipped(weights: Path, capsys: pytest.CaptureFixture[str], here: Path) -> None:
    file = next((weights / "minidream").glob("*.safetensors"))
    whole = file.read_bytes()
    try:
        file.write_bytes(whole[:-9] + bytes([whole[-9] ^ 1]) + whole[-8:])
        fails(capsys, rf"{file.name} is damaged", "draw", PROMPT)
    finally:
        file.write_bytes(whole)
    assert not (here / "out").exists()


def test_output_that_cannot_be_printed(
    painter: type[Painter], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], here: Path
) -> None:
    from minidream import evaluation

    monkeypatch.setattr(evaluation, "evaluate", lambda **options: {"settings": {}})
    monkeypatch.setattr(evaluation, "table", lambda result: "a table")
    for arguments in (["write", PROMPT, "-o", "a.html"], ["evaluate", "--json", "a.json"]):
        with open("/dev/full", "w") as full, monkeypatch.context() as patched:
            patched.setattr(sys, "stdout", full)
            assert cli.main(arguments) == 2
        assert capsys.readouterr().err.startswith("minidream: its output could not be printed")
    assert (here / "a.html").is_file() and json.loads((here / "a.json").read_text()) == {"settings": {}}
    with open(here / "latin", "w", encoding="ascii") as poor, monkeypatch.context() as patched:
        patched.setattr(sys, "stdout", poor)
        assert cli.main(["write", "Нарисуй: a star.", "-o", "b.html"]) == 0
    assert "??????? a star." in (here / "latin").read_text().replace(":", "")
