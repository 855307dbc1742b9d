"""Singular and plural of English nouns in lower case, as shops use them: some rules and the field's exceptions."""

IRREGULAR = {
    "man": "men",
    "woman": "women",
    "child": "children",
    "foot": "feet",
    "tooth": "teeth",
    "mouse": "mice",
    "knife": "knives",
    "shelf": "shelves",
    "bookshelf": "bookshelves",
    "scarf": "scarves",
    "leaf": "leaves",
    "bus": "buses",
    "gas": "gases",
    "lens": "lenses",
    "canvas": "canvases",
    "beanie": "beanies",
    "bootie": "booties",
    "cookie": "cookies",
    "hoodie": "hoodies",
    "movie": "movies",
    "onesie": "onesies",
}
SINGULAR = {many: one for one, many in IRREGULAR.items()}
# one form alone: pairs and what can't be counted
FIXED = frozenset(
    "bedding boxers briefs capris christmas clothes clothing cookware cutlery denim dungarees footwear furniture "
    "glasses hosiery jeans jewellery jewelry knitwear leggings lighting lingerie luggage makeup menswear nightwear "
    "outerwear overalls pants pliers scissors series shorts sportswear sunglasses swimwear tableware tights tongs "
    "trousers underwear womenswear".split()
)


def singular(noun: str) -> str:
    """The singular of a noun, which may be one already."""
    if noun in FIXED or noun in IRREGULAR or len(noun) < 4 or noun.endswith(("ss", "us", "is", "'s")):
        return noun
    if noun in SINGULAR:
        return SINGULAR[noun]
    if noun.endswith("ies") and len(noun) > 4:
        return f"{noun[:-3]}y"
    if noun.endswith(("sses", "xes", "zzes", "ches", "shes")):
        return noun[:-2]
    return noun.removesuffix("s")


def plural(noun: str) -> str:
    """The plural of a noun in the singular."""
    if noun in FIXED:
        return noun
    if noun in IRREGULAR:
        return IRREGULAR[noun]
    if noun.endswith("y") and noun[-2:-1] not in tuple("aeiou"):
        return f"{noun[:-1]}ies"
    return noun + ("es" if noun.endswith(("s", "x", "z", "ch", "sh")) else "s")


def other_number(noun: str) -> str:
    """The plural of a singular and the singular of a plural; the noun as it is if it has one form alone."""
    one = singular(noun)
    return plural(one) if one == noun else one
