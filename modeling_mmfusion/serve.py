"""Serves a model and its index over HTTP; `service.py` tells of the paths, GET /docs of all fields.

    pip install 'mmfusion[serve]'
    python -m modeling_mmfusion.serve --run runs/quickstart
    curl localhost:8000/search -H 'content-type: application/json' \\
        -d '{"query": "green striped mug", "k": 3, "where": {"price": {"lte": 20}}}'
    curl localhost:8000/v1/embeddings -H 'content-type: application/json' \\
        -d '{"input": [{"title": "Breton tee", "brand": "Harrow Lane"}], "input_type": "document"}'
    python -m modeling_mmfusion.serve --shard runs/myshop/index/shard-0-of-2 --port 8001      # on each of the hosts
    python -m modeling_mmfusion.serve --run runs/myshop --index http://one:8001,http://two:8001
"""

import argparse
import os
import sys
from pathlib import Path

from .errors import DataError

KEEP_ALIVE_SECONDS = 75  # longer than load balancers keep a connection, so that they and not we end it


def serve(
    run: str,
    host: str,
    port: int,
    tower: str,
    queries_only: bool,
    name: str | None,
    threads: int,
    index: str | None = None,
    shard: str | None = None,
) -> None:
    """Serves until it is stopped; see the options of [`main`].

    Raises:
        DataError: if a package is not installed, or the model or the index can't be served.
    """
    try:
        import torch
        import uvicorn

        from .index import ProductIndex
        from .service import create_app
        from .service_shard import create_shard_app
        from .service_towers import ServedModel
    except ModuleNotFoundError as error:
        raise DataError(f"{error.name} is not installed; run: pip install 'mmfusion[serve]'") from error
    torch.set_num_threads(1)  # a batch takes one; those that share a batch would wait for each other under load
    if shard is not None:
        app = create_shard_app(ProductIndex.load(shard, view=True))
    else:
        app = create_app(ServedModel(run, tower, queries_only, index), name or Path(run).resolve().name, threads)
    uvicorn.run(app, host=host, port=port, access_log=False, timeout_keep_alive=KEEP_ALIVE_SECONDS)


def at_least_one(text: str) -> int:
    """A number of threads.

    Raises:
        ArgumentTypeError: if it is none.
    """
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of threads; give 1 or more")
    return int(text)


def main(argv: list[str] | None = None) -> None:
    """Reads the command line; what a person has to mend is one line and exit status 2."""
    parser = argparse.ArgumentParser(
        "python -m modeling_mmfusion.serve", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    run_help = "run folder with model/ and index/, or a model folder (default: %(default)s)"
    parser.add_argument("--run", default="runs/quickstart", help=run_help)
    host_help = "address to listen on; 0.0.0.0 for all of this machine's (default: %(default)s)"
    parser.add_argument("--host", default="127.0.0.1", help=host_help)
    parser.add_argument("--port", type=int, default=8000, help="(default: %(default)s)")
    tower_help = "the query tower: torch, or onnx or int8 that training.export wrote (default: %(default)s)"
    parser.add_argument("--tower", choices=("torch", "onnx", "int8"), default="torch", help=tower_help)
    queries_help = "load the query tower alone, with less memory: no products, no pictures"
    parser.add_argument("--queries-only", action="store_true", help=queries_help)
    threads_help = "batches of products that are computed at once (default: %(default)s, one a core)"
    parser.add_argument("--threads", type=at_least_one, default=os.cpu_count() or 1, help=threads_help)
    index_help = "where the index is if it is not the run's: a folder, or all shards' addresses with commas between"
    parser.add_argument("--index", help=index_help)
    shard_help = "serve a shard of an index alone, by its folder, to those that search all of them; no model is needed"
    parser.add_argument("--shard", help=shard_help)
    parser.add_argument("--name", help="the model's name in answers (default: the folder's)")
    try:
        serve(**vars(parser.parse_args(argv)))
    except DataError as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        sys.exit(2)


if __name__ == "__main__":
    main()
