"""The endpoints as gradio serves them: each with the types of what it takes and gives, in threads of its own kind."""

import inspect
import typing
from typing import Any

import gradio as gr
from endpoints import Endpoints
from gradio.components.api_component import Api
from gradio.data_classes import FileData
from gradio.events import python_type_to_json_schema
from workers import Workers, in_turn

SEARCHES_AT_ONCE = 16  # their queries are embedded together
THREADS = 1_000  # gradio's bound on what is there at once, of all kinds together; see `kinds`


class Blocks(gr.Blocks):
    """Blocks whose endpoints take defaults for arguments that a caller leaves out at the end, by plain HTTP too."""

    def validate_inputs(self, block_fn, inputs: list) -> None:
        """Fills in what is missing."""
        inputs.extend(block.value for block in block_fn.inputs[len(inputs) :])
        super().validate_inputs(block_fn, inputs)


def kinds() -> dict[str, Workers]:
    """The threads of each kind of work, and how many callers may be there."""
    return {
        "searches": Workers(SEARCHES_AT_ONCE, 400),
        "pictures": Workers(2, 100),
        "explanations": Workers(2, 100),
        "files": Workers(1, 200, patient=True),
        "measurements": Workers(1, 50, patient=True),
    }


def programs(endpoints: Endpoints) -> None:
    """Lays out all endpoints in a page; nothing of them is seen."""
    of = kinds()
    searches, pictures, files = of["searches"], of["pictures"], of["files"]
    served = {
        "search": (endpoints.search, searches, pictures),
        "compare": (endpoints.compare, searches, pictures),
        "similar": (endpoints.similar, searches, pictures),
        "explain": (endpoints.explain, of["explanations"], None),
        "tradeoff": (endpoints.tradeoff, of["measurements"], None),
        "upload": (endpoints.bring, files, None),
        "preview": (endpoints.preview, files, None),
        "sample": (endpoints.sample, searches, None),
        "clear": (endpoints.clear, searches, None),
    }
    with gr.Group(visible=False):
        yours, trigger = gr.State(None), gr.Button()
        for name, (function, workers, with_file) in served.items():
            types, parameters = typing.get_type_hints(function), inspect.signature(function).parameters
            inputs = [
                yours if key == "yours" else argument(key, types[key], parameter.default)
                for key, parameter in parameters.items()
            ]
            answer = typing.get_args(types["return"]) or [types["return"]]
            outputs = [Api(None, schema_of(answer[0]), label="answer"), *[yours] * (len(answer) - 1)]
            wrapper = in_turn(function, workers, with_file)
            trigger.click(
                wrapper, inputs, outputs, api_name=name, api_description=described(function), concurrency_limit=None
            )


def argument(name: str, kind: Any, default: Any) -> Api:
    """An argument of an endpoint; its value comes as the caller gave it."""
    value = None if default is inspect.Parameter.empty else default
    return Api(value, schema_of(kind), label=name)


def schema_of(kind: Any) -> dict:
    """A type's JSON schema, by which gradio tells callers what it takes and gives."""
    if kind in (FileData, FileData | None):
        return FileData.model_json_schema()  # which clients read as a file
    return python_type_to_json_schema(kind)


def described(function) -> str:
    """An endpoint's docstring on one line."""
    return " ".join((function.__doc__ or "").split())
