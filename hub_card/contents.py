"""What a repository's folder may hold: no pickles, secrets, paths of a machine or links, and no more than a size."""

import mmap
import re
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

from hub_card.figures import CardError
from modeling_mmfusion.checksums import MARK

Buffer = bytes | mmap.mmap
PICKLE_SUFFIXES = (".pkl", ".pickle", ".pt", ".pth", ".ckpt", ".joblib", ".npy", ".npz")
SECRET_NAMES = re.compile(
    r"^(\.env.*|\.netrc|\.git-credentials|id_(rsa|ed25519|ecdsa)|.*\.(pem|key|p12)|token|stored_tokens)$"
)
# Kinds of secrets: how they begin, which is quick to find, and what they look like.
SECRETS = {
    "a token of the Hub": (b"hf_", rb"hf_[A-Za-z0-9]{30,}\b"),
    "a token of GitHub": (b"gh", rb"gh[pousr]_[A-Za-z0-9]{36,}\b"),
    "a fine-grained token of GitHub": (b"github_pat_", rb"github_pat_\w{40,}"),
    "a key of AWS": (b"AKIA", rb"AKIA[0-9A-Z]{16}\b"),
    "a key of an API": (b"sk-", rb"sk-(?:proj-|ant-)?[A-Za-z0-9_-]{32,}\b"),
    "a token of Slack": (b"xox", rb"xox[abprs]-[A-Za-z0-9-]{20,}\b"),
    "a private key": (b"-----BEGIN ", rb"-----BEGIN [A-Z ]*PRIVATE KEY-----"),
    "a password in an address": (b"://", rb"://[^\s/:@\"'<>]{1,80}:[^\s/@\"'<>]{1,80}@[\w.-]+"),
}
ROOTS = "home root Users tmp work workspace mnt media data srv opt usr var private scratch content".split()
ABSOLUTE = re.compile(
    rf"(?<![\w.:/~>)\]-])(?:/(?:{'|'.join(ROOTS)})(?:/[\w.+@-]+)+/?|[A-Za-z]:\\\\?[\w.-]+(?:\\\\?[\w.-]+)+)"
)
ABSOLUTE_BYTES = re.compile(rb"(?:/[\w.+@-]{3,60}){3,12}")
IGNORED = (".git", ".cache", "__pycache__", MARK)
SNIFFED = 8192


@dataclass
class Contents:
    """The files of a folder.

    Attributes:
        folder (`Path`): the folder.
        files (`list[str]`): their paths below it, sorted, with `/`.
        sizes (`dict[str, int]`): bytes of each.
    """

    folder: Path
    files: list[str]
    sizes: dict[str, int]

    @property
    def size(self) -> int:
        """Bytes of all."""
        return sum(self.sizes.values())

    def listing(self) -> str:
        """A line a file with its size, then the sum."""
        lines = [f"{self.sizes[name] / 1e6:10.2f} MB  {name}" for name in self.files]
        return "\n".join([*lines, f"{self.size / 1e6:10.2f} MB  {len(self.files)} files"])


def default_folder(what: str, repo_id: str) -> Path:
    """Where a repository is built: `runs/hub/`, its kind, and its name without the owner's."""
    return Path("runs/hub", what, repo_id.split("/")[-1])


def read_contents(folder: Path, max_mb: float) -> Contents:
    """Lists a folder and refuses what may not be published.

    Args:
        folder (`Path`): a folder that hub_card.build wrote.
        max_mb (`float`): the most megabytes that all files together may have.

    Raises:
        CardError: naming the file, and what is wrong with it.
    """
    if not (folder / "README.md").is_file():
        raise CardError(f"{folder}: no README.md there; build it first: python -m hub_card.build --output {folder}")
    paths = sorted(path for path in folder.rglob("*") if not set(path.relative_to(folder).parts) & set(IGNORED))
    for path in paths:
        if path.is_symlink():
            raise CardError(f"{path}: is a link; put the file itself there")
    paths = [path for path in paths if path.is_file()]
    for path in paths:
        check_content(path)
    names = [path.relative_to(folder).as_posix() for path in paths]
    found = Contents(folder, names, {name: path.stat().st_size for name, path in zip(names, paths, strict=True)})
    if found.size > max_mb * 1e6:
        largest = max(found.files, key=found.sizes.get)
        raise CardError(
            f"{folder}: {found.size / 1e6:,.0f} MB are more than --max-mb {max_mb:,.0f}; the largest is {largest} "
            f"({found.sizes[largest] / 1e6:,.0f} MB)"
        )
    return found


