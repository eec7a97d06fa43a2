"""Write what was measured into README.md and data/results/README.md: `python -m tools.readme`; the README's pictures,
too: `python -m tools.readme --pictures`.

Figures come from the files of `data/results`, each made by the command that stands under its table; costs from each
`training.json` in `data/weights`; pictures from the weights themselves. In the README each table stands between two
comments that name it; data/results/README.md is written as a whole. A test holds both equal to what this script would
write.
"""

from __future__ import annotations

import re
import sys

from tools import samples, tables

README, EVERY = tables.ROOT / "README.md", tables.RESULTS / "README.md"


def filled(text: str) -> str:
    """The README with its tables as they are now."""
    for name, made in (("figures", tables.figures), ("trusted", tables.trusted), ("costs", tables.costs)):
        before, _, after = re.split(rf"(?<=<!-- {name} -->\n)(.*?)(?=<!-- /{name} -->)", text, flags=re.S)
        text = f"{before}{made()}\n{after}"
    return text


def everything() -> str:
    """data/results/README.md: all that was measured."""
    parts = {
        "The examination": tables.every("evaluation.json"),
        "Why it falls short": tables.reasons(),
        "Its second look, and its reasons": tables.every("trust.json"),
        "Tasks that it was not trained on": tables.every("zero_shot.json"),
        "Damaged pictures, by kind and strength": tables.every("robustness.json"),
        "After stage I": tables.every("stage_one.json", weights="data/weights/align"),
        "How stage I learned": tables.learning(),
        "What learning both tasks brings": tables.synergies(),
        "What the shortcuts save": tables.speeds(),
    }
    begun = (
        "# All that was measured\n\nWritten by `python -m tools.readme` from the files beside it. ✓: reaches what is "
        "asked; ✗: falls short. The other files are what `minidream ablate` recorded; lessons 05 and 08 show them."
    )
    return "\n\n".join([begun, *(f"## {title}\n\n{table}" for title, table in parts.items())]) + "\n"


if __name__ == "__main__":
    if "--pictures" in sys.argv:
        samples.draw_story()
        samples.draw_review()
    README.write_text(filled(README.read_text(encoding="utf-8")), encoding="utf-8")
    EVERY.write_text(everything(), encoding="utf-8")
