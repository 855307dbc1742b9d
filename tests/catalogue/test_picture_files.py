"""`PictureFolder`: pictures are found however a table names them, and never another product's or another folder's."""

import itertools
import os
import unicodedata
from collections import Counter

import pytest
from PIL import Image

from modeling_mmfusion.processing_mmfusion import PICTURE_FORMATS
from training.catalogue import picture_files
from training.catalogue.picture_files import (
    AMBIGUOUS,
    CLAIMED,
    MAX_PICTURES,
    MISSING,
    NOT_FETCHED,
    OUTSIDE,
    UNUSED,
    Keys,
    PictureFolder,
)
from training.catalogue.picture_names import ENDINGS

NFC, NFD = (unicodedata.normalize(form, "crème/café.jpg") for form in ("NFC", "NFD"))


@pytest.fixture
def folder_of(tmp_path):
    """Makes a folder of empty files, for which their names are enough."""

    def make(*names, ids=()):
        root = tmp_path / "images"
        root.mkdir(exist_ok=True)
        for name in names:
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).touch()
        return PictureFolder(root, ids)

    return make


def inside(folder, path):
    return None if path is None else path.relative_to(folder.folder).as_posix()


def by_id(folder, item):
    return [inside(folder, path) for path in folder.of_id(item)]


def test_the_endings_are_those_of_the_formats_that_are_read():
    known = {ending for ending, form in Image.registered_extensions().items() if form in PICTURE_FORMATS}
    assert set(ENDINGS) == known - {".dib"} and len(set(ENDINGS)) == len(ENDINGS)


@pytest.mark.parametrize(
    "name, file",
    [
        ("a.avif", "a.avif"),
        ("a.tif", "a.tif"),
        ("a.bmp", "a.bmp"),
        ("a.Jpg", "a.Jpg"),
        ("a.heic", "a.heic"),  # whatever is named is found; whether it can be read is told later
        ("IMG0001", "IMG0001"),
        ("sub/deep/a.jpg", "sub/deep/a.jpg"),
        ("./sub//a.jpg", "sub/a.jpg"),
        ("sub/../a.jpg", "a.jpg"),
        ("/w/b/a.jpg", "w/b/a.jpg"),  # Magento's
        ("A.JPG", "a.jpg"),
        ("a.jpg", "A.Jpg"),
        ("Sub/Ä.JPG", "sub/ä.jpg"),
        ("sub\\a.jpg", "sub/a.jpg"),
        ("sub%5Ca.jpg", "sub/a.jpg"),
        ("sub/a.jpg", "sub\\a.jpg"),  # of an archive that was unpacked on another system
        ("C:\\photos\\sub\\a.jpg", "sub/a.jpg"),
        ("\\\\server\\share\\a.jpg", "a.jpg"),
        ("red%20mug.jpg", "red mug.jpg"),
        ("red mug.jpg", "red%20mug.jpg"),
        ("caf%C3%A9.jpg", "café.jpg"),
        ("100%.jpg", "100%.jpg"),
        ("100% wool.jpg", "100% wool.jpg"),
        ("a%2Fb.jpg", "a/b.jpg"),
        (NFC, NFD),
        (NFD, NFC),
        (NFD.upper(), NFC),
        ("mug", "mug.webp"),
        ("sub/MUG", "sub/mug.jpeg"),
        ("mug.v2", "mug.v2.png"),
        ("a.jpg", "sub/deep/a.jpg"),
        ("a", "sub/a.jpg"),
        ("sub/a.jpg", "a.jpg"),
        ("images/sub/a.jpg", "sub/a.jpg"),
        ("sub/a.jpg", "export/images/sub/a.jpg"),
        ("SUB\\a", "export/sub/a.gif"),
        ("a #3.jpg", "a #3.jpg"),
        ("a.jpg?v=17", "a.jpg"),
        ("https://shop.example/files/a.jpg", "a.jpg"),
        ("HTTPS://shop.example/files/a.jpg?v=17#top", "a.jpg"),
        ("http://shop.example/files/red%20mug.JPG", "sub/red mug.jpg"),
        ("//cdn.shop.example/s/files/a.jpg", "a.jpg"),
        ("https://shop.example/x/sub/a.jpg", "sub/a.jpg"),
        ("https://shop.example/files/a.jpg", "shop.example/files/a.jpg"),
        ("https://shop.example/a.jpg?v=17", "a.jpg?v=17"),
        ("https://shop.example/files/a_1024x1024.jpg?v=17", "a.jpg"),
        ("https://shop.example/files/a_600x.jpg", "a.jpg"),
        ("https://shop.example/files/a_x600@2x.jpg", "a.jpg"),
        ("https://shop.example/files/a_200x200_crop_center.jpg", "a.jpg"),
        ("https://shop.example/files/a_grande.jpg", "a.jpg"),
        ("https://shop.example/files/a-300x300.jpg", "a.jpg"),
        ("https://shop.example/files/a_600x.jpg", "a_600x.jpg"),
        ("file:///C:/photos/a.jpg", "a.jpg"),
    ],
)
def test_a_picture_is_found_however_it_is_named(name, file, folder_of):
    folder = folder_of(file, "other.jpg", "sub/another.png")
    assert inside(folder, folder.find(name)) == file
    assert folder.unused() == (2, ["other.jpg", "sub/another.png"])


