"""Exports the query tower and the product tower to ONNX and OpenVINO, for machines without a GPU.

    python -m training.export --model runs/quickstart/model --output runs/quickstart/model
    python -m training.export --formats onnx --quantize-query int8 --pictures
    python -m training.export --formats query --quantize-query int8

The output folder gets onnx/ and openvino/, each with query_tower, product_tower and export.json: inputs, versions,
how far the vectors lie from the model's and the milliseconds of both. A tower that does not agree is not written.
query/ is the query tower alone, with its tokenizer: for text-embeddings-inference, Vespa, OpenSearch, transformers.js.
"""

from training.common.cli import run
from training.features.options import ExportArguments

if __name__ == "__main__":
    run("training.export", ExportArguments, __doc__)

import tempfile
from pathlib import Path
from typing import Any

from modeling_mmfusion.exported import MANIFEST
from modeling_mmfusion.fingerprint import model_fingerprint
from modeling_mmfusion.model_folder import load_model
from training.common.environment import environment
from training.common.files import new_folder, write_json
from training.features.exporting import (
    QUERY_FOLDER,
    WRITER,
    WRITERS,
    Tower,
    add_int8_query,
    agreement,
    check_options,
    describe_inputs,
    export_folder,
    export_onnx,
    format_agreement,
    make_case,
    product_samples,
    query_samples,
    sample_picture,
    write_query_tokenizer,
)
from training.features.picture_graph import add_picture_graph
from training.features.query_folder import QueryFolder


def main(arguments: ExportArguments) -> dict[str, dict[str, Any]]:
    """Exports, compares with the model, writes the folders and returns what `export.json` of each format holds."""
    formats = arguments.formats
    check_options(formats, arguments.quantize_query, arguments.pictures)
    output = export_folder(arguments, formats)
    model, processor = load_model(arguments.model, device="cpu")
    manifest = {"model": model_fingerprint(model, processor)}  # as stored, so that it is the index's too
    model.float()
    query_folder = QueryFolder(model, processor) if QUERY_FOLDER in formats else None
    samples = {"query": query_samples(processor)}
    if towers := [name for name in formats if name != QUERY_FOLDER]:
        samples["product"] = product_samples(processor)
    cases = {name: make_case(Tower(model, name), batches) for name, batches in samples.items()}
    manifest["inputs"] = {name: describe_inputs(case.batches[0]) for name, case in cases.items()}
    model.set_attn_implementation(
        "eager"
    )  # a graph of plain operations, which the exporter can follow in more encoders
    reports = {}
    with tempfile.TemporaryDirectory() as scratch:
        for name, case in cases.items() if towers else ():
            export_onnx(case, Path(scratch, f"{name}_tower.onnx"))
        for name in formats:
            facts = dict(manifest)
            with new_folder(output / name, WRITER) as folder:
                if query_folder is not None and name == QUERY_FOLDER:
                    measured = query_folder.write(folder, quantize=bool(arguments.quantize_query))
                else:
                    WRITERS[name](Path(scratch), folder)
                    if name == "onnx":
                        facts |= write_query_tokenizer(folder, processor)
                    write_json(folder / MANIFEST, facts)
                    measured = agreement(name, folder, cases)
                if name == "onnx" and arguments.quantize_query:
                    measured["query_tower_int8"] = add_int8_query(folder, cases["query"])
                if name == "onnx" and arguments.pictures:
                    pictures = [sample_picture(0), sample_picture(1)]
                    measured["picture"] = add_picture_graph(folder, processor, cases["product"].tower, pictures)
                reports[name] = facts | {"measured": measured, "environment": environment()}
                write_json(folder / MANIFEST, reports[name])
            print(format_agreement(output / name, measured), flush=True)
    return reports
