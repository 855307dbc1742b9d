"""README's way of an own catalogue, command by command as it stands there, with the products counted at every step."""

import csv
import json
import os
import re
import runpy
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import ROOT

from modeling_mmfusion.index import ProductIndex
from training.demo.shop import TYPES, draw_product, judge, make_products, make_queries
from training.features.shards import read_vectors_manifest
from training.scale import engines
from training.scale.engines import EngineArguments

READMES = (ROOT / "README.md").read_text(), (ROOT / "training" / "README.md").read_text()
PRODUCTS = 160
LINKED = (
    "training",
    "modeling_mmfusion",
    "hub_card",
    "space",
    "tests",
    "Makefile",
    "pyproject.toml",
    "constraints.txt",
)


def section(title: str) -> list[str]:
    """The commands of a section, in their order."""
    (text,) = (found[1] for text in READMES if (found := re.search(rf"^## {title}\n(.*?)(?=^## )", text, re.S | re.M)))
    commands = []
    for block in re.findall(r"^ *```bash\n(.*?)^ *```", text, re.S | re.M):
        commands += re.sub(r"\\\n *", "", block).splitlines()
    return [command.strip() for command in commands]


def write_shop_files(folder: Path) -> None:
    """products.csv, images/ and log.csv of a drawn shop, as its own system would export them."""
    products = make_products(PRODUCTS, seed=5)
    queries = make_queries(products, "log", 200, seed=5)
    skus = {product.id: str(1001 + number) for number, product in enumerate(products)}
    (folder / "images").mkdir()
    with open(folder / "products.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "title", "description", "category", "brand", "price", "in_stock"])
        for product in products:
            texts = product.title, product.description, f"Home > {TYPES[product.type].department}", product.brand
            writer.writerow([skus[product.id], *texts, f"{product.price} EUR", "in stock"])
            if product.pictured or product is products[0]:
                (folder / "images" / f"{skus[product.id]}.jpg").write_bytes(draw_product(product, 5))
    texts = {query["_id"]: query["text"] for query in queries}
    with open(folder / "log.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["query", "product", "grade"])
        writer.writerows(
            [texts[row["query-id"]], skus[row["corpus-id"]], row["score"]] for row in judge(queries, products)
        )
    (folder / "queries.txt").write_text("red mug\nstriped shirt\n")


@pytest.fixture(scope="module")
def shop(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("shop")
    for name in LINKED:
        (folder / name).symlink_to(ROOT / name)
    write_shop_files(folder)
    return folder


@pytest.fixture
def run(shop, monkeypatch, capsys):
    """Runs a command of README as a shell would, modules in this process; returns what it printed."""
    monkeypatch.chdir(shop)
    monkeypatch.setenv("MMFUSION_PREPARED", str(shop / "prepared"))
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}:{os.environ['PATH']}")

    def of_module(words: list[str]) -> None:
        monkeypatch.setattr(sys, "argv", words)
        try:
            runpy.run_module(words[0], run_name="__main__")
        except SystemExit as stopped:
            assert not stopped.code, f"{' '.join(words)}: {capsys.readouterr().err[-1000:]}"

    def run(command: str) -> str:
        words = shlex.split(re.sub(r" > [\w.]+( +#.*)?$", "", command), comments=True)
        if words[:2] == ["python", "-m"]:
            of_module(words[2:])
        elif words[0] == "make":
            dry = subprocess.run(
                ["make", "-n", *words[1:], "VENV=venv", "-o", "venv/installed"], capture_output=True, text=True
            )
            assert dry.returncode == 0, dry.stderr
            for line in re.sub(r"\\\n", "", dry.stdout).splitlines():
                if " -m hub_card" in line:
                    of_module(shlex.split(line)[2:])
                else:
                    print(line)
        else:
            done = subprocess.run(words, capture_output=True, text=True)
            assert done.returncode == 0, done.stderr[-2000:]
        return capsys.readouterr().out

    return run


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*found in sys.modules:RuntimeWarning")
def test_readmes_commands_on_an_own_catalogue_keep_all_products(shop, run):
    prepared, trained, searched = section("Your catalogue")
    evaluated, audited, space, hub = section("Measure, show, share")
    run(prepared)
    report = json.loads((shop / "data/myshop/prepare_report.json").read_text())
    assert report["products"]["read"] == report["products"]["written"] == PRODUCTS
    splits = {name: counts["products"] for name, counts in report["splits"].items()}
    assert sum(splits.values()) == PRODUCTS and min(splits.values()) > 0
    run(trained)
    assert (shop / "runs/myshop/model/model.safetensors").is_file()
    run(evaluated)
    report = json.loads((shop / "runs/myshop/report.json").read_text())
    assert report["n_products"] == splits["test"], "what is measured is held out"
    assert report["views"]["fused"]["ndcg@10"]["mean"] > 0.5
    run(audited)
    assert json.loads((shop / "runs/myshop/audit.json").read_text())["data"] == "data/myshop"
    assert read_vectors_manifest(shop / "runs/myshop/vectors")["count"] == PRODUCTS
    assert len(ProductIndex.load(shop / "runs/myshop/index")) == PRODUCTS
    cheap = [found["product"] for found in json.loads(run(f"{searched} --k 1000 --json"))["results"]]
    assert cheap and all(one["price"] < 20 and one["category"] == "Home > Kitchen" for one in cheap)
    unfiltered = searched.split(" --where")[0]
    assert len(run(unfiltered).splitlines()) == 11
    everything = json.loads(run(f"{unfiltered} --k 1000 --json"))
    assert len({found["product_id"] for found in everything["results"]}) == PRODUCTS

    assert 'MMFUSION_RUN="runs/myshop" MMFUSION_DATA="data/myshop"' in run(space)
    code = "import sys; sys.path.insert(0, 'space'); import start; print('shown', len(start.start()))"
    environment = {**os.environ, "MMFUSION_RUN": "runs/myshop", "MMFUSION_DATA": "data/myshop"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert f"shown {PRODUCTS}" in done.stdout, done.stderr[-2000:]

    run(hub)
    statistics = json.loads((shop / "runs/hub/dataset/myshop/statistics.json").read_text())
    assert sum(statistics["rows"]["corpus"].values()) == PRODUCTS
    built = {
        path.parent.relative_to(shop / "runs/hub").as_posix() for path in (shop / "runs/hub").glob("*/*/README.md")
    }
    names = {"dataset/myshop", "model/mmfusion-myshop", "metric/product_retrieval", "space/mmfusion-myshop"}
    assert built == names


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*found in sys.modules:RuntimeWarning")
def test_readmes_commands_for_catalogues_of_any_size(shop, run):
    assert (shop / "runs/myshop/vectors").is_dir(), "the test above comes first"
    for command in section("A catalogue of any size"):
        answer = run(command)
        assert ProductIndex.load(shop / "runs/myshop/index").__len__() == PRODUCTS, command
    assert len([line for line in answer.splitlines() if line.startswith("{")]) == 2
    for to in (None, f"lance:{shop / 'runs/myshop/products.lance'}"):
        assert engines.main(EngineArguments(str(shop / "runs/myshop/vectors"), to)) == PRODUCTS


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*found in sys.modules:RuntimeWarning")
def test_readmes_commands_on_the_quickstarts_run(shop, run):
    (shop / "runs" / "quickstart").symlink_to("myshop")
    (shop / "data" / "demo_shop").symlink_to("myshop")
    for command in section("Use it"):
        assert run(command).strip(), command
    assert (shop / "report.json").is_file() and (shop / "examples.html").is_file()
