"""What judging comes to: a catalogue whose judgments are the judges', and how systems stand by the old and the new."""

from pathlib import Path

import numpy as np
from scipy import stats

from training.catalogue.layout import RetrievalSplit, load_table, rows_of
from training.catalogue.writing import write_card, write_split
from training.common.files import new_folder
from training.evaluation.agreement import alpha, ndcg
from training.evaluation.grades import GUIDELINES, Grades, as_csv, whole_queries
from training.evaluation.pooling import FEWEST_SYSTEMS, Pool
from training.evaluation.statistics import summarise

WRITER = "training.judge"
JUDGES = "judges.csv"


def write_catalogue(
    folder: Path, pool: Pool, split: RetrievalSplit, grades: Grades, judges: dict[str, Grades]
) -> None:
    """Writes the split's products, the judged queries and their grades in the retrieval layout.

    Args:
        folder (`Path`): the catalogue's folder. Its file `judges.csv` has each judge's grades side by side.
        pool (`Pool`): what was judged.
        split (`RetrievalSplit`): the split that the pool was made of.
        grades (`Grades`): the joined grades of the queries to write.
        judges (`dict[str, Grades]`): each judge's, by a name.
    """
    features = load_table(pool.data, "corpus", pool.split)[0].features
    queries = [query for query in split.queries if query["_id"] in grades]
    qrels = [
        {"query-id": query, "corpus-id": product, "score": grade}
        for query, judged in grades.items()
        for product, grade in judged.items()
    ]
    pairs = [(query.id, product) for query in pool for product in query.found]
    table = [[*pair, *(judged.get(pair[0], {}).get(pair[1], "") for judged in judges.values())] for pair in pairs]
    with new_folder(folder, WRITER) as partial:
        corpus = rows_of(split.corpus, split.corpus.column_names)
        write_split(partial, pool.split, corpus, queries, qrels, features)
        write_card(partial, f"{Path(pool.data).name}, judged", "unknown", [pool.split], _card(pool, grades, judges))
        text = as_csv(["query-id", "corpus-id", *judges], table)
        (partial / JUDGES).write_text(text, encoding="utf-8")


def _card(pool: Pool, grades: Grades, judges: dict[str, Grades]) -> str:
    """The dataset card's text."""
    means = "\n".join(f"- **{grade} {name}**: {text}" for grade, (name, text) in GUIDELINES.items())
    return f"""# Judged queries

{len(grades):,} queries of {pool.data}, split {pool.split}, judged by {len(judges)} judge(s) ({", ".join(judges)}) with
`training.judge` of mmfusion. Licence and origin of products and pictures are those of {pool.data}.

{means}

- **Scores** are the median of the judges' grades (the lower one in the middle of an even number); `{JUDGES}` has each.
- **Judged** were the best {pool.depth} products of {len(pool.systems)} systems ({", ".join(pool.systems)}), without
  their ranks. Products that none of them found are unjudged and count as not relevant.
"""


def judged_report(pool: Pool, split: RetrievalSplit, grades: Grades, judges: dict[str, Grades]) -> dict:
    """How the pool's systems stand by the catalogue's own judgments and by the judges'.

    Args:
        pool (`Pool`): with the systems' rankings.
        split (`RetrievalSplit`): with the old judgments.
        grades (`Grades`): the joined ones, of queries that are judged as a whole.
        judges (`dict[str, Grades]`): each judge's, by a name.

    Returns:
        `dict`: `systems`, each with its nDCG (`{"mean", "ci95"}`) and `judged`, the share of its first products that
        have a judgment, by `old` and `new`; `kendall_tau` of the two orders (tau-b; `None` for fewer than two
        systems or where all are equal); `alpha`, Krippendorff's, of several judges. Queries for which nothing is
        relevant are left out, as `training.evaluate` does.
    """
    queries = [query for query, judged in grades.items() if max(judged.values()) > 0]
    old = {query: split.qrels[query] for query in queries}
    report: dict = {"metric": f"ndcg@{pool.depth}", "queries": len(queries)}
    report |= {"nothing_relevant": len(grades) - len(queries), "pairs": sum(map(len, grades.values())), "systems": {}}
    for system in pool.systems if queries else []:
        rankings = pool.rankings(system)
        report["systems"][system] = {
            name: summarise(ndcg(rankings, qrels, queries, pool.depth)) | {"judged": _judged(rankings, qrels, queries)}
            for name, qrels in (("old", old), ("new", grades))
        }
    means = [[found[name]["mean"] for found in report["systems"].values()] for name in ("old", "new")]
    tau = stats.kendalltau(*means).statistic if len(means[0]) > 1 else np.nan
    report["kendall_tau"] = None if np.isnan(tau) else float(tau)
    several = alpha(list(judges.values()), pool) if len(judges) > 1 else np.nan
    return report | {"judges": list(judges), "alpha": None if np.isnan(several) else several}


def _judged(rankings: dict[str, list[str]], qrels: Grades, queries: list[str]) -> float:
    """The share of ranked products that have a judgment."""
    known = [product in qrels[query] for query in queries for product in rankings[query]]
    return float(np.mean(known)) if known else 0.0


def format_judged(report: dict) -> str:
    """The report as a Markdown table, best first by the new judgments."""
    metric = report["metric"]
    head = f"| system | {metric} by the catalogue | judged | {metric} by the judges | judged |"
    lines = [head, "| --- | --- | --- | --- | --- |"]
    for system, found in sorted(report["systems"].items(), key=lambda item: -item[1]["new"]["mean"]):
        cells = [f"{_interval(found[name])} | {found[name]['judged']:.0%}" for name in ("old", "new")]
        lines.append(f"| {system} | {' | '.join(cells)} |")
    lines.append("")
    tau = "not defined" if report["kendall_tau"] is None else f"{report['kendall_tau']:.2f}"
    few = f" (of {len(report['systems'])} systems it says little)" if len(report["systems"]) < FEWEST_SYSTEMS else ""
    lines.append(
        f"{report['queries']:,} queries, {report['pairs']:,} pairs; Kendall's tau of the two orders {tau}{few}"
    )
    if report["alpha"] is not None:
        lines.append(f"Krippendorff's alpha of {len(report['judges'])} judges: {report['alpha']:.2f}")
    return "\n".join(lines)


def _interval(found: dict) -> str:
    return f"{found['mean']:.3f} [{found['ci95'][0]:.3f}, {found['ci95'][1]:.3f}]"


def judged_as_a_whole(pool: Pool, grades: Grades, split: RetrievalSplit) -> Grades:
    """The grades of the queries whose products are all judged; others are counted in the split's problems."""
    whole = whole_queries(pool, grades)
    for query in grades.keys() - set(whole):
        split.problems.add("query with products that are not judged yet (left out)", f"query {query}")
    return {query: grades[query] for query in whole}