@pytest.mark.parametrize(
    "name, files, kind, example",
    [
        ("b.jpg", ["a.jpg"], MISSING, "b.jpg"),
        ("a.jpg", ["a.png"], MISSING, "a.jpg"),
        ("a", ["ab.jpg", "a.txt"], MISSING, "a"),
        ("A7/1.jpg", ["A6/1.jpg"], MISSING, "A7/1.jpg"),
        ("x/A7/1.jpg", ["x/A6/1.jpg", "y/A7/1.jpg"], MISSING, "x/A7/1.jpg"),
        ("a_600x.jpg", ["a.jpg"], MISSING, "a_600x.jpg"),
        ("a.jpg", ["x/a.jpg", "y/a.jpg"], AMBIGUOUS, "a.jpg (x/a.jpg and y/a.jpg)"),
        ("A.jpg", ["a.jpg", "a.JPG"], AMBIGUOUS, "A.jpg (a.JPG and a.jpg)"),
        ("sub/a.jpg", ["x/sub/a.jpg", "y/sub/a.jpg"], AMBIGUOUS, "sub/a.jpg (x/sub/a.jpg and y/sub/a.jpg)"),
        (
            "https://shop.example/a.jpg",
            ["x/a.jpg", "y/a.jpg"],
            AMBIGUOUS,
            "https://shop.example/a.jpg (x/a.jpg and y/a.jpg)",
        ),
        ("https://shop.example/a.jpg", ["b.jpg"], NOT_FETCHED, "https://shop.example/a.jpg"),
        ("data:image/png;base64,a.jpg", ["a.jpg", "base64,a.jpg"], NOT_FETCHED, None),
        ("../secret.jpg", ["a.jpg", "secret.jpg"], OUTSIDE, "../secret.jpg"),
        ("x/../../secret.jpg", ["a.jpg", "secret.jpg"], OUTSIDE, None),
        ("..\\secret.jpg", ["secret.jpg"], OUTSIDE, None),
        ("%2e%2e/secret.jpg", ["secret.jpg"], OUTSIDE, None),
        ("/etc/passwd", ["a.jpg"], OUTSIDE, "/etc/passwd"),
        ("C:\\secret.jpg", ["a.jpg"], OUTSIDE, None),
        ("a\0.jpg", ["a.jpg"], MISSING, None),
        ("..", ["a.jpg"], OUTSIDE, None),
        (".", ["a.jpg"], MISSING, None),
        ("/", ["a.jpg"], OUTSIDE, None),
    ],
)
def test_what_is_not_found_tells_why(name, files, kind, example, folder_of, tmp_path):
    (tmp_path / "secret.jpg").touch()
    folder = folder_of(*files)
    assert folder.find(name) is None
    assert folder.why_not(name) == (kind, example or name)
    assert folder.unused()[0] == sum(file.lower().endswith(ENDINGS) for file in files)


