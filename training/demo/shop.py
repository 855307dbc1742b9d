"""A small generated shop: pictures, listings, queries and exact judgments, with no download.

Every product has hidden attributes: type, colour, pattern, material, brand and two features. The picture shows the
type, the colour and the pattern; the listing names the type and the brand, tells the material and the features, and
mentions the colour and the pattern only now and then. So a query for a "navy wool scarf" needs both.

    python -m training.demo.shop --output data/demo_shop
    python -m training.demo.shop --output data/tiny_shop --products 60 --queries 40
"""

from training.common.cli import run
from training.demo.options import DemoShopArguments

if __name__ == "__main__":
    run("training.demo.shop", DemoShopArguments, __doc__)

import io
import itertools
import json
import random
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from tqdm.auto import tqdm

from modeling_mmfusion.errors import DataError
from training.catalogue.writing import write_card, write_split
from training.common.files import check_folder, new_folder
from training.demo import drawings

WRITER = "training.demo.shop"
SPLITS = {"train": 0.6, "dev": 0.1, "test": 0.3}  # shares of the products and of the queries
SLICES = {"text": 0.35, "image": 0.3, "both": 0.35}  # shares of a split's queries
# What a query of each slice asks for beside the type.
TOLD, SHOWN = ("brand", "material", "feature"), ("colour", "pattern", "colour pattern")
FORMS = {
    "text": (*TOLD, "material", "feature", "brand material", "material feature"),
    "image": (*SHOWN, "colour", "colour pattern"),
    "both": tuple(f"{told} {shown}" for told in (*TOLD, "material feature") for shown in SHOWN),
}
SAID = 0.25  # share of products whose text tells the colour, and share whose text tells the pattern
MISSING = 0.03  # share of products without a picture, and share without a description
LEAST_PRODUCTS, LEAST_QUERIES = 40, 10  # fewer can't fill three splits
# The other shades that still count as partly right.
NEIGHBOURS = (
    ("white", "cream"),
    ("grey", "black"),
    ("navy", "blue"),
    ("green", "olive"),
    ("yellow", "orange"),
    ("red", "burgundy"),
    ("pink", "purple"),
)
NEIGHBOUR = {**dict(NEIGHBOURS), **{second: first for first, second in NEIGHBOURS}}
# How shoppers and listings say it; the first wording is the usual one.
COLOUR_WORDS = {
    "white": ("white", "snow white"),
    "cream": ("cream", "off-white", "ivory"),
    "grey": ("grey", "gray"),
    "black": ("black", "jet black"),
    "navy": ("navy", "dark blue", "navy blue"),
    "blue": ("blue", "bright blue"),
    "green": ("green", "leaf green"),
    "olive": ("olive", "olive green"),
    "yellow": ("yellow", "sunny yellow"),
    "orange": ("orange", "bright orange"),
    "red": ("red", "bright red"),
    "burgundy": ("burgundy", "wine red", "dark red"),
    "pink": ("pink", "rose pink"),
    "purple": ("purple", "violet"),
    "brown": ("brown", "chocolate brown"),
}


class Wording(NamedTuple):
    """How to say an attribute before the noun, and after "with"."""

    before: tuple[str, ...]
    after: tuple[str, ...]


