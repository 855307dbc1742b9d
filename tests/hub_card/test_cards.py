"""Cards say what the run's files say, no more; what may not be published is refused before anything is sent."""

import json
import re
import shutil

import pytest
import yaml
from helpers import write_shop
from hub_release import IDS, JUDGED
from huggingface_hub import DatasetCard, ModelCard, SpaceCard

from hub_card import build, cards, contents, push
from hub_card.figures import CardError, Figures
from hub_card.licenses import UNCLEAR_TAG
from modeling_mmfusion.errors import DataError
from training.catalogue.writing import write_card
from training.evaluation.product_retrieval.metrics import of_quality


def numbers(text: str) -> list[str]:
    """Decimal numbers outside of code and links."""
    text = re.sub(r"\]\([^)]*\)", "", cards.FENCE.sub("", text))
    return re.findall(r"(?<![\w-])[-+]?\d+\.\d+", cards.NO_MEASURE.sub("", text))


def test_a_models_card_shows_exactly_the_runs_numbers(release):
    report = json.loads((release.run / "report.json").read_text())
    card = ModelCard.load(release.hub / "model" / "README.md")
    stated = {result.metric_name: result.metric_value for result in card.data.eval_results}
    fused = report["views"]["fused"]
    assert stated == {f"{metric}, fused": fused[metric]["mean"] for metric in of_quality(fused)}
    assert "judged@10" in fused and "judged@10, fused" not in stated
    for name, found in report["views"].items():
        cells = " | ".join("{:.3f} [{:.3f}, {:.3f}]".format(m["mean"], *m["ci95"]) for m in found.values())
        assert f"| {name} | {cells} |" in card.text
    for name, found in report["slices"].items():
        means = (metrics["ndcg@10"] for metrics in found.values())
        cells = " | ".join("{:.3f} [{:.3f}, {:.3f}]".format(m["mean"], *m["ci95"]) for m in means)
        assert f"| {name} | {report['slice_sizes'][name]} | {cells} |" in card.text
    everything = json.dumps(report) + (release.run / "config.yaml").read_text()
    known = {round(float(number), 3) for number in re.findall(r"-?\d+\.\d+(?:e-\d+)?", everything)}
    versions = "\n".join(line for line in card.text.splitlines() if line.startswith("- ") and line[-1].isdigit())
    unknown = [
        n for n in numbers(card.text) if round(float(n), 3) not in known and n not in versions + report_texts(report)
    ]
    assert not unknown, "numbers that no file of the run has"
    results = list((release.hub / "model" / ".eval_results").glob("*.yaml"))
    entries = yaml.safe_load(results[0].read_text())
    assert len(results) == 1 and entries[0]["dataset"]["id"] == IDS["dataset"]
    assert [entry["value"] for entry in entries] == [fused[name]["mean"] for name in of_quality(fused)]


def test_a_card_shows_its_reports_styles(release, tmp_path):
    report = json.loads((release.run / "report.json").read_text())
    views = {view: {"n": 1200, "mean": 0.489, "cost": -0.4312} for view in report["views"]}
    report["styles"] = {"as asked": {view: {"n": 12, "mean": 0.75, "cost": None} for view in views}, "typo 1": views}
    report["harm"] = {"style typo 1": {"share": 0.1249, "loss": 0.083}}
    (tmp_path / "report.json").write_text(json.dumps(report))
    release.build("model", tmp_path / "model", reports=[str(tmp_path / "report.json")])
    card = ModelCard.load(tmp_path / "model" / "README.md").text
    count = len(views)
    assert "| style | queries |" + "".join(f" {view} |" for view in views) + " harm |\n" in card
    assert (
        "| as asked | 12 |" + " 0.750 |" * count + "  |\n| typo 1 | 1,200 |" + " 0.489 (-43%) |" * count + " 12% |\n"
        in card
    )
    assert "| style |" not in ModelCard.load(release.hub / "model" / "README.md").text


def report_texts(report: dict) -> str:
    """Texts with numbers in a report: platform and versions; p-values are shown with four places."""
    ps = [f"{found['p_holm']:.4f}" for pair in report["comparisons"].values() for found in pair.values()]
    return json.dumps(report["environment"]) + " ".join(ps)


