"""Rankings on disk, whatever the ids."""

import ir_measures
import pytest

from modeling_mmfusion.errors import DataError
from training.evaluation.product_retrieval.metrics import per_query
from training.evaluation.trec import read_run, write_run

IDS = [
    "00123",
    "a/b",
    "red mug, large",
    "x" * 200,
    "😀 mug",
    "👩‍🎨",
    "1e5",
    "12.0",
    "50%",
    "a%20b",
    "a b",
    "tab\there",
]
IDS += [
    "line\nbreak",
    "no\u00a0break",
    "wide\u3000space",
    "\x1cfile",
    "next\x85line",
    "nul\0",
    "para\u2029graph",
    "Q0",
    "ä",
]
IDS += ["\ufeffbom", "%", "%25", " a ", "#1", '"quoted"', "\rreturn"]


def test_every_id_comes_back_as_it_was(tmp_path):
    rankings = {name: IDS[place:] + IDS[:place] for place, name in enumerate(IDS)}
    write_run(tmp_path / "run.trec", rankings)
    assert read_run(tmp_path / "run.trec") == rankings
    lines = (tmp_path / "run.trec").read_text(encoding="utf-8").split("\n")
    assert len(lines) == len(IDS) ** 2 + 1 and {len(line.split()) for line in lines[:-1]} == {6}
    assert lines[0] == f"00123 Q0 00123 1 {len(IDS)} mmfusion" and "00123 Q0 a%20b 11 18 mmfusion" in lines
    assert "00123 Q0 👩‍🎨 6 23 mmfusion" in lines, "what breaks no line stands as it is"


def test_other_tools_find_the_same_order_however_deep(tmp_path):
    ids = [f"p{place}" for place in range(3000, 0, -1)]
    write_run(tmp_path / "run.trec", {"q": ids})
    found = sorted(ir_measures.read_trec_run(str(tmp_path / "run.trec")), key=lambda item: -item.score)
    assert [item.doc_id for item in found] == ids and len({item.score for item in found}) == 3000
    qrels = {"q": {"p5": 1, "p2": 1, "p9": 1}}
    measured = ir_measures.calc_aggregate(
        [ir_measures.AP @ 3000], qrels, ir_measures.read_trec_run(str(tmp_path / "run.trec"))
    )
    assert measured[ir_measures.AP @ 3000] == per_query({"q": ids}, qrels, ["map@3000"])["map@3000"][0]


def test_lines_in_any_order_are_ranked_by_score_then_by_rank(tmp_path):
    lines = ["q Q0 c 3 0.5 x", "r Q0 a 1 -inf x", "q\tQ0  b 2 0.5 x", "", "q Q0 a 9 1e3 x"]
    (tmp_path / "run").write_text("\ufeff" + "\r\n".join(lines), encoding="utf-8")
    assert read_run(tmp_path / "run") == {"q": ["a", "b", "c"], "r": ["a"]}


@pytest.mark.parametrize(
    "line, message",
    [
        ("q Q0 a 1 0.5", r"line 2: 'q Q0 a 1 0.5' isn't query id, Q0, product id, rank, score, name"),
        ("q Q0 red mug 1 0.5 x", "line 2: .* with a number for rank and score"),
        ("q Q0 a 1 nan x", "line 2: .* with a number for rank and score"),
        ("q Q0 first 9 0.1 x", "line 2: product first a second time for query q; keep one"),
        ("\udcff", "is no UTF-8 text"),
    ],
)
def test_a_line_that_is_none_is_named(tmp_path, line, message):
    (tmp_path / "run").write_bytes(b"q Q0 first 1 0.5 x\n" + line.encode(errors="surrogateescape"))
    with pytest.raises(DataError, match=message):
        read_run(tmp_path / "run")