PATTERN_WORDS = {
    "plain": Wording(("plain", "solid"), ("no print", "no pattern")),
    "striped": Wording(("striped", "stripy"), ("stripes",)),
    "dotted": Wording(("dotted", "polka dot", "spotted"), ("polka dots", "dots")),
    "checked": Wording(("checked", "gingham", "plaid"), ("checks", "a check pattern")),
    "floral": Wording(("floral", "flowery", "flower print"), ("flowers", "a flower print")),
    "zigzag": Wording(("zigzag", "chevron"), ("zigzags", "a zigzag pattern")),
    "stars": Wording(("star print", "starry"), ("stars", "a star print")),
    "hearts": Wording(("heart print", "heart pattern"), ("hearts", "a heart print")),
}
# In a listing; queries use the plain word.
MATERIAL_WORDS = {
    "cotton": ("soft cotton", "organic cotton", "combed cotton"),
    "linen": ("washed linen", "European linen", "pure linen"),
    "wool": ("merino wool", "soft lambswool", "pure wool"),
    "denim": ("sturdy denim", "washed denim", "recycled denim"),
    "silk": ("fine silk", "mulberry silk"),
    "fleece": ("warm fleece", "recycled fleece"),
    "corduroy": ("fine-wale corduroy", "soft corduroy"),
    "cashmere": ("pure cashmere", "brushed cashmere"),
    "bamboo": ("bamboo fibre", "smooth bamboo"),
    "leather": ("full-grain leather", "supple leather", "smooth calf leather"),
    "suede": ("brushed suede", "soft suede"),
    "canvas": ("waxed canvas", "heavy canvas", "tough canvas"),
    "nylon": ("ripstop nylon", "recycled nylon"),
    "polyester": ("recycled polyester", "tightly woven polyester"),
    "aluminium": ("brushed aluminium", "light aluminium"),
    "plastic": ("recycled plastic", "tough moulded plastic"),
    "ceramic": ("glazed ceramic", "hand-glazed ceramic"),
    "porcelain": ("fine porcelain", "thin bone porcelain"),
    "stoneware": ("speckled stoneware", "fired stoneware"),
    "terracotta": ("fired terracotta", "rustic terracotta"),
    "glass": ("tempered glass", "hand-blown glass", "thick glass"),
    "steel": ("stainless steel", "powder-coated steel"),
    "enamel": ("classic enamel", "chip-resistant enamel"),
    "velvet": ("deep-pile velvet", "crushed velvet", "soft velvet"),
    "oak": ("oiled oak", "carved oak"),
    "rattan": ("woven rattan", "natural rattan"),
    "jute": ("braided jute", "natural jute"),
    "paper": ("washi paper", "pleated paper"),
}
BRANDS = (
    "Harrow Lane",
    "Northwick",
    "Oakmere",
    "Juniper & Finch",
    "Silverbrook",
    "Tallow House",
    "Marlowe",
    "Fernhill",
    "Copper Kettle",
    "Birch & Bay",
    "Lumen Street",
    "Pebble Row",
    "Wren & Willow",
    "Saltmarsh",
)
STYLES = (
    "Alba Alder Amble Anchor Arden Ashby Aster Bramble Brighton Cedar Clover Colby Cove Dale Dawn Delphi Drift Elgin "
    "Ember Everly Fable Fenwick Fern Fjord Garnet Glen Hadley Harbour Haven Hazel Heath Hollis Indie Iris Isla Ivy "
    "Juno Kelso Kirby Larch Laurel Linden Luna Maple Meadow Mila Monty Nell Nova Orchard Orla Otis Paloma Piper "
    "Poppy Quill Ridge Rowan Rye Sable Sage Selby Skye Sorrel Tansy Thorn Tilda Vale Vesper Willa Wilder Yarrow Zephyr"
).split()


class Feature(NamedTuple):
    """How queries ask for a fact that only the text tells (`{}` is the noun), and what listings say after "it is"."""

    ask: tuple[str, ...]
    tell: tuple[str, ...]


