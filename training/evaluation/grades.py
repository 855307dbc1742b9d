"""Files of grades, one a judge: CSV with the columns `query-id`, `corpus-id` and `grade`, a whole number 0 to 3.

What the grades mean is that of Amazon's Shopping Queries data (https://huggingface.co/papers/2206.06588), in words for
people and models alike.
"""

import csv
import io
from collections.abc import Iterable
from pathlib import Path
from statistics import median_low

from modeling_mmfusion.checksums import existing_file
from modeling_mmfusion.errors import DataError
from training.catalogue.delimited import read_table
from training.catalogue.layout import RetrievalSplit
from training.common.errors import Problems
from training.common.files import write_text
from training.evaluation.pooling import Pool

COLUMNS = ("query-id", "corpus-id", "grade")
GUIDELINES = {
    3: ("exact", "It is what the query asks for, in every point that the query names: kind, brand, colour, pattern, "
        "material, who it is for."),
    2: ("substitute", "Not quite what was asked for, but it would do instead: the right kind of product with one "
        "point that differs, such as a neighbouring shade or another neckline."),
    1: ("complement", "It would not do instead, but it belongs to what was asked for or goes with it: a belt for the "
        "trousers, the other half of the set."),
    0: ("irrelevant", "None of these: another kind of product, or the right kind that clearly is not what the query "
        "names (a red dress for “blue dress”)."),
}  # fmt: skip
ADVICE = (
    "Judge what the shopper wants, not how the words match. Look at the picture and read the listing: colour and "
    "pattern are often told by the picture alone, and where both speak and differ the picture counts. What neither "
    "tells is taken to be as the query asks. Don't compare the products of a query with each other."
)
Grades = dict[str, dict[str, int]]  # query id to product id to grade


def read_grades(file: str | Path, pool: Pool, problems: Problems) -> Grades:
    """Reads a judge's grades of a pool.

    Args:
        file (`str` or `Path`): CSV file; the separator may be another one. Rows without a grade are not judged yet.
        pool (`Pool`): what was to be judged.
        problems (`Problems`): grades of other pairs are counted here and left out.

    Raises:
        DataError: naming row and field, if a grade is none, a pair has two, a column is missing or no row is of the
            pool.
    """
    path, grades = existing_file(file, f"a file of grades with the columns {', '.join(COLUMNS)}"), Grades()
    pooled = {query.id: query.found for query in pool}
    for row, (query, product, text) in _rows(path):
        if not (text := text.strip()):
            continue
        if text not in ("0", "1", "2", "3"):
            raise DataError(f"{file} row {row}, field grade: {text[:40]!r} is none of 0, 1, 2 and 3")
        if product not in pooled.get(query, {}):
            problems.add("grade of a pair that is not in the pool (left out)", f"{file} row {row}: {query}, {product}")
            continue
        judged = grades.setdefault(query, {})
        if judged.setdefault(product, int(text)) != int(text):
            raise DataError(
                f"{file} row {row}: {query}, {product} has two grades, {judged[product]} and {text}; keep one"
            )
    if not grades:
        raise DataError(f"{file}: has no grade of this pool; give the file of a judge who was shown it")
    return grades


def _rows(path: Path) -> list[tuple[int, tuple[str, ...]]]:
    """The cells of each row in the order of `COLUMNS`, and the row's number as a spreadsheet shows it."""
    try:
        table = read_table(io.StringIO(path.read_text(encoding="utf-8-sig"), newline=""))
    except ValueError as error:
        raise DataError(f"{path}: can't be read as CSV in UTF-8 ({error})") from error
    if missing := [name for name in COLUMNS if name not in table.header]:
        raise DataError(f"{path}: column {', '.join(missing)} is missing (columns: {', '.join(table.header)})")
    found = []
    for record, row in table.rows():
        if row is None and any(cell.strip() for cell in record.cells):
            raise DataError(f"{path} row {record.row}: {record.text.strip()[:80]!r} doesn't fit the header; mend it")
        if row is not None:
            found.append((record.row, tuple(row[name] for name in COLUMNS)))
    return found


def write_grades(file: Path, pool: Pool, grades: Grades) -> None:
    """Writes grades in the pool's order."""
    rows = ((query.id, p, grades[query.id][p]) for query in pool for p in query.found if p in grades.get(query.id, {}))
    write_text(file, as_csv(COLUMNS, rows))


def as_csv(columns: Iterable[str], rows: Iterable[Iterable]) -> str:
    """A table as CSV."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(rows)
    return text.getvalue()


def grades_of_qrels(split: RetrievalSplit, pool: Pool) -> Grades:
    """A catalogue's own judgments of a pool's pairs, as grades.

    Its highest score counts as 3, the next ones as 2 and 1, and unjudged products as 0.

    Raises:
        DataError: if there are more than three scores above 0.
    """
    scores = sorted({score for judged in split.qrels.values() for score in judged.values() if score > 0}, reverse=True)
    if len(scores) > 3:
        raise DataError(f"{split.name}: qrels have {len(scores)} scores above 0; only three can be taken for grades")
    grade_of = {score: 3 - place for place, score in enumerate(scores)}
    return {
        query.id: {p: grade_of.get(split.qrels.get(query.id, {}).get(p, 0), 0) for p in query.found} for query in pool
    }


def join_grades(judges: Iterable[Grades]) -> Grades:
    """The median of several judges' grades, of an even number the lower one in the middle."""
    given: dict[str, dict[str, list[int]]] = {}
    for grades in judges:
        for query, judged in grades.items():
            for product, grade in judged.items():
                given.setdefault(query, {}).setdefault(product, []).append(grade)
    return {query: {product: median_low(all_) for product, all_ in judged.items()} for query, judged in given.items()}


def whole_queries(pool: Pool, *judges: Grades) -> list[str]:
    """The ids of the queries of which each judge has graded every product; a query with some grades measures
    nothing."""
    return [
        query.id for query in pool if all(query.found.keys() <= judged.get(query.id, {}).keys() for judged in judges)
    ]
