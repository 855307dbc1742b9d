"""Fixtures of what is published: a tiny release, and a Hub on loopback."""

import pytest
from hub_release import Release, make_release
from hub_server import TOKEN, HubServer, hub_server
from huggingface_hub import constants, hf_api

from hub_card import push


@pytest.fixture
def release(tmp_path_factory) -> Release:
    """See [`make_release`]; the files that use it share one."""
    return make_release(tmp_path_factory.getbasetemp())


@pytest.fixture
def hub(tmp_path, monkeypatch) -> HubServer:
    """A Hub on loopback that this process and those it starts talk to, logged in, with an empty cache; no waiting."""
    with hub_server() as server:
        environment = {"HF_ENDPOINT": server.url, "HF_HUB_OFFLINE": "0", "HF_HOME": str(tmp_path / "hf")}
        environment |= {"HF_TOKEN": TOKEN, "HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setattr(constants, "ENDPOINT", server.url)
        monkeypatch.setattr(hf_api.api, "endpoint", server.url)
        template = server.url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hf" / "hub"))
        monkeypatch.setattr(push, "load_as_stranger", lambda *where: {"stubbed": "by the tests"})
        monkeypatch.setattr(push.time, "sleep", lambda seconds: None)
        yield server