CLOSINGS = (
    "a gift that gets used every day",
    "sent in recycled packaging",
    "returns are free for thirty days",
    "designed in a small studio",
    "a favourite from our spring collection",
)
# fmt: off
FEATURES = {
    # to wear
    "slim fit": Feature(("slim fit {}", "slim {}"), ("cut slim", "close fitting")),
    "relaxed fit": Feature(("relaxed fit {}", "loose {}"), ("cut for a relaxed fit", "roomy and loose")),
    "petite": Feature(("petite {}", "{} for petites"), ("proportioned for petites", "made in petite sizes")),
    "plus size": Feature(("plus size {}", "{} in plus sizes"), ("made in plus sizes", "cut for fuller figures")),
    "machine washable": Feature(("machine washable {}",), ("machine washable", "safe in the washing machine")),
    "hand wash": Feature(("hand wash {}", "{} to wash by hand"), ("for hand wash only", "best washed by hand")),
    "for winter": Feature(("winter {}", "{} for cold days"), ("warm enough for winter", "made for cold days")),
    "for summer": Feature(("summer {}", "{} for hot days"), ("light enough for summer", "made for hot days")),
    "for work": Feature(("{} for work", "office {}"), ("smart enough for work", "at home in the office")),
    "for parties": Feature(("party {}", "{} for a party"), ("ready for a party", "made for dancing")),
    "for running": Feature(("running {}", "{} for running"), ("made for running", "good for a morning jog")),
    "for hiking": Feature(("hiking {}", "{} for hiking"), ("made for hiking", "ready for long trails")),
    "for children": Feature(("kids {}", "{} for children"), ("sized for children", "made for little ones")),
    "quick drying": Feature(("quick drying {}", "quick dry {}"), ("quick to dry", "dry within the hour")),
    "itch free": Feature(("itch free {}", "{} for sensitive skin"), ("itch free", "kind to sensitive skin")),
    "touchscreen": Feature(("touchscreen {}", "{} to use my phone"), ("touchscreen friendly", "usable with a phone")),
    "wide fit": Feature(("wide fit {}", "{} for wide feet"), ("made in a wide fit", "kind to wide feet")),
    # to carry
    "waterproof": Feature(("waterproof {}", "{} for rainy days"), ("fully waterproof", "made to keep the rain out")),
    "lightweight": Feature(("lightweight {}", "light {}"), ("unusually light", "light as a feather")),
    "foldable": Feature(("foldable {}", "fold up {}"), ("easily folded away", "foldable to pocket size")),
    "for laptops": Feature(("laptop {}", "{} for my laptop"), ("padded for a laptop", "roomy enough for a laptop")),
    "cabin size": Feature(("cabin size {}", "carry on {}"), ("sized for the cabin", "accepted as carry-on")),
    "lockable": Feature(("lockable {}", "{} with a lock"), ("lockable", "fitted with a combination lock")),
    "windproof": Feature(("windproof {}", "{} for strong wind"), ("windproof", "steady in strong wind")),
    "automatic": Feature(("automatic {}", "push button {}"), ("automatic", "opened by a button")),
    # for the kitchen
    "dishwasher safe": Feature(("dishwasher safe {}",), ("dishwasher safe", "fine in the dishwasher")),
    "microwave safe": Feature(("microwave safe {}",), ("microwave safe", "suited to the microwave")),
    "small": Feature(("small {}", "little {}"), ("small and neat", "compact")),
    "large": Feature(("large {}", "big {}"), ("large and generous", "bigger than most")),
    "350 ml": Feature(("350 ml {}",), ("sized for 350 ml", "big enough for 350 ml")),
    "500 ml": Feature(("500 ml {}", "half litre {}"), ("sized for 500 ml", "big enough for half a litre")),
    "750 ml": Feature(("750 ml {}",), ("sized for 750 ml", "big enough for 750 ml")),
    "1200 ml": Feature(("1200 ml {}", "1.2 litre {}"), ("sized for 1200 ml", "big enough for 1.2 litres")),
    "stackable": Feature(("stackable {}", "stacking {}"), ("stackable", "easy to stack")),
    "insulated": Feature(("insulated {}", "{} for hot drinks"), ("insulated", "good at keeping drinks hot")),
    "leakproof": Feature(("leakproof {}", "leak free {}"), ("leakproof", "sealed against leaks")),
    "with infuser": Feature(("{} with infuser", "{} for loose tea"), ("fitted with an infuser", "made for loose tea")),
    "handmade": Feature(("handmade {}", "artisan {}"), ("handmade", "shaped and finished by hand")),
    "stain resistant": Feature(("stain resistant {}", "stain proof {}"), ("stain resistant", "easily wiped clean")),
    # for the home
    "dimmable": Feature(("dimmable {}", "{} with dimmer"), ("dimmable", "fitted with a dimmer")),
    "cordless": Feature(("cordless {}", "rechargeable {}"), ("cordless", "rechargeable by USB")),
    "adjustable": Feature(("adjustable {}", "height adjustable {}"), ("adjustable in height", "easy to adjust")),
    "outdoor": Feature(("outdoor {}", "{} for the garden"), ("fit for outdoor use", "at home on the terrace")),
    "for reading": Feature(("reading {}", "{} to read by"), ("ideal for reading", "perfect beside a book")),
    "sofa bed": Feature(("fold out {}", "pull out {}"), ("quickly turned into a bed", "a guest bed at night")),
    "removable cover": Feature(("{} with removable cover",), ("fitted with a removable cover", "zipped for washing")),
    "feather filled": Feature(("feather filled {}", "down filled {}"), ("filled with feathers", "plump with down")),
    "memory foam": Feature(("memory foam {}",), ("filled with memory foam", "soft with memory foam")),
    "watertight": Feature(("watertight {}", "{} for fresh flowers"), ("watertight", "ready for fresh flowers")),
    "washable": Feature(("washable {}", "easy clean {}"), ("washable at home", "easy to wash")),
    "non slip": Feature(("non slip {}", "anti slip {}"), ("safe on smooth floors", "grippy underneath")),
    "for hallways": Feature(("hallway {}", "{} for the hallway"), ("sized for a hallway", "meant for the hall")),
    "self watering": Feature(("self watering {}",), ("self-watering", "fitted with a water reservoir")),
    "drainage": Feature(("{} with drainage", "{} with a saucer"), ("drilled for drainage", "sold with a saucer")),
    "silent": Feature(("silent {}", "{} without ticking"), ("silent", "free from ticking")),
    "glow": Feature(("glow in the dark {}", "luminous {}"), ("readable in the dark", "marked with glowing hands")),
    "blackout": Feature(("blackout {}", "{} for a dark bedroom"), ("lined for blackout", "able to darken a bedroom")),
    "sheer": Feature(("sheer {}", "see through {}"), ("sheer and airy", "light and see-through")),
    "thermal": Feature(("thermal {}", "{} against draughts"), ("thermally lined", "good against draughts")),
}