def test_a_folder_has_all_that_loads_it_and_no_path_of_this_machine(release, tmp_path):
    names = {file.relative_to(release.hub / "model").as_posix() for file in (release.hub / "model").rglob("*")}
    expected = (
        "model.safetensors config.json modeling_mmfusion.py fusion_mmfusion.py processing_mmfusion.py modules.json "
    )
    expected += (
        "processor_config.json tokenizer.json sentence_bert_config.json README.md run/report.json run/config.yaml "
    )
    expected += "run/metrics.jsonl run/environment.json figures/training.png"
    assert set(expected.split()) <= names
    config = json.loads((release.hub / "model" / "config.json").read_text())
    assert config["auto_map"]["AutoModel"] == "modeling_mmfusion.MMFusionModel"
    recipe = yaml.safe_load((release.hub / "model" / "run" / "config.yaml").read_text())
    assert recipe["data"]["path"] == [IDS["dataset"]] and recipe["model"]["text"] == "text"
    for what in IDS:
        contents.read_contents(release.hub / what, max_mb=10)
    adapter = json.loads((release.hub / "adapter" / "adapter_config.json").read_text())
    assert adapter["base_model_name_or_path"] == IDS["base"]
    card = ModelCard.load(release.hub / "adapter" / "README.md").data
    assert card.base_model == IDS["base"] and card.base_model_relation == "adapter" and card.library_name == "peft"


@pytest.mark.parametrize("what", IDS)
def test_cards_are_whole(release, what):
    folder = release.hub / what
    kind = {"dataset": DatasetCard, "metric": SpaceCard, "space": SpaceCard}.get(what, ModelCard)
    card = kind.load(folder / "README.md")
    cards.check_card(card, folder)
    assert card.data.to_dict() == kind(str(card)).data.to_dict()
    assert str(card) == (folder / "README.md").read_text() and str(card).endswith("\n")
    assert "{{" not in card.text and "{%" not in card.text


def test_a_figure_without_a_source_fails_the_build(release, tmp_path):
    report = json.loads((release.run / "report.json").read_text())
    del report["views"]["fused"]["ndcg@10"]["ci95"]
    (tmp_path / "report.json").write_text(json.dumps(report))
    with pytest.raises(CardError, match="report.json: has no 'views/fused/ndcg@10/ci95/0'.*without a source"):
        release.build("model", tmp_path / "model", reports=[str(tmp_path / "report.json")])
    assert not (tmp_path / "model").exists(), "a half-built folder"
    with pytest.raises(CardError, match="no report there; measure the model first"):
        release.build("model", tmp_path / "model", reports=[str(tmp_path / "none.json")])
    report["views"]["fused"]["ndcg@10"] = {"mean": float("nan"), "ci95": [0, 1]}
    (tmp_path / "report.json").write_text(json.dumps(report))
    with pytest.raises(CardError, match="is nan"):
        Figures({"report": tmp_path / "report.json"}).interval("report", "views/fused/ndcg@10")


def test_a_template_can_neither_hold_nor_be_given_a_number(tmp_path, monkeypatch):
    monkeypatch.setattr(cards, "TEMPLATES", tmp_path)
    data = SpaceCard("---\ntitle: a\n---\n").data
    template = tmp_path / "a.md"
    template.write_text("---\n{{ card_data }}\n---\nIt reaches 0.83.")
    with pytest.raises(CardError, match="has the number '0.83' of its own"):
        cards.render("a.md", SpaceCard, data)
    template.write_text("---\n{{ card_data }}\n---\nIt reaches {{ score }}.")
    with pytest.raises(CardError, match="score is 0.83; a card's figures come from result files alone"):
        cards.render("a.md", SpaceCard, data, score=0.83)
    with pytest.raises(CardError, match="uses score, which the build does not give"):
        cards.render("a.md", SpaceCard, data)
    template.write_text("---\n{{ card_data }}\n---\n{{ score }} with 95% intervals\n\n```\n0.5\n```\n")
    assert "good with" in cards.render("a.md", SpaceCard, data, score="good").text