def test_the_way_that_a_name_stands_goes_before_others(folder_of):
    names = ["a.jpg", "A.jpg", "a%2Ejpg", "x/a.jpg", "sub/a b.jpg", "sub/a%20b.jpg", "b", "b.png", "b.jpg"]
    folder = folder_of(*names)
    assert [inside(folder, folder.find(name)) for name in names] == names
    assert inside(folder, folder.find("B")) == "b"
    assert inside(folder, folder.find("sub/A b.jpg")) is None
    folder = folder_of("Q r.jpg", "q r.jpg")
    assert inside(folder, folder.find("q%20r.jpg")) == "q r.jpg"


def test_the_product_s_own_folder_tells_names_apart_also_where_the_ids_are_not_known(folder_of):
    folder = folder_of("A6/1.jpg", "A7/1.jpg", "x/A6/2.jpg", "x/A7/2.jpg")
    assert inside(folder, folder.find("1.jpg", "A7")) == "A7/1.jpg"
    assert inside(folder, folder.find("2.jpg", "A7")) == "x/A7/2.jpg"


def test_one_file_is_not_taken_for_names_of_several_folders(folder_of):
    folder = folder_of("1.jpg", "x/front.jpg", "back.JPG", "x/back.jpg", "y/back.jpg")
    assert folder.find("A6/1.jpg") and folder.find("A6/1.jpg") and folder.find("a6\\1.jpg")
    assert folder.find("A7/1.jpg") is None
    assert folder.why_not("A7/1.jpg") == (CLAIMED, "A7/1.jpg (taken for that in a6)")
    assert folder.find("1.jpg")  # its own name
    assert folder.find("https://cdn1.shop.example/A6/front.jpg") and folder.find(
        "https://cdn2.shop.example/A6/front.jpg"
    )
    assert folder.find("https://shop.example/A7/front.jpg") is None
    assert inside(folder, folder.find("https://shop.example/A7/back.jpg")) == "back.JPG"  # at the top


def test_a_name_without_a_folder_is_the_product_s_own_file_and_never_another_product_s(folder_of):
    folder = folder_of(
        "x/A6/1.jpg", "A7/1.jpg", "A7/2.jpg", "A8/3.jpg", "B/4.jpg", "A9_5.jpg", ids=["A6", "A7", "A8", "A9"]
    )
    assert [inside(folder, folder.find("1.jpg", item)) for item in ("A7", "A6", "A8")] == [
        "A7/1.jpg", "x/A6/1.jpg", None
    ]  # fmt: skip
    assert folder.find("1.jpg") is None
    assert [inside(folder, folder.find("2.jpg", item)) for item in ("A7", "A6")] == ["A7/2.jpg", None]
    assert [inside(folder, folder.find("https://s.example/3.jpg", item)) for item in ("A8", "A6")] == [
        "A8/3.jpg",
        None,
    ]
    assert inside(folder, folder.find("4.jpg", "A6")) == "B/4.jpg"
    assert inside(folder, folder.find("A9_5.jpg", "A6")) == "A9_5.jpg"  # what is named is named
    assert [path.name for path in folder.of_product("A7", "2.jpg, 1.jpg, 3.jpg")[0]] == ["2.jpg", "1.jpg"]


WRITERS = {
    "backslashes": lambda path: path.replace("/", "\\"),
    "upper": str.upper,
    "NFD": lambda path: unicodedata.normalize("NFD", path),
    "percent": lambda path: path.replace(" ", "%20").replace("ö", "%C3%B6"),
    "dots": lambda path: "./" + path.replace("/", "/./"),
    "slash": lambda path: "/" + path,
    "parent": lambda path: "images/" + path,
    "query": lambda path: path + "?v=1&w=2",
    "address": lambda path: "https://cdn.shop.example/media/" + path,
}


def test_ways_of_writing_may_be_mixed_and_each_file_is_found_by_its_own(folder_of):
    parts = (("", "möbel/", "a b/möbel/"), ("chair", "Ohr 1", "grün_2"), (".jpg", ".WebP"))
    files = ["".join(words) for words in itertools.product(*parts)]
    for first, second in itertools.permutations(WRITERS, 2):
        folder = folder_of(*files)
        if "address" in (first, second) and second in ("slash", "parent", "dots", "backslashes"):
            continue  # what is before the scheme makes it none
        for file in files:
            name = WRITERS[second](WRITERS[first](file))
            found = inside(folder, folder.find(name))
            is_plain = "/" not in file  # a base name alone may be that of several folders
            assert found == file or (is_plain and found is None and folder.why_not(name)[0] in (AMBIGUOUS, CLAIMED)), (
                name
            )


