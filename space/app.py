"""The Space: type what a shopper would, see what fusion finds that text or pictures alone miss, and why.

    python app.py

`start.py` says where the model and the catalogue come from, `endpoints.py` what programs can ask. This file lays out
the page and wires its events.
"""

import os
import signal
import sys

# before numpy and torch are there: many visitors use all cores, more threads for each only get in the way
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
os.environ.setdefault("MKL_NUM_THREADS", "1")
os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
# where matplotlib is installed, gradio would import all of it at the first search
os.environ.setdefault("MPLBACKEND", "agg")
# gradio would sum up its last 10,000 events after each one, which takes longer than a search
os.environ.setdefault("GRADIO_ANALYTICS_MAX_EVENTS", "100")
os.environ.setdefault("GRADIO_ANALYTICS_CACHE_FREQUENCY", "1000000")

import gradio as gr
import markup
from api import THREADS, Blocks, programs
from catalogue import Catalogue
from endpoints import Endpoints
from page import Page, server_functions
from sent_files import folder_for_files
from start import SetupError, start
from theme import SCRIPT, STYLE, THEME
from tradeoff import STORAGE
from upload import MAX_FILE_BYTES

LAUNCH = {
    "theme": THEME,
    "css_paths": STYLE,
    "max_file_size": MAX_FILE_BYTES,
    "state_session_capacity": 1_000,  # sessions of programs
    "max_threads": THREADS,
    "show_error": True,  # what gradio itself finds wrong with a request
    "footer_links": ["api", "gradio"],
    "ssr_mode": False,
}
HEAVY = {"concurrency_id": "heavy", "concurrency_limit": 1}
API_HELP = """
Every part of the page is an endpoint. `pip install gradio_client`, then

```
from gradio_client import Client, handle_file

client = Client("{address}")
answer = client.predict(query="{example}", k=5, api_name="/search")
for product in answer["results"]:
    print(product["rank"], product["id"], product["title"], product["score"])
client.predict(picture=handle_file("shirt.jpg"), query="in green", api_name="/search")
client.predict(product_id=answer["results"][0]["id"], text="in blue", api_name="/similar")
```

- `/search` takes `query`, `picture`, `view` (fused, text, image), `k`, `categories`, `brands`, `price_from`,
  `price_to`, `presence` (any, with picture, without picture), `picture_weight` and `where` (shop, yours). It gives
  `results`, `query_weights`, times and, for a judged query, `ndcg@10`.
- `/compare` takes `query`, `picture`, `k` and `where`, and gives the same for all three `views`.
- `/similar` takes `product_id`, `text` ("like this, but ..."), `k`, `weight` (of the product) and `where`.
- `/explain` takes `query`, `product_id`, `picture` and `where`. It gives the `contributions` of the blocks to the
  score and the `picture_map`.
- `/tradeoff` takes `storage` (f32, f16, i8, b1) and `dim`, and gives nDCG@10, overlap, bytes and milliseconds.
- `/upload` takes `file` (a table or ZIP) and `columns` (`{{"title": "Name"}}`), and tells what was read; then
  `where="yours"` searches it in this session. `/preview` takes the same and tells how it would be read, `/sample`
  gives a file to fill, and `/clear` forgets the session's products.

A mistake raises `AppError` with one sentence that says what to do.
"""


def lay_out(shop: Catalogue) -> gr.Blocks:
    """The page, with all its events and endpoints."""
    endpoints = Endpoints(shop)
    page = Page(endpoints)
    # the uploads of visitors who left are deleted within the hour
    with Blocks(title="mmfusion: search that looks", delete_cache=(600, 3600)) as blocks:
        gr.HTML(markup.intro(shop, page.firsts, page.means), apply_default_css=False, elem_id="intro")
        with gr.Tabs():
            with gr.Tab("Search"):
                script = SCRIPT.read_text(encoding="utf-8")
                functions = server_functions(page)
                gr.HTML(page.whole(), apply_default_css=False, js_on_load=script, server_functions=functions)
            with gr.Tab("Trade-offs"):
                tradeoff_tab(endpoints)
            with gr.Tab("API"):
                guide = gr.Markdown(api_help(None, page.examples[0].text), elem_id="api")
        programs(endpoints)

        def addressed(request: gr.Request) -> str:
            return api_help(request, page.examples[0].text)

        blocks.load(addressed, None, guide, api_visibility="private", show_progress="hidden")
    return blocks.queue(max_size=1_000, default_concurrency_limit=2)


def api_help(request: gr.Request | None, example: str) -> str:
    """How programs ask, with the address that the visitor's browser knows the page by, or the Space's id."""
    address = "http://127.0.0.1:7860"
    if request is not None:
        headers, url = request.headers, request.request.url
        scheme = headers.get("x-forwarded-proto", url.scheme).split(",")[0].strip()
        host = headers.get("x-forwarded-host", headers.get("host", url.netloc)).split(",")[0].strip()
        address = f"{scheme}://{host}{request.request.scope.get('root_path', '')}"
    return API_HELP.format(address=os.environ.get("SPACE_ID", address), example=example)


def tradeoff_tab(endpoints: Endpoints) -> None:
    """Storage and length of vectors, and what they cost and save."""
    tradeoffs, whole = endpoints.tradeoffs, endpoints.tradeoffs.whole

    def measured(storage: str, dim: int) -> str:
        return markup.tradeoff(tradeoffs.measure(storage, int(dim)), tradeoffs.measure("f32", whole))

    gr.Markdown(
        "Shorter and coarser vectors are smaller and faster. How much worse do they find? Measured on the spot."
    )
    with gr.Row():
        storage = gr.Radio(list(STORAGE), value="f32", label="Stored as", elem_id="storage")
        dim = gr.Slider(whole // 16, whole, value=whole, step=whole // 16, label="Dimensions", elem_id="dim")
    readout = gr.HTML(
        "<div class='state'><p>Choose how vectors are stored to measure it.</p></div>", elem_id="readout"
    )
    # one measurement runs at a time, and the last choice is measured when it is done
    events = {"api_visibility": "private", "trigger_mode": "always_last", **HEAVY}
    gr.on([storage.change, dim.change], measured, [storage, dim], readout, **events)


def setup_page(message: str) -> gr.Blocks:
    """What a Space shows that is not set up yet."""
    with gr.Blocks(title="mmfusion: to be set up") as blocks:
        gr.HTML(markup.problem_board(message))
    return blocks


def main() -> None:
    """Loads everything and serves the page.

    On the Hub a missing setting is told on the page; elsewhere on the terminal.
    """
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # so that the folder is deleted
    with folder_for_files():
        try:
            page = lay_out(start())
        except SetupError as error:
            if "SPACE_ID" not in os.environ:
                sys.exit(f"error: {error}")
            page = setup_page(str(error))
        page.launch(**LAUNCH)


if __name__ == "__main__":
    main()
