"""Sizes and amounts in other spellings: `60x80` and `60 x 80`, `500 ml`, `500ml` and `0.5 l`."""

import re
from random import Random

NUMBER = r"\d+(?:[.,]\d+)?"
NAMES = {
    "ml": ("ml",),
    "cl": ("cl",),
    "l": ("l", "litre", "liter", "litres", "liters"),
    "mm": ("mm",),
    "cm": ("cm",),
    "inch": ("inch", "inches", '"'),
    "ft": ("ft", "feet"),
    "g": ("g", "gram", "grams"),
    "kg": ("kg",),
    "oz": ("oz", "ounce", "ounces"),
    "lb": ("lb", "lbs"),
}
UNITS = {name: unit for unit, names in NAMES.items() for name in names}
LARGER = {"ml": ("l", 1000), "cl": ("l", 100), "mm": ("cm", 10), "g": ("kg", 1000)}  # and how many make one
SMALLER = {larger: (unit, count) for unit, (larger, count) in LARGER.items() if count != 100}
UNIT = "|".join(sorted(UNITS, key=len, reverse=True))
# `2.5 l`, but not the end of `A-15 l` or `1/2"`; sides come first, and their unit may be missing
SIDES = rf"(?P<sides>{NUMBER}(?:\s?[x×]\s?{NUMBER})+(?!\w*\d)(?:\s?(?:{UNIT})(?!\w))?)"
AMOUNT = rf"(?P<number>{NUMBER})\s?-?(?P<unit>{UNIT})(?!\w)"
MEASURE = re.compile(rf"(?<![\w.,/-])(?:{SIDES}|{AMOUNT})", re.IGNORECASE)


def respell(text: str, rng: Random) -> str:
    """A text with each of its sizes and amounts in another spelling; as it was if it has none.

    Args:
        text (`str`): such as a query or a title.
        rng (`random.Random`): chooses among the spellings.
    """
    return MEASURE.sub(lambda found: rng.choice(_other_spellings(found)), text)


def _other_spellings(found: re.Match) -> list[str]:
    if sides := found["sides"]:
        spelled = [re.sub(r"\s?[x×]\s?", by, sides, flags=re.IGNORECASE) for by in ("x", " x ")]
    else:
        number, name = found["number"], found["unit"].casefold()
        unit, amount = UNITS[name], float(number.replace(",", "."))
        spelled = [f"{number} {unit}", f"{number}{unit}"]
        spelled += [f"{number} {other}" for other in NAMES[unit][1:2] if other != name]
        if unit in LARGER and amount >= LARGER[unit][1] / 2:
            spelled.append(f"{amount / LARGER[unit][1]:g} {LARGER[unit][0]}")
        if unit in SMALLER and amount < 10:
            spelled.append(f"{amount * SMALLER[unit][1]:g} {SMALLER[unit][0]}")
    return [text for text in spelled if text.casefold() != found[0].casefold()]
