"""The output folder of `decide`: tried before the work, filled whole or not at all."""

import contextlib
import itertools
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from jaxquant.decide.interrupts import held_back

FOLDER = "jaxquant-decide"
UNFINISHED = ".unfinished"  # within the output folder, so on its disk; who makes it has claimed the folder


def output_folder(out: Path | None) -> Path:
    """The folder asked for, or the next free default one.

    Raises:
      ValueError: the folder asked for exists and is not empty.
      OSError: it cannot be written, which is tried; nothing is left of the trial.
    """
    if out is None:
        out = next(path for path in _numbered(Path(FOLDER)) if not path.exists())
    elif out.exists() and (not out.is_dir() or any(out.iterdir())):
        _refuse_unfinished(out)
        raise ValueError(f"decide: output {out} exists, need a new or empty folder; nothing was written")
    _try_to_write(out)
    return out


def _refuse_unfinished(out: Path) -> None:
    """A hidden folder that holds nothing of the user's is named: `ls` shows none, and the output looks empty."""
    if out.is_dir() and os.listdir(out) == [UNFINISHED]:
        raise ValueError(
            f"decide: output {out} holds {UNFINISHED} alone, which a run that was killed left there, need it deleted "
            "(unless another run is writing just now) or another folder; nothing was written"
        )


@contextlib.contextmanager
def filled_whole(folder: Path) -> Iterator[Path]:
    """A place for files; when the block ends well they are moved, all of them, into the folder that it lies in.

    After any exception, KeyboardInterrupt included, everything that was made here is gone.

    Args:
      folder: new or empty; where another run has filled it in the meantime, the next free one is taken.
    """
    made: list[Path] = []
    try:
        with held_back():
            place = next(filter(None, (_claim(path, made) for path in _numbered(folder))))
        yield place
        with held_back():
            for path in list(place.iterdir()):
                made.append(path.rename(place.parent / path.name))
            place.rmdir()
            made.clear()
    finally:
        with held_back():
            for path in reversed(made):
                _remove(path)


def _claim(folder: Path, made: list[Path]) -> Path | None:
    """The place for files in the folder; None where another run was first."""
    made[:] = reversed(_missing(folder))
    place = folder / UNFINISHED
    try:
        folder.mkdir(parents=True, exist_ok=True)
        place.mkdir()
    except FileExistsError:
        return None
    made.append(place)
    if len(os.listdir(folder)) == 1:
        return place
    place.rmdir()
    return None


def _remove(path: Path) -> None:
    """Away with it; a folder that others have filled stays."""
    with contextlib.suppress(OSError):
        if path.name == UNFINISHED:
            shutil.rmtree(path)
        elif path.is_dir():
            path.rmdir()
        else:
            path.unlink()


def _try_to_write(folder: Path) -> None:
    """Makes the folder and a file in it, and takes both away: minutes of work depend on it."""
    missing = _missing(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=folder):
            pass
    except OSError as error:
        why = error.strerror or str(error)
        text = f"decide: output {folder} cannot be written ({why}), need another folder; nothing was computed"
        raise OSError(text) from error
    finally:
        for path in missing:
            _remove(path)


def _missing(folder: Path) -> list[Path]:
    """What has to be made for the folder, itself first."""
    return [path for path in (folder, *folder.parents) if not os.path.lexists(path)]


def _numbered(folder: Path) -> Iterator[Path]:
    """The folder, then its name with -2, -3, ..."""
    yield folder
    named = folder if folder.name.strip(".") else folder.resolve()  # "." and ".." are no names
    yield from (named.with_name(f"{named.name}-{k}") for k in itertools.count(2))
