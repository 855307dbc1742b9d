import random

import numpy as np
import pytest
from helpers import make_image_processor, make_tokenizer

from modeling_mmfusion import MMFusionProcessor
from modeling_mmfusion.spelling_mmfusion import (
    MMFusionSpeller,
    edits_to,
    join_words,
    mistaken_for,
    shop_words,
    speller_of,
)

LISTINGS = [
    "red dotted mug",
    "red striped mug",
    "blue dotted curtains",
    "table lamp",
    "wallets of leather",
    "red vase",
]


@pytest.fixture(scope="module")
def speller() -> MMFusionSpeller:
    return speller_of(shop_words(LISTINGS))


@pytest.mark.parametrize(
    "written, meant",
    [
        ("red dotted mug", "red dotted mug"),
        ("red doted mug", "red dotted mug"),  # left out
        ("stripped mug", "striped mug"),  # doubled
        ("blue curtians", "blue curtains"),  # swapped
        ("leathwr", "leather"),  # the key beside it
        ("lether wallet", "leather wallet"),
        ("curtauns bleu", "curtains blue"),
        ("qurtains", "curtains"),  # sounds alike
        ("curtausn", "curtains"),  # two edits of a long word
        ("redmug", "red mug"),
        ("reddottedmug", "red dotted mug"),
        ("dot ted mug", "dotted mug"),
        ("s triped mug", "striped mug"),
        ("RED Doted Mug", "RED dotted Mug"),
    ],
)
def test_misspelled_words_become_the_shops(speller, written, meant):
    assert speller.correct(written) == meant


@pytest.mark.parametrize(
    "text",
    [
        "red wallet",  # the shop has wallets
        "xr500 9x12 ab12cd",
        "mag",  # too short to tell
        "men's 3.5 & 1/2",
        "\u624b\u888b\u30b8\u30e3\u30b1\u30c3\u30c8",  # no spaces between words
        "zebra",  # nothing near
        "lump" + "s" * 40,
        "sable",  # s is not beside the t of table
        "rase",  # of four letters the first one has to be right
        "",
        "   ",
    ],
)
def test_what_can_not_be_told_stays(speller, text):
    assert speller.correct(text) == text


def test_words_that_the_encoder_knows_stay(speller):
    assert speller.correct("lamb") == "lamp"
    assert speller.correct("lamb", {"lamb"}.__contains__) == "lamb"
    assert speller.correct("lamping", {"lamp"}.__contains__) == "lamping"


def test_of_two_near_words_the_frequent_one_is_taken():
    assert speller_of("lamb lamp").correct("lamo") == "lamp", "the key beside it"
    assert speller_of("cups caps").correct("cyps") == "cups"
    assert speller_of("caps cups").correct("cyps") == "caps"
    assert speller_of("boots roots").correct("boits") == "boots", "the first letter is seldom wrong"


def test_a_shop_without_words_corrects_nothing():
    assert MMFusionSpeller([]).correct("red mugg") == "red mugg"


def test_words_of_other_scripts_are_known_and_never_a_correction():
    speller = speller_of(
        shop_words(["\U00020000\U00020001\U00020002\U00020003 mug", "\u30de\u30b0\u30ab\u30c3\u30d7"])
    )
    assert speller.correct("\u30de\u30b0\u30ab\u30c3 mugg") == "\u30de\u30b0\u30ab\u30c3 mug"


def distance(one: str, other: str) -> int:
    """Optimal string alignment with replacements of 2 where letters are not mistaken for each other, by recursion."""
    if not one or not other:
        return len(one) + len(other)
    replaced = 0 if one[-1] == other[-1] else 1 if other[-1] in mistaken_for(one[-1]) else 2
    ways = [distance(one[:-1], other) + 1, distance(one, other[:-1]) + 1, distance(one[:-1], other[:-1]) + replaced]
    if len(one) > 1 and len(other) > 1 and one[-1] == other[-2] and one[-2] == other[-1]:
        ways.append(distance(one[:-2], other[:-2]) + 1)
    return min(ways)


def test_edits_are_counted_as_by_definition():
    rng = random.Random(0)
    words = ["".join(rng.choices("abes", k=rng.randint(1, 5))) for _ in range(60)]
    letters = np.zeros((len(words), 8), dtype=np.uint16)
    for row, word in enumerate(words):
        letters[row, : len(word)] = [ord(letter) for letter in word]
    lengths = np.array([len(word) for word in words])
    for word in words[:20]:
        assert edits_to(word, letters, lengths).tolist() == [distance(word, other) for other in words]


def test_words_of_one_query_alone_are_none_of_the_shops():
    assert shop_words(["Red mug", "red vase, red"], ["rde mug", "mug tall", "tall"]).split() == [
        "mug",
        "red",
        "tall",
        "vase",
    ]


def test_the_newest_words_are_kept_of_too_many():
    old, new = (" ".join(f"{kind}{number}" for number in range(30_000)) for kind in ("old", "new"))
    words = join_words(new, old).split()
    assert len(words) == 40_000 and set(new.split()) <= set(words)
    assert join_words("red mug", "mug lamp") == "red mug lamp"


def test_a_processor_learns_words_and_keeps_them(tmp_path):
    processor = MMFusionProcessor(make_image_processor(), make_tokenizer(), plain_words=True)
    assert processor.query_text("Doted, mug") == "Doted mug"
    processor.learn_words(["dotted mug"])
    processor.learn_words(["green lamp"])
    assert processor.query_text("Doted, mug") == "dotted mug"
    assert processor.query_text("doted lamo") == "dotted lamp"
    assert processor.product_text({"title": "doted mug"}) == "doted mug", "listings are as the shop wrote them"
    processor.save_pretrained(tmp_path)
    kept = MMFusionProcessor.from_pretrained(tmp_path)
    assert kept.query_text("doted lamo") == "dotted lamp"
    assert processor.process_queries(["doted mug"])["input_ids"].tolist() == (
        kept.process_queries(["dotted mug"])["input_ids"].tolist()
    )
