"""Names of pictures as shops' tables write them: lists of them, paths of other systems, addresses."""

import ast
import json
import re
import unicodedata
from collections.abc import Callable
from urllib.parse import unquote

# Of each format that `load_picture` reads. Of a name without an ending the first that is there is taken.
ENDINGS = (
    *(".jpg", ".jpeg", ".png", ".webp", ".avif", ".gif", ".bmp", ".tif", ".tiff"),
    *(".jpe", ".jfif", ".apng", ".avifs"),
)
URL = re.compile(r"(?:[a-z][a-z0-9+.-]*:)?//|data:", re.IGNORECASE)
FETCHED = re.compile(r"(?:https?:)?//", re.IGNORECASE)
NEXT_URL = r"(?=(?:https?:)//)"
ABSOLUTE = re.compile(r"[/\\]|[a-z]:[/\\]", re.IGNORECASE)
# Shopify's `_1024x1024`, `_600x`, `_large`, `_200x200_crop_center@2x`, WordPress's `-300x300`.
SIZE = re.compile(
    r"(?:[_-](?:\d+x\d*|x\d+)|_(?:pico|icon|thumb|small|compact|medium|large|grande|original|master)|(?=@))"
    r"(?:_crop_[a-z]+)?(?:@[23]x)?$"
)
MOST_JOINED = 4


def has_ending(name: str) -> bool:
    """Whether a name ends like a picture's, in any case."""
    return name.lower().endswith(ENDINGS)


def without_ending(name: str) -> str:
    """A name without a picture's ending; other endings, as of `mug.v2`, are part of the name."""
    return name[: name.rindex(".")] if has_ending(name) else name


def is_url(name: str) -> bool:
    """Whether a name is an address: of any scheme, or `//` before the host, or a data URL."""
    return bool(URL.match(name))


def is_fetched(name: str) -> bool:
    """Whether a name is an address that [`download`] takes."""
    return bool(FETCHED.match(name))


def plain(path: str) -> str:
    """A path with `/`, without `%XX`, in Unicode's form NFC, its case kept."""
    return unicodedata.normalize("NFC", unquote(path.replace("\\", "/"))).replace("\\", "/")


def inner_path(path: str) -> str | None:
    """A path, however it is written, from the folder that it is looked for in; `None` if its `..` lead out of it.

    A drive, a slash at the start, `.` and `..` inside are left away.
    """
    parts: list[str] = []
    for part in re.sub(r"^[A-Za-z]:/", "", plain(path)).split("/"):
        if part == ".." and not parts:
            return None
        if part == "..":
            parts.pop()
        elif part not in ("", "."):
            parts.append(part)
    return "/".join(parts)


def written_forms(name: str) -> list[str]:
    """What a file may be called that is named so, best first: as it stands, without query and fragment; for an
    address without its scheme, and at last without the size that a shop system puts into it."""
    if name.lower().startswith("data:"):
        return []
    scheme = URL.match(name)
    path = name[scheme.end() :] if scheme else name
    bare = re.split(r"[?#]", path, maxsplit=1)[0]
    forms = [path, bare]
    if scheme:
        stem = without_ending(bare)
        forms.append(SIZE.sub("", stem) + bare[len(stem) :])
    return list(dict.fromkeys(forms))


def split_names(cell: str, is_file: Callable[[str], bool]) -> list[str]:
    """The pictures that a cell names, each once, in order.

    - A cell that is a file's name is that name, whatever is in it.
    - A list of JSON's or Python's form, `["a.jpg", "b.jpg"]`, is its items.
    - `|`, a new line, and space before `http://` or `https://` always stand between names.
    - `,` and `;` do so after a whole name and before another one: a file in the folder, a name with a picture's ending
      or an address. So `mug, red.jpg` is one name, and so is `https://cdn.example/w_300,h_200/mug.jpg`.

    Args:
        cell (`str`): the cell.
        is_file (`Callable`): tells whether a text is the name of a file in the folder.
    """
    cell = _unquoted(cell)
    if not cell or is_file(cell):
        return [cell] if cell else []
    if (items := _listed(cell)) is not None:
        names = [_unquoted(item) for item in items]
    else:
        parts = re.split(rf"[|\r\n]+|\s+{NEXT_URL}", cell)
        names = [name for part in parts for name in _split_part(_unquoted(part), is_file)]
    return list(dict.fromkeys(filter(None, names)))


def _unquoted(name: str) -> str:
    """A name without the space, the separators and the pair of quotes around it."""
    name = name.strip().strip(",;").strip()
    is_quoted = len(name) > 1 and name[0] == name[-1] and name[0] in "\"'" and name[0] not in name[1:-1]
    return name[1:-1].strip() if is_quoted else name


def _listed(cell: str) -> list[str] | None:
    """The items of a list that is written as JSON or as Python does; `None` if a cell is none of texts."""
    if not (cell.startswith("[") and cell.endswith("]")):
        return None
    for read in (json.loads, ast.literal_eval):
        try:
            items = read(cell)
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            continue
        if isinstance(items, list) and all(isinstance(item, str) for item in items):
            return items
    return None


def _split_part(part: str, is_file: Callable[[str], bool]) -> list[str]:
    """The names of a part that may have `,` or `;` between them."""
    pieces = re.split(r"([,;])", part)  # names at even places
    names, start = [], 0
    while start < len(pieces):
        end = _end_of_name(pieces, start, is_file)
        names.append(_unquoted("".join(pieces[start:end])))
        start = end + 1
    return names


def _end_of_name(pieces: list[str], start: int, is_file: Callable[[str], bool]) -> int:
    """Where the name ends that starts at a place: behind the longest run of pieces that is a file's name, else behind
    the first that is a whole name with another one after it."""
    ends = range(start + 1, len(pieces) + 1, 2)
    for end in reversed(ends[:MOST_JOINED]):
        if is_file(_unquoted("".join(pieces[start:end]))):
            return end
    for end in ends[:-1]:
        name = _unquoted("".join(pieces[start:end]))
        if FETCHED.match(pieces[end + 1].strip()) or (_is_whole(name) and _starts_name(pieces, end + 1, is_file)):
            return end
    return len(pieces)


def _is_whole(name: str) -> bool:
    return has_ending(re.split(r"[?#]", name, maxsplit=1)[0])


def _starts_name(pieces: list[str], start: int, is_file: Callable[[str], bool]) -> bool:
    """Whether a name starts at a place, or there is nothing but the end."""
    piece, ends = _unquoted(pieces[start]), range(start + 1, len(pieces) + 1, 2)
    return (
        not piece
        or _is_whole(piece)
        or any(is_file(_unquoted("".join(pieces[start:end]))) for end in ends[:MOST_JOINED])
    )
