"""The folder of a shop's pictures: each file is found by how a table names it or by the product's id.

Files are only ever taken from a list that is made once, so no name leads out of the folder. In this order:

1. The path as it stands.
2. The path with `\\` for `/`, `%20` for a space, another Unicode form, `./`, a drive or a slash before it.
3. The same in another case.
4. Without an ending: with a picture's, `.jpg` first.
5. In the folder of the product, `A6/1.jpg` of the product `A6`.
6. The end of the path: `images/A6/1.jpg` is `A6/1.jpg`, and `A6/1.jpg` is `export/A6/1.jpg`, if it is the only one.
7. The base name: at the top; if no folder is named, or that of another machine (an address, an absolute path), in
   any sub-folder but another product's, if one file has it. A file is found in this way for the names of one folder
   only, so `A6/1.jpg` and `A7/1.jpg` don't both become `1.jpg`.
8. The same without what follows `?` or `#`, and of an address without a size such as `_1024x1024`.

Of products for which nothing that is named is found, those that are called like the id: see [`PictureFolder.of_id`].
A name that fits several files is none's.
"""

import os
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import numpy as np

from training.catalogue.picture_names import (
    ABSOLUTE,
    ENDINGS,
    has_ending,
    inner_path,
    is_fetched,
    is_url,
    plain,
    split_names,
    without_ending,
    written_forms,
)

MAX_PICTURES = 16  # of a product
MISSING = "picture file is missing"
AMBIGUOUS = "picture name fits several files"
CLAIMED = "picture file is that of a like name in another folder"
OUTSIDE = "picture outside the images folder is refused"
NO_FOLDER = "picture is named but --images isn't given"
NOT_FETCHED = "picture is a URL, which isn't fetched"
UNUSED = "picture in the folder that no product uses"
EXAMPLES = 20
MOST_ALIKE = 256  # files of one base name, or of one product, that are looked at
NUMBER = re.compile(r"(?:[_-]\d{1,3}| ?\(\d{1,3}\))$")


def key_of(path: str) -> str:
    """What paths have in common that differ in case or in how they are written."""
    return plain(path).lower()


class Keys:
    """Files by a text; 12 bytes a file, for only hashes are kept, so what is found has to be compared again.

    Args:
        keys (`Iterable[tuple[int, str]]`): numbers of files, and their texts.
    """

    def __init__(self, keys: Iterable[tuple[int, str]]):
        pairs = np.fromiter(((hash(key), number) for number, key in keys), dtype=[("hash", "i8"), ("number", "i4")])
        order = np.argsort(pairs["hash"], kind="stable")
        self.hashes, self.numbers = pairs["hash"][order], pairs["number"][order]

    def of(self, key: str) -> list[int]:
        """The numbers of at most 256 files that may have this text, in the files' order."""
        wanted = np.int64(hash(key))
        start = int(np.searchsorted(self.hashes, wanted))
        found = self.numbers[start : start + MOST_ALIKE]
        return found[self.hashes[start : start + MOST_ALIKE] == wanted].tolist()


