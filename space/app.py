"""The Space: type what a shopper would, see what fusion finds that text or pictures alone miss, and why.

    python app.py

`start.py` says where the model and the catalogue come from, `endpoints.py` what programs can ask. This file lays out
the page and wires its events.
"""

import os
import signal
import sys
import time

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
import numpy as np
from api import SEARCHES_AT_ONCE, THREADS, Blocks, programs
from catalogue import PRESENCE, VIEWS, Catalogue, Filters, Query, VisitorError
from endpoints import Endpoints
from pictures import data_address, with_map
from sent_files import folder_for_files
from start import SetupError, start
from theme import STYLE, THEME
from tradeoff import STORAGE
from upload import HELP, MAX_FILE_BYTES

EXAMPLES = 6
EXAMPLE_WORDS = 5
FALLBACK_EXAMPLES = ["green striped mug", "navy wool scarf", "floral cushion", "red dotted dress"]
SIDE_BY_SIDE, FUSED_ONLY = "side by side", "fused only"
LAUNCH = {
    "theme": THEME,
    "css_paths": STYLE,
    "max_file_size": MAX_FILE_BYTES,
    "state_session_capacity": 1_000,  # visitors whose last query is kept
    "max_threads": THREADS,
    "show_error": True,  # what gradio itself finds wrong with a request
    "footer_links": ["api", "gradio"],
    "ssr_mode": False,
}
PICK = """
element.addEventListener('click', (event) => {
  const button = event.target.closest('button[data-do]');
  if (!button || button.dataset.do === 'close') return;
  trigger('pick', {...button.dataset});
});
element.addEventListener('submit', (event) => {
  event.preventDefault();
  const form = event.target;
  trigger('pick', {...form.dataset, text: form.elements.text.value});
});
"""
BOARD = (
    PICK
    + """
watch('value', () => {
  if (window.innerWidth < 760 && element.querySelector('.board')) element.scrollIntoView({behavior: 'smooth'});
});
"""
)
DRAWER = (
    PICK
    + """
let opener = null;
const shut = () => {
  props.value = '';
  opener?.focus();
  opener = null;
};
element.addEventListener('click', (event) => { if (event.target.closest('.close')) shut(); });
document.addEventListener('keydown', (event) => {
  if (event.key === 'Escape' && element.querySelector('.drawer')) shut();
});
watch('value', () => {
  const close = element.querySelector('.close');
  if (!close) return;
  opener = opener || document.activeElement;
  close.focus();
});
"""
)
API_HELP = """
Every part of the page is an endpoint. `pip install gradio_client`, then

```python
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


def unread(image: gr.Image) -> gr.Image:
    """The same component, which hands over the uploaded file unread: `pictures.py` reads it within bounds."""
    image.preprocess = lambda payload: None if payload is None else payload.path
    return image


class Page:
    """The handlers of the page's events; each gives what the components show.

    Their names differ from the endpoints', which gradio would rename otherwise.

    Args:
        endpoints (`Endpoints`): what answers.
    """

    def __init__(self, endpoints: Endpoints):
        self.endpoints = endpoints
        self.shop = endpoints.shop

    def on_ask(self, text, picture, weight, *rest):
        """A new query: what was asked, the results, and a closed drawer."""
        if not (text or "").strip() and not picture:
            return None, markup.empty_board(), ""
        try:
            query = self.endpoints.query(text, picture, weight)
        except VisitorError as error:
            return None, markup.problem_board(str(error)), ""
        return query, self.show(query, *rest), ""

    def on_again(self, query: Query | None, *rest):
        """The same query with other filters."""
        return markup.empty_board() if query is None else self.show(query, *rest)

    def show(self, query, categories, brands, low, high, presence, k, layout, where, yours) -> str:
        """The results of a query."""
        begin = time.perf_counter()
        try:
            catalogue = self.endpoints.place(where, yours)
            views = VIEWS if layout == SIDE_BY_SIDE else ("fused",)
            found = catalogue.search(query, Filters(categories, brands, low, high, presence), k, views)
        except VisitorError as error:
            return markup.problem_board(str(error))
        return markup.board(catalogue, query, found, 1000 * (time.perf_counter() - begin))

    def on_open(self, event: gr.EventData, query: Query | None, where, yours) -> str:
        """The drawer that tells why the picked product was found."""
        try:
            catalogue = self.endpoints.place(where, yours)
            row = catalogue.row(event.id)
        except VisitorError as error:
            raise gr.Error(str(error), print_exception=False) from error
        if query is None:
            return ""
        hit = catalogue.hit(query, row)
        seen = catalogue.encoder.picture_map(query, catalogue.product_inputs(row))
        overlay = None if seen is None else data_address(with_map(*seen))
        return markup.drawer(catalogue, query, row, hit, overlay)

    def on_similar(self, event: gr.EventData, *rest):
        """Products like the drawer's, with what was typed as a difference."""
        where, yours = rest[-2:]
        try:
            query = self.endpoints.place(where, yours).like(event.id, event._data.get("text") or "")
        except VisitorError as error:
            return None, markup.problem_board(str(error)), ""
        return query, self.show(query, *rest), ""

    def on_upload(self, file, progress=gr.Progress()):  # noqa: B008
        """A visitor's file: their catalogue, the report, where to search, and an empty file field."""
        if not file:
            return gr.skip(), gr.skip(), gr.skip(), None
        try:
            report, yours = self.endpoints.upload(file, progress=lambda share: progress(share, desc="reading"))
        except gr.Error as error:
            return gr.skip(), markup.problem_board(error.message), gr.skip(), None
        shown = markup.upload_report(report["products"], report["with_picture"], report["problems"])
        return yours, shown, "yours", None

    def on_choices(self, where, yours):
        """The filters' choices for the catalogue that is searched."""
        catalogue = yours if where == "yours" and yours is not None else self.shop
        fresh = [gr.Dropdown(choices=catalogue.values(column), value=[]) for column in ("category", "brand")]
        return [*fresh, 0, catalogue.highest_price]

    def on_tradeoff(self, storage: str, dim: int) -> str:
        """The readouts of a choice of storage and length."""
        tradeoffs = self.endpoints.tradeoffs
        return markup.tradeoff(tradeoffs.measure(storage, int(dim)), tradeoffs.measure("f32", tradeoffs.whole))