@dataclass(frozen=True)
class ProductType:
    """What the shop knows about one type of product; `drawings.DRAWINGS` has its drawing.

    Attributes:
        department (`str`): the product's category.
        price (`tuple[int, int]`): lowest and highest price.
        names (`tuple[str]`): synonyms that listings and queries use.
        materials (`tuple[str]`): keys of `MATERIAL_WORDS`.
        features (`tuple[tuple[str]]`): keys of `FEATURES` in groups that exclude one another; a product has one
            feature of each of two groups.
        plural (`bool`): the names are plural ("these socks are").
        listed (`str`): one more name, that only listings use.
    """

    department: str
    price: tuple[int, int]
    names: tuple[str, ...]
    materials: tuple[str, ...]
    features: tuple[tuple[str, ...], ...]
    plural: bool = False
    listed: str = ""


def _type(
    department: str, price: tuple[int, int], names: str, materials: str, *features: str, **others
) -> ProductType:
    groups = tuple(tuple(group.split(", ")) for group in features)
    return ProductType(department, price, tuple(names.split(", ")), tuple(materials.split()), groups, **others)


CARE, SEASON, OCCASION = "machine washable, hand wash", "for winter, for summer", "for work, for parties"
FIT, SPORT = "slim fit, relaxed fit, petite, plus size", "for running, for hiking, for children"
POTTERY, MAKE, SIZE = "ceramic porcelain stoneware", "dishwasher safe, handmade", "small, large"
CLOTHING, EXTRAS, CARRIED, KITCHEN, HOME = "Clothing", "Accessories", "Shoes & Bags", "Kitchen", "Home"
# fmt: off
TYPES = {
    "t-shirt": _type(CLOTHING, (12, 39), "t-shirt, tee", "cotton linen bamboo", FIT, CARE, SPORT, listed="top"),
    "shirt": _type(CLOTHING, (29, 89), "shirt, button-up shirt", "cotton linen denim silk", FIT, CARE, OCCASION),
    "hoodie": _type(CLOTHING, (35, 89), "hoodie, hooded sweatshirt", "cotton fleece cashmere", FIT, CARE, SPORT,
                    listed="pullover"),
    "dress": _type(CLOTHING, (39, 140), "dress, frock", "cotton linen silk", "petite, plus size", CARE, OCCASION,
                   SEASON),
    "trousers": _type(CLOTHING, (35, 110), "trousers, pants", "cotton linen denim corduroy", FIT, CARE,
                      "for work, for hiking", listed="slacks", plural=True),
    "shorts": _type(CLOTHING, (19, 55), "shorts", "cotton linen denim nylon", FIT, SPORT, "quick drying",
                    plural=True),
    "skirt": _type(CLOTHING, (25, 85), "skirt", "cotton denim corduroy silk", "petite, plus size", CARE, OCCASION),
    "socks": _type(EXTRAS, (5, 25), "socks", "cotton wool bamboo cashmere", SPORT, "non slip", "itch free",
                   listed="crew socks", plural=True),
    "scarf": _type(EXTRAS, (19, 95), "scarf", "wool cashmere silk linen", SEASON, CARE, "itch free", listed="wrap"),
    "beanie": _type(EXTRAS, (15, 49), "beanie, knit hat", "wool cashmere cotton fleece", SPORT, CARE, "itch free"),
    "mittens": _type(EXTRAS, (15, 59), "mittens", "wool fleece leather suede", "touchscreen", "waterproof",
                     "for children", listed="mitts", plural=True),
    "umbrella": _type(EXTRAS, (15, 60), "umbrella, brolly", "nylon polyester cotton", "windproof", "for children",
                      "automatic, foldable"),
    "sneakers": _type(CARRIED, (45, 130), "sneakers, trainers", "canvas leather suede", "waterproof", "wide fit",
                      "lightweight", "for running, for work, for children", listed="runners", plural=True),
    "boots": _type(CARRIED, (69, 220), "boots", "leather suede canvas", "waterproof", "wide fit",
                   "for winter, for hiking", listed="ankle boots", plural=True),
    "backpack": _type(CARRIED, (35, 160), "backpack, rucksack", "canvas leather nylon", "waterproof", "for laptops",
                      "lightweight", "for hiking, for children"),
    "tote bag": _type(CARRIED, (15, 120), "tote bag, shopping bag", "canvas leather cotton jute", "waterproof",
                      "for laptops", "foldable", listed="carryall"),
    "suitcase": _type(CARRIED, (79, 290), "suitcase, travel case", "aluminium plastic leather canvas", "lockable",
                      "cabin size, large", "lightweight", listed="trolley"),
    "mug": _type(KITCHEN, (8, 28), "mug, coffee cup", POTTERY, MAKE, "microwave safe", "350 ml, 500 ml"),
    "bowl": _type(KITCHEN, (9, 45), "bowl", POTTERY, MAKE, "microwave safe", "stackable", SIZE),
    "bottle": _type(KITCHEN, (14, 42), "water bottle, drinking bottle", "steel glass aluminium plastic", "insulated",
                    "leakproof", "dishwasher safe", "500 ml, 750 ml", listed="flask"),
    "teapot": _type(KITCHEN, (24, 79), "teapot, tea pot", f"{POTTERY} enamel", "with infuser", MAKE,
                    "750 ml, 1200 ml"),
    "apron": _type(KITCHEN, (18, 49), "apron", "cotton linen denim", CARE, "stain resistant",
                   "for children, plus size", listed="pinafore"),
    "lamp": _type(HOME, (29, 150), "lamp, table lamp", "linen paper cotton", "dimmable", "cordless", "for reading",
                  SIZE),
    "chair": _type(HOME, (69, 290), "chair, dining chair", "velvet linen leather", "stackable, adjustable", "outdoor",
                   "stain resistant", listed="seat"),
    "sofa": _type(HOME, (390, 1490), "sofa, couch", "velvet linen leather corduroy", "sofa bed", "removable cover",
                  "stain resistant", listed="settee"),
    "cushion": _type(HOME, (14, 59), "cushion, throw pillow", "cotton linen velvet wool",
                     "feather filled, memory foam", "removable cover", "outdoor"),
    "vase": _type(HOME, (16, 89), "vase, flower vase", "ceramic glass porcelain terracotta", "watertight", "handmade",
                  SIZE),
    "rug": _type(HOME, (49, 390), "rug, carpet", "wool jute cotton", "non slip", "washable", "outdoor",
                 "for hallways"),
    "plant pot": _type(HOME, (9, 59), "plant pot, planter", "terracotta ceramic plastic", "self watering, drainage",
                       "outdoor", SIZE, listed="flower pot"),
    "clock": _type(HOME, (19, 95), "clock", "oak steel plastic", "silent", "glow", SIZE, listed="timepiece"),
    "curtains": _type(HOME, (29, 140), "curtains, drapes", "linen cotton velvet polyester", "washable",
                      "blackout, sheer, thermal", "for children", plural=True),
}


