"""What a repository's folder may hold: no pickles, secrets, paths of a machine or links, and no more than a size."""

import re
import tempfile
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from hub_card.figures import CardError

PICKLE_SUFFIXES = (".pkl", ".pickle", ".pt", ".pth", ".ckpt", ".joblib", ".npy", ".npz")
SECRET_NAMES = re.compile(
    r"^(\.env.*|\.netrc|\.git-credentials|id_(rsa|ed25519|ecdsa)|.*\.(pem|key|p12)|token|stored_tokens)$"
)
SECRETS = {
    "a token of the Hub": rb"\bhf_[A-Za-z0-9]{30,}\b",
    "a token of GitHub": rb"\b(?:gh[pousr]_[A-Za-z0-9]{36,}|github_pat_\w{40,})\b",
    "a key of AWS": rb"\bAKIA[0-9A-Z]{16}\b",
    "a key of an API": rb"\bsk-(?:proj-|ant-)?[A-Za-z0-9_-]{32,}\b",
    "a token of Slack": rb"\bxox[abprs]-[A-Za-z0-9-]{20,}\b",
    "a private key": rb"-----BEGIN [A-Z ]*PRIVATE KEY-----",
    "a password in an address": rb"\b(?:https?|postgres(?:ql)?|mysql|mongodb|redis)://[^\s/:@\"']+:[^\s/@\"']+@",
}
ROOTS = "home root Users tmp work workspace mnt media data srv opt usr var private scratch content".split()
ABSOLUTE = re.compile(
    rf"(?<![\w.:/~>)\]-])(?:/(?:{'|'.join(ROOTS)})(?:/[\w.+@-]+)+/?|[A-Za-z]:\\\\?[\w.-]+(?:\\\\?[\w.-]+)+)"
)
SECRET = re.compile(b"|".join(b"(?P<s%d>%b)" % item for item in enumerate(SECRETS.values())))
LARGEST_TEXT = (
    20_000_000  # larger files hold tensors or pictures, in which only this machine's own folders are looked for
)
IGNORED = (".git", ".cache", "__pycache__")


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
        check_file(path)
    names = [path.relative_to(folder).as_posix() for path in paths]
    found = Contents(folder, names, {name: path.stat().st_size for name, path in zip(names, paths, strict=True)})
    if found.size > max_mb * 1e6:
        largest = max(found.files, key=found.sizes.get)
        raise CardError(
            f"{folder}: {found.size / 1e6:,.0f} MB are more than --max-mb {max_mb:,.0f}; the largest is {largest} "
            f"({found.sizes[largest] / 1e6:,.0f} MB)"
        )
    return found


def check_file(path: Path) -> None:
    """Refuses a pickle, a secret and a path of this machine.

    Raises:
        CardError: naming the file and, never the secret itself, what was found.
    """
    if path.suffix in PICKLE_SUFFIXES or is_pickle(path):
        raise CardError(f"{path}: is a pickle or may hold one, which runs code when it is loaded; save as safetensors")
    if SECRET_NAMES.match(path.name):
        raise CardError(f"{path}: files of this name hold secrets; remove it")
    content = path.read_bytes()
    if found := SECRET.search(content):
        kind = list(SECRETS)[int(found.lastgroup[1:])]
        raise CardError(f"{path} line {line_of(content, found.start())}: holds {kind}; remove it and revoke it")
    for place, name in machine_paths(content):
        raise CardError(f"{path} line {line_of(content, place)}: names a path of this machine, {name}; remove it")


def machine_paths(content: bytes) -> Iterator[tuple[int, str]]:
    """Absolute paths in a file, each with its place: any in a text, in others those of this machine's own folders."""
    own = {str(folder) for folder in (Path.home(), Path.cwd(), Path(tempfile.gettempdir())) if len(folder.parts) > 1}
    for name in sorted(own, key=len, reverse=True):
        if (place := content.find(f"{name}/".encode())) >= 0:
            yield place, name
    if len(content) <= LARGEST_TEXT:
        try:
            found = ABSOLUTE.search(content.decode("utf-8"))
        except UnicodeDecodeError:
            return
        if found:
            yield len(content.decode("utf-8")[: found.start()].encode()), found.group()


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


def line_of(content: bytes, place: int) -> int:
    """The line of a place in a file, counted from 1."""
    return content.count(b"\n", 0, place) + 1
