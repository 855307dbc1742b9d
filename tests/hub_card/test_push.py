"""From a run to the Hub and back: the real client against a Hub on loopback, then a process that has no mmfusion."""

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import pytest
from helpers import ROOT, picture
from hub_release import IDS, push_folder, stranger_environment
from hub_server import TOKEN, Fault
from huggingface_hub import HfApi, ModelCard, snapshot_download

from hub_card import check, loaders, push
from modeling_mmfusion.checksums import MARK
from modeling_mmfusion.errors import DataError

# Loads each repository as push does, then runs the code of each card.
STRANGER = """
import contextlib, io, json, re, runpy, sys
from pathlib import Path
sys.modules["modeling_mmfusion"] = None
ids = json.loads(sys.argv[2])
loaders = runpy.run_path(sys.argv[1])["LOADERS"]
found = {what: loaders[what](ids[what], "v1") for what in loaders}
from huggingface_hub import hf_hub_download
types = {"dataset": "dataset", "metric": "space"}
for what in ("model", "adapter", "dataset", "metric"):
    file = hf_hub_download(ids[what], "README.md", repo_type=types.get(what, "model"))
    blocks = re.findall(r"```python\\n(.*?)```", Path(file).read_text(), re.S)
    found["code of " + what] = []
    for block in blocks:
        with contextlib.redirect_stdout(io.StringIO()) as out:
            exec(block, {})
        found["code of " + what].append(out.getvalue())
modules = [module for name, module in sys.modules.items() if "mmfusion" in name and module]
found["modules"] = sorted({str(module.__file__) for module in modules})
print(json.dumps(found))
"""
SPACE = """
import runpy, sys
folder = sys.argv[1]
sys.path.insert(0, folder)
sys.modules["modeling_mmfusion"] = None
runpy.run_path(folder + "/app.py", run_name="__main__")
"""
PARTS = ("dataset", "base", "model", "adapter", "metric", "space")


@pytest.mark.slow
def test_a_stranger_loads_all_that_was_pushed_and_the_space_starts(release, hub, tmp_path):
    for name in PARTS:
        push_folder(release, name, tag="v1", collection="mmfusion", private=name == "model")
    repos = {path: repo for path, repo in hub.repos.items()}
    assert set(repos) == {
        "datasets/me/shop",
        "models/me/mmfusion-base",
        "models/me/mmfusion-tiny",
        "models/me/tiny-lora",
        "spaces/me/product_retrieval",
        "spaces/me/search",
    }
    assert all(repo.tags == {"v1": repo.refs["main"]} for repo in repos.values())
    assert any(line.startswith("PUT /lfs/") for line in hub.requests), "weights did not go through LFS"
    assert repos["models/me/mmfusion-tiny"].private and not repos["datasets/me/shop"].private
    assert [item["id"] for item in next(iter(hub.collections.values()))["items"]] == [IDS[name] for name in PARTS]
    assert repos["spaces/me/search"].variables == {"MMFUSION_MODEL": IDS["model"], "MMFUSION_DATA": IDS["dataset"]}

    found = run_stranger(tmp_path)
    assert found["model"]["sentence_transformers"] == "same vectors"
    assert found["dataset"]["corpus"] == {"train": 12, "dev": 12, "test": 12}
    assert found["adapter"]["base"] == IDS["base"] and found["metric"] == {"ndcg@10": 1.0}
    assert [len(found[f"code of {what}"]) for what in ("model", "adapter", "dataset", "metric")] == [3, 1, 1, 1]
    assert "tensor(" in found["code of model"][0] and "ndcg@10" in found["code of metric"][0]
    assert not [file for file in found["modules"] if file.startswith(str(ROOT))], "the package was imported"

    folder = Path(snapshot_download(IDS["space"], repo_type="space", local_dir=tmp_path / "space"))
    with start_space(folder, tmp_path) as client:
        assert len(client.predict(query="red mug", k=4, api_name="/search")["results"]) == 4


def run_stranger(tmp_path: Path) -> dict:
    """Runs the code at the top in a process with an empty cache and no package; what it found."""
    home = tmp_path / "stranger"
    home.mkdir()
    (home / "tee.jpg").write_bytes(picture(format="JPEG"))
    command = [sys.executable, "-P", "-c", STRANGER, loaders.__file__, json.dumps(IDS)]
    environment = stranger_environment(home)
    ran = subprocess.run(command, cwd=home, env=environment, capture_output=True, text=True, timeout=300)
    assert ran.returncode == 0, ran.stderr[-3000:]
    assert TOKEN not in ran.stdout + ran.stderr
    return json.loads(ran.stdout.strip().splitlines()[-1])