@dataclass
class Product:
    """One product: what it is, which its text and picture tell in part, and what the shop shows of it.

    Attributes:
        type, colour, pattern, material, brand, features: the hidden attributes that judgments go by.
        title, description, price: the listing.
        pictured (`bool`): it has a picture.
        id (`str`): unique in the shop.
        model (`int`): products of the same model differ in nothing but the colour.
        split (`str`): the split that all products of the model are in.
    """

    type: str
    colour: str
    pattern: str
    material: str
    brand: str
    features: tuple[str, ...]
    title: str
    price: str
    description: str = ""
    pictured: bool = True
    id: str = ""
    model: int = 0
    split: str = ""


def make_products(count: int, seed: int = 0) -> list[Product]:
    """The products of all splits, with their texts and without their pictures.

    Args:
        count (`int`): how many products to make.
        seed (`int`): the same seed gives the same products.
    """
    products: list[Product] = []
    deck: list[str] = []
    taken: set[tuple[str, str, str]] = set()
    sizes = dict.fromkeys(SPLITS, 0)
    for model in itertools.count():
        if len(products) == count:
            return products
        rng = random.Random(f"{seed}-model-{model}")
        deck = deck or rng.sample(list(TYPES), len(TYPES))
        colours = rng.sample(list(COLOUR_WORDS), rng.choice((2, 3, 4)) if rng.random() < 0.3 else 1)
        colours = colours[: count - len(products)]
        total = len(products) + len(colours)
        split = max(SPLITS, key=lambda name: SPLITS[name] * total - sizes[name])
        sizes[split] += len(colours)
        for product in _make_model(deck.pop(), colours, taken, rng):
            product.id, product.model, product.split = f"demo-{len(products):05d}", model, split
            products.append(product)


