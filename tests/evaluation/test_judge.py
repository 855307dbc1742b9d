"""Pools that tell no rank, grades that are none of another pool's, and a catalogue that is measured as any other."""

import csv
import json
from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest
from helpers import picture, shop_rows, write_shop

from modeling_mmfusion.errors import DataError
from training import evaluate, judge
from training.catalogue.layout import load_split, load_table
from training.common.errors import Problems
from training.evaluation.grades import (
    GUIDELINES,
    grades_of_qrels,
    join_grades,
    read_grades,
    whole_queries,
    write_grades,
)
from training.evaluation.options import EvaluateArguments
from training.evaluation.pooling import Pool, PooledQuery, draw_queries, read_pool
from training.evaluation.trec import write_run
from training.judge import JudgeArguments

PRODUCTS = [row["_id"] for row in shop_rows()[0]]


def small_pool(*products, systems=("one",)) -> Pool:
    """A pool of three queries with the same products, which every system ranks as they stand."""
    found = {product: dict.fromkeys(systems, rank) for rank, product in enumerate(products, start=1)}
    return Pool("shop", "test", 10, list(systems), [PooledQuery(f"q{n}", f"query {n}", dict(found)) for n in range(3)])


def run_of(shift: int) -> dict[str, list[str]]:
    """A ranking for each query of the tiny shop: its own product comes at place `shift`, the others in turn."""
    rankings = {}
    for row in shop_rows()[2]:
        others = [product for product in PRODUCTS if product != row["corpus-id"]]
        rankings[row["query-id"]] = others[:shift] + [row["corpus-id"]] + others[shift:]
    return rankings


@pytest.fixture
def folder(shop, tmp_path):
    """A judging of the tiny shop with five systems, the first of which ranks best."""
    for shift in range(5):
        write_run(tmp_path / f"{shift}.trec", run_of(shift))
    systems = [str(tmp_path / f"{shift}.trec") for shift in range(5)]
    arguments = JudgeArguments("pool", str(tmp_path / "judging"), str(shop), systems=systems, queries=8, depth=6)
    judge.main(arguments)
    return SimpleNamespace(
        path=tmp_path / "judging", pool=read_pool(tmp_path / "judging" / "pool.jsonl"), made=arguments
    )


def test_the_pool_knows_who_found_what_and_its_order_tells_no_rank(folder):
    pool, runs = folder.pool, {name: run_of(shift) for shift, name in enumerate(folder.made.systems)}
    assert len(pool.queries) == 8 and pool.systems == folder.made.systems
    for system in pool.systems:
        assert pool.rankings(system) == {query.id: runs[system][query.id][:6] for query in pool}
    places = [list(query.found).index(query.id[2:]) for query in pool]
    assert len(set(places)) > 2, "the best product of each query stands anywhere"
    again = JudgeArguments(**vars(folder.made) | {"systems": folder.made.systems[::-1]})
    judge.main(again)
    assert read_pool(folder.path / "pool.jsonl").digest == pool.digest, "the order of the systems decides nothing"


def test_another_pool_does_not_replace_one_that_may_be_judged(folder):
    with pytest.raises(DataError, match="is another pool, which may be judged already"):
        judge.main(JudgeArguments(**vars(folder.made) | {"seed": 1}))
    assert read_pool(folder.path / "pool.jsonl").digest == folder.pool.digest


def test_queries_are_drawn_of_each_slice_in_proportion():
    sizes = {"text": 50, "image": 30, "both": 17, None: 3}
    queries = [{"_id": f"{name}{n}", "slice": name} for name, size in sizes.items() for n in range(size)]
    split = SimpleNamespace(queries=queries)
    for count in (1, 7, 20, 50, 99):
        drawn = draw_queries(split, count, seed=count)
        kinds = Counter(query["slice"] for query in drawn)
        assert len({query["_id"] for query in drawn}) == count
        assert all(abs(kinds[name] - size * count / 100) < 1 for name, size in sizes.items())
    seven = Counter(query["slice"] for query in draw_queries(split, 7, 0))
    assert seven == {"text": 4, "image": 2, "both": 1}, "the one that is left goes where most of one is missing"
    assert len(draw_queries(split, 500, 0)) == 100
    first = draw_queries(split, 50, 0)
    assert first == draw_queries(split, 50, 0) != draw_queries(split, 50, 1)
    assert {"text", "image"} <= {query["slice"] for query in first[:12]}, "who stops early has judged a sample"