def test_links_out_of_the_folder_are_refused_and_those_inside_are_followed(folder_of, tmp_path):
    folder_of("real/a.jpg", "real/b.jpg")
    root = tmp_path / "images"
    (tmp_path / "away").mkdir()
    (tmp_path / "away" / "c.jpg").touch()
    (root / "out").symlink_to(tmp_path / "away")
    (root / "out.jpg").symlink_to(tmp_path / "away" / "c.jpg")
    (root / "A6").symlink_to(root / "real")
    (root / "A7.jpg").symlink_to("real/b.jpg")
    (root / "all").symlink_to(".")
    (root / "gone.jpg").symlink_to("nothing.jpg")
    (root / "round").symlink_to("round")
    folder = PictureFolder(root)
    assert folder.find("out/c.jpg") is None and folder.find("c.jpg") is None and folder.find("out.jpg") is None
    assert folder.why_not("out.jpg")[0] == folder.why_not("out/c.jpg")[0] == OUTSIDE
    assert inside(folder, folder.find("a.jpg")) in ("real/a.jpg", "A6/a.jpg", "all/real/a.jpg")  # one file
    assert by_id(folder, "A6") == ["A6/a.jpg", "A6/b.jpg"] and by_id(folder, "A7") == ["A7.jpg"]
    assert folder.unused() == (0, [])
    counts = {kind: count for kind, (count, _) in folder.skipped.items()}
    assert counts["link that leads out of the folder of pictures (ignored)"] == 4  # two of them also below `all`
    assert counts["no file, or a link to none, in the folder of pictures (ignored)"] == 4


def test_hidden_files_are_left_out_and_what_is_left_over_is_counted(folder_of):
    others = ["Thumbs.db", "x/notes.txt", "y/notes.txt"]
    folder = folder_of("a.jpg", "b.jpg", "x/c.JPG", ".a.jpg", "._a.jpg", ".cache/b.jpg", *others)
    assert folder.find("a.jpg") and folder.find(".a.jpg") is None
    found = folder.leftovers()
    assert found[UNUSED] == (2, ["b.jpg", "x/c.JPG"])
    assert found["file in the folder whose ending is no picture's"] == (3, ["2 x .txt", "1 x .db"])
    many = folder_of(*(f"more/{number:02}.jpg" for number in range(50)))
    assert many.unused()[0] == 53 and len(many.unused()[1]) == 20


def test_a_folder_that_cannot_be_read_is_counted(folder_of, monkeypatch):
    def scan(path, scan=os.scandir):
        if path.name == "x":
            raise PermissionError(13, "Permission denied")
        return scan(path)

    monkeypatch.setattr(os, "scandir", scan)
    folder = folder_of("x/a.jpg", "b.jpg")
    assert folder.skipped == {"folder of pictures can't be read (ignored)": (1, ["x"])} and folder.paths == ["b.jpg"]


def test_names_that_are_no_text_can_be_told(folder_of, tmp_path):
    folder_of("a.jpg")
    with open(os.fsencode(tmp_path / "images") + b"/caf\xe9.jpg", "wb"):
        pass
    folder = PictureFolder(tmp_path / "images")
    assert folder.find("café.jpg") is None
    folder.unused()[1][1].encode()
    assert folder.unused() == (2, ["a.jpg", "caf\\udce9.jpg"])


def test_without_a_folder_nothing_is_found():
    folder = PictureFolder(None)
    assert folder.find("a.jpg") is None and folder.why_not("a.jpg") == (picture_files.NO_FOLDER, "a.jpg")
    assert folder.why_not("https://s.example/a.jpg")[0] == NOT_FETCHED
    assert folder.of_id("a") == [] and folder.leftovers() == {}
    assert folder.split_names("a.jpg, b.jpg") == ["a.jpg", "b.jpg"]


