"""The Space: type what a shopper would, see what fusion finds that text or pictures alone miss, and why.

    python app.py

`start.py` says where the model and the catalogue come from, `endpoints.py` what programs can ask. This file lays out
the page and wires its events.
"""

import os
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
from catalogue import Catalogue
from endpoints import Endpoints
from page import SEARCHES_AT_ONCE, Page, server_functions
from start import SetupError, start
from theme import SCRIPT, STYLE, THEME
from tradeoff import STORAGE
from upload import MAX_FILE_BYTES

LAUNCH = {
    "theme": THEME,
    "css_paths": STYLE,
    "max_file_size": MAX_FILE_BYTES,
    "state_session_capacity": 100,  # programs whose uploads are kept
    "footer_links": ["api", "gradio"],
    "ssr_mode": False,
}
FILE_TYPES = [".csv", ".tsv", ".tab", ".psv", ".txt", ".zip"]
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
- `/upload` takes `file` (CSV or ZIP) and tells what was read; then `where="yours"` searches it in this session.

A mistake raises `AppError` with one sentence that says what to do.
"""


def unread(image: gr.Image) -> gr.Image:
    """The same component, which hands over the uploaded file unread: `pictures.py` reads it within bounds."""
    image.preprocess = lambda payload: None if payload is None else payload.path
    return image


def lay_out(shop: Catalogue) -> gr.Blocks:
    """The page, with all its events and endpoints."""
    endpoints = Endpoints(shop)
    page = Page(endpoints)
    # the uploads of visitors who left are deleted within the hour
    with gr.Blocks(title="mmfusion: search that looks", delete_cache=(600, 3600)) as blocks:
        gr.HTML(markup.intro(shop, page.firsts, page.means), apply_default_css=False, elem_id="intro")
        with gr.Tabs():
            with gr.Tab("Search"):
                script = SCRIPT.read_text(encoding="utf-8")
                functions = server_functions(page)
                gr.HTML(page.whole(), apply_default_css=False, js_on_load=script, server_functions=functions)
            with gr.Tab("Trade-offs"):
                tradeoff_tab(endpoints)
            with gr.Tab("API"):
                api_tab(endpoints, page.examples[0].text)
    return blocks.queue(max_size=200, default_concurrency_limit=2)


def api_tab(endpoints: Endpoints, example: str) -> None:
    """What programs can ask, and the endpoints themselves."""

    def written(request: gr.Request) -> str:
        address = os.environ.get("SPACE_ID") or str(request.request.base_url)
        return API_HELP.format(address=address, example=example)

    shown = gr.Markdown(API_HELP.format(address="http://127.0.0.1:7860", example=example), elem_id="api")
    gr.on(None, written, None, shown, api_visibility="private", queue=False, show_progress="hidden")
    shop, many = endpoints.shop, {"multiselect": True, "allow_custom_value": True}
    with gr.Group(visible=False):
        answer, trigger, yours = gr.JSON(), gr.Button(), gr.State(None, time_to_live=3600)
        text, picture = gr.Textbox(label="Search"), unread(gr.Image(type="filepath", label="Query picture"))
        weight = gr.Slider(0, 1, value=0.5, step=0.05, label="Weight of the picture beside words")
        category = gr.Dropdown(list(shop.values("category")), label="Category", **many)
        brand = gr.Dropdown(list(shop.values("brand")), label="Brand", **many)
        file = gr.File(label="CSV or ZIP", file_types=FILE_TYPES)
        view, product, words = gr.Textbox("fused"), gr.Textbox(), gr.Textbox()
        count, low, high = gr.Number(12), gr.Number(None), gr.Number(None)
        presence, where = gr.Textbox("any"), gr.Textbox("shop")
    api = {"concurrency_id": "search", "concurrency_limit": SEARCHES_AT_ONCE}
    explaining = {"concurrency_id": "explain", "concurrency_limit": 2}
    place = [where, yours]
    trigger.click(
        endpoints.search,
        [text, picture, view, count, category, brand, low, high, presence, weight, *place],
        answer,
        api_name="search",
        **api,
    )
    trigger.click(endpoints.compare, [text, picture, count, *place], answer, api_name="compare", **api)
    trigger.click(endpoints.similar, [product, words, count, weight, *place], answer, api_name="similar", **api)
    trigger.click(endpoints.explain, [text, product, picture, *place], answer, api_name="explain", **explaining)
    trigger.click(endpoints.upload, file, [answer, yours], api_name="upload", **HEAVY)


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
    with gr.Group(visible=False):
        answer, trigger, length, form = gr.JSON(), gr.Button(), gr.Number(None), gr.Textbox("f32")
    trigger.click(endpoints.tradeoff, [form, length], answer, api_name="tradeoff", **HEAVY)


def setup_page(message: str) -> gr.Blocks:
    """What a Space shows that is not set up yet."""
    with gr.Blocks(title="mmfusion: to be set up") as blocks:
        gr.HTML(markup.problem_board(message))
    return blocks


def main() -> None:
    """Loads everything and serves the page.

    On the Hub a missing setting is told on the page; elsewhere on the terminal.
    """
    try:
        page = lay_out(start())
    except SetupError as error:
        if "SPACE_ID" not in os.environ:
            sys.exit(f"error: {error}")
        page = setup_page(str(error))
    page.launch(**LAUNCH)


if __name__ == "__main__":
    main()
