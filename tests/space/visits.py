"""Visits of the Space's page with actions in a random order and pace, and what such a visit has to end with.

A [`Visit`] does each action in the browser and notes what a visitor means by it; in the end the page has to show what
the notes say, however slow and unordered the server's answers were.
"""

import html
import random
import re
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from urllib.parse import parse_qs, urlsplit

from helpers import picture
from space_shop import make_zip

CLICK_CARD = """number => {
  const card = document.querySelectorAll('#results:not([aria-busy]) .card')[number];
  if (card) card.click();
  return card ? card.dataset.id : null;
}"""
TEXTS = ("red mug", "blue shirt", "green lamp", "plain bowl", "small cotton shirt")
BRANDS = ("red", "blue")
PICTURES = [picture(colour) for colour in ("red", "green", "blue", "yellow")]
PAUSES = (0, 0, 0.02, 0.13, 0.4, 1.0)


class Slow:
    """Makes the page's answers slow, each by seconds of its own.

    Args:
        most (`float`): the longest delay in seconds.
        seed (`int`): of the delays.
    """

    def __init__(self, most: float, seed: int):
        self.most, self.random = most, random.Random(seed)
        self.lock, self.running = threading.Lock(), 0

    def wrapped(self, function):
        """The function after a random wait; without one where `most` is 0."""

        def slow(*arguments):
            with self.lock:
                self.running += 1
                seconds = self.random.uniform(0, self.most)
            try:
                time.sleep(seconds)
                return function(*arguments)
            finally:
                with self.lock:
                    self.running -= 1

        return slow

    @contextmanager
    def server(self, page):
        """Slows a `Page` of the Space down within the context."""
        names = ("search", "why", "bring")
        for name in names:
            setattr(page, name, self.wrapped(getattr(page, name)))
        try:
            yield self
        finally:
            for name in names:
                delattr(page, name)


@dataclass(frozen=True)
class Asked:
    """What the page has to show the results of."""

    q: str = ""
    like: str = ""
    but: str = ""
    brand: tuple[str, ...] = ()
    presence: str = "any"
    show: str = "side"
    where: str = "shop"
    picture: str = ""