def test_empty_sections_and_broken_links_are_found(tmp_path):
    front = "---\ntitle: a\nsdk: static\napp_file: a\nlicense: mit\n---\n"
    (tmp_path / "there.png").touch()
    for text, message in (
        ("# A\n\n## B\n\n## C\ntext", "empty section B"),
        ("# A\ntext\n\n## B\n", "empty section B"),
        ("# A\n![x](gone.png)", "links that lead nowhere: gone.png"),
        ("# A\n[x](#b)", "links that lead nowhere: #b"),
        ("# A\nscore: None", "not filled in: 'None'"),
    ):
        with pytest.raises(CardError, match=message):
            cards.check_card(SpaceCard(front + text), tmp_path)
    good = "# A\n\n## B b\n[x](#b-b) ![y](there.png) [z](https://huggingface.co)\n\n```bash\n# a comment\n```\n"
    cards.check_card(SpaceCard(front + good), tmp_path)
    with pytest.raises(CardError, match="lacks license"):
        cards.check_card(SpaceCard(front.replace("license: mit\n", "") + good), tmp_path)


@pytest.mark.parametrize("license", ["unknown", "other", "cc-by-nd-4.0", None])
def test_a_dataset_without_a_licence_that_lets_it_be_shared_is_refused(release, tmp_path, license):
    shop = write_shop(tmp_path / "shop")
    write_card(shop, "Shop", license or "unknown", ["test"], JUDGED)
    if license is None:
        text = (shop / "README.md").read_text().replace("license: unknown\n", "")
        (shop / "README.md").write_text(text)
    with pytest.raises(CardError, match="README.md, field license"):
        release.build("dataset", tmp_path / "built", data=str(shop))
    assert not (tmp_path / "built").exists()


def test_a_dataset_must_say_how_it_was_judged_and_split(release, tmp_path):
    shop = write_shop(tmp_path / "shop")
    with pytest.raises(CardError, match="does not say how its judgments were made"):
        release.build("dataset", tmp_path / "built", data=str(shop))
    (shop / "test" / "qrels.parquet").unlink()
    text = (shop / "README.md").read_text().replace("For tests.", JUDGED)
    (shop / "README.md").write_text(text)
    with pytest.raises(CardError, match="test/qrels.parquet: no such file, though README.md lists it"):
        release.build("dataset", tmp_path / "built", data=str(shop))


def test_weights_of_unclear_licence_are_marked_and_not_published(release, tmp_path, capsys):
    text = (release.shop / "README.md").read_text()
    arguments = push.PushArguments(IDS["model"], folder=str(tmp_path / "model"), dry_run=True)
    try:
        for license in ("license: unknown", "license: cc-by-nc-4.0", ""):
            (release.shop / "README.md").write_text(text.replace("license: apache-2.0", license))
            release.build("model", tmp_path / "model")
            card = ModelCard.load(tmp_path / "model" / "README.md")
            assert card.data.license == "other" and UNCLEAR_TAG in card.data.tags
            assert "**Don't publish.**" in card.text and IDS["dataset"] in card.text
            with pytest.raises(CardError, match="the licence is unclear, so this is not published"):
                push.main(arguments)
        readme = tmp_path / "model" / "README.md"
        readme.write_text(readme.read_text().replace("license: other", "license: apache-2.0"))
        with pytest.raises(CardError, match="the licence is unclear, so this is not published"):
            push.main(arguments)
        arguments.allow_unclear_license = True
        push.main(arguments)
        assert "warning: publishing with licence apache-2.0, as --allow" in capsys.readouterr().out
    finally:
        (release.shop / "README.md").write_text(text)
    assert UNCLEAR_TAG not in (ModelCard.load(release.hub / "model" / "README.md").data.tags or [])


def test_a_model_that_starts_from_another_one_inherits_what_that_was_made_of(release, tmp_path):
    from hub_card.licenses import sources_of

    config = yaml.safe_load((release.run / "config.yaml").read_text())
    config["model"]["start"] = str(release.run / "model")
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    found = [(source.kind, source.name, source.license) for source in sources_of(tmp_path, [])]
    assert found == [
        ("data", "shop", "apache-2.0"),
        ("data", "shop", "apache-2.0"),
        ("model", "text", "mit"),
        ("model", "vision", "mit"),
    ]
    config["model"]["start"] = str(tmp_path / "nowhere")
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    assert sources_of(tmp_path, [])[-1].license is None


def test_a_model_that_starts_from_a_dual_encoder_owes_nothing_to_others(release, tmp_path):
    from hub_card.licenses import sources_of

    config = yaml.safe_load((release.run / "config.yaml").read_text())
    config["model"]["aligned"] = "google/siglip2-base-patch16-224"
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    models = [source.repo_id for source in sources_of(tmp_path, []) if source.kind == "model"]
    assert models == ["google/siglip2-base-patch16-224"]


