"""Queries as a model reads them, before they are tokenized; what the processor and the exported towers share."""

from collections.abc import Iterable

from .spelling_mmfusion import join_words, shop_words, speller_of
from .text_mmfusion import normalize_text, plain_words, split_negation, unescape_query


class MMFusionQueryReader:
    """Makes of what a shopper types the text that the query tower's tokenizer gets.

    Who inherits sets the attributes and says in `_is_token` which words the tokenizer knows.

    Attributes:
        query_prefix (`str`): put before each query.
        lower_case (`bool`): whether texts are lower-cased.
        plain_words (`bool`): whether texts are read as [`plain_words`] makes them.
        spelling_words (`str`): the words that misspelled words are corrected to, with spaces between.
    """

    query_prefix: str
    lower_case: bool
    plain_words: bool
    spelling_words: str

    def prefixed_query(self, query: str) -> str:
        """What the tokenizer gets of a query: its text behind the model's prefix."""
        return self.query_prefix + self.query_text(query)

    def query_text(self, query: str) -> str:
        """A query as the model reads it: without the escapes of an address, `red%20mug`, without what it says that it
        does not want (see [`split_negation`]), as [`normalize_text`] and [`plain_words`] make it, and spelled as the
        shop spells it."""
        return self._read(split_negation(normalize_text(unescape_query(query)))[0])

    def unwanted_text(self, query: str) -> str | None:
        """A query as the model reads it, with what it does not want as if it did: `stripes dress` of `dress without
        stripes`; `None` if it excludes nothing. See [`turn_away`]."""
        kept, excluded = split_negation(normalize_text(unescape_query(query)))
        return self._read(f"{excluded} {kept}") if excluded else None

    def correction(self, query: str) -> str | None:
        """A query with its misspelled words corrected to those that are known, or `None` if none is."""
        text = self._plain(query)
        found = speller_of(self.spelling_words).correct(text, self._is_token)
        return None if found == text else found

    def learn_words(self, listings: Iterable[str], queries: Iterable[str] = ()) -> None:
        """Adds the words of a catalogue to those that queries are corrected to, before those that are known.

        Args:
            listings (`Iterable[str]`): its products' texts.
            queries (`Iterable[str]`, *optional*): what was asked for in it.
        """
        self.spelling_words = join_words(shop_words(listings, queries), self.spelling_words)

    def _read(self, text: str) -> str:
        return self._in_case(self.correction(text) or self._plain(text))

    def _plain(self, query: str) -> str:
        text = normalize_text(unescape_query(query))
        return plain_words(text) if self.plain_words else text

    def _in_case(self, text: str) -> str:
        return text.lower() if self.lower_case else text

    def _is_token(self, word: str) -> bool:
        """Whether a word is one token of the query tower, and not the unknown one."""
        raise NotImplementedError