@pytest.mark.parametrize(
    "files, found",
    [
        (["A6.jpg"], ["A6.jpg"]),
        (["a6.JPEG"], ["a6.JPEG"]),
        (["A6.avif", "A60.jpg", "A.jpg", "xA6.jpg", "A6_front.jpg", "A6_1234.jpg", "A6.jpg.txt", "A6"], ["A6.avif"]),
        (["A6_10.jpg", "A6_2.jpg", "A6_1.jpg"], ["A6_1.jpg", "A6_2.jpg", "A6_10.jpg"]),
        (["A6 (10).jpg", "A6-2.png", "A6_03.jpg", "A6.jpg", "A6(1).jpg"],
         ["A6.jpg", "A6(1).jpg", "A6-2.png", "A6_03.jpg", "A6 (10).jpg"]),
        (["A6/front.jpg", "A6/10.jpg", "A6/9.jpg", "A6/deep/1.jpg", "A6/notes.txt"],
         ["A6/9.jpg", "A6/10.jpg", "A6/front.jpg"]),
        (["A6/1.jpg", "A6_1.jpg", "A6.jpg"], ["A6.jpg", "A6_1.jpg", "A6/1.jpg"]),
        (["mugs/A6.jpg", "mugs/A6_1.jpg", "mugs/A6/x.jpg"], ["mugs/A6.jpg", "mugs/A6_1.jpg", "mugs/A6/x.jpg"]),
        (["A6.jpg", "old/A6.jpg"], ["A6.jpg"]),
        (["new/A6.jpg", "old/A6.jpg"], []),
        (["1.jpg", "A60/1.jpg"], []),
    ],
)  # fmt: skip
def test_pictures_are_found_by_the_id(files, found, folder_of):
    assert by_id(folder_of(*files), "A6") == found


@pytest.mark.parametrize(
    "item", ["A/6", "a b", "50%", "50%20", "A6.5", "Größe", "A6_1", "(1)", "A6 (2)", "x-1", "[a]", "*"]
)
def test_any_id_finds_its_own_pictures_alone(item, folder_of):
    stem = item.replace("%20", "%2520")  # on disk, for a name with `%20` is that of a space
    own = [f"{stem}.jpg", f"{stem}_1.jpg", f"{stem}_2.png", f"{stem}/9.jpg"]
    folder = folder_of(*own, "other.jpg", "A7/1.jpg", "q/x.jpg")
    assert by_id(folder, stem) == own


@pytest.mark.parametrize("item", ["", "/", "..", "../images", "."])
def test_an_id_that_is_no_name_finds_nothing(item, folder_of):
    assert by_id(folder_of("a.jpg", "sub/b.jpg", "_1.jpg"), item) == []


def test_a_file_is_the_product_s_whose_whole_id_it_has(folder_of):
    files = [
        "A6.jpg",
        "A6_1.jpg",
        "A6_2.jpg",
        "A6_1_1.jpg",
        "A6/A6_1.png",
        "A6/A6_1_2.jpg",
        "A6/1.jpg",
        "A6/A6.png",
        "a6_1.gif",
        "1/1.jpg",
    ]
    alone, both = folder_of(*files, ids=["A6"]), folder_of(*files, ids=["A6", "A6_1", "1"])
    assert by_id(alone, "A6") == [
        "A6.jpg", "A6_1.jpg", "a6_1.gif", "A6_2.jpg", "A6/1.jpg", "A6/A6.png", "A6/A6_1.png", "A6/A6_1_2.jpg"
    ]  # fmt: skip
    assert by_id(both, "A6") == ["A6.jpg", "A6_2.jpg", "A6/1.jpg", "A6/A6.png"]
    assert by_id(both, "A6_1") == ["A6_1.jpg", "a6_1.gif", "A6_1_1.jpg"]
    assert by_id(both, "1") == ["1/1.jpg"]


def test_an_id_with_a_slash_is_told_apart_from_the_folder_of_another_id(folder_of):
    folder = folder_of("A/6.jpg", "A/6_1.jpg", "A/front.jpg", ids=["A", "A/6"])
    assert by_id(folder, "A/6") == ["A/6.jpg", "A/6_1.jpg"]
    assert by_id(folder, "A") == ["A/front.jpg"]