@contextmanager
def start_space(folder: Path, tmp_path: Path):
    """Starts a downloaded Space in a process of its own, which finds no package of ours; a client of it."""
    from gradio_client import Client

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = stranger_environment(tmp_path / "space_home")
    environment |= {"MMFUSION_MODEL": IDS["model"], "MMFUSION_DATA": IDS["dataset"]}
    environment |= {"GRADIO_SERVER_PORT": str(port), "GRADIO_ANALYTICS_ENABLED": "False"}
    log = (tmp_path / "space.log").open("w+")
    command = [sys.executable, "-P", "-c", SPACE, str(folder)]
    process = subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=log, stderr=log)
    try:
        yield wait_for(lambda: Client(f"http://127.0.0.1:{port}", verbose=False), process, tmp_path / "space.log")
    finally:
        process.terminate()
        process.wait(timeout=20)
        log.close()


def wait_for(connect, process, log: Path, seconds: float = 180):
    """What `connect` returns once it works."""
    end = time.monotonic() + seconds
    while time.monotonic() < end and process.poll() is None:
        try:
            return connect()
        except Exception:
            time.sleep(0.5)
    raise AssertionError(f"the Space did not start: {log.read_text()[-2000:]}")


def test_an_unchanged_folder_makes_no_commit_and_a_changed_one_only_what_differs(release, hub, tmp_path, capsys):
    first = push_folder(release, "metric")
    repo = hub.repos["spaces/me/product_retrieval"]
    assert push_folder(release, "metric") == first and len(repo.commits) == 2  # the first is the Hub's own
    assert "unchanged: no commit was made" in capsys.readouterr().out
    folder = tmp_path / "metric"
    folder.mkdir()
    for file in (release.hub / "metric").iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    (folder / "requirements.txt").write_text("evaluate\n")
    (folder / "index.html").unlink()
    with pytest.raises(DataError, match=r"has 1 files that .* has not \(index.html\); give --delete"):
        push_folder(release, "metric", folder=str(folder))
    assert len(repo.commits) == 2
    second = push_folder(release, "metric", folder=str(folder), delete=True, tag="v2")
    assert second != first and repo.commits[second]["requirements.txt"] == b"evaluate\n"
    assert "index.html" not in repo.commits[second] and repo.tags == {"v2": second}
    with pytest.raises(DataError, match="the tag v2 names the commit"):
        push_folder(release, "metric", tag="v2")
    assert len(repo.commits) == 3, "pushed, though its tag was taken"


def test_a_dry_run_lists_and_sends_nothing_and_a_pull_request_leaves_main_alone(release, hub, capsys):
    assert push_folder(release, "metric", dry_run=True) is None
    assert re.search(r"0\.00 MB  README\.md\n", capsys.readouterr().out) and not hub.requests
    push_folder(release, "metric")
    repo = hub.repos["spaces/me/product_retrieval"]
    main, readme = repo.refs["main"], release.hub / "metric" / "README.md"
    text = readme.read_text()
    try:
        readme.write_text(text + "\nMore.\n")
        hub.faults.append(Fault(r"POST /api/spaces/.*/commit", 0, 1, after=True))
        with pytest.raises(DataError, match="can't upload: the connection broke"):
            push_folder(release, "metric", pull_request=True)
        assert len(repo.refs) == 2, "opened a second one"
        del repo.refs["refs/pr/1"]
        commit = push_folder(release, "metric", pull_request=True)
    finally:
        readme.write_text(text)
    assert repo.refs == {"main": main, "refs/pr/1": commit} and not repo.tags
    assert "pull request: " in capsys.readouterr().out
    with pytest.raises(DataError, match="a pull request is no release"):
        push_folder(release, "metric", pull_request=True, tag="v1")


