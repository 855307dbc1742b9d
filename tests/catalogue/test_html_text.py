"""HTML to text: tags, entities and scripts go, sentences stay apart, and plain text stays as it is."""

import time

import pytest

from training.catalogue.html_text import html_to_text


@pytest.mark.parametrize(
    "text",
    ["", "size < 5 & up", "R&D", "AT&T &copy 2020", "a<b and c>d", "<M> and <XL>", "I <3 mugs", "text <p", "1\n2  3"]
    + ["www.shop.example/?a=1&lt=2&copy=3", "&foo; &;", "x <!-- y", "Fish & Chips", "-> arrow <-", "<a href='open"],
)  # fmt: skip
def test_plain_text_stays_as_it_is(text):
    assert html_to_text(text) == text


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("<p>Soft &amp; warm.</p>\n<p>Made in Caf&eacute; R&D</p>", "Soft & warm. Made in Café R&D"),
        ("<P CLASS='a'>One<P>two", "One. two"),
        ("<b>bold</b>er, un<wbr>break&shy;able", "bolder, unbreakable"),
        ("<ul><li>one<li>two!</ul>three", "one. two! three"),
        ("Line one<br>goes on<br/>Line two<BR><br>end", "Line one goes on. Line two. end"),
        ("<table><tr><th>Material</th><td>Wool</td></tr><tr><th>Size:</th><td>M</td></tr></table>",
         "Material: Wool. Size: M"),
        ("<h2>Care</h2><dl><dt>Wash</dt><dd>30 &deg;C</dd></dl>", "Care. Wash: 30 °C"),
        ("a<script>if (a<b) { document.write('<p>x</p>') }</script><style>p{}</style> b", "a b"),
        ("<!-- [if mso]> <p>no</p> <![endif] --><p>yes</p>", "yes"),
        ("<![CDATA[<p>x</p>]]>", "x"),
        ("&lt;p&gt;Hi &amp;amp; ho&lt;/p&gt;", "Hi & ho"),
        ("<p>5 &lt; 6 cm, 7 < 8</p>", "5 < 6 cm, 7 < 8"),
        ('<a href="never closed>text</a> more', "text more"),
        ("<img alt='a > b' src=x>mug", "mug"),
        ("<p><b><i>broken</p> nesting</b>", "broken. nesting"),
        ("&nbsp;<o:p>&nbsp;</o:p>Word&#8217;s &#x20AC;9", "Word\u2019s €9"),
        ("<div><span>Size</span>:&nbsp;<span>M</span></div>", "Size: M"),
        ("<p></p><p> </p>", ""),
    ],
)  # fmt: skip
def test_html_becomes_sentences(text, expected):
    assert html_to_text(text) == expected


@pytest.mark.parametrize("tag", ["script", "STYLE", "svg", "textarea", "iframe", "noscript", "template", "object"])
def test_what_nothing_ends_hides_nothing(tag):
    assert html_to_text(f"<p>One</p><{tag}>two<p>three</p> four") == "One. two. three. four"
    assert html_to_text(f"<{tag} a=b>x</{tag.lower()}><p>One</p><{tag}><p>two</p>") == "One. two"


def test_a_comment_that_nothing_ends_hides_nothing():
    assert html_to_text("<p>One</p><!-- x --><!-- two <p>three</p>") == "One. two. three"


@pytest.mark.parametrize("piece", ['<a "', "<!--", "&", "<", "<p>", "<p a='", "&amp;", "<![CDATA[", "<script>", "-->"])
def test_the_time_is_linear(piece):
    started = time.perf_counter()
    html_to_text(piece * 30_000)
    assert time.perf_counter() - started < 3