def test_ids_that_differ_in_case_alone_have_their_own_pictures(folder_of):
    folder = folder_of("a1.jpg", "A1.png", "A1_2.jpg", ids=["a1", "A1"])
    assert by_id(folder, "a1")[0] == "a1.jpg" and "A1.png" not in by_id(folder, "a1")
    assert by_id(folder, "A1")[0] == "A1.png" and "a1.jpg" not in by_id(folder, "A1")
    assert by_id(folder_of(ids=["A1", "B1"]), "A1") == ["a1.jpg", "A1.png", "A1_2.jpg"]


@pytest.mark.parametrize(
    "cell, names",
    [
        ("", []),
        (" , ;| \n", []),
        ("a.jpg", ["a.jpg"]),
        (" 'a.jpg' ", ["a.jpg"]),
        ("a.jpg|b.jpg | c.jpg", ["a.jpg", "b.jpg", "c.jpg"]),
        ("a.jpg\r\nb.jpg\n\nc.jpg", ["a.jpg", "b.jpg", "c.jpg"]),
        ("a.jpg,b.jpg, c.jpg,", ["a.jpg", "b.jpg", "c.jpg"]),
        ("a.jpg;b.jpg;;a.jpg", ["a.jpg", "b.jpg"]),
        ("a.jpg; b.jpg, c.jpg | d.jpg", ["a.jpg", "b.jpg", "c.jpg", "d.jpg"]),
        ('"a.jpg","b.jpg"', ["a.jpg", "b.jpg"]),
        ('["a.jpg", "b, c.jpg"]', ["a.jpg", "b, c.jpg"]),
        ("['a.jpg', 'https://s.example/b.jpg']", ["a.jpg", "https://s.example/b.jpg"]),
        ("[]", []),
        ("[1].jpg, [2].jpg", ["[1].jpg", "[2].jpg"]),
        ("mug, red.jpg", ["mug, red.jpg"]),
        ("mug, blue.jpg", ["mug, blue.jpg"]),  # isn't there
        ("a.jpg, mug, red.jpg; b.jpg", ["a.jpg", "mug, red.jpg", "b.jpg"]),
        ("mug, red.jpg, mug, red.jpg, gone.jpg", ["mug, red.jpg", "gone.jpg"]),
        ("x|y.jpg", ["x|y.jpg"]),
        ("a.jpg, c.jpg, d.jpg, gone.jpg", ["a.jpg", "c.jpg, d.jpg", "gone.jpg"]),
        ("gone.jpg;;more.jpg;", ["gone.jpg", "more.jpg"]),
        (
            "https://s.example/a,https://s.example/b;//s.example/c",
            ["https://s.example/a", "https://s.example/b", "//s.example/c"],
        ),
        ("a;b", ["a", "b"]),  # without endings, but files
        ("no;such", ["no;such"]),
        ("https://s.example/a.jpg,https://s.example/b.jpg", ["https://s.example/a.jpg", "https://s.example/b.jpg"]),
        ("https://s.example/a, https://s.example/b", ["https://s.example/a", "https://s.example/b"]),
        ("https://s.example/a  https://s.example/b", ["https://s.example/a", "https://s.example/b"]),
        ("https://s.example/w_3,h_2/a.jpg", ["https://s.example/w_3,h_2/a.jpg"]),
        ("https://s.example/w_3,h_2/a.jpg, b.jpg", ["https://s.example/w_3,h_2/a.jpg", "b.jpg"]),
        ("https://s.example/a.jpg?w=1&amp;h=2,3", ["https://s.example/a.jpg?w=1&amp;h=2,3"]),
        (
            "https://s.example/a.jpg?w=1,h=2; //s.example/b.jpg",
            ["https://s.example/a.jpg?w=1,h=2", "//s.example/b.jpg"],
        ),
        ("https://s.example/a.jpg, mug, red.jpg", ["https://s.example/a.jpg", "mug, red.jpg"]),
        ("data:image/png;base64,AA==", ["data:image/png;base64,AA=="]),
        ("data:image/png;base64,AA==|a.jpg", ["data:image/png;base64,AA==", "a.jpg"]),
    ],
)
def test_lists_of_pictures_are_split_between_names(cell, names, folder_of):
    folder = folder_of("a.jpg", "b.jpg", "mug, red.jpg", "x|y.jpg", "[1].jpg", "c.jpg, d.jpg")
    assert folder.split_names(cell) == names
    assert folder.unused()[0] == 6  # to look whether a name is a file is not to use it