@dataclass
class Visit:
    """One visit: `page` of Playwright, a folder for files, the opening query and what is meant so far."""

    page: object
    folder: object
    seed: int
    asked: Asked
    drawer: str | None = None
    products: list[str] = field(default_factory=list)  # titles of what was brought last
    past: list[Asked] = field(default_factory=list)
    done: list[str] = field(default_factory=list)

    def __post_init__(self):
        self.random = random.Random(self.seed)

    def act(self) -> None:
        """One random action, if it can be done now, and a pause."""
        names = ["query", "query", "query", "example", "brand", "presence", "layout", "picture", "no_picture"]
        names += ["bring", "place", "clear", "open", "open", "like", "like_but", "back", "close"]
        name = self.random.choice(names)
        if self.drawer is not None and name not in ("like", "like_but", "close"):
            self.close()
        if getattr(self, name)() is not False:
            self.done.append(name)
        time.sleep(self.random.choice(PAUSES))

    def mean(self, **changes) -> None:
        """Notes a new search; one that shows nothing else leaves no trace in the history."""
        asked = replace(self.asked, **changes)
        if asked != self.asked:
            self.past.append(self.asked)
        self.asked, self.drawer = asked, None

    def query(self):
        text = self.random.choice(TEXTS)
        self.page.fill("#query", text)
        self.page.keyboard.press("Enter") if self.random.random() < 0.5 else self.page.click("#go")
        self.mean(q=text, like="", but="")

    def example(self):
        chips = self.page.locator("#examples .chip")
        chip = chips.nth(self.random.randrange(chips.count()))
        text = chip.get_attribute("data-text")
        chip.evaluate("chip => chip.click()")
        self.mean(q=text, like="", but="", picture="")

    def brand(self):
        if self.asked.brand:
            self.page.locator(".chosen[data-name=brand] button").first.click()
            return self.mean(brand=self.asked.brand[1:])
        value = self.random.choice(BRANDS)
        box = self.page.locator(f"input[data-name=brand][value={value}]")
        if self.asked.where != "shop" or not box.count():  # the filters of the other place may be there still
            return False
        box.evaluate("box => box.click()")
        return self.mean(brand=(value,))

    def presence(self):
        value = self.random.choice([one for one in ("any", "with picture") if one != self.asked.presence])
        self.page.locator(f"input[name=presence][value='{value}']").evaluate("radio => radio.click()")
        self.mean(presence=value)

    def layout(self):
        value = "fused" if self.asked.show == "side" else "side"
        self.page.locator(f"input[name=show][value={value}]").evaluate("radio => radio.click()")
        self.mean(show=value)

    def picture(self):
        name = f"{self.seed}-{len(self.done)}.png"
        (self.folder / name).write_bytes(self.random.choice(PICTURES))
        self.page.set_input_files("#picture", str(self.folder / name))
        opening = self.page.locator("#examples .chip").first.get_attribute("data-text")
        self.mean(picture=name, like="", but="", q="" if self.asked.q == opening else self.asked.q)

    def no_picture(self):
        if not self.asked.picture:
            return False
        self.page.locator(".holder button").first.click()
        return self.mean(picture="", like="", but="")

    def bring(self):
        self.products = [f"my {word} {len(self.done)} of {self.seed}" for word in self.random.sample(TEXTS, 3)]
        file = make_zip(
            self.folder / f"{self.seed}-{len(self.done)}.zip", {"a.csv": "\n".join(["title", *self.products])}
        )
        self.page.set_input_files("#file", file)
        self.mean(where="yours", brand=(), like="", but="")

    def place(self):
        if not self.products:
            return False
        where = "shop" if self.asked.where == "yours" else "yours"
        self.page.locator(f"input[name=where][value={where}]").evaluate("radio => radio.click()")
        return self.mean(where=where, brand=(), like="", but="")

    def clear(self):
        if not self.asked.q:
            return False
        self.page.fill("#query", "")
        return self.mean(q="")

    def open(self):
        found = self.page.evaluate(CLICK_CARD, self.random.randrange(3))
        self.drawer = found
        return found is not None

    def like(self, but: str = ""):
        if self.drawer is None and not self.open():
            return False
        product, button = self.drawer, self.page.locator("#why .similar")
        button.wait_for()  # its answer may be slow
        if but:
            self.page.fill("#why input", but)
            self.page.keyboard.press("Enter")
        else:
            button.click()
        return self.mean(like=product, but=but, q="", picture="")

    def like_but(self):
        return self.like("in blue")

    def back(self):
        if not self.past:
            return False
        asked = self.past.pop()
        self.page.go_back()
        self.asked, self.drawer = asked, None
        return None

    def close(self):
        if self.drawer is None:
            return False
        self.page.keyboard.press("Escape")
        self.drawer = None
        return None

    def settle(self, slow: Slow) -> None:
        """Waits until nothing is under way, neither in the browser nor on the server."""
        self.page.wait_for_function(
            "!document.querySelector('#results[aria-busy]') && !document.querySelector('#report')"
            ".textContent.startsWith('Reading') && "
            "!document.querySelector('#why[open] .why')?.textContent.startsWith('Looking')",
            timeout=60_000,
        )
        while slow.running:
            time.sleep(0.05)
        self.page.wait_for_timeout(300)

    def check(self, space) -> None:
        """What is shown belongs to the last thing done.

        Args:
            space (`Page`): answers without delay what the page has to show.

        Raises:
            AssertionError: if it does not; it names what was done.
        """
        told, page = f"seed {self.seed}: {', '.join(self.done)}", self.page
        assert page.input_value("#query") == self.asked.q, told
        assert page.evaluate("document.querySelector('#why').open") == (self.drawer is not None), told
        address = parse_qs(urlsplit(page.url).query)
        assert address.get("where", ["shop"]) == [self.asked.where] and address.get("like", [""]) == [self.asked.like]
        assert sorted(page.locator(".chosen").evaluate_all("all => all.map(one => one.dataset.name)")) == sorted(
            ["brand"] * len(self.asked.brand) + ["presence"] * (self.asked.presence != "any")
        ), told
        brands = page.locator("input[data-name=brand]").count()
        assert brands == (2 if self.asked.where == "shop" else 0), f"{told}: the filters are another catalogue's"
        shown, meant = shown_ids(page.locator("#results").inner_html()), shown_ids(self.expected(space))
        assert shown == meant, told
        if self.drawer is not None:
            card = page.locator(f"#results .card[data-id='{self.drawer}'] .title").first.inner_text()
            assert page.locator("#why h2").inner_text() == card, told
            assert page.locator("#why .similar").get_attribute("data-id") == self.drawer, told

    def expected(self, space) -> str:
        """The board that the server gives for what is meant."""
        request = {name: getattr(self.asked, name) for name in ("q", "like", "but", "presence", "show", "where")}
        request |= {"brand": list(self.asked.brand), "visitor": self.page.evaluate("history.state?.visitor ?? ''")}
        content = (self.folder / self.asked.picture).read_bytes() if self.asked.picture else None
        return space.search(request, content)["board"]


def shown_ids(board: str) -> tuple:
    """What was asked and the ids of the cards of a board's HTML, in order, or the words of a message."""
    board = html.unescape(board)
    message = re.findall(r"class=[\"']state[^>]*>(.*?)</div>", board, re.S)
    what = re.findall(r"class=[\"']what[\"']>(.*?)</span>", board, re.S)
    return what, re.findall(r"data-id=[\"']([^\"']*)[\"']", board), [re.sub(r"\W+", " ", one) for one in message]
