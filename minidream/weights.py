"""Where weights lie, and whether they are whole: a SHA-256 manifest per folder, since safetensors has no checksum."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from minidream.errors import UserError

MANIFEST = "manifest.json"


def _digests(folder: Path) -> dict[str, str]:
    files = sorted(file for file in folder.rglob("*") if file.is_file() and file.name != MANIFEST)
    return {file.relative_to(folder).as_posix(): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


def save_manifest(folder: Path) -> None:
    """Write `manifest.json`: the SHA-256 of every file below `folder`."""
    (folder / MANIFEST).write_text(json.dumps(_digests(folder), indent=2) + "\n")


def fingerprint(folder: Path) -> str:
    """One SHA-256 of all files below `folder`."""
    return hashlib.sha256(json.dumps(_digests(folder)).encode()).hexdigest()


@contextmanager
def staged(folder: Path) -> Iterator[Path]:
    """Yield a folder beside `folder`, whose files take their places in it only when all have been written: an error, a
    full disk or Ctrl-C before that leaves everything as it was. A manifest of what lay there before is removed."""
    folder = folder.resolve()
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}.writing")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    try:
        yield temporary
        written = sorted(file for file in temporary.rglob("*") if file.is_file())
        (folder / MANIFEST).unlink(missing_ok=True)
        for file in written:
            place = folder / file.relative_to(temporary)
            place.parent.mkdir(exist_ok=True, parents=True)
            os.replace(file, place)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def verify_manifest(folder: Path) -> None:
    """Raise `UserError` naming the first file that is missing or altered. A folder without a manifest (a checkpoint
    from elsewhere) passes: there is nothing to compare with."""
    if not (folder / MANIFEST).is_file():
        return
    mend = f"restore it with `git checkout -- {folder}` or train again"
    try:
        listed = json.loads((folder / MANIFEST).read_text())
        items = [(str(name), str(digest)) for name, digest in listed.items()]
    except (ValueError, AttributeError):
        raise UserError(f"{folder / MANIFEST} is damaged: {mend}") from None
    found = _digests(folder)
    for name, digest in items:
        if name not in found:
            raise UserError(f"{folder / name} is missing: {mend}")
        if found[name] != digest:
            raise UserError(f"{folder / name} is damaged (its SHA-256 differs): {mend}")


def find_weights(part: str = "minidream") -> Path:
    """The folder of a shipped part (`clip`, `stable-diffusion`, `llm`, `align`, `minidream`), verified.

    Looks in the folder named by the environment variable MINIDREAM_WEIGHTS, else in the checkout's `data/weights`.
    Raises `UserError` if it is not there or damaged.
    """
    root = Path(os.environ.get("MINIDREAM_WEIGHTS") or Path(__file__).parent.parent / "data" / "weights")
    folder = root / part
    if not folder.is_dir():
        raise UserError(
            f"no weights at {folder}: set MINIDREAM_WEIGHTS to a folder that has {part}/, or run `minidream train all`"
        )
    verify_manifest(folder)
    return folder