def _make_model(kind: str, colours: list[str], taken: set[tuple[str, str, str]], rng: random.Random) -> list[Product]:
    """One model in several colours, named as none of the names `taken`."""
    about = TYPES[kind]
    pattern = "plain" if rng.random() < 0.3 else rng.choice(drawings.PATTERNS[1:])
    material, brand, style = rng.choice(about.materials), rng.choice(BRANDS), rng.choice(STYLES)
    while (brand, style, kind) in taken:
        style = rng.choice(STYLES) if rng.random() < 0.95 else f"{rng.choice(STYLES)} {rng.randint(2, 999)}"
    taken.add((brand, style, kind))
    features = tuple(rng.choice(group) for group in rng.sample(about.features, 2))
    low, high = about.price
    price = f"{round(low + (high - low) * rng.random() ** 1.5)}{rng.choice(('.00', '.50', '.90', '.95'))}"

    noun = rng.choice(about.names + ((about.listed,) if about.listed else ()))
    colour_in, pattern_in = (rng.choice(("title", "description")) if rng.random() < SAID else "" for _ in range(2))
    if len(colours) > 1 and colour_in:
        colour_in = "description"  # the title is the same for all colours
    words = [brand, style]
    words += [rng.choice(COLOUR_WORDS[colours[0]])] if colour_in == "title" else []
    words += [rng.choice(PATTERN_WORDS[pattern].before)] if pattern_in == "title" else []
    words += [material] if rng.random() < 0.1 else []
    title = " ".join(word[0].upper() + word[1:] for word in " ".join([*words, noun]).split())

    products = []
    for colour in colours:
        product = Product(kind, colour, pattern, material, brand, features, title, price)
        lot = rng.random()
        product.pictured = lot >= MISSING
        if not MISSING <= lot < 2 * MISSING:
            tells = [
                name for name, place in (("colour", colour_in), ("pattern", pattern_in)) if place == "description"
            ]
            product.description = _describe(product, noun, tells, rng)
        products.append(product)
    return products


def _describe(product: Product, noun: str, tells: list[str], rng: random.Random) -> str:
    """A description of 10 to 30 words: the material, the features and what else it `tells`."""
    plural = TYPES[product.type].plural
    this, it, its = ("these", "they are", "their") if plural else ("this", "it is", "its")
    adjective = rng.choice(("handsome", "simple", "cheerful", "timeless", "well made", "friendly", "thoughtful"))
    material = rng.choice(MATERIAL_WORDS[product.material])
    one, two = (rng.choice(FEATURES[feature].tell) for feature in rng.sample(product.features, 2))
    made = (
        f"{this} {noun} {'are' if plural else 'is'} made from {material}",
        f"{'' if plural else 'a '}{adjective} {noun} in {material}",
        f"crafted from {material} by {product.brand}",
        f"{material} gives {this} {noun} {its} character",
        f"we chose {material} for {this} {noun}",
    )
    good = (
        f"{it} {one} and {two}",
        f"{one}, and {two} as well",
        f"note that {it} {one} and {two}",
        f"{it} {one}, and also {two}",
    )
    sentences = [rng.choice(made), rng.choice(good)]
    if tells:
        looks = [rng.choice(("shown here", "pictured", "seen here"))]
        looks += [f"in {rng.choice(COLOUR_WORDS[product.colour])}"] if "colour" in tells else []
        looks += [f"with {rng.choice(PATTERN_WORDS[product.pattern].after)}"] if "pattern" in tells else []
        sentences.append(" ".join(looks))
    length = len(" ".join(sentences).split())
    if length < 12 or (length < 23 and rng.random() < 0.3):
        sentences.append(rng.choice(CLOSINGS))
    return " ".join(f"{sentence[0].upper()}{sentence[1:]}." for sentence in sentences)


def draw_product(product: Product, seed: int = 0) -> bytes:
    """The picture of a product as a JPEG file of 224 x 224 pixels; colours of one model show the same shape."""
    model, own = random.Random(f"{seed}-shape-{product.model}"), random.Random(f"{seed}-picture-{product.id}")
    picture = drawings.draw(product.type, product.colour, product.pattern, model, own)
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=90)
    return file.getvalue()


def grade(asked: dict[str, str], product: Product) -> int:
    """How well a product answers: 2 if all that is asked holds, 1 if only the shade is a neighbouring one, else 0.

    Args:
        asked (`dict[str, str]`): what a query asks: `type` and some of `colour`, `pattern`, `material`, `brand`,
            `feature`.
        product (`Product`): judged by its hidden attributes, even where its text is silent.
    """
    for name, value in asked.items():
        if name == "feature":
            if value not in product.features:
                return 0
        elif name != "colour" and getattr(product, name) != value:
            return 0
    colour = asked.get("colour", product.colour)
    return 2 if colour == product.colour else int(NEIGHBOUR.get(colour) == product.colour)


