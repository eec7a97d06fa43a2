"""What each command of the command line does with its options (see `cli`).

Nothing heavy is imported before it is needed, so that `minidream --help` answers at once. An option that is not given
is not passed on: its default stands in one place, the function that is called.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
from pathlib import Path
from typing import Any

from minidream.errors import UserError


def _check_place(path: Path) -> None:
    """Raise `UserError` if a file cannot be written at `path`: better known before the work than after it."""
    if any("\ud800" <= letter <= "\udfff" for letter in str(path)):
        raise UserError(f"{path!a} is not valid UTF-8: choose another name")
    if path.is_dir():
        raise UserError(f"{path} is a folder: name a file in it")
    if path.exists() and not path.is_file():
        raise UserError(f"{path} is a device, not a file: choose another place")
    parent = next(parent for parent in path.absolute().parents if parent.exists())
    if not parent.is_dir():
        raise UserError(f"{parent} is a file, not a folder: choose another place for {path.name}")
    if not os.access(parent, os.W_OK):
        raise UserError(f"{parent} may not be written to: choose another place for {path.name}")


def _check_measurement(options: argparse.Namespace) -> None:
    """Raise `UserError` if figures cannot be written, or there are no weights to measure."""
    if options.json is not None:
        _check_place(options.json)
    if options.weights is not None and not options.weights.is_dir():
        raise UserError(f"no weights at {options.weights}: name a folder that `minidream train all --out` has filled")


def _given(options: argparse.Namespace, *names: str) -> dict[str, Any]:
    """Those of the options that stand on the command line."""
    return {name: value for name in names if (value := getattr(options, name)) is not None}


def _pipeline() -> Any:
    from minidream.pipeline import MiniDreamPipeline

    return MiniDreamPipeline.from_pretrained()


FOR_PICTURES = ("seed", "guidance", "steps", "solver")


def write(options: argparse.Namespace) -> None:
    """Go on from a prompt, and save the document."""
    from minidream.documents import Document, check_target
    from minidream.pictures import load_picture

    _check_place(options.output)
    check_target(options.output)
    parts = [] if options.picture is None else [load_picture(options.picture)]
    for_words = _given(options, "temperature", "top_p", "max_tokens", "max_pictures", "think", "tries")
    document = _pipeline().complete(Document([*parts, options.prompt]), **_given(options, *FOR_PICTURES), **for_words)
    document.save(options.output)
    print(document.text)
    print(f"written: {options.output}")


def draw(options: argparse.Namespace) -> None:
    """Draw a caption, and save the picture."""
    from minidream.pictures import png_bytes, write_atomically

    if options.output.suffix.lower() != ".png":
        raise UserError(f"{options.output} is not named as a PNG file: let it end in .png")
    _check_place(options.output)
    (picture,) = _pipeline().draw([options.caption], **_given(options, *FOR_PICTURES))
    write_atomically(options.output, png_bytes(picture))
    print(f"drawn: {options.output}")


def ask(options: argparse.Namespace) -> None:
    """Answer a question about a file."""
    from minidream.documents import Document

    document = Document.load(options.file)
    if not document.pictures:
        raise UserError(f"{options.file} holds no picture: ask about a picture, or a document with one")
    print(_pipeline().ask(document, options.question).strip())


def train(options: argparse.Namespace) -> None:
    """Train a stage or all; Ctrl-C says how to go on."""
    from minidream.training.stages import train as train_stages

    if options.out is not None:
        _check_place(options.out / "training.json")
    try:
        train_stages(options.stage, options.preset, options.out, dict(options.set), options.resume, options.init)
    except KeyboardInterrupt:
        again = ["minidream", "train", options.stage, "--preset", options.preset]
        for name, value in {"--out": options.out, "--init": options.init}.items():
            again += [] if value is None else [name, str(value)]
        for key, value in options.set:
            again += ["--set", f"{key}={value}"]
        raise KeyboardInterrupt(f"the last checkpoint is kept, go on with `{shlex.join(again)} --resume`") from None


def evaluate(options: argparse.Namespace) -> None:
    """Measure, and print and save the figures; what is finished survives an interruption."""
    from minidream.pictures import write_atomically

    _check_measurement(options)
    from minidream import evaluation

    chosen = _given(options, "what", "n", "seed", "weights", "processes")
    if options.json is not None:  # an interrupted evaluation goes on after what it has finished
        chosen["partial"] = options.json.with_name(options.json.name + ".partial")
    try:
        result = evaluation.evaluate(**chosen)
    except KeyboardInterrupt:
        kept = "finished sections are kept, go on with the same command"
        lost = "nothing is kept: with --json FILE, finished sections would be"
        raise KeyboardInterrupt(lost if options.json is None else kept) from None
    if options.json is not None:  # before it is told: whoever reads may have gone
        write_atomically(options.json, (json.dumps(result, indent=2) + "\n").encode())
        chosen["partial"].unlink(missing_ok=True)
    print(evaluation.table(result))


def ablate(options: argparse.Namespace) -> None:
    """Run a grid, and print its table."""
    from minidream import ablation
    from minidream.ablation.results import table

    file = options.json or ablation.file_of(options.name)
    _check_place(file)
    try:
        result = ablation.ablate(options.name, file=file, **_given(options, "seeds", "preset", "weights", "queries"))
    except KeyboardInterrupt:
        raise KeyboardInterrupt("finished runs are kept, go on with the same command") from None
    print(table(result))
    if options.name == "synergy":
        from minidream.ablation.synergy import verdicts

        print(verdicts(result))
    print(f"written: {file}")


def bench(options: argparse.Namespace) -> None:
    """Time the shortcuts, and print and save the ratios."""
    from minidream.pictures import write_atomically

    _check_measurement(options)
    from minidream import bench as measure

    result = measure.bench(**_given(options, "rounds", "n", "seed", "weights"))
    if options.json is not None:
        write_atomically(options.json, (json.dumps(result, indent=2) + "\n").encode())
    print(measure.table(result))


def tour(options: argparse.Namespace) -> None:
    """Make the page of the tour."""
    from minidream.tour import main

    if options.output.suffix != ".html":
        raise UserError(f"{options.output} is not named as a web page: let it end in .html")
    _check_place(options.output)
    main(options.output, options.picture)
