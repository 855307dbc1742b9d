"""Builds a repository's folder for the Hub: model, adapter, dataset, metric or Space, each with its card.

    python -m hub_card.build --what dataset --data data/demo_shop --repo-id me/demo-shop
    python -m hub_card.build --what model --run runs/quickstart --repo-id me/mmfusion-demo --dataset-ids me/demo-shop
    python -m hub_card.build --what adapter --run runs/myshop --repo-id me/myshop-lora --base-id me/mmfusion-demo
    python -m hub_card.build --what metric --repo-id me/product_retrieval
    python -m hub_card.build --what space --repo-id me/search --model-id me/mmfusion-demo --dataset-ids me/demo-shop

Nothing is computed and nothing leaves the machine. Every number in a card is read from a result file; one without a
source fails the build, and so does a dataset whose licence is missing or forbids sharing. Weights from material of
unclear licence are built and marked; hub_card.push refuses them.
"""

from hub_card.options import BuildArguments
from training.common.cli import run

if __name__ == "__main__":
    run("hub_card.build", BuildArguments, __doc__)

from collections.abc import Callable
from pathlib import Path

from huggingface_hub.utils import HFValidationError, validate_repo_id

from hub_card import build_code, build_data, build_model
from hub_card.contents import default_folder
from hub_card.figures import CardError
from training.common.files import new_folder

WRITER = "hub_card.build"


BUILDERS: dict[str, Callable[[BuildArguments, Path], None]] = {
    "model": build_model.build_model,
    "adapter": build_model.build_adapter,
    "dataset": build_data.build_dataset,
    "metric": build_code.build_metric,
    "space": build_code.build_space,
}


def main(arguments: BuildArguments) -> Path:
    """Builds the folder, which appears whole or not at all, and returns it."""
    check_ids(arguments)
    output = Path(arguments.output or default_folder(arguments.what, arguments.repo_id))
    with new_folder(output, WRITER) as folder:
        BUILDERS[arguments.what](arguments, folder)
    files = [file for file in output.rglob("*") if file.is_file()]
    size = sum(file.stat().st_size for file in files)
    print(
        f"{arguments.what}: {len(files)} files, {size / 1e6:.1f} MB in {output}; read {output / 'README.md'}",
        flush=True,
    )
    return output


def check_ids(arguments: BuildArguments) -> None:
    """Refuses ids that the Hub would not take.

    Raises:
        CardError: naming the option.
    """
    ids = {"repo-id": arguments.repo_id, "base-id": arguments.base_id, "model-id": arguments.model_id}
    named = [("dataset-ids", name) for name in arguments.dataset_ids]
    for option, name in [*ids.items(), *named]:
        try:
            if name is not None:
                validate_repo_id(name)
        except HFValidationError as error:
            raise CardError(f"--{option} {name}: is no id of a repository, such as me/mmfusion-demo") from error
        if name is not None and name.count("/") != 1:
            raise CardError(f"--{option} {name}: lacks its owner; write owner/{name}")