def lay_out(shop: Catalogue) -> gr.Blocks:
    """The page, with all its events and endpoints."""
    endpoints = Endpoints(shop)
    page, (means, examples) = Page(endpoints), judged_facts(shop)
    # the uploads of visitors who left are deleted within the hour
    with Blocks(title="mmfusion: search that looks", delete_cache=(600, 3600)) as blocks:
        gr.HTML(markup.intro(shop, means))
        asked, yours = gr.State(None, time_to_live=3600), gr.State(None, time_to_live=3600)
        with gr.Tabs():
            with gr.Tab("Search"):
                search_tab(page, endpoints, asked, yours, examples)
            with gr.Tab("Trade-offs"):
                tradeoff_tab(page, endpoints)
            with gr.Tab("API"):
                guide = gr.Markdown(api_help(None, examples[0]))
        programs(endpoints)

        def addressed(request: gr.Request) -> str:
            return api_help(request, examples[0])

        blocks.load(addressed, None, guide, api_visibility="private")
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


def search_tab(page: Page, endpoints: Endpoints, asked: gr.State, yours: gr.State, examples: list[str]) -> None:
    """Query, filters and results."""
    shop = page.shop
    with gr.Row(elem_classes="searchbar", equal_height=True):
        text = gr.Textbox(
            show_label=False,
            container=False,
            placeholder=examples[0],
            autofocus=True,
            scale=8,
            max_length=500,
            elem_id="query",
            label="Search",
        )
        go = gr.Button("Search", variant="primary", scale=1, min_width=110, elem_id="go")
    picks = gr.HTML(markup.chips(examples), js_on_load=PICK)
    with gr.Row():
        with gr.Column(min_width=260), gr.Accordion("Search by picture", open=False, elem_id="by-picture"):
            sources = ["upload", "clipboard", "webcam"]
            picture = gr.Image(type="filepath", sources=sources, label="Query picture", height=240, elem_id="picture")
            picture = unread(picture)
            weight = gr.Slider(0, 1, value=0.5, step=0.05, label="Weight of the picture beside words")
        with gr.Column(min_width=260), gr.Accordion("Filters", open=False, elem_id="filters"):
            many = {"multiselect": True, "allow_custom_value": True}
            category = gr.Dropdown(shop.values("category"), label="Category", elem_id="category", **many)
            brand = gr.Dropdown(shop.values("brand"), label="Brand", elem_id="brand", **many)
            with gr.Row():
                low = gr.Number(label="Price from", value=0, min_width=80, elem_id="low")
                high = gr.Number(label="Price to", value=shop.highest_price, min_width=80, elem_id="high")
            presence = gr.Radio(list(PRESENCE), value="any", label="Picture", elem_id="presence")
        with gr.Column(min_width=260), gr.Accordion("Your products", open=False, elem_id="yours"):
            gr.Markdown(HELP)
            kinds = [".csv", ".tsv", ".tab", ".psv", ".txt", ".zip"]
            file = gr.File(label="CSV or ZIP", file_types=kinds, height=140, elem_id="file")
            report = gr.HTML()
            places = [("the shop", "shop"), ("your products", "yours")]
            where = gr.Radio(places, value="shop", label="Search in", elem_id="where")
        with gr.Column(min_width=260), gr.Accordion("View", open=False, elem_id="view"):
            layout = gr.Radio([SIDE_BY_SIDE, FUSED_ONLY], value=SIDE_BY_SIDE, label="Show", elem_id="layout")
            k = gr.Slider(4, 24, value=8, step=4, label="Results in each list", elem_id="count")
    board = gr.HTML(markup.empty_board(), js_on_load=BOARD, elem_id="results")
    drawer = gr.HTML("", js_on_load=DRAWER, elem_id="why")

    rest = [category, brand, low, high, presence, k, layout, where, yours]
    shown, quiet = (
        [asked, board, drawer],
        {"api_visibility": "private", "concurrency_id": "search", "concurrency_limit": SEARCHES_AT_ONCE},
    )
    new = {"inputs": [text, picture, weight, *rest], "outputs": shown, **quiet}
    gr.on([text.submit, go.click, picture.change], page.on_ask, **new)
    picks.pick(chosen, None, text, **quiet).then(page.on_ask, **new)
    changes = [category.change, brand.change, low.change, high.change, presence.change, k.change, layout.change]
    gr.on(changes, page.on_again, [asked, *rest], board, **quiet)
    explaining = {"concurrency_id": "explain", "concurrency_limit": 2}
    board.pick(page.on_open, [asked, where, yours], drawer, api_visibility="private", **explaining)
    drawer.pick(page.on_similar, rest, shown, **quiet)
    heavy = {"concurrency_id": "heavy", "concurrency_limit": 1}
    file.upload(page.on_upload, file, [yours, report, where, file], api_visibility="private", **heavy)
    where.change(page.on_choices, [where, yours], [category, brand, low, high], **quiet).then(
        page.on_again, [asked, *rest], board, **quiet
    )


