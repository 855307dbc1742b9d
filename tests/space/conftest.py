"""A Space with a tiny model and a tiny shop, and its address."""

import os
import sys

import pytest
from helpers import ROOT, make_model, write_shop
from space_shop import space_rows

from modeling_mmfusion import MMFusionProcessor

os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
sys.path.insert(0, str(ROOT / "space"))

import app  # noqa: E402
import start  # noqa: E402


@pytest.fixture(scope="module")
def folders(towers, tmp_path_factory):
    """Folders of a saved tiny model, a shop and prepared vectors, named in the environment."""
    folder = tmp_path_factory.mktemp("space")
    make_model(towers).save_pretrained(folder / "run" / "model")
    MMFusionProcessor.from_towers(text=towers["text"], vision=towers["vision"]).save_pretrained(
        folder / "run" / "model"
    )
    write_shop(folder / "shop", *space_rows())
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MMFUSION_RUN", str(folder / "run"))
        patch.setenv("MMFUSION_DATA", str(folder / "shop"))
        patch.setenv("MMFUSION_PREPARED", str(folder / "prepared"))
        patch.setenv("GRADIO_TEMP_DIR", str(folder / "uploads"))
        yield folder


@pytest.fixture(scope="module")
def shop(folders):
    """The tiny shop as the Space loads it."""
    return start.start()


@pytest.fixture(scope="module")
def shop_of_two(towers, folders):
    """The same shop with a second model beside the first, `before`."""
    model = make_model(towers, image_dim=8)  # whose vectors are shorter
    model.save_pretrained(folders / "before" / "model")
    MMFusionProcessor.from_towers(text=towers["text"], vision=towers["vision"]).save_pretrained(
        folders / "before" / "model"
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MMFUSION_MODEL_B", str(folders / "before" / "model"))
        return start.start()


@pytest.fixture(scope="module")
def url(shop):
    """Address of the running Space."""
    page = app.lay_out(shop)
    _, address, _ = page.launch(**app.LAUNCH, prevent_thread_lock=True, quiet=True)
    yield address
    page.close()