BUSY = {"Retry-After": "7"}
PASSING = {
    "429 when it is made": Fault(r"POST /api/repos/create", 429, 2, BUSY),
    "500 when it is made": Fault(r"POST /api/repos/create", 500, 2),
    "connection cut when it is made": Fault(r"POST /api/repos/create", 0, 1),
    "made, but the answer is lost": Fault(r"POST /api/repos/create", 0, 1, after=True),
    "429 in mid-upload": Fault(r"PUT /lfs", 429, 1, BUSY),
    "500 in mid-upload": Fault(r"PUT /lfs", 500, 2),
    "connection cut in mid-upload": Fault(r"PUT /lfs", 0, 1),
    "409 at the commit": Fault(r"POST /api/models/.*/commit", 409, 1),
    "500 at the commit": Fault(r"POST /api/models/.*/commit", 500, 1),
    "committed, but the answer is lost": Fault(r"POST /api/models/.*/commit", 0, 1, after=True),
    "connection cut at the check of the card": Fault(r"POST /api/validate-yaml", 0, 1),
    "502 when the files are listed": Fault(r"GET /api/models/.*/tree", 502, 1),
    "tagged, but the answer is lost": Fault(r"POST /api/models/.*/tag", 0, 1, after=True),
}


@pytest.mark.parametrize("name", PASSING)
def test_what_passes_is_tried_again_and_ends_in_one_whole_release(release, hub, monkeypatch, name):
    waits, fault = [], PASSING[name]
    fault.count = 0
    monkeypatch.setattr(push.time, "sleep", waits.append)
    hub.faults.append(fault)
    commit = push_folder(release, "model", tag="v1")
    repo = hub.repos["models/me/mmfusion-tiny"]
    assert fault.count == fault.times, "the fault never struck"
    assert repo.tags == {"v1": commit} and len(repo.commits) == 2
    files = {
        path.relative_to(release.hub / "model").as_posix()
        for path in (release.hub / "model").rglob("*")
        if path.is_file() and path.name != MARK and "__pycache__" not in path.parts
    }
    assert set(repo.commits[commit]) == files | {".gitattributes"}
    assert waits and (fault.status != 429 or any(seconds >= 7 for seconds in waits)), "did not wait as the Hub asked"