def chosen(event: gr.EventData) -> str:
    """The text of an example that was clicked."""
    return event.text


def tradeoff_tab(page: Page, endpoints: Endpoints) -> None:
    """Storage and length of vectors, and what they cost and save."""
    whole = endpoints.tradeoffs.whole
    gr.Markdown(
        "Shorter and coarser vectors are smaller and faster. How much worse do they find? Measured on the spot."
    )
    with gr.Row():
        storage = gr.Radio(list(STORAGE), value="f32", label="Stored as", elem_id="storage")
        dim = gr.Slider(whole // 16, whole, value=whole, step=whole // 16, label="Dimensions", elem_id="dim")
    readout = gr.HTML(
        "<div class='state'><p>Choose how vectors are stored to measure it.</p></div>", elem_id="readout"
    )
    events = {"api_visibility": "private", "concurrency_id": "heavy", "concurrency_limit": 1}
    gr.on([storage.change, dim.change], page.on_tradeoff, [storage, dim], readout, **events)


def judged_facts(shop: Catalogue) -> tuple[dict[str, float] | None, list[str]]:
    """Mean nDCG@10 of each view on the judged queries, and short queries where fusion gains most on either modality.

    Of queries that end in the same word one is taken; without judgments there are general examples and no means.
    """
    if not shop.judged_texts:
        return None, FALLBACK_EXAMPLES
    values = shop.judged_values()
    gains = np.round(values["fused"] - np.maximum(values["text"], values["image"]), 6)
    examples = {}
    for row in np.argsort(-gains, kind="stable"):
        words = shop.judged_texts[row].split()
        if len(words) <= EXAMPLE_WORDS:
            examples.setdefault(words[-1], " ".join(words))
    means = {view: float(found.mean()) for view, found in values.items()}
    return means, list(examples.values())[:EXAMPLES] or FALLBACK_EXAMPLES


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
