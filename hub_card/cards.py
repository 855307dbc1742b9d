"""Cards: a template and the figures of a run become a card, which is checked before it is written."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jinja2
from huggingface_hub.repocard import RepoCard
from huggingface_hub.repocard_data import CardData
from jinja2 import meta

from hub_card.figures import CardError

TEMPLATES = Path(__file__).parent / "templates"
REQUIRED = {
    "model": ("license", "library_name", "pipeline_tag", "tags", "language"),
    "dataset": ("license", "pretty_name", "task_categories", "size_categories", "configs", "tags"),
    "space": ("title", "sdk", "app_file", "license"),
}
FENCE = re.compile(r"^```.*?^```\s*$", re.M | re.S)
HEADING = re.compile(r"^(#{1,6})\s+(.+?)\s*$", re.M)
LINK = re.compile(r"\]\(([^)\s]+)\)")
TAGS = re.compile(r"\{\{.*?\}\}|\{%.*?%\}|\{#.*?#\}", re.S)
NO_MEASURE = re.compile(r"\b\d{4}\.\d{5}\b|\b95% ")  # an id of arXiv; the level of an interval
MEASURED = re.compile(r"\d*\.\d+|\d\s?%")
UNFILLED = re.compile(r"\bNone\b|\bnan\b|\bTODO\b|\bTBD\b|\[More Information Needed\]|Undefined")


def render(template: str, card: type[RepoCard], metadata: CardData, **values: Any) -> RepoCard:
    """A card from a template.

    Args:
        template (`str`): name of a file in `templates/`.
        card (`type[RepoCard]`): the card class of huggingface_hub.
        metadata (`CardData`): the front matter.
        values: what the template uses besides: [`Figures`] and its methods, or texts. Numbers are refused, so that
            the only way for one into a card is from a result file.

    Raises:
        CardError: if the template has a measured number of its own or uses a name that is not given, if a value is a
            number, or if a figure has no source.
    """
    text = (TEMPLATES / template).read_text(encoding="utf-8")
    check_template(template, text, set(values))
    for name, value in values.items():
        check_value(template, name, value)
    made = card.from_template(metadata, template_str=text, **values)
    made.text = made.text.rstrip() + "\n"
    return made


def check_template(name: str, text: str, given: set[str]) -> None:
    """Refuses numbers that were typed into a template, and names that it does not get."""
    own = NO_MEASURE.sub("", FENCE.sub("", TAGS.sub("", text)))
    if found := MEASURED.search(own):
        raise CardError(f"templates/{name}: has the number {found.group()!r} of its own; take it from a result file")
    used = meta.find_undeclared_variables(jinja2.Environment().parse(text))
    if missing := sorted(used - given - {"card_data"}):
        raise CardError(f"templates/{name}: uses {', '.join(missing)}, which the build does not give")


def check_value(template: str, name: str, value: Any) -> None:
    """Refuses numbers that don't come through [`Figures`]."""
    for part in value if isinstance(value, (list, tuple)) else [value]:
        if not isinstance(part, (str, bool, Callable)) and not hasattr(part, "license"):
            raise CardError(f"templates/{template}: {name} is {part!r}; a card's figures come from result files alone")


def check_card(card: RepoCard, folder: Path) -> None:
    """Refuses a card that would mislead or look unfinished.

    Args:
        card (`RepoCard`): the card.
        folder (`Path`): the repository's folder, in which its links must lead somewhere.

    Raises:
        CardError: if a field of the front matter that its kind needs is missing or does not survive being written
            and read, a section is empty, a place was not filled in or a link leads nowhere.
    """
    again = type(card)(str(card))
    if again.data.to_dict() != card.data.to_dict():
        raise CardError("README.md: the front matter is another one after it was written and read")
    required = REQUIRED[card.repo_type] + (("sdk_version",) if card.data.get("sdk") == "gradio" else ())
    if missing := [name for name in required if not card.data.get(name)]:
        raise CardError(f"README.md: the front matter lacks {', '.join(missing)}")
    prose = FENCE.sub("(code)", card.text)
    if found := UNFILLED.search(re.sub(r"`[^`]*`", "", prose)):
        raise CardError(f"README.md: a place was not filled in: {found.group()!r}")
    if empty := empty_sections(prose):
        raise CardError(f"README.md: empty section {', '.join(empty)}")
    if broken := broken_links(prose, folder):
        raise CardError(f"README.md: links that lead nowhere: {', '.join(broken)}")


def empty_sections(text: str) -> list[str]:
    """Headings with nothing below them but headings of the same or a higher level, or the end."""
    found = [(len(heading.group(1)), heading) for heading in HEADING.finditer(text)]
    following = [(level, heading.start()) for level, heading in found[1:]] + [(0, len(text))]
    return [
        heading.group(2)
        for (level, heading), (next_level, end) in zip(found, following, strict=False)
        if not text[heading.end() : end].strip() and next_level <= level
    ]


def broken_links(text: str, folder: Path) -> list[str]:
    """Links to files that the folder has not, and to headings that the card has not."""
    anchors = {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for _, title in HEADING.findall(text)}
    broken = []
    for target in LINK.findall(text):
        if target.startswith("#"):
            broken += [] if target[1:] in anchors else [target]
        elif not re.match(r"https?://", target) and not (folder / target.partition("#")[0]).exists():
            broken.append(target)
    return broken