def check_content(path: Path) -> None:
    """Refuses a pickle, a secret and a path of this machine.

    Raises:
        CardError: naming the file and, never the secret itself, what was found.
    """
    if path.suffix in PICKLE_SUFFIXES or is_pickle(path):
        raise CardError(f"{path}: is a pickle or may hold one, which runs code when it is loaded; save as safetensors")
    if SECRET_NAMES.match(path.name):
        raise CardError(f"{path}: files of this name hold secrets; remove it")
    if path.stat().st_size == 0:
        return
    with path.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as content:
        for kind, (start, form) in SECRETS.items():
            if found := first_match(content, start, re.compile(form)):
                line = line_of(content, found.start())
                raise CardError(f"{path} line {line}: holds {kind}; remove it and revoke it")
        if found := machine_path(content):
            place, name = found
            raise CardError(f"{path} line {line_of(content, place)}: names a path of this machine, {name}; remove it")


def first_match(content: Buffer, start: bytes, form: re.Pattern[bytes]) -> re.Match[bytes] | None:
    """The first match of a pattern that begins with `start`, not in the middle of a word."""
    place = content.find(start)
    while place >= 0:
        inside = content[max(0, place - 1) : place].isalnum() and start[:1].isalnum()
        if not inside and (found := form.match(content, place)):
            return found
        place = content.find(start, place + 1)
    return None


def machine_path(content: Buffer) -> tuple[int, str] | None:
    """The first absolute path in a file and its place: of this machine's own folders, or what looks like one.

    In files that are no text a path must be longer to be taken for one.
    """
    own = [Path.home(), Path.cwd(), Path(tempfile.gettempdir())]
    for name in (str(folder) for folder in own if len(folder.parts) > 1):
        if (place := content.find(f"{name}/".encode())) >= 0:
            return place, name
    if is_text_file(content):
        text = content[:].decode("utf-8", errors="replace")
        found = ABSOLUTE.search(text)
        return (len(text[: found.start()].encode()), found.group()) if found else None
    for root in ROOTS:
        if found := first_match(content, f"/{root}/".encode(), ABSOLUTE_BYTES):
            return found.start(), found.group().decode()
    return None


def is_text_file(content: Buffer) -> bool:
    """True if the start of a file is UTF-8 without a zero byte."""
    start = content[:SNIFFED]
    try:
        start.decode("utf-8")
    except UnicodeDecodeError as error:
        if error.start < len(start) - 4:  # else a character was cut
            return False
    return b"\0" not in start


def without_paths(text: str) -> str:
    """A text with the last part in place of each absolute path."""
    return ABSOLUTE.sub(lambda found: re.split(r"[/\\]", found.group().rstrip("/\\"))[-1], text)


def is_pickle(path: Path) -> bool:
    """True for a pickle of protocol 2 to 5, and for an archive that has one, as `torch.save` writes."""
    with path.open("rb") as stream:
        start = stream.read(2)
        stream.seek(max(0, path.stat().st_size - 1))
        end = stream.read(1)
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            return any(name.endswith(".pkl") for name in archive.namelist())
    return len(start) == 2 and start[0] == 0x80 and 2 <= start[1] <= 5 and end == b"."


def line_of(content: Buffer, place: int) -> int:
    """The line of a place in a file, counted from 1."""
    return content[:place].count(b"\n") + 1