def test_models_are_measured_for_the_pool_and_few_systems_are_told(shop, tmp_path, capsys):
    report = judge.main(JudgeArguments("pool", str(tmp_path / "j"), str(shop), systems=["bm25"], depth=2))
    pool = read_pool(tmp_path / "j" / "pool.jsonl")
    assert (
        report["systems"] == pool.systems == ["bm25"] and "pool of few systems; first: bm25" in capsys.readouterr().out
    )
    kinds = {query.text.split()[1]: {product.split("-")[0] for product in query.found} for query in pool}
    assert kinds == {kind: {kind} for kind in ("mug", "shirt", "lamp", "bowl")}
    assert all(len(query.found) == 2 for query in pool)


def test_a_run_that_does_not_fit_is_told(shop, tmp_path, capsys):
    rankings = run_of(0)
    del rankings["q-mug-red"]
    rankings["q-mug-blue"].insert(0, "spoon")
    write_run(tmp_path / "odd.trec", rankings)
    judge.main(JudgeArguments("pool", str(tmp_path / "j"), str(shop), systems=["bm25", str(tmp_path / "odd.trec")]))
    out = capsys.readouterr().out
    assert (
        "1 x ranked product that the catalogue doesn't have (left out); first:" in out and "q-mug-blue: spoon" in out
    )
    assert "spoon" not in (tmp_path / "j" / "pool.jsonl").read_text()
    assert "1 x query that a system has no ranking for; first:" in out and "query q-mug-red" in out
    write_run(tmp_path / "odd.trec", {"other": ["mug-red"]})
    with pytest.raises(DataError, match="odd.trec: ranks none of the queries of"):
        judge.main(JudgeArguments("pool", str(tmp_path / "k"), str(shop), systems=[str(tmp_path / "odd.trec")]))


def test_grades_come_back_as_they_were_whatever_the_ids(tmp_path):
    ids = ['red, "mug"', "a;b", "007", " x ", "ä\n2", "1e5", "=1+1", "a|b", "-"]
    pool = small_pool(*ids)
    grades = {query.id: {product: place % 4 for place, product in enumerate(ids)} for query in pool}
    write_grades(tmp_path / "g.csv", pool, grades)
    problems = Problems()
    assert read_grades(tmp_path / "g.csv", pool, problems) == grades and not problems.counts
    assert whole_queries(pool, grades, {"q1": grades["q1"]}) == ["q1"]


@pytest.mark.parametrize(
    "text, message",
    [
        ("query-id,corpus-id,grade\nq0,a,4\n", "row 2, field grade: '4' is none of 0, 1, 2 and 3"),
        ("query-id,corpus-id,grade\nq0,a,1.0\n", "row 2, field grade: '1.0' is none"),
        ("query-id,corpus-id,grade\nq0,a,1\nq0,a,2\n", "row 3: q0, a has two grades, 1 and 2; keep one"),
        ("query-id,corpus-id,grade\nq0,a,1,2,3\n", "row 2: 'q0,a,1,2,3' doesn't fit the header"),
        ("query-id,corpus-id\nq0,a\n", r"column grade is missing \(columns: query-id, corpus-id\)"),
        ("query-id,corpus-id,grade\nq0,z,1\n", "has no grade of this pool"),
        ("", "is empty"),
    ],
)
def test_grades_that_are_none_are_one_line(tmp_path, text, message):
    (tmp_path / "g.csv").write_text(text)
    with pytest.raises(DataError, match=f"g.csv:? ?.*{message}"):
        read_grades(tmp_path / "g.csv", small_pool("a", "b"), Problems())