def make_queries(shelf: list[Product], split: str, count: int, seed: int = 0) -> list[dict]:
    """Queries about the products of one split, each asking for what one of them has.

    Args:
        shelf (`list[Product]`): the products of the split.
        split (`str`): its name, the first part of the ids.
        count (`int`): how many queries to make.
        seed (`int`): the same seed gives the same queries.

    Returns:
        `list[dict]`: `_id, text, slice` and `asked` (a dict as in `grade`); fewer than `count` where the split has
        too few different things to ask for.
    """
    rng = random.Random(f"{seed}-queries-{split}")
    anchors = [product for product in shelf if product.pictured and product.description] or shelf
    texts, tuples, queries = set(), set(), []
    wanted = [name for name, share in SLICES.items() for _ in range(round(share * count))]
    wanted = (wanted + ["both"] * count)[: max(count, 1)]
    for slice_name in wanted:
        for _ in range(100):
            product = rng.choice(anchors)
            asked = {"type": product.type}
            for name in rng.choice(FORMS[slice_name]).split():
                asked[name] = rng.choice(product.features) if name == "feature" else getattr(product, name)
            text, key = phrase(asked, rng), json.dumps(asked, sort_keys=True)
            if text not in texts and key not in tuples:
                texts.add(text)
                tuples.add(key)
                queries.append({"text": text, "slice": slice_name, "asked": asked})
                break
    rng.shuffle(queries)
    return [{"_id": f"{split}-q{number:04d}", **query} for number, query in enumerate(queries)]


def phrase(asked: dict[str, str], rng: random.Random) -> str:
    """What a shopper types, in lower case: the asked attributes in one of several wordings and orders."""
    about = TYPES[asked["type"]]
    before, after = [], ""
    if "colour" in asked:
        before.append(_usual(COLOUR_WORDS[asked["colour"]], rng))
    if "pattern" in asked:
        words = PATTERN_WORDS[asked["pattern"]]
        if rng.random() < 0.25:
            after += f" with {rng.choice(words.after)}"
        else:
            before.insert(rng.choice((0, len(before), len(before))), _usual(words.before, rng))
    if "material" in asked:
        if rng.random() < 0.12 and not after:
            after += f" made of {asked['material']}"
        else:
            before.append(asked["material"])
    noun = rng.choice(about.names)
    if "feature" in asked:
        lead, trail = _usual(FEATURES[asked["feature"]].ask, rng).split("{}")
        after += trail
        if lead and asked["feature"].startswith("for "):
            noun = lead + noun  # "red running socks", never "running red socks"
        elif lead:
            before.insert(rng.randint(0, len(before)), lead.strip())
    text = " ".join([*before, noun]) + after
    if brand := asked.get("brand"):
        text = f"{brand} {text}" if rng.random() < 0.75 else f"{text} {rng.choice(('by', 'from'))} {brand}"
    text = text.lower()
    if rng.random() < 0.08:
        article = "" if about.plural else "an " if text[0] in "aeiou" else "a "
        text = rng.choice(("looking for {}{}", "i need {}{}", "where can i find {}{}")).format(article, text)
    return text


def _usual(words: tuple[str, ...], rng: random.Random) -> str:
    """Mostly the first wording."""
    return words[0] if rng.random() < 0.7 else rng.choice(words)


def generate(out: Path, products: int = 2400, queries: int = 1600, seed: int = 0, progress: bool = True) -> dict:
    """Writes the shop to a folder in the Hub's retrieval layout.

    Args:
        out (`Path`): the folder; made if missing, files of an earlier run are replaced.
        products (`int`): how many products in all; 60 % go to train, 10 % to dev, 30 % to test.
        queries (`int`): how many queries in all, divided in the same way. A small shop may yield fewer.
        seed (`int`): the same seed and sizes give the same pictures, texts and judgments.
        progress (`bool`): show a progress bar.

    Returns:
        `dict`: for each split `products`, `queries`, `slices` (counts), `novel`, `judgments`, `relevant per query`
        (mean number of products with score 2); and under `all` the shares of products whose text tells the colour
        and the pattern, and of those without a picture and without a description.

    Raises:
        DataError: if there are fewer than 40 products or 10 queries, too few to fill three splits.
    """
    if products < LEAST_PRODUCTS or queries < LEAST_QUERIES:
        raise DataError(
            f"a shop of {products} products and {queries} queries can't fill three splits; "
            f"ask for at least {LEAST_PRODUCTS} products and {LEAST_QUERIES} queries"
        )
    check_folder(out, WRITER)
    shop = make_products(products, seed)
    report: dict = {}
    asked_in_train: set[str] = set()
    with new_folder(out, WRITER) as folder:
        with tqdm(total=products, desc="drawing", unit="product", disable=not progress) as bar:
            for split, share in SPLITS.items():
                shelf = [product for product in shop if product.split == split]
                found = make_queries(shelf, split, round(share * queries), seed)
                qrels = judge(found, shelf)
                rows = [_query_row(query) for query in found]
                if split == "train":
                    asked_in_train = {row["attributes"] for row in rows}
                for row in rows:
                    row["novel"] = row["attributes"] not in asked_in_train
                corpus = []
                for product in shelf:
                    corpus.append(_product_row(product, seed))
                    bar.update()
                write_split(folder, split, corpus, rows, qrels)
                report[split] = _count(shelf, rows, qrels)
        body = CARD.format(products=products, queries=queries, seed=seed, types=len(TYPES))
        write_card(folder, "Demo shop", "apache-2.0", list(SPLITS), body, synthetic=True)
    report["all"] = {
        "text tells the colour": _share(_tells(product, COLOUR_WORDS[product.colour]) for product in shop),
        "text tells the pattern": _share(_tells(product, sum(PATTERN_WORDS[product.pattern], ())) for product in shop),
        "without picture": _share(not product.pictured for product in shop),
        "without description": _share(not product.description for product in shop),
    }
    return report


