"""Files that visitors send: each a file of its own, in a folder of this process alone, and deleted in time."""

import os
import re
import secrets
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Event, Thread

from gradio import route_utils

KEPT_SECONDS = 3600
TIDIED_SECONDS = 600
FOLDER = "mmfusion-visitors-"
SENT = re.compile(r"[0-9a-f]{64}")  # gradio's name of the folder of one file


class SentFile(route_utils.GradioUploadFile):
    """A file while gradio receives it. Gradio names its folder by the content, so that equal files of two visitors
    would be one, which the first who is done deletes; here the name is random."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.sha.update(secrets.token_bytes(32))


route_utils.GradioUploadFile = SentFile


def delete_file(path: str) -> None:
    """Deletes a file that a visitor sent, and the folder that gradio made for it alone."""
    file = Path(path)
    file.unlink(missing_ok=True)
    if SENT.fullmatch(file.parent.name):
        with suppress(OSError):  # it has other files
            file.parent.rmdir()


def delete_old(folder: Path, seconds: float = KEPT_SECONDS) -> None:
    """Deletes what is older than some seconds in a folder, and folders that are empty as long.

    Those are files of visitors who sent them and never asked anything, or left while they did.
    """
    oldest = time.time() - seconds
    for path in sorted(folder.rglob("*"), reverse=True):
        with suppress(OSError):  # gone meanwhile, or a folder that isn't empty
            if path.lstat().st_mtime < oldest:
                path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink()


@contextmanager
def folder_for_files() -> Iterator[Path]:
    """A folder of this process alone, where gradio puts what visitors send, and not in one that its apps share.

    Old files in it are deleted every ten minutes, and those of processes that were killed; the folder at the end.
    """
    above = os.environ.get("GRADIO_TEMP_DIR") or tempfile.gettempdir()
    Path(above).mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=FOLDER, dir=above, ignore_cleanup_errors=True) as name:
        stop = Event()

        def tidy() -> None:
            while not stop.wait(TIDIED_SECONDS):
                for folder in Path(above).glob(f"{FOLDER}*"):
                    delete_old(folder)

        Thread(target=tidy, daemon=True).start()
        os.environ["GRADIO_TEMP_DIR"] = name
        try:
            yield Path(name)
        finally:
            stop.set()
