"""Names of picture files as titles: what a person wrote is text, what a camera or a program made up is none."""

import re
import unicodedata
from pathlib import PurePosixPath

# Of cameras, phones and programs, in several languages; none of them says what a picture shows.
MADE_UP = frozenset(
    "img image images imagen immagine afbeelding dsc dscn dscf dsci sdc pict pic pics picture photo photos foto "
    "fotos bild bilder pxl mvimg burst pano vid mov gopr cam camera kamera screenshot screenshots bildschirmfoto "
    "screen shot capture scan scanned snapchat whatsapp signal telegram received unnamed untitled unbenannt sans "
    "titre download downloaded file datei copy copie kopie edit edited final new temp tmp test default thumb "
    "thumbnail large small medium original full resized cropped product products item items article artikel art "
    "sku ean upc gtin asin isbn ref mpn num nr page front back side main alt view jpg jpeg png webp gif bmp tif "
    "tiff avif heic at of the and for jan feb mar apr may jun jul aug sep oct nov dec".split()
)
HEX = re.compile(r"(?=\D*\d)[0-9a-f]{6,}|[a-f]{8,}")
UUID = re.compile(r"[0-9a-f]{8}(-?[0-9a-f]{4}){3}-?[0-9a-f]{12}", re.IGNORECASE)


def title_of_file(name: str) -> str:
    """The title that a picture's name gives, `""` if it has no word in it.

    `red-mug_02.jpg` gives `red mug 02` and `IMG_0001 red mug` gives `red mug`; `IMG_0001`, `DSC_1234`,
    `20240101_120000`, hashes, UUIDs and numbers give none.

    Args:
        name (`str`): the file's name, with folders and an ending or without.
    """
    stem = unicodedata.normalize("NFC", PurePosixPath(name.replace("\\", "/")).name)
    stem = re.sub(r"\.[A-Za-z0-9]{1,5}$", "", stem)
    chunks = [chunk for chunk in re.split(r"[\W_]+", UUID.sub(" ", stem)) if chunk]
    kept = [part for chunk in chunks for part in _parts_of(chunk)]
    return " ".join(kept) if any(map(_is_word, kept)) else ""


def _parts_of(chunk: str) -> list[str]:
    """The words and short numbers of a piece of a name between separators; nothing of one that is a code."""
    lower = chunk.lower()
    has_digit, has_letter = any(map(str.isdigit, chunk)), any(map(str.isalpha, chunk))
    if HEX.fullmatch(lower) or lower in MADE_UP:
        return []
    if has_digit and has_letter:
        whole = re.fullmatch(r"(\d{1,4})([^\W\d_]{1,3})|([^\W\d_]+)(\d{1,2})", chunk)  # 500ml, mug2
        if whole is None or (whole[3] and not _is_word(whole[3])):
            return []
        return [chunk] if whole[1] else [whole[3], whole[4]]
    if has_digit:
        return [chunk] if len(chunk) <= 3 else []
    parts = re.findall(r"[^\W\d_][^\W\d_A-Z]+|[^\W\d_]+", chunk) if not chunk.isupper() else [chunk]  # RedMug
    return [part for part in parts if _is_word(part)]


def _is_word(text: str) -> bool:
    """Whether letters may be a word: with a vowel, if they are Latin, and no camera's or program's."""
    lower = text.lower()
    if not lower.isalpha() or lower in MADE_UP:
        return False
    plain = "".join(letter for letter in unicodedata.normalize("NFD", lower) if not unicodedata.combining(letter))
    if not plain.isascii():
        return True
    return len(plain) > 2 and bool(re.search("[aeiouy]", plain)) and not re.search("[^aeiouy]{6}|(.)\\1\\1", plain)
