"""Loads a repository from the Hub as a stranger would: in a process of its own, with an empty cache, without mmfusion.

    found = load_as_stranger("model", "me/mmfusion-demo", revision)

Run by its path this file is that process: it can't import mmfusion, loads what is asked for, tries it, and prints what
it found as one line of JSON.
"""

import json
import os
import subprocess
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path

QUERIES = ["navy striped t-shirt", "mug"]
TITLES = ["Breton tee", "Stoneware mug"]
FAILED = 3


def load_as_stranger(what: str, repo_id: str, revision: str) -> dict:
    """Starts the process and returns what it found; see the functions below.

    Args:
        what (`str`): model, adapter, dataset, metric or space.
        repo_id (`str`): the repository.
        revision (`str`): commit or tag.

    Raises:
        RuntimeError: with the last line of what the process said, if it could not load the repository.
    """
    from huggingface_hub import constants

    with tempfile.TemporaryDirectory(prefix="mmfusion-stranger-") as home:
        environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "HF_HUB_CACHE")}
        environment |= {"HF_HOME": home, "HF_TOKEN_PATH": constants.HF_TOKEN_PATH, "HF_ENDPOINT": constants.ENDPOINT}
        environment |= {f"HF_{name}_CACHE": f"{home}/{name.lower()}" for name in ("DATASETS", "MODULES", "METRICS")}
        command = [sys.executable, "-P", str(Path(__file__).resolve()), what, repo_id, revision]
        ran = subprocess.run(command, cwd=home, env=environment, capture_output=True, text=True, check=False)
    if ran.returncode:
        lines = ran.stderr.strip().splitlines() or [f"exit status {ran.returncode}"]
        raise RuntimeError(lines[-1][:300])
    return json.loads(ran.stdout.strip().splitlines()[-1])


def load_hub_model(repo_id: str, revision: str) -> dict:
    """Model and processor by transformers; if sentence-transformers is installed its vectors must agree."""
    import torch
    from transformers import AutoModel, AutoProcessor

    model = AutoModel.from_pretrained(repo_id, revision=revision, trust_remote_code=True).eval()
    processor = AutoProcessor.from_pretrained(repo_id, revision=revision, trust_remote_code=True)
    with torch.no_grad():
        queries = model.get_query_features(**processor.process_queries(QUERIES)).pooler_output
        products = [{"title": title} for title in TITLES]
        vectors = model.get_product_features(**processor.process_products(products)).pooler_output
    found = {"dim": vectors.shape[1], "parameters": model.num_parameters(), "sentence_transformers": "not installed"}
    if find_spec("sentence_transformers"):
        from sentence_transformers import SentenceTransformer

        encoder = SentenceTransformer(repo_id, revision=revision, trust_remote_code=True, device="cpu")
        pairs = ((encoder.encode_query(QUERIES), queries), (encoder.encode_document(TITLES), vectors))
        difference = max(float((torch.as_tensor(mine) - other).abs().max()) for mine, other in pairs)
        if not difference < 1e-4:
            raise ValueError(f"sentence-transformers' vectors differ by {difference:.1e} from the model's")
        found["sentence_transformers"] = "same vectors"
    return found


def load_adapter(repo_id: str, revision: str) -> dict:
    """The adapter on its base model by PEFT; it must change a query's vector."""
    import torch
    from peft import PeftConfig, PeftModel
    from transformers import AutoModel, AutoProcessor

    base = PeftConfig.from_pretrained(repo_id, revision=revision).base_model_name_or_path
    model = AutoModel.from_pretrained(base, trust_remote_code=True).eval()
    processor = AutoProcessor.from_pretrained(base, trust_remote_code=True)
    with torch.no_grad():
        inputs = processor.process_queries(QUERIES)
        before = model.get_query_features(**inputs).pooler_output
        adapted = PeftModel.from_pretrained(model, repo_id, revision=revision).eval()
        after = adapted.get_query_features(**inputs).pooler_output
    if torch.equal(before, after):
        raise ValueError(f"the adapter changes nothing of {base}")
    return {"base": base, "dim": after.shape[1]}


def load_dataset(repo_id: str, revision: str) -> dict:
    """Each configuration and split; their rows must be those of the card."""
    import datasets
    from huggingface_hub import DatasetCard, hf_hub_download

    card = DatasetCard.load(Path(hf_hub_download(repo_id, "README.md", repo_type="dataset", revision=revision)))
    entries = card.data.dataset_info
    found = {}
    for entry in entries if isinstance(entries, list) else [entries]:
        tables = datasets.load_dataset(repo_id, entry["config_name"], revision=revision)
        rows = {split: table.num_rows for split, table in tables.items()}
        if rows != {split["name"]: split["num_examples"] for split in entry["splits"]}:
            raise ValueError(f"{entry['config_name']} has {rows} rows, the card says otherwise")
        tables[next(iter(rows))][0]  # decodes the first row, its picture too
        found[entry["config_name"]] = rows
    return found


def load_metric(repo_id: str, revision: str) -> dict:
    """The metric by `evaluate`, on a perfect ranking."""
    import evaluate

    metric = evaluate.load(repo_id, revision=revision)
    found = metric.compute(predictions=[["a", "b"]], references=[[{"id": "a", "score": 1}]], metrics=["ndcg@10"])
    if found != {"ndcg@10": 1.0}:
        raise ValueError(f"a perfect ranking has {found}")
    return found


def load_space(repo_id: str, revision: str) -> dict:
    """The Space's files; its page must compile, and its model and catalogue must be there. It is not started."""
    from huggingface_hub import HfApi, SpaceCard, snapshot_download

    folder = Path(snapshot_download(repo_id, repo_type="space", revision=revision))
    data = SpaceCard.load(folder / "README.md").data
    compile((folder / data.app_file).read_text(encoding="utf-8"), data.app_file, "exec")
    for kind, ids in (("model", data.models), ("dataset", data.datasets)):
        for name in ids or []:
            HfApi().repo_info(name, repo_type=kind)
    return {"app_file": data.app_file, "models": data.models, "datasets": data.datasets}


LOADERS = {
    "model": load_hub_model,
    "adapter": load_adapter,
    "dataset": load_dataset,
    "metric": load_metric,
    "space": load_space,
}


if __name__ == "__main__":
    sys.modules["modeling_mmfusion"] = None  # an installed package would be taken in place of the repository's code
    what, *where = sys.argv[1:]
    try:
        print(json.dumps(LOADERS[what](*where)))
    except Exception as error:  # anything that a stranger would run into
        print(" ".join(f"{type(error).__name__}: {error}".split()), file=sys.stderr)
        sys.exit(FAILED)
