"""The text of what shops write as HTML, and plain text as it is.

A text is taken for HTML where it has a tag or an entity of HTML in full, `<br>` or `&amp;`. Any other `<` and `&` are
what they look like: `size < 5 & up`, `R&D` and `<M>` stay. Only the standard library's `html.parser` reads it.
"""

import re
from html.parser import HTMLParser

DROPPED = frozenset(["script", "style", "template", "noscript", "iframe", "svg", "object", "head", "textarea"])
VOID = frozenset(["area", "base", "br", "col", "embed", "hr", "img", "input", "link", "meta", "source", "track"])
INLINE = frozenset(
    "a abbr acronym b bdi bdo big button center cite code data del dfn em font i ins kbd label mark nobr picture q rp "
    "rt ruby s samp small span strike strong sub sup time tt u var video audio canvas form map wbr".split()
)
BLOCKS = frozenset(
    "address article aside blockquote body caption colgroup dd details dir div dl fieldset figcaption figure footer "
    "h1 h2 h3 h4 h5 h6 header hr html legend li main nav ol option p pre section select summary table tbody tfoot "
    "thead title tr ul".split()
)
LABELS = frozenset(["dt", "th"])  # a colon ends them
NAMES = "|".join(sorted(DROPPED | VOID | INLINE | BLOCKS | LABELS | {"td"}, key=len, reverse=True))
# Complete tags only. No repeat here goes on over a `<`, so the time is linear whatever the text.
NAME = rf"(?P<name>(?:{NAMES}|[a-z][a-z0-9]*[:-][a-z0-9:-]+)(?=[\s/>]))"
# Two words and no `=` are no attributes: in `a <b and c> d` nothing is a tag.
ATTRIBUTES = r"""(?:\s*/?|\s+[\w:-]+\s*/?|(?=[^<>]*=)(?:[^<>"']|"[^"<]*"|'[^'<]*')*|[^<>]*=[^<>]*)"""
TAG = re.compile(rf"<(?P<end>/?){NAME}{ATTRIBUTES}>|<!(?!--)[^<>]*>|<\?[^<>]*>", re.IGNORECASE)
ENTITY = re.compile(r"&(?:#[0-9]{1,7}|#x[0-9a-f]{1,6}|[a-z][a-z0-9]{1,31});", re.IGNORECASE)
COMMENT = re.compile(r"<!--.*?-->", re.DOTALL)
INVISIBLE = str.maketrans("", "", "\u00ad\u200b\u2060\ufeff")  # soft hyphens and marks without width
SENTENCE_ENDS = ".!?:;,\u2026\u3002\uff01\uff1f\uff0c\u3001"
ESCAPED_TWICE = 4  # how often a text is read again that is still HTML


def html_to_text(text: str) -> str:
    """A text without tags and entities, in one line if there were any.

    Scripts and styles are left out. Paragraphs, list items, headings and rows of a table end as sentences do, with a
    full stop where nothing else stands; so does a line (`<br>`) before a capital letter or a digit. The head of a row
    (`<th>`) and a term (`<dt>`) end in a colon. Text that was escaped twice, `&amp;amp;` or `&lt;p&gt;`, is read
    twice.

    Args:
        text (`str`): HTML, whole or broken, or plain text.

    Returns:
        `str`: its text; plain text unchanged, with its line breaks.
    """
    for _ in range(ESCAPED_TWICE):
        text, before = _without_comments(text), text
        if not ("<" in text and TAG.search(text)) and not ("&" in text and ENTITY.search(text)):
            break
        reader = _Reader()
        reader.feed(_plain_tags(text))
        reader.close()
        text = "".join(reader.parts)
        if text == before:
            break
    return text


def _without_comments(text: str) -> str:
    if "<!" not in text:
        return text
    head, end, tail = text.rpartition("-->")  # before its last end every comment has one
    return (COMMENT.sub(" ", head + end) + tail).replace("<![CDATA[", "").replace("]]>", "")


def _plain_tags(text: str) -> str:
    """A text whose tags have lost their attributes, and whose `<` and `&` that begin no tag or entity are escaped, so
    that the parser takes them for letters and nothing that is broken swallows what follows. A `<script>` or a comment
    that nothing ends is left out alone."""
    text = text.replace("<!--", " ")  # of a comment that nothing ends
    parts, end, tags = [], 0, list(TAG.finditer(text))
    last = {tag["name"].lower(): tag.start() for tag in tags if tag["end"]}
    for tag in tags:
        name = tag["name"] or ""
        is_open = name.lower() in DROPPED and not tag["end"] and last.get(name.lower(), -1) < tag.start()
        kept = f"<{tag['end']}{name}>" if name and not is_open else " "
        parts += [_escape_plain(text[end : tag.start()]), kept]
        end = tag.end()
    return "".join([*parts, _escape_plain(text[end:])])


def _escape_plain(text: str) -> str:
    text = re.sub(rf"&(?!{ENTITY.pattern[1:]})", "&amp;", text, flags=re.IGNORECASE)
    return text.replace("<", "&lt;")


class _Reader(HTMLParser):
    """Collects text, and between two pieces of it the strongest break that stood there."""

    def __init__(self):
        super().__init__(convert_charrefs=True)
        self.parts: list[str] = []
        self.dropped: list[str] = []
        self.gap = ""  # "", " ", "line", ": " or ". "

    def handle_starttag(self, tag, attrs):
        if tag in DROPPED:
            self.dropped.append(tag)
        self._break(tag)

    def handle_endtag(self, tag):
        if tag in self.dropped:
            del self.dropped[self.dropped.index(tag) :]
        self._break(tag, ends=True)

    def handle_data(self, data):
        words = " ".join(data.translate(INVISIBLE).split())
        if self.dropped:
            return
        if not words:
            self.gap = self.gap or (" " if data else "")
            return
        if data[0].isspace():
            self.gap = self.gap or " "
        self.parts += [self._joint(words), words]
        self.gap = " " if data[-1].isspace() else ""

    def _break(self, tag: str, ends: bool = False) -> None:
        if tag == "br":
            self.gap = ". " if self.gap == "line" else self.gap if self.gap in (". ", ": ") else "line"
        elif tag in BLOCKS:
            self.gap = self.gap if self.gap == ": " else ". "
        elif tag in LABELS and ends:
            self.gap = ": "
        elif tag not in INLINE:
            self.gap = self.gap or " "

    def _joint(self, words: str) -> str:
        """What stands between the text so far and its next words."""
        if not self.parts or not self.gap:
            return ""
        if self.gap == " " or self.parts[-1][-1] in SENTENCE_ENDS:
            return " "
        if self.gap == "line":
            return ". " if words[0].isupper() or words[0].isdigit() else " "
        return self.gap