@pytest.mark.parametrize(
    "name, content, message",
    [
        ("weights.bin", b"\x80\x02}q\x00.", "is a pickle"),
        ("model.pt", b"", "is a pickle"),
        ("notes.txt", b"token = hf_" + b"a1B2" * 9, "line 1: holds a token of the Hub"),
        ("code.py", b"#\nurl = 'https://me:secret@host/x'", "line 2: holds a password in an address"),
        ("key.txt", b"-----BEGIN RSA PRIVATE KEY-----", "holds a private key"),
        (".env", b"A=1", "files of this name hold secrets"),
        ("run/a.json", b'{"data": "/home/ann/shop/a.csv"}', "names a path of this machine, /home/ann/shop/a.csv"),
        ("run/b.json", b'{"data": "C:\\\\Users\\\\ann"}', "names a path of this machine"),
    ],
)
def test_pickles_secrets_and_paths_are_refused(tmp_path, name, content, message):
    (tmp_path / "README.md").write_text("see https://example.org/home/page and `run/config.yaml`, n/a, and/or /tmp")
    contents.read_contents(tmp_path, 1)
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_bytes(content)
    with pytest.raises(CardError, match=re.escape(message)) as caught:
        contents.read_contents(tmp_path, 1)
    assert "a1B2" not in str(caught.value) and "secret@" not in str(caught.value), "the secret is shown"


def test_large_folders_links_and_pickles_in_archives_are_refused(tmp_path):
    import torch

    (tmp_path / "README.md").touch()
    (tmp_path / "big.safetensors").write_bytes(bytes(3_000_000))
    with pytest.raises(CardError, match=r"3 MB are more than --max-mb 2; the largest is big.safetensors"):
        contents.read_contents(tmp_path, 2)
    torch.save({"a": 1}, tmp_path / "weights.bin")
    with pytest.raises(CardError, match="weights.bin: is a pickle"):
        contents.read_contents(tmp_path, 9)
    (tmp_path / "weights.bin").unlink()
    (tmp_path / "link").symlink_to("/etc/hosts")
    with pytest.raises(CardError, match="link: is a link"):
        contents.read_contents(tmp_path, 9)


def test_exported_towers_are_shipped_and_their_figures_shown(release, tmp_path):
    folder = release.run / "model" / "onnx"
    folder.mkdir()
    measured = {"max_difference": 2e-7, "min_cosine": 1.0, "ms": 1.25, "ms_torch": 5.5, "batch": 8, "threads": 2}
    (folder / "export.json").write_text(
        json.dumps({"measured": {"query_tower": measured}, "environment": {"cpus": 2}})
    )
    query = shutil.copytree(folder, folder.with_name("query"))
    try:
        release.build("model", tmp_path / "model")
    finally:
        shutil.rmtree(folder)
        shutil.rmtree(query)
    card = ModelCard.load(tmp_path / "model" / "README.md")
    assert "`query/` is the query tower for text-embeddings-inference" in card.text
    assert "`query/`" not in (release.hub / "model" / "README.md").read_text()
    assert "| onnx/query_tower | 2e-07 | 1.25 | 5.50 | 8 | 2 |" in card.text and "onnx" in card.data.tags
    assert (tmp_path / "model" / "onnx" / "export.json").is_file()


def test_wrong_ids_and_missing_parts_are_told_in_one_line(release, tmp_path):
    for what, options, message in (
        ("model", {"repo_id": "no owner"}, "--repo-id no owner: is no id"),
        ("model", {"repo_id": "demo"}, "lacks its owner"),
        ("model", {"dataset_ids": ["me/a", "me/b"]}, "--dataset-ids names 2 datasets"),
        ("model", {"run": str(tmp_path)}, "no weights there; train one"),
        ("metric", {"repo_id": "me/metric"}, "must be called product_retrieval"),
        ("space", {"dataset_ids": []}, "give --model-id and one of --dataset-ids"),
        ("dataset", {"data": str(tmp_path)}, "no catalogue with a README.md there"),
    ):
        with pytest.raises(DataError, match=message):
            release.build(what, tmp_path / "out", **options)
    with pytest.raises(DataError, match="which is on no Hub; publish it"):
        arguments = build.BuildArguments("me/a", "adapter", run=str(release.run), output=str(tmp_path / "out"))
        build.main(arguments)
