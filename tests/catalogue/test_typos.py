"""What slips of the hand make of a query."""

from random import Random

import pytest

from training.catalogue.typos import NEIGHBOURS, join_words, misspell, split_word

QUERIES = ("black cotton dress", "Levi's t-shirt 501", "red mug", "crêpe blouse", "waterproof hiking boots for women")


def distance(first: str, second: str) -> int:
    """Edits between two words: letters changed, added, left out, and neighbours swapped."""
    table = [[row + column for column in range(len(second) + 1)] for row in range(len(first) + 1)]
    for i, one in enumerate(first, 1):
        for j, other in enumerate(second, 1):
            table[i][j] = min(table[i - 1][j] + 1, table[i][j - 1] + 1, table[i - 1][j - 1] + (one != other))
            if i > 1 and j > 1 and (one, first[i - 2]) == (second[j - 2], other):
                table[i][j] = min(table[i][j], table[i - 2][j - 2] + 1)
    return table[-1][-1]


@pytest.mark.parametrize("edits", [1, 2])
def test_words_are_that_many_edits_away_and_short_ones_stay(edits):
    far = []
    for seed in range(400):
        query = QUERIES[seed % 5]
        pairs = list(zip(query.split(), misspell(query, edits, Random(seed)).split(), strict=True))
        changed = [(word, typo) for word, typo in pairs if word != typo]
        assert changed or query == "red mug"
        assert all(len(word) > 3 and word[0] == typo[0] for word, typo in changed)
        far += [distance(word, typo) for word, typo in changed]
    assert set(far) <= set(range(1, edits + 1))
    assert far.count(edits) > 0.9 * len(far)  # two edits now and then come to one


def test_the_same_seed_makes_the_same_slips():
    once, again = ([misspell(QUERIES[0], 2, Random(seed)) for seed in range(50)] for _ in range(2))
    assert once == again and len(set(once)) > 25


def test_letters_are_changed_doubled_dropped_and_swapped():
    found = {misspell("trucks", 1, Random(seed)) for seed in range(500)}
    assert {"tricks", "trrucks", "trcks", "turcks"} <= found
    assert not {"trzcks", "rtucks"} & found


def test_keys_touch_each_other():
    assert set(NEIGHBOURS["g"]) == set("fhtyvb")
    assert set(NEIGHBOURS["A"]) == set("QWSZ")
    assert all(key in NEIGHBOURS[near] for key, found in NEIGHBOURS.items() for near in found)


def test_spaces_are_lost_and_too_many():
    assert {join_words("black cotton dress", Random(seed)) for seed in range(20)} == {
        "blackcotton dress",
        "black cottondress",
    }
    assert join_words("500 ml", Random(0)) == "500 ml"
    assert {split_word("red dress", Random(seed)) for seed in range(20)} == {"red dr ess", "red dre ss"}
    assert split_word("red mug", Random(0)) == "red mug"