def test_grades_of_a_spreadsheet_are_read_and_strange_pairs_told(tmp_path):
    (tmp_path / "g.csv").write_text("\ufeffgrade;query-id;corpus-id\r\n3;q0;a\r\n;q0;b\r\n0;q9;a\r\n1;q1;a\r\n")
    problems = Problems()
    assert read_grades(tmp_path / "g.csv", small_pool("a", "b"), problems) == {"q0": {"a": 3}, "q1": {"a": 1}}
    assert problems.lines() == [
        f"1 x grade of a pair that is not in the pool (left out); first: {tmp_path / 'g.csv'} row 4: q9, a"
    ]


def test_several_judges_are_joined_by_the_lower_median():
    judges = [{"q": {"a": 3, "b": 2, "c": 0}}, {"q": {"a": 1, "b": 1}}, {"q": {"a": 0}}]
    assert join_grades(judges) == {"q": {"a": 1, "b": 1, "c": 0}}


def test_a_catalogues_scores_become_grades_from_the_top():
    qrels = {"q0": {"a": 100, "b": 10}, "q1": {"a": 1, "c": 0}}
    split = SimpleNamespace(qrels=qrels, name="shop[test]")
    assert grades_of_qrels(split, small_pool("a", "b")) == {
        "q0": {"a": 3, "b": 2},
        "q1": {"a": 1, "b": 0},
        "q2": {"a": 0, "b": 0},
    }
    qrels["q2"] = {"a": 5}
    with pytest.raises(DataError, match="4 scores above 0"):
        grades_of_qrels(split, small_pool("a"))


def write_judge(folder, name: str, grade_of, queries=None) -> str:
    """A judge's file for the pool, of the first `queries`."""
    grades = {query.id: {p: grade_of(query.id, p) for p in query.found} for query in folder.pool.queries[:queries]}
    write_grades(folder.path.parent / name, folder.pool, grades)
    return str(folder.path.parent / name)


def test_the_result_is_a_catalogue_that_evaluate_takes_as_it_is(folder):
    """Three judges, of whom one is lenient and did not finish."""
    exact = write_judge(folder, "exact.csv", lambda query, product: 3 if product == query[2:] else 0)
    kind = write_judge(folder, "kind.csv", lambda query, product: 2 * (product[:3] == query[2:5]), 7)
    other = write_judge(folder, "other.csv", lambda query, product: 3 if product == query[2:] else 0)
    report = judge.main(JudgeArguments("result", str(folder.path), grades=[exact, kind, other]))
    names = folder.made.systems
    assert list(report["systems"]) == names and report["queries"] == 8
    assert report["systems"][names[0]]["new"]["mean"] == 1 and report["kendall_tau"] == pytest.approx(1)
    first, last = report["systems"][names[0]], report["systems"][names[4]]
    assert last["old"]["mean"] == pytest.approx(1 / np.log2(6)) and 0 < report["alpha"] < 1
    assert first["new"]["judged"] == 1 and first["old"]["judged"] == pytest.approx(1 / 6)

    catalogue = folder.path / "catalogue"
    measured = evaluate.main(EvaluateArguments("bm25", str(catalogue), metrics=["ndcg@6"]))
    split = load_split(str(catalogue), "test")
    assert measured["n_queries"] == 8 and measured["n_products"] == 12 and not split.problems.counts
    assert split.qrels == {query.id: {p: 3 * (p == query.id[2:]) for p in query.found} for query in folder.pool}
    source = load_split(folder.made.data, "test")
    assert split.picture_digests == source.picture_digests and split.corpus[0] == source.corpus[0]
    features = [load_table(data, "corpus", "test")[0].features for data in (folder.made.data, catalogue)]
    assert features[0] == features[1]
    rows = list(csv.reader((catalogue / "judges.csv").open()))
    assert rows[0][2:] == [exact, kind, other] and len(rows) == folder.pool.pairs + 1
    assert {row[3] for row in rows[1:] if row[0] == folder.pool.queries[7].id} == {""}, "left out by that judge"


