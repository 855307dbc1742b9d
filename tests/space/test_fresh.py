"""The Space as it is pushed, in an environment made from its requirements and front matter alone."""

import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from gradio_client import Client
from helpers import ROOT, make_model
from huggingface_hub import RepoCard

from modeling_mmfusion import MMFusionProcessor

SPACE = ROOT / "space"
NO_NETWORK = ("error sending request", "failed to fetch", "dns error", "connection refused", "no route")
START_SECONDS = 240  # the first import of torch and transformers compiles all their files


@pytest.fixture(scope="module")
def card() -> dict:
    """The front matter of the Space's README."""
    return RepoCard.load(SPACE / "README.md", ignore_metadata_errors=False).data.to_dict()


@pytest.fixture(scope="module")
def python(card, tmp_path_factory) -> str:
    """The Python of an environment with what the Hub would install, in the versions of constraints.txt."""
    uv = shutil.which("uv") or shutil.which("uv", path=str(Path(sys.executable).parent))
    if uv is None:
        pytest.skip("uv is not installed, so no second environment is made")
    folder = tmp_path_factory.mktemp("fresh") / "venv"
    interpreter = card["python_version"] if shutil.which(f"python{card['python_version']}") else sys.executable
    subprocess.run([uv, "venv", "--quiet", "--python", interpreter, str(folder)], check=True)
    python = str(folder / "bin" / "python")
    words = [uv, "pip", "install", "--quiet", "--python", python, "-c", str(ROOT / "constraints.txt")]
    words += ["-r", str(SPACE / "requirements.txt"), f"gradio=={card['sdk_version']}"]
    small = subprocess.run([*words, "--torch-backend", "auto"], capture_output=True, text=True)  # CUDA for GPUs alone
    result = small if small.returncode == 0 else subprocess.run(words, capture_output=True, text=True)
    if result.returncode and any(reason in result.stderr.lower() for reason in NO_NETWORK):
        pytest.skip(f"the package registry can't be reached: {result.stderr.strip().splitlines()[-1]}")
    assert result.returncode == 0, result.stderr
    return python


@pytest.mark.slow
def test_the_space_starts_as_the_hub_would_start_it(card, python, towers, tmp_path):
    make_model(towers).save_pretrained(tmp_path / "model")
    MMFusionProcessor.from_towers(text=towers["text"], vision=towers["vision"]).save_pretrained(tmp_path / "model")
    space = tmp_path / "space"
    shutil.copytree(SPACE, space, ignore=shutil.ignore_patterns("prepared", "__pycache__"))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    inherited = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
    folders = {name: str(tmp_path / name) for name in ("HF_HOME", "GRADIO_TEMP_DIR")}
    settings = {"MMFUSION_MODEL": str(tmp_path / "model"), "GRADIO_SERVER_PORT": str(port), "SPACE_ID": "me/mmfusion"}
    environment = inherited | folders | settings | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen(
            [python, card["app_file"]], cwd=space, env=environment, stdout=log, stderr=subprocess.STDOUT
        )
    try:
        client = wait_for(f"http://127.0.0.1:{port}", process, tmp_path / "log")
        answer = client.predict(query="yellow curtains with checks", k=3, api_name="/compare")
        assert [len(of["results"]) for of in answer["views"].values()] == [3, 3, 3]
        assert answer["views"]["fused"]["ndcg@10"] is not None, "the embedded shop has no judgments"
        assert list((space / "prepared").glob("*.npz")), "the vectors are not kept for the next start"
    finally:
        process.terminate()
        process.wait(timeout=30)
    listed = subprocess.run([python, "-c", "import modeling_mmfusion"], cwd=space, capture_output=True)
    assert listed.returncode, "mmfusion is installed there, so the model's own code was not tried"


def wait_for(address: str, process: subprocess.Popen, log: Path) -> Client:
    """A client of the Space once it answers; fails with its log if it ends or takes too long."""
    begin = time.monotonic()
    while process.poll() is None and time.monotonic() - begin < START_SECONDS:
        try:
            return Client(address, verbose=False)
        except Exception:  # whatever the client says until the server is there
            time.sleep(1)
    pytest.fail(f"the Space did not start:\n{log.read_text()[-3000:]}")
