"""The command line: `minidream write | draw | ask | train | evaluate | ablate | bench | tour`.

A user's mistake gives one line on stderr that says what is wrong and how to mend it, and exit code 2; Ctrl-C gives 130.
What each command does stands in `commands`.
"""

from __future__ import annotations

import argparse
import errno
import io
import math
import os
import signal
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, NoReturn

from minidream import __version__, commands
from minidream.ablation.grids import BUDGETS, GRIDS
from minidream.errors import ContextWarning, UserError
from minidream.training.recipes import PRESETS, STAGES

EXAMINATIONS = ("creation", "comprehension", "interleaved", "all", "trust", "robustness", "zero_shot")
# Before torch is imported: idle threads must not spin when the cores are shared, nothing asks the network, and nobody
# is advised of packages that nothing here needs.
_ENVIRONMENT = {
    "OMP_WAIT_POLICY": "PASSIVE",
    "HF_HUB_OFFLINE": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "TRANSFORMERS_VERBOSITY": "error",
}
_MEND = {
    errno.ENOSPC: "free some space and try again",
    errno.EDQUOT: "free some space and try again",
    errno.EACCES: "choose another place or change its permissions",
    errno.EPERM: "choose another place or change its permissions",
    errno.EROFS: "choose a place that can be written to",
}


class _Stop(BaseException):
    """Ctrl-C. `complete` answers a KeyboardInterrupt with half a document; here half of anything is to be nothing."""


@contextmanager
def _stopping() -> Iterator[None]:
    """Let Ctrl-C raise `_Stop`."""

    def stop(*_: object) -> NoReturn:
        raise _Stop

    before = signal.signal(signal.SIGINT, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


@contextmanager
def _warning_in_one_line() -> Iterator[None]:
    """Show a `ContextWarning` like every other message."""
    with warnings.catch_warnings():
        shown = warnings.showwarning

        def show(message: Any, category: type[Warning], *where: Any, **more: Any) -> None:
            if issubclass(category, ContextWarning):
                _fail(message, 0)
            else:
                shown(message, category, *where, **more)

        warnings.showwarning = show
        yield


class _Parser(argparse.ArgumentParser):
    """Reports a wrong argument like every other mistake, in one line."""

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}: see `{self.prog} --help`")


def _number(kind: Callable[[str], float], low: float, high: float) -> Callable[[str], float]:
    """An argparse type: a number of `kind` from `low` to `high`."""

    def parse(text: str) -> float:
        try:
            value = kind(text)
        except ValueError:
            value = math.nan
        if not low <= value <= high:
            what = "a whole number" if kind is int else "a number"
            raise argparse.ArgumentTypeError(f"{text!r} is out of range, give {what} from {low:g} to {high:g}")
        return value

    return parse


def _words(text: str) -> str:
    """An argparse type: text that says something."""
    if not text.strip():
        raise argparse.ArgumentTypeError("it is empty, say in a few words what you want")
    if any("\ud800" <= letter <= "\udfff" for letter in text):
        raise argparse.ArgumentTypeError("it is not valid UTF-8, type it again")
    return text