LASTING = {
    "401": (
        Fault(r"POST /api/repos/create", 401, 99),
        "can't make the repository: the Hub does not know the login; run: hf auth",
    ),
    "403": (
        Fault(r"POST /api/models/.*/commit", 403, 99),
        "can't upload: the login may not do this; .* no tag names it",
    ),
    "403 on an upload": (Fault(r"PUT /lfs", 403, 99), "can't upload: the login may not do this"),
    "409": (
        Fault(r"POST /api/models/.*/commit", 409, 99),
        "it was changed by someone else at the same time .* no tag names it",
    ),
    "412": (Fault(r"POST /api/models/.*/commit", 412, 99), "it was changed by someone else at the same time"),
    "429 for hours": (Fault(r"POST /api/models/.*/commit", 429, 99, {"Retry-After": "7200"}), "too many requests"),
    "500 in mid-upload": (Fault(r"PUT /lfs", 500, 999), r"can't upload: the Hub failed \(500.* no tag names it"),
    "cut connection": (Fault(r"PUT /lfs", 0, 999), r"can't upload: the connection broke .* no tag names it"),
    "tag": (
        Fault(r"POST /api/models/.*/tag", 500, 99),
        "can't set the tag: the Hub failed .* it was uploaded, but is no release",
    ),
    "collection": (
        Fault(r"POST /api/collections", 403, 99),
        "can't make the collection: .* it is released, but in no collection",
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", LASTING)
def test_what_lasts_is_told_in_one_line_and_never_called_released(release, hub, capsys, monkeypatch, name):
    (fault, message), waits = LASTING[name], [0]
    fault.count = 0
    monkeypatch.setattr(push.time, "sleep", waits.append)
    hub.faults.append(fault)
    with pytest.raises(DataError, match=message) as caught:
        push_folder(release, "model", tag="v1", collection="mmfusion")
    assert max(waits) < 300, "waits for hours"
    said = str(caught.value) + capsys.readouterr().out
    assert "\n" not in str(caught.value) and "released:" not in said and TOKEN not in said
    repo = hub.repos.get("models/me/mmfusion-tiny")
    assert repo is None or name == "collection" or not repo.tags, "half a release has a tag"
    hub.faults.clear()
    commit = push_folder(release, "model", tag="v1", collection="mmfusion")
    repo = hub.repos["models/me/mmfusion-tiny"]
    assert repo.tags == {"v1": commit} and len(repo.commits) == 2, "the same command does not go on from there"


def test_a_release_that_differs_or_does_not_load_gets_no_tag(release, hub, monkeypatch):
    upload = HfApi.upload_folder

    def lose_a_file(self, **options):
        found = upload(self, **options)
        hub.repos["models/me/mmfusion-tiny"].commits[found.oid].pop("modeling_mmfusion.py")
        return found

    monkeypatch.setattr(HfApi, "upload_folder", lose_a_file)
    with pytest.raises(
        DataError, match="modeling_mmfusion.py on the Hub is not the folder's; it was uploaded, but is no release"
    ):
        push_folder(release, "model", tag="v1")
    monkeypatch.setattr(HfApi, "upload_folder", upload)

    def fail(*where):
        raise RuntimeError("OSError: no config.json")

    monkeypatch.setattr(push, "load_as_stranger", fail)
    with pytest.raises(
        DataError, match="does not load from the Hub: OSError: no config.json; it was uploaded, but is no"
    ):
        push_folder(release, "model", tag="v1")
    assert not hub.repos["models/me/mmfusion-tiny"].tags


def test_without_a_login_or_with_a_folder_of_another_id_nothing_is_sent(release, hub, monkeypatch):
    with pytest.raises(DataError, match="its examples don't name me/other; build it for that --repo-id"):
        push.main(push.PushArguments("me/other", folder=str(release.hub / "model")))
    with pytest.raises(DataError, match="is no adapter"):
        push.main(push.PushArguments(IDS["model"], "adapter", folder=str(release.hub / "model")))
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr(push, "get_token", lambda: None)
    with pytest.raises(DataError, match="run: hf auth login"):
        push_folder(release, "model")
    assert not hub.requests


@pytest.mark.slow
def test_strangers_are_a_process_of_their_own_and_say_what_is_wrong(release, hub):
    commit = push_folder(release, "dataset", private=True)
    found = loaders.load_as_stranger("dataset", IDS["dataset"], commit)
    assert found["qrels"] == {"train": 12, "dev": 12, "test": 12}
    hub.repos["datasets/me/shop"].commits[commit].pop("test/qrels.parquet")
    with pytest.raises(RuntimeError, match="qrels"):
        loaders.load_as_stranger("dataset", IDS["dataset"], commit)


@pytest.mark.slow
def test_the_cards_numbers_are_measured_again(release, hub, monkeypatch, capsys):
    for name in ("dataset", "model"):
        push_folder(release, name, tag="v1")
    monkeypatch.setattr(check, "load_as_stranger", lambda *where: {})
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    found = check.main(check.CheckArguments(IDS["model"], "v1"))
    assert set(found) == {"ndcg@10, fused", "recall@100, fused", "mrr@10, fused"}
    assert all(abs(card - ours) < 1e-6 for card, ours in found.values())
    report = json.loads((release.run / "report.json").read_text())
    assert found["ndcg@10, fused"][0] == report["views"]["fused"]["ndcg@10"]["mean"]

    folder, _ = check.download(check.CheckArguments(IDS["model"], "v1"))
    card = ModelCard.load(folder / "README.md")
    card.data.eval_results[0].metric_value += 0.01
    os.remove(folder / "README.md")
    card.save(folder / "README.md")
    monkeypatch.setattr(check, "measure", lambda *where: check.Figures({"report": release.run / "report.json"}))
    with pytest.raises(DataError, match="the card's ndcg@10, fused does not hold within 0.002"):
        check.main(check.CheckArguments(IDS["model"], "v1"))
    assert "DIFFERS" in capsys.readouterr().out
    with pytest.raises(DataError, match="me/nowhere: can't download main: not found"):
        check.main(check.CheckArguments("me/nowhere"))


@pytest.mark.slow
def test_a_dataset_of_the_hub_is_another_one_after_each_commit(release, hub, tmp_path):
    """Its name stays, so a run that only remembers the name would keep results of other data."""
    folder = shutil.copytree(release.hub / "dataset", tmp_path / "dataset")
    code = f"from training.learning.provenance import data_fingerprint; print(data_fingerprint({IDS['dataset']!r}))"
    found = []
    for change in ("", "\nAnother sentence.\n"):
        with open(folder / "README.md", "a") as card:
            card.write(change)
        push_folder(release, "dataset", folder=str(folder))
        ran = subprocess.run(
            [sys.executable, "-c", code],
            cwd=ROOT,
            env=stranger_environment(tmp_path / "hf"),
            capture_output=True,
            text=True,
        )
        found.append(ran.stdout.split()[-1:] or ran.stderr[-1000:])
    assert found[0] != found[1] and [len(one) for one in found] == [1, 1], found