def test_queries_that_are_judged_in_part_are_left_out_and_told(folder, capsys):
    mine = write_judge(folder, "mine.csv", lambda query, product: 2 * (product == query[2:]), 5)
    text = folder.path.parent.joinpath("mine.csv").read_text().splitlines()
    folder.path.parent.joinpath("mine.csv").write_text("\n".join(text[:-1]))
    report = judge.main(JudgeArguments("result", str(folder.path), grades=[mine]))
    assert (
        report["queries"] == 4 and "query with products that are not judged yet (left out)" in capsys.readouterr().out
    )
    assert len(load_split(str(folder.path / "catalogue"), "test").queries) == 4
    nothing = write_judge(folder, "nothing.csv", lambda query, product: 0)
    with pytest.raises(DataError, match="no query is judged as a whole and has something relevant"):
        judge.main(JudgeArguments("result", str(folder.path), grades=[nothing]))


def test_two_judges_are_compared_and_the_second_ones_metrics_corrected(folder, capsys):
    """A model that finds everything relevant, and a person who judged three queries: corrected by her, hers count."""
    hers = write_judge(folder, "hers.csv", lambda query, product: 3 * (product == query[2:]), 3)
    its = write_judge(folder, "its.csv", lambda query, product: 3)
    report = judge.main(JudgeArguments("agree", str(folder.path), grades=[hers, its]))
    assert report["queries"] == 3 and (report["labelled"], report["others"]) == (3, 5)
    assert np.array(report["confusion"])[:, :3].sum() == 0 and report["kappa"]["value"] == 0
    best, worst = (report["metrics"][f"ndcg@6 {folder.made.systems[row]}"] for row in (0, 4))
    assert best["model"]["mean"] == worst["model"]["mean"] == 1, "by the model alone all systems are perfect"
    assert best["corrected"]["mean"] == pytest.approx(1) and worst["corrected"]["mean"] == pytest.approx(
        1 / np.log2(6)
    )
    share = report["metrics"]["share from grade 2"]
    assert share["corrected"]["mean"] == pytest.approx(share["person"]["mean"]) and share["model"]["mean"] == 1
    assert json.loads((folder.path / "agreement.json").read_text()) == report
    assert "hers.csv (rows) and" in capsys.readouterr().out
    same = judge.main(JudgeArguments("agree", str(folder.path), grades=["qrels", its]))
    assert same["pairs"] == folder.pool.pairs and same["metrics"] == {}
    assert "no correction" in capsys.readouterr().out


@pytest.mark.parametrize(
    "step, options, message",
    [
        ("pools", {}, "unknown step 'pools'; use one of pool, page, ask, agree, result"),
        ("pool", {}, "--systems: names no system"),
        ("page", {"queries": 7}, "--queries: goes with pool, not with page; leave it out"),
        ("page", {"grades": ["a.csv"]}, "--grades: goes with agree and result, not with page"),
        ("agree", {"grades": ["qrels"]}, "--grades: names 1 judges; give two"),
        ("agree", {"grades": ["qrels", "qrels"]}, "--grades: qrels is given twice"),
        ("result", {"grades": ["nowhere.csv"]}, "nowhere.csv: no such file; give a file of grades"),
        ("ask", {"model": "m"}, "--endpoint: is missing"),
    ],
)
def test_a_mistake_is_one_line(folder, step, options, message):
    with pytest.raises(DataError, match=message):
        judge.main(JudgeArguments(step, str(folder.path), **options))


def test_a_damaged_pool_and_a_catalogue_that_has_changed_are_named(folder, shop):
    file = folder.path / "pool.jsonl"
    text = file.read_text()
    file.write_text(text.replace('"corpus-id"', '"corpus"', 1))
    with pytest.raises(DataError, match=r"pool.jsonl line 2: field products\[0\].corpus-id is missing"):
        judge.main(JudgeArguments("page", str(folder.path)))
    file.write_text(text)
    corpus, queries, qrels = shop_rows()
    corpus[0]["_id"] = "other"
    corpus[0]["image"] = {"bytes": picture("black"), "path": "other.png"}
    write_shop(shop, corpus, queries, qrels)
    with pytest.raises(DataError, match="has lost a"):
        judge.main(JudgeArguments("page", str(folder.path)))
    assert set(GUIDELINES) == {0, 1, 2, 3}
