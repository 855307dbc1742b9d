"""The lines of training/README.md that measure the fashion sets, run as they stand on the sets' tiny files."""

import re
import shlex

from helpers import ROOT, picture
from public_sets import article, glami_item, look, write_glami, write_hnm, write_look

from training import convert
from training.benchmarks import compare
from training.benchmarks.compare import CompareArguments
from training.catalogue.options import ConvertArguments
from training.common.cli import parse

README = (ROOT / "training" / "README.md").read_text()


def lines_of(command):
    """The words of each line that runs a command on a fashion set."""
    block = next(block for block in re.findall(r"```bash\n(.*?)```", README, re.S) if "--source lookbench" in block)
    return [shlex.split(line)[3:] for line in block.splitlines() if line.startswith(f"python -m {command} ")]


def write_sets(folder):
    articles = [article("0108775015", "red shirt"), article("0108775044", "blue lamp", detail_desc="a big mug")]
    queries = [(f"q{number}", f"red shirt {number}") for number in range(40)]
    write_hnm(folder / "hnm-search-data", articles, queries, [[query, "0108775015", ""] for query, _ in queries])
    (folder / "hnm-search-data/data/raw/images/010").mkdir(parents=True)
    for row in articles:
        file = folder / "hnm-search-data/data/raw/images/010" / f"{row['article_id']}.jpg"
        file.write_bytes(picture("red", format="JPEG"))
    write_glami(
        folder / "GLAMI-1M-dataset", test=[glami_item(1, "mug", "red-mug"), glami_item(2, "bowl", "blue-bowl")]
    )
    write_look(
        folder / "look-bench" / "v20251201", real_studio_flat=([look("red")], [look("pink"), look("red", "Bag")])
    )


def test_the_documented_lines_print_a_row_a_view_and_a_column_a_set(tmp_path, model, processor, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write_sets(tmp_path)
    model.save_pretrained("runs/multishop-0/model")
    processor.save_pretrained("runs/multishop-0/model")
    for words in lines_of("training.convert"):
        assert not convert.main(parse(ConvertArguments, "", words))["problems"]
    both, pictures = (parse(CompareArguments, "", words) for words in lines_of("training.benchmarks.compare"))
    capsys.readouterr()
    compare.main(both)
    table = capsys.readouterr().out.splitlines()
    assert "| nDCG@10, test | hnm_search | glami |" in table
    number = r"[01]\.\d{3} \[[01]\.\d{3}, [01]\.\d{3}\](?: [↓↑=])?"
    for row in ("mmfusion, fused", "mmfusion, text", "mmfusion, image", "bm25"):
        assert [line for line in table if re.fullmatch(rf"\| {row} \| {number} \| {number} \|", line)]
    pictures.models["words"] = "bm25"
    compare.main(pictures)
    out = capsys.readouterr().out
    assert re.search(rf"^\| mmfusion, image \| {number} \|$", out, re.MULTILINE)
    assert "its queries are pictures, so words has no number there" in out and "| bm25 |" not in out