class PictureFolder:
    """A folder of pictures with its sub-folders, read once.

    Hidden files and folders are left out. Symbolic links that lead outside are ignored and counted; those to folders
    inside are followed, but not further links below them.

    Args:
        folder (`str` or `Path`, *optional*): the folder; without it there are no files.
        ids (`Iterable[str]`, *optional*): the ids of all products. With them `A6_1.jpg` is the picture of a product
            `A6_1`, and only without such a product the first of `A6`.
        most (`int`, *optional*, defaults to 16): pictures of a product.

    Attributes:
        paths (`list[str]`): the files from the folder, those at the top first.
        skipped (`dict[str, tuple[int, list[str]]]`): what was left out while reading: kind, count and examples.
    """

    def __init__(self, folder: str | os.PathLike | None, ids: Iterable[str] = (), most: int = MAX_PICTURES):
        self.most = most
        self.folder = None if folder is None else Path(os.path.realpath(folder))
        self.skipped: dict[str, tuple[int, list[str]]] = {}
        self._targets: dict[str, str] = {}  # of files that a link leads to, the files themselves
        self._outside: set[str] = set()
        self.paths = [] if self.folder is None else sorted(self._scan("", links=True))
        self.paths.sort(key=lambda path: path.count("/"))
        self._used, self._claims = bytearray(len(self.paths)), dict[int, str]()
        self._exact = {plain(item) for item in ids}
        self._folded = {item.lower() for item in self._exact}
        stems = [without_ending(key_of(path)) for path in self.paths]
        pictures = [number for number, path in enumerate(self.paths) if has_ending(path)]
        numbered = (
            (number, NUMBER.sub("", _base(stems[number]))) for number in pictures if NUMBER.search(stems[number])
        )
        self._by_path = Keys(enumerate(stems))
        self._by_end = Keys((number, end) for number, stem in enumerate(stems) for end in _ends(stem))
        self._by_name = Keys((number, _base(stem)) for number, stem in enumerate(stems))
        self._by_number = Keys(numbered)
        self._by_parent = Keys((n, _base(stems[n].rpartition("/")[0])) for n in pictures if "/" in stems[n])

    def _scan(self, inside: str, links: bool, real: str | None = None) -> Iterator[str]:
        """The paths of the files below a folder; `real` is where it is if a link leads there."""
        try:
            with os.scandir(self.folder / inside) as found:
                entries = list(found)
        except OSError:
            return self._skip("folder of pictures can't be read (ignored)", inside)
        for entry in (entry for entry in entries if not entry.name.startswith(".")):
            path, is_link = f"{inside}/{entry.name}".lstrip("/"), entry.is_symlink()
            target = None if real is None else f"{real}/{entry.name}".lstrip("/")
            if is_link and (target := self._inside(path)) is None:
                self._outside.add(without_ending(key_of(path)))
                self._skip("link that leads out of the folder of pictures (ignored)", path)
            elif os.path.isdir(entry.path) if is_link else entry.is_dir():
                if is_link and not links:
                    self._skip("link to a folder below another link (ignored)", path)
                else:
                    yield from self._scan(path, links and not is_link, target)
            elif os.path.isfile(entry.path) if is_link else entry.is_file():
                if target is not None:
                    self._targets[path] = target
                yield path
            else:
                self._skip("no file, or a link to none, in the folder of pictures (ignored)", path)

    def _inside(self, path: str) -> str | None:
        """Where a link leads to, from the folder; `None` if that is outside."""
        target = Path(os.path.realpath(self.folder / path))
        inside = target.relative_to(self.folder).as_posix() if target.is_relative_to(self.folder) else None
        return "" if inside == "." else inside

    def _skip(self, kind: str, path: str) -> None:
        count, examples = self.skipped.get(kind, (0, []))
        self.skipped[kind] = count + 1, [*examples, printable(path)][:EXAMPLES]

    def split_names(self, cell: str) -> list[str]:
        """The pictures that a cell names; see [`~training.catalogue.picture_names.split_names`]."""
        return split_names(cell, self._is_file)

    def _is_file(self, name: str) -> bool:
        """Whether a text is certainly a file's name: its path, or its base name where there is no folder in it."""
        if is_url(name) or not (path := inner_path(name)):
            return False
        return bool(self._at_path(path, name) or ("/" not in path and self._named(path, name, alien=False)))

    def find(self, name: str, item: str = "") -> Path | None:
        """The file that a table names, by the rules of this module; `None` if there is none, or more than one.

        Args:
            name (`str`): one name, of a cell that was split.
            item (`str`, *optional*): the product's id.
        """
        numbers, _ = self._look(name, item)
        return self._take(numbers)[0] if len(numbers) == 1 else None

    def why_not(self, name: str, item: str = "") -> tuple[str, str]:
        """Of a name that isn't found, the kind of problem and an example, the files that it fits with it."""
        numbers, folders = self._look(name, item)
        if folders:
            return CLAIMED, f"{name} (taken for that in {folders[0] or 'no folder'})"
        if numbers:
            return AMBIGUOUS, printable(f"{name} ({' and '.join(self.paths[number] for number in numbers[:2])})")
        if is_url(name):
            return NOT_FETCHED, name
        if self.folder is None:
            return NO_FOLDER, name
        path = inner_path(name)
        stem = "" if path is None else without_ending(path.lower())
        linked = any(stem == link or stem.startswith(f"{link}/") for link in self._outside)
        return OUTSIDE if path is None or linked or ABSOLUTE.match(name) else MISSING, name

    def _look(self, name: str, item: str) -> tuple[list[int], list[str]]:
        """The files that a name fits by the first rule that finds any; or, if a name with another folder took that
        file by its base name, none and the two folders."""
        alien = is_url(name) or bool(ABSOLUTE.match(name))
        for form in written_forms(name):
            if not (path := inner_path(form)):
                continue
            if numbers := self._at_path(path, form) or self._in_own(path, item) or self._at_end(path):
                return numbers, []
            if numbers := self._named(path, form, alien, item):
                folder = path.rpartition("/")[0].lower()
                folder = folder.partition("/")[2] if is_url(name) else folder  # whatever the host
                claimed = self._claims.setdefault(numbers[0], folder) if len(numbers) == 1 else folder
                return (numbers, []) if claimed == folder else ([], [claimed, folder])
        return [], []

    def _at_path(self, path: str, written: str) -> list[int]:
        """Files at a path."""
        return self._fitting(self._by_path.of(without_ending(path.lower())), path, written, plain)

    def _in_own(self, path: str, item: str) -> list[int]:
        """Files at a path from a product's own folder."""
        path = f"{plain(item)}/{path}"
        return (self._at_path(path, path) or self._at_end(path)) if item else []

    def _at_end(self, path: str) -> list[int]:
        """Files whose path ends in this one, or that this one ends in, with a folder at least."""
        if "/" not in path:
            return []
        stem, depth = without_ending(path.lower()), path.count("/") + 1
        found = self._fitting(
            self._by_end.of(stem), path, path, lambda file: "/".join(plain(file).split("/")[-depth:])
        )
        shorter = (self._at_path(end, end) for end in _ends(path))
        return found or next(filter(None, shorter), [])

    def _named(self, path: str, written: str, alien: bool, item: str = "") -> list[int]:
        """Files of a base name: at the top, else in any folder if the path has none or is of another machine."""
        base, alike = _base(path), self._by_name.of(_base(without_ending(path.lower())))
        top = [number for number in alike if "/" not in self.paths[number]]
        top = self._fitting(top, base, _base(written), plain)
        if top or ("/" in path and not alien):
            return top
        if len(alike) == MOST_ALIKE:  # there are more
            return alike
        others = [number for number in alike if not self._is_other(self._parent(number), item)]
        return self._fitting(others, base, _base(written), lambda file: _base(plain(file)))

    def _fitting(self, numbers: list[int], name: str, written: str, part) -> list[int]:
        """Of files those that have a name in the first way of: as it stands, written otherwise, in another case, with
        the first ending that there is. `part` takes from a path what is compared."""
        names = {number: part(self.paths[number]) for number in numbers}
        ways = [
            [number for number in numbers if self.paths[number] == written],
            [number for number in numbers if names[number] == name],
            [number for number in numbers if names[number].lower() == name.lower()],
        ]
        if not has_ending(name):
            ways += [[n for n in numbers if names[n].lower() == name.lower() + ending] for ending in ENDINGS]
        return self._apart(next(filter(None, ways), []))

    def _apart(self, numbers: list[int]) -> list[int]:
        """Files without those that are others by a link."""
        return list({self._real(number): number for number in reversed(numbers)}.values())[::-1]

    def _real(self, number: int) -> str:
        return self._targets.get(self.paths[number], self.paths[number])

    def _take(self, numbers: list[int]) -> list[Path]:
        for number in numbers:
            self._used[number] = True
        return [self.folder / self.paths[number] for number in numbers]

    def of_id(self, item: str) -> list[Path]:
        """The pictures that are called like a product's id, in the order that people number them.

        `A6.jpg`, then `A6_1.jpg`, `A6-2.jpg`, `A6 (3).jpg` (numbers of up to three digits), then all of the folder
        `A6`; in any case and with each picture's ending, but not `A60.jpg` or `A6_front.jpg`. What is called like a
        longer id, or lies in another id's folder, is that product's. They lie at the top, or together in one
        sub-folder. An id with `/` names a sub-folder, or a file with `%2F`.
        """
        return self._take(self._of_id(item)[0])

    def _of_id(self, item: str) -> tuple[list[int], list[str]]:
        """The files that are called like an id, and the sub-folders that they are in if these are several."""
        wanted, places = key_of(item), defaultdict[str, list[int]](list)
        parts = (
            (self._by_name, lambda stem: stem),
            (self._by_number, lambda stem: NUMBER.sub("", stem)),
            (self._by_parent, lambda stem: stem.rpartition("/")[0]),
        )
        for keys, part in parts if _base(wanted) else ():
            found = []
            for number in keys.of(_base(wanted)):
                stem = part(without_ending(key_of(self.paths[number])))
                is_id = stem == wanted or stem.endswith(f"/{wanted}")
                if is_id and has_ending(self.paths[number]) and not self._is_others(number, item):
                    found.append((number, stem[: -len(wanted)]))
            for number, place in sorted(found, key=lambda pair: natural(self.paths[pair[0]])):
                places[place].append(number)
        if "" not in places and len(places) > 1:
            return [], sorted(places)
        return self._apart(list(dict.fromkeys(places[""] or next(iter(places.values()))))), []

    def _is_others(self, number: int, item: str) -> bool:
        """Whether a file is called like another product's id, with or without a number, or is in its folder."""
        path, own = without_ending(plain(self.paths[number])), key_of(item)
        parent, stem = self._parent(number), _base(path)
        names = [path] if "/" in path else []
        if parent.lower() != _base(own) or stem.lower().startswith(parent.lower()):  # in its own folder a longer id's
            names.append(stem)
        names += [NUMBER.sub("", name) for name in names if name.lower() not in (own, _base(own))]
        return any(self._is_other(name, item) for name in names) or ("/" not in own and self._is_other(parent, item))

    def _parent(self, number: int) -> str:
        """The name of the folder that a file is in; `""` at the top."""
        return _base(plain(self.paths[number]).rpartition("/")[0])

    def _is_other(self, text: str, item: str) -> bool:
        """Whether a text is another product's id; ids that differ in case alone are told apart."""
        own, folded = plain(item), text.lower()
        if text in (own, _base(own)):
            return False
        return text in self._exact or (folded in self._folded and folded not in (own.lower(), _base(own).lower()))

    def of_product(
        self, item: str, cell: str, fetched: Mapping[str, Path] | None = None, failed: Mapping[str, str] | None = None
    ) -> tuple[list[Path], list[tuple[str, str]]]:
        """A product's pictures, at most `most`: those that its row names; if none is there, those called like its id.

        Args:
            item (`str`): its id.
            cell (`str`): what its row has for pictures.
            fetched (`Mapping[str, Path]`, *optional*): files of addresses, see [`download`]; a file in the folder goes
                before.
            failed (`Mapping[str, str]`, *optional*): why addresses weren't fetched.

        Returns:
            `(list[Path], list[tuple[str, str]])`: the files, and what was wrong, as kind and example.
        """
        fetched, failed, found, problems = fetched or {}, failed or {}, dict[Path, None](), []
        for name in self.split_names(cell):
            if path := self.find(name, item) or fetched.get(name):
                found[path] = None
            elif name in failed:
                problems.append((f"picture can't be fetched: {failed[name]}", name))
            else:
                problems.append(self.why_not(name, item))
        if not found:
            numbers, places = self._of_id(item)
            found = dict.fromkeys(self._take(numbers))
            if places:
                fits = " and ".join(place + item for place in places[:2])
                problems.append(("pictures called like the id are in several folders", printable(fits)))
        if len(found) > self.most:
            problems.append((f"more than {self.most} pictures, the first are kept", f"{item}: {len(found)}"))
        return list(found)[: self.most], problems

    def missing_urls(self, cell: str, item: str = "") -> list[str]:
        """The addresses in a product's cell that have no file in the folder, for [`download`]."""
        return [name for name in self.split_names(cell) if is_fetched(name) and self.find(name, item) is None]

    def unused(self) -> tuple[int, list[str]]:
        """How many pictures in the folder nothing has found so far, and the first of them; links don't count."""
        used = {self._real(number) for number, is_used in enumerate(self._used) if is_used} if self._targets else set()
        count, examples = 0, []
        for path, is_used in zip(self.paths, self._used, strict=True):
            if not is_used and has_ending(path) and path not in self._targets and path not in used:
                count += 1
                if len(examples) < EXAMPLES:
                    examples.append(printable(path))
        return count, examples

    def leftovers(self) -> dict[str, tuple[int, list[str]]]:
        """What the folder has that no product got, for the report: the kind of it, how many, and examples."""
        others = Counter(os.path.splitext(path)[1].lower() for path in self.paths if not has_ending(path))
        found = dict(self.skipped)
        if unused := self.unused()[0]:
            found[UNUSED] = unused, self.unused()[1]
        if others:
            endings = [f"{count:,} x {printable(ending) or 'no ending'}" for ending, count in others.most_common()]
            found["file in the folder whose ending is no picture's"] = others.total(), endings[:EXAMPLES]
        return found


def natural(path: str) -> list:
    """A key by which `A6-2` comes between `A6_1` and `A6 (10)`, and `A6.jpg` before `A6.gif`."""
    even = re.sub(r"[\s_()-]+", " ", without_ending(path.lower()))
    parts = [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", even)]
    return [*parts, next((rank for rank, ending in enumerate(ENDINGS) if path.lower().endswith(ending)), len(ENDINGS))]


def printable(text: str) -> str:
    """A file's name as text that can be written, also if it is no UTF-8."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def _base(path: str) -> str:
    return path.rpartition("/")[2]


def _ends(path: str) -> Iterator[str]:
    """The ends of a path that still have a folder, the longest first."""
    parts = path.split("/")
    return ("/".join(parts[start:]) for start in range(1, len(parts) - 1))