def judge(queries: list[dict], shelf: list[Product]) -> list[dict]:
    """The rows of `qrels`: every product of the split that answers a query, with its grade."""
    of_type = {kind: [product for product in shelf if product.type == kind] for kind in TYPES}
    return [
        {"query-id": query["_id"], "corpus-id": product.id, "score": score}
        for query in queries
        for product in of_type[query["asked"]["type"]]
        if (score := grade(query["asked"], product))
    ]


def _product_row(product: Product, seed: int) -> dict:
    image = {"bytes": draw_product(product, seed), "path": f"{product.id}.jpg"} if product.pictured else None
    fields = {name: getattr(product, name) for name in ("title", "description", "brand", "price")}
    return {"_id": product.id, **fields, "category": TYPES[product.type].department, "image": image}


def _query_row(query: dict) -> dict:
    attributes = json.dumps(query["asked"], sort_keys=True)
    return {"_id": query["_id"], "text": query["text"], "slice": query["slice"], "attributes": attributes}


def _count(shelf: list[Product], rows: list[dict], qrels: list[dict]) -> dict:
    exact = sum(row["score"] == 2 for row in qrels)
    return {
        "products": len(shelf),
        "queries": len(rows),
        "slices": dict(Counter(row["slice"] for row in rows)),
        "novel": sum(row["novel"] for row in rows),
        "judgments": len(qrels),
        "relevant per query": round(exact / max(len(rows), 1), 2),
    }


def _tells(product: Product, words: tuple[str, ...]) -> bool:
    text = f" {product.title} {product.description} ".lower().replace(".", " ")
    return any(f" {word} " in text for word in words)


def _share(flags: Iterable[bool]) -> float:
    flags = list(flags)
    return round(sum(flags) / len(flags), 3)


CARD = """# Demo shop

{products} invented products of {types} types, each with a drawn picture and a short listing, and search queries with
exact judgments. No brand, text or picture comes from a real shop; everything is generated by

    python -m training.demo.shop --output demo_shop --products {products} --queries {queries} --seed {seed}

It shows why product search needs both the picture and the text. The picture shows the type, the colour and the
pattern. The listing names the type and the brand and tells the material and two features; it mentions the colour and
the pattern of only one product in four. A few products lack the picture or the description, as in real catalogues.

## Fields

- `corpus`: `_id`, `title`, `description`, `category` (the department), `brand`, `price`, `image` (224 x 224).
- `queries`: `_id`, `text`, `slice`, `novel`, `attributes` (what the query asks, as JSON).
- `qrels`: `query-id`, `corpus-id`, `score`.

## Queries and judgments

Each query asks for what at least one product of its split has:

| slice | asks for | example |
|---|---|---|
| `text` | brand, material or feature | waterproof backpack |
| `image` | colour, pattern | green striped mug |
| `both` | some of either | navy wool scarf |

A product scores 2 if it has everything that is asked, by its hidden attributes, even where its text is silent. It
scores 1 if only its shade is a neighbouring one, such as navy for blue. All other products of the split score 0.
`novel` is true where no query of `train` asks for the same attributes.

All colours of a model are in the same split, and no title and no picture is in two splits.
"""




def main(arguments: DemoShopArguments) -> dict:
    """Makes the shop, prints and returns what was made."""
    report = generate(Path(arguments.output), arguments.products, arguments.queries, arguments.seed)
    print(json.dumps(report, indent=2))
    print(f"wrote {arguments.output}", flush=True)
    return report