def test_a_product_has_the_pictures_that_are_named_else_those_by_its_id(folder_of, tmp_path):
    names = [f"n{number:02}.jpg" for number in range(20)]
    folder = folder_of(*names, "A6.jpg", "A6_1.jpg", "new/A8.jpg", "old/A8.jpg")
    paths, problems = folder.of_product("A6", "n01.jpg, n00.jpg; gone.jpg | https://s.example/x.jpg")
    assert [path.name for path in paths] == ["n01.jpg", "n00.jpg"]
    assert problems == [(MISSING, "gone.jpg"), (NOT_FETCHED, "https://s.example/x.jpg")]
    paths, problems = folder.of_product("A6", "gone.jpg")
    assert [path.name for path in paths] == ["A6.jpg", "A6_1.jpg"] and problems == [(MISSING, "gone.jpg")]
    paths, problems = folder.of_product("A7", ";".join(names))
    assert [path.name for path in paths] == names[:MAX_PICTURES] and MAX_PICTURES == 16
    assert problems == [("more than 16 pictures, the first are kept", "A7: 20")]
    assert folder.of_product("A8", "") == (
        [], [("pictures called like the id are in several folders", "new/A8 and old/A8")]
    )  # fmt: skip
    assert folder.unused() == (2, ["new/A8.jpg", "old/A8.jpg"])


def test_addresses_are_files_in_the_folder_or_fetched_ones_or_tell_what_failed(folder_of, tmp_path):
    folder, cell = folder_of("a.jpg"), ", ".join(f"https://s.example/{name}.jpg" for name in "abc") + ", gone.jpg"
    assert folder.missing_urls(cell, "A6") == ["https://s.example/b.jpg", "https://s.example/c.jpg"]
    assert folder.missing_urls("ftp://s.example/b.jpg | data:image/png;base64,AA== | //s.example/d.jpg | e.jpg") == [
        "//s.example/d.jpg"
    ]
    fetched = {f"https://s.example/{name}.jpg": tmp_path / f"{name}.png" for name in "ab"}
    paths, problems = folder.of_product("A6", cell, fetched, {"https://s.example/c.jpg": "HTTP 404"})
    assert paths == [folder.folder / "a.jpg", tmp_path / "b.png"]
    assert problems == [("picture can't be fetched: HTTP 404", "https://s.example/c.jpg"), (MISSING, "gone.jpg")]


def test_of_many_files_of_one_name_only_some_are_looked_at(tmp_path, monkeypatch):
    paths = [f"A{number}/large/1.jpg" for number in range(20_000)]
    monkeypatch.setattr(PictureFolder, "_scan", lambda self, *words, **options: iter(["0/large/1.jpg", *paths]))
    folder, looked_at = PictureFolder(tmp_path, [f"A{number}" for number in range(15_000)]), Counter()
    monkeypatch.setattr(picture_files, "plain", lambda text, of=picture_files.plain: looked_at.update([1]) or of(text))
    for number in (0, 14_999, 19_999):
        assert inside(folder, folder.find(f"images/A{number}/large/1.jpg")) == f"A{number}/large/1.jpg"
        assert folder.find(f"B{number}/large/1.jpg") is None and folder.of_id("1") == []
        assert folder.find("1.jpg", "B1") is None and folder.why_not("1.jpg", "B1")[0] == AMBIGUOUS
    assert looked_at.total() < 3 * 3000
    assert folder.unused()[0] == 20_000 + 1 - 3


def test_texts_whose_hashes_are_the_same_are_told_apart(folder_of, monkeypatch):
    monkeypatch.setattr("builtins.hash", lambda text: 7)
    assert Keys([(0, "a"), (1, "b")]).of("c") == [0, 1]
    folder = folder_of("a.jpg", "b.jpg", "x/c.jpg", "x/d_1.jpg")
    assert [inside(folder, folder.find(name)) for name in ("a.jpg", "y/b.jpg", "c", "e.jpg")] == [
        "a.jpg", "b.jpg", "x/c.jpg", None
    ]  # fmt: skip
    assert by_id(folder, "d") == ["x/d_1.jpg"]