def _setting(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not (key and equals and value):
        raise argparse.ArgumentTypeError(f"{text!r} is not of the form key=value, as in steps=100")
    return key, value


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="minidream", description="DreamLLM, small, whole and true.", allow_abbrev=False)
    parser.add_argument("--version", action="version", version=f"minidream {__version__}")
    subparsers = parser.add_subparsers(metavar="COMMAND", required=True)

    def command(name: str, run: Callable[[argparse.Namespace], None], what: str) -> argparse.ArgumentParser:
        added = subparsers.add_parser(name, help=what, description=what, allow_abbrev=False)
        added.set_defaults(run=run)
        return added

    def sampling(to: argparse.ArgumentParser) -> None:
        to.add_argument("--seed", type=_number(int, 0, 2**63 - 1), help="of noise and text: same seed, same result")
        to.add_argument("--guidance", type=_number(float, 0, 30), help="how strictly pictures follow (1: no guidance)")
        to.add_argument("--steps", type=_number(int, 1, 1000), help="denoising steps a picture")
        to.add_argument("--solver", choices=("dpm", "ddim"), help="that takes them (default: dpm)")

    write = command("write", commands.write, "write an illustrated document from a beginning")
    write.add_argument("prompt", type=_words, metavar="PROMPT", help="how the document begins")
    write.add_argument("--picture", type=Path, metavar="FILE", help="a PNG, JPEG or WebP to stand before the prompt")
    write.add_argument("-o", "--output", type=Path, default=Path("out/story.html"), metavar="FILE.html|.md|.json")
    sampling(write)
    write.add_argument("--temperature", type=_number(float, 0, 5), help="of the text (0: always the likeliest)")
    write.add_argument("--top-p", type=_number(float, 1e-6, 1), help="of the likeliest words (default: 1, all)")
    write.add_argument("--max-tokens", type=_number(int, 1, 10**6), help="stop after so many tokens of text")
    write.add_argument("--max-pictures", type=_number(int, 0, 100), help="stop after so many pictures")
    think = argparse.BooleanOptionalAction
    write.add_argument("--think", action=think, default=True, help="say first what each picture will show (default)")
    write.add_argument(
        "--tries", type=_number(int, 1, 100), help="drawings at most until a picture shows what was said"
    )

    draw = command("draw", commands.draw, "draw a picture from a caption")
    draw.add_argument("caption", type=_words, metavar="CAPTION", help="what to draw")
    draw.add_argument("-o", "--output", type=Path, default=Path("out/drawing.png"), metavar="FILE.png")
    sampling(draw)

    ask = command("ask", commands.ask, "answer a question about a picture or a document")
    ask.add_argument("file", type=Path, metavar="FILE", help="a picture (.png, .jpg, .webp) or a document")
    ask.add_argument("question", type=_words, metavar="QUESTION", help='such as "How many things are there?"')

    train = command("train", commands.train, "train a stage, or all of them in order")
    train.add_argument("stage", choices=(*STAGES, "all"), metavar="STAGE", help=f"{', '.join(STAGES)} or all")
    train.add_argument("--preset", choices=tuple(PRESETS), default="mini", help="how large (default: mini)")
    train.add_argument("--resume", action="store_true", help="keep what is finished, go on from the last checkpoint")
    train.add_argument("--set", type=_setting, action="append", default=[], metavar="KEY=VALUE", help="of a recipe")
    train.add_argument("--init", type=Path, metavar="DIR", help="begin with the weights of an earlier run's stage")
    train.add_argument("--out", type=Path, metavar="DIR", help="where to write (default: runs/PRESET)")

    evaluate = command("evaluate", commands.evaluate, "measure what a model can do, exactly")
    evaluate.add_argument("what", nargs="?", choices=EXAMINATIONS, default="all", metavar="|".join(EXAMINATIONS))
    evaluate.add_argument("--json", type=Path, metavar="FILE", help="also write the figures there")
    evaluate.add_argument("--n", type=_number(int, 1, 10**6), help="scenes a category (default: 500)")
    evaluate.add_argument("--seed", type=_number(int, 0, 2**63 - 1), help="of the scenes (default: 0)")
    evaluate.add_argument("--weights", type=Path, metavar="DIR", help="other weights than the shipped ones")
    evaluate.add_argument("--processes", type=_number(int, 1, 64), help="how many work at once (default: 1)")

    ablate = command(
        "ablate", commands.ablate, "repeat the paper's choices against their alternatives, as recorded grids"
    )
    ablate.add_argument("name", choices=tuple(GRIDS), metavar="|".join(GRIDS))
    ablate.add_argument(
        "--seeds", type=_number(int, 0, 2**31), nargs="+", help="one run each (default: three, five for synergy)"
    )
    ablate.add_argument("--json", type=Path, metavar="FILE", help="of the runs (default: data/results/NAME.json)")
    ablate.add_argument("--preset", choices=tuple(BUDGETS), help="how long the runs are (default: mini)")
    ablate.add_argument("--queries", type=_number(int, 1, 10**6), nargs="+", help="other numbers of dream queries")
    ablate.add_argument("--weights", type=Path, metavar="DIR", help="other frozen parts than the shipped ones")

    bench = command("bench", commands.bench, "measure what packing, caches and solvers save, as ratios")
    bench.add_argument("--json", type=Path, metavar="FILE", help="also write the figures there")
    bench.add_argument("--rounds", type=_number(int, 1, 10**4), help="repetitions of what is timed (default: 7)")
    bench.add_argument("--n", type=_number(int, 1, 10**6), help="prompts a category for the solvers (default: 50)")
    bench.add_argument("--seed", type=_number(int, 0, 2**31), help="of batch, prompts and noise (default: 0)")
    bench.add_argument("--weights", type=Path, metavar="DIR", help="other weights than the shipped ones")

    tour = command("tour", commands.tour, "see everything in a minute: writes one HTML page")
    tour.add_argument("-o", "--output", type=Path, default=Path("out/tour.html"), metavar="FILE.html")
    tour.add_argument("--picture", type=Path, metavar="FILE", help="your own PNG, JPEG or WebP for the second part")
    return parser


def _fail(message: object, code: int) -> int:
    print(f"minidream: {' '.join(str(message).split())}", file=sys.stderr)
    return code


def _disk_error(error: Exception) -> str:
    number, file = getattr(error, "errno", None), getattr(error, "filename", None)
    if number is None and "No space left" in str(error):
        number = errno.ENOSPC
    reason = os.strerror(number) if number else error
    return f"{f'{file}: ' if file else ''}{reason}: {_MEND.get(number or 0, 'check the path and try again')}"


def _is_disk_error(error: Exception) -> bool:
    safetensors = sys.modules.get("safetensors")  # its error is not an OSError
    return isinstance(error, OSError) or (safetensors is not None and isinstance(error, safetensors.SafetensorError))


def _can_print() -> bool:
    """Whether the output takes what is printed. If not (nobody reads it, its disk is full), it goes nowhere from now
    on, or Python would complain once more at its end."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return False
    return True


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command line (without the program's name; else `sys.argv`) and return the exit code: 0, 2 or 130."""
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    if isinstance(sys.stdout, io.TextIOWrapper):  # a letter that the terminal lacks is no reason to stop
        sys.stdout.reconfigure(errors="replace")
    try:
        options = _parser().parse_args(arguments)
        keeping = options.run in (commands.train, commands.ablate)  # they keep what is done themselves
        with nullcontext() if keeping else _stopping(), _warning_in_one_line():
            options.run(options)
            sys.stdout.flush()
        return 0
    except UserError as error:
        return _fail(error, 2)
    except (KeyboardInterrupt, _Stop) as interrupt:
        return _fail(f"interrupted{f': {interrupt}' if interrupt.args else ''}", 130)
    except Exception as error:
        if not _is_disk_error(error):
            raise
        if not _can_print():
            return _fail("its output could not be printed: what it was to write to files is written, look there", 2)
        return _fail(_disk_error(error), 2)


if __name__ == "__main__":
    sys.exit(main())
