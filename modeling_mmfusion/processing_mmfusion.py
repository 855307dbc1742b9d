"""MMFusion processor: from query strings and product dicts to model inputs."""

import bisect
import copy
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
import transformers
from PIL import Image
from transformers import AutoConfig, AutoImageProcessor, AutoTokenizer, BatchFeature, CLIPImageProcessorPil
from transformers.processing_utils import ProcessorMixin
from transformers.utils import logging

from .encoders_mmfusion import ATTEND_PADDING, longest_text_of
from .pictures_mmfusion import PICTURE_FORMATS, load_picture, pictures_of
from .queries_mmfusion import MMFusionQueryReader
from .sentence_transformers_mmfusion import QUERY_MARK, write_sentence_transformers_files
from .text_mmfusion import (
    PRODUCT_FIELDS,
    SENTENCES,
    field_text,
    join_fields,
    normalize_text,
    plain_words,
)

logger = logging.get_logger(__name__)

CUT_FIELDS = ("description", "attributes", "category")
MAX_QUERY_LENGTH, MAX_PRODUCT_LENGTH = 48, 128
TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "spiece.model", "sentencepiece*.model", "vocab.*")


class MMFusionProcessor(MMFusionQueryReader, ProcessorMixin):
    r"""
    Turns queries and products into the inputs of [`MMFusionModel`]; the one place that knows how a product becomes
    text.

    A product is a mapping with any of `title`, `description`, `category`, `brand`, `price`, `attributes` (a mapping
    or a string) and `image`; `image` may be a list of pictures. A listing that is one string goes into `text`, which
    is read before the fields. A field may be missing, `None` or empty. A picture is a PIL image, a path, bytes, or a
    `datasets` Image that is not decoded (`{"bytes", "path"}`).

    Args:
        image_processor (`BaseImageProcessor`): the image encoder's.
        tokenizer (`PreTrainedTokenizerBase`): the product tower's.
        query_tokenizer (`PreTrainedTokenizerBase`, *optional*): the query tower's; a copy of `tokenizer` if not given.
        query_prefix (`str`, *optional*, defaults to `""`): put before each query (`"query: "` for e5).
        product_prefix (`str`, *optional*, defaults to `""`): put before each product's text (`"passage: "` for e5).
        product_fields (`list[str]`, *optional*): the fields that make a product's text, in order; by default title,
            brand, category, description, attributes. Add `price` if queries ask for it.
        max_query_length (`int`, *optional*, defaults to 48): tokens of a query; longer ones are cut.
        max_product_length (`int`, *optional*, defaults to 128): tokens of a product's text; longer ones are cut.
        text_padding (`str`, *optional*, defaults to `"longest"`): texts are padded to the `longest` of a batch or, for
            encoders that were trained so (SigLIP), to `max_length`.
        lower_case (`bool`, *optional*, defaults to `False`): whether texts are lower-cased first.
        plain_words (`bool`, *optional*, defaults to `False`): whether texts are read as [`plain_words`] makes them, so
            that punctuation, hyphens and `500ml` for `500 ml` make no difference. `from_towers` sets it.
        cut_fields (`list[str]`, *optional*, defaults to `[]`): fields that lose their last words, the first field
            first, where a product's text is longer than `max_product_length`; whatever is still too long, and all if
            there are none, is cut at the text's end. `from_towers` sets description, attributes, category.
        spelling_words (`str`, *optional*, defaults to `""`): the words of the shops that a model was trained on, to
            which misspelled words of queries are corrected; see [`MMFusionSpeller`] and
            [`~MMFusionProcessor.learn_words`].
        vocabulary_sizes (`list[int]`, *optional*): how many tokens `tokenizer` and `query_tokenizer` had when they
            were saved. A folder that lost its tokenizer.json would be loaded with an almost empty one, and is refused.

    Raises:
        ValueError: if the tokenizers have other numbers of tokens than `vocabulary_sizes`, but for tokens that were
            added since; or a setting is of another type, as in a damaged processor_config.json.

    Example:

    ```python
    >>> processor = MMFusionProcessor.from_towers("intfloat/e5-small-v2", "google/siglip2-base-patch16-224")
    >>> inputs = processor.process_products([{"title": "Striped mug", "image": "mug.jpg"}, {"title": "Plain mug"}])
    >>> inputs["image_mask"]
    tensor([[ True], [False]])
    ```
    """

    def __init__(
        self,
        image_processor=None,
        tokenizer=None,
        query_tokenizer=None,
        query_prefix="",
        product_prefix="",
        product_fields=PRODUCT_FIELDS,
        max_query_length=MAX_QUERY_LENGTH,
        max_product_length=MAX_PRODUCT_LENGTH,
        vocabulary_sizes=None,
        text_padding="longest",
        lower_case=False,
        cut_fields=(),
        plain_words=False,
        spelling_words="",
    ):
        texts = {"query_prefix": query_prefix, "product_prefix": product_prefix, "text_padding": text_padding}
        texts["spelling_words"] = spelling_words
        lengths = {"max_query_length": max_query_length, "max_product_length": max_product_length}
        check_settings(texts, lengths, {"product_fields": product_fields, "cut_fields": cut_fields}, vocabulary_sizes)
        if query_tokenizer is None:
            query_tokenizer = copy.deepcopy(tokenizer)
        self.query_prefix = query_prefix
        self.product_prefix = product_prefix
        self.product_fields = list(product_fields)
        self.max_query_length = max_query_length
        self.max_product_length = max_product_length
        self.text_padding = text_padding
        self.lower_case = lower_case
        self.cut_fields = list(cut_fields)
        self.plain_words = plain_words
        self.spelling_words = spelling_words
        sizes, bases = zip(*((len(one), one.vocab_size) for one in (tokenizer, query_tokenizer)), strict=True)
        saved = sizes if vocabulary_sizes is None else vocabulary_sizes
        if not all(base <= size <= now for base, size, now in zip(bases, saved, sizes, strict=True)):
            raise ValueError(
                f"the tokenizers have {sizes[0]} and {sizes[1]} tokens, and had {vocabulary_sizes[0]} and "
                f"{vocabulary_sizes[1]} when they were saved: a file such as tokenizer.json is missing or another's"
            )
        self.vocabulary_sizes = list(sizes)
        super().__init__(on_pil(image_processor), tokenizer, query_tokenizer)

    @classmethod
    def from_towers(
        cls,
        text: str | os.PathLike | None = None,
        vision: str | os.PathLike | None = None,
        query: str | os.PathLike | None = None,
        aligned: str | os.PathLike | None = None,
        **kwargs,
    ) -> "MMFusionProcessor":
        """Makes the processor that goes with `MMFusionModel.from_towers`, as the encoders were trained: no text is
        longer than they have positions for, and SigLIP's are in lower case and padded to their full length (SigLIP 2's
        checkpoints of one picture size are of SigLIP's type).

        Args:
            text (`str`, *optional*): folder or Hub id of the product tower's text encoder.
            vision (`str`, *optional*): folder or Hub id of the image encoder.
            query (`str`, *optional*): folder or Hub id of the query tower's own text encoder.
            aligned (`str`, *optional*): folder or Hub id of a dual encoder, in place of the others.
            kwargs: the other arguments of the processor.

        Raises:
            ValueError: if there is no tokenizer or image processor, or a length is asked for that an encoder has no
                positions for; the message is one line.
        """
        text, vision = aligned or text, aligned or vision
        if text is None or vision is None:
            raise ValueError("give text and vision, two encoders, or aligned, a dual encoder")
        tokenizer = load_tokenizer(text)
        query_tokenizer = None if query is None else load_tokenizer(query)
        config = AutoConfig.from_pretrained(text)
        family, query_family = config.model_type, config
        if query is not None:
            query_family = AutoConfig.from_pretrained(query)
        limits = {"max_query_length": longest_text(query_family, query_tokenizer or tokenizer)}
        limits["max_product_length"] = longest_text(config, tokenizer)
        for name, limit in limits.items():
            if (asked := kwargs.get(name)) is not None and asked > limit:
                encoder = query if query is not None and name == "max_query_length" else text
                raise ValueError(f"{name} {asked}: {encoder} has positions for {limit} tokens; give at most that")
        if family in ATTEND_PADDING:  # SigLIP's kin also want lower case, which not all of their tokenizers see to
            kwargs = {"text_padding": "max_length", "lower_case": True} | limits | kwargs
        kwargs.setdefault("max_query_length", min(MAX_QUERY_LENGTH, limits["max_query_length"]))
        kwargs.setdefault("max_product_length", min(MAX_PRODUCT_LENGTH, limits["max_product_length"]))
        kwargs = {"cut_fields": CUT_FIELDS, "plain_words": True} | kwargs
        return cls(load_image_processor(vision), tokenizer, query_tokenizer, **kwargs)

    def save_pretrained(self, save_directory: str | os.PathLike, push_to_hub: bool = False, **kwargs) -> list[str]:
        """Saves the processor, and beside it the files by which sentence-transformers loads the folder."""
        self.vocabulary_sizes = [len(self.tokenizer), len(self.query_tokenizer)]
        write_sentence_transformers_files(save_directory)
        return super().save_pretrained(save_directory, push_to_hub=push_to_hub, **kwargs)

    def __call__(self, queries=None, products=None, text=None, images=None, **kwargs) -> BatchFeature:
        """Both sides in one call, as [`MMFusionModel.forward`] takes them; the queries' inputs are named `query_*`.

        Args:
            queries (`list[str]`, *optional*): see [`~MMFusionProcessor.process_queries`].
            products (`list[Mapping]`, *optional*): see [`~MMFusionProcessor.process_products`].
            text (`list[str]`, *optional*): in place of these, see [`~MMFusionProcessor.process_documents`].
            images (`list`, *optional*): likewise.
            kwargs: what processors of transformers take, such as `max_length`, `padding="max_length"`,
                `text_kwargs={...}` or `images_kwargs={...}`, in place of how the encoders were trained.
                `padding=True` pads as they were, and tensors are always PyTorch's.

        Raises:
            ValueError: if there is nothing to process.
        """
        if text is not None or images is not None:
            return self.process_documents(text, images, **kwargs)
        if queries is None and products is None:
            raise ValueError("give queries or products or both, or text or images or both")
        inputs = {}
        if queries is not None:
            inputs.update({f"query_{name}": value for name, value in self.process_queries(queries, **kwargs).items()})
        if products is not None:
            inputs.update(self.process_products(products, **kwargs))
        return BatchFeature(inputs)

    @property
    def model_input_names(self) -> list[str]:
        """Names of a product's inputs."""
        return ["input_ids", "attention_mask", "text_mask", *self.image_processor.model_input_names, "image_mask"]

    def process_queries(self, queries: str | list[str], **kwargs) -> BatchFeature:
        """Queries to `input_ids` and `attention_mask` of shape `(batch, tokens)`; `kwargs` are those of a call."""
        queries = [queries] if isinstance(queries, str) else list(queries)
        texts = [self.prefixed_query(query) for query in queries]
        asked = self._merge_kwargs(**kwargs)["text_kwargs"] if kwargs else {}
        return self._tokenize(self.query_tokenizer, texts, self.max_query_length, asked)

    def process_products(self, products: Mapping | list[Mapping], **kwargs) -> BatchFeature:
        """Products to model inputs.

        Args:
            products (`list[Mapping]`): see the class.
            kwargs: those of a call.

        Returns:
            `input_ids` and `attention_mask` of shape `(batch, tokens)`, `text_mask` `(batch,)` and, if any product
            has a picture, `pixel_values` `(batch, images, ...)` and `image_mask` `(batch, images)`.

        Raises:
            ValueError: if a picture can't be read; the message tells which product's.
        """
        products = [products] if isinstance(products, Mapping) else list(products)
        texts = [self.product_text(product) for product in products]
        prefixed = [self.product_prefix + text for text in texts]
        asked = self._merge_kwargs(**kwargs) if kwargs else {"text_kwargs": {}, "images_kwargs": {}}
        inputs = dict(self._tokenize(self.tokenizer, prefixed, self.max_product_length, asked["text_kwargs"]))
        inputs["text_mask"] = torch.tensor([bool(text) for text in texts])
        pictures = [self._product_pictures(product, row) for row, product in enumerate(products)]
        if any(pictures):
            inputs.update(self.process_pictures(pictures, **asked["images_kwargs"]))
        return BatchFeature(inputs)

    def process_documents(self, text: str | list[str] | None = None, images=None, **kwargs) -> BatchFeature:
        """Texts, pictures or both to model inputs, as sentence-transformers hands them over.

        Args:
            text (`list[str]`, *optional*): each document's text, or one alone.
            images (`list`, *optional*): each document's picture or list of pictures, `None` where there is none; or
                one document's picture alone.
            kwargs: those of a call.

        Returns:
            What `process_products` returns. Texts without a picture may as well be queries; where there is one, all
            are as such in `query_tokens` and `query_mask` of shape `(batch, tokens)`, for
            [`MMFusionModel.get_task_features`]. Texts without `images` that begin with sentence-transformers' mark of
            queries are nothing else, and have no `text_mask`.
        """
        text = [text] if isinstance(text, str) else text
        if text and images is None and all(one and one.startswith(QUERY_MARK) for one in text):
            queries = self.process_queries([one.removeprefix(QUERY_MARK) for one in text], **kwargs)
            return self._with_query_names(queries, queries)
        images = images if images is None or isinstance(images, (list, tuple)) else [images]
        given = {name: values for name, values in (("text", text), ("image", images)) if values is not None}
        rows = zip(*given.values(), strict=True)
        inputs = self.process_products([dict(zip(given, row, strict=True)) for row in rows], **kwargs)
        if text is None or ("image_mask" in inputs and inputs["image_mask"].any(1).all()):
            return inputs
        return self._with_query_names(inputs, self.process_queries([one or "" for one in text], **kwargs))

    def _with_query_names(self, inputs: BatchFeature, queries: BatchFeature) -> BatchFeature:
        """Inputs, and beside them texts as queries; not by the name query_input_ids, as sentence-transformers' trainer
        takes each name that ends so for another column."""
        names = {"query_tokens": queries["input_ids"], "query_mask": queries["attention_mask"]}
        return BatchFeature({**inputs, **names})

    @property
    def min_side(self) -> int | None:
        """Shortest side in pixels at which pictures are read: 1.5 times what the image encoder takes, or `None` if
        that varies.

        Raises:
            ValueError: if the image processor's size is no number.
        """
        sides = dict(self.image_processor.size or {}).values()
        if not all(isinstance(side, (int, float)) for side in sides):
            raise ValueError(f"the image processor's size can't be {str(dict(self.image_processor.size))[:60]}")
        return int(1.5 * max(sides)) if sides else None

    def product_text(self, product: Mapping) -> str:
        """A product's fields as one text, such as `Breton Tee. Harrow Lane. clothing. Soft cotton. size: M`, with
        `cut_fields` as short as they have to be; see [`normalize_text`]."""
        text = self._listing(product)
        if not self.cut_fields or self._fits(text):
            return text
        logger.warning_once(
            f"Listings of more than {self.max_product_length} tokens lose the last words of "
            f"{', '.join(self.cut_fields)}, in this order."
        )
        shorter = dict(product)
        for name in (name for name in self.cut_fields if name in self.product_fields):
            words = field_text(name, product.get(name)).split()

            def cut_to(count: int, name=name, words=words) -> str:
                return self._listing(shorter | {name: " ".join(words[:count])})

            kept = bisect.bisect_left(range(1, len(words) + 1), True, key=lambda count: not self._fits(cut_to(count)))
            shorter[name], text = " ".join(words[:kept]), cut_to(kept)
            if self._fits(text):
                return text
        return text

    def _listing(self, product: Mapping) -> str:
        text = normalize_text(join_fields(product, self.product_fields))
        return self._in_case(plain_words(text, SENTENCES) if self.plain_words else text)

    def _fits(self, text: str) -> bool:
        """Whether a product's text is not longer than `max_product_length` tokens, special ones included."""
        text = self.product_prefix + text
        if len(text.encode()) + 3 <= self.max_product_length:
            return True
        return len(self.tokenizer(text, verbose=False)["input_ids"]) <= self.max_product_length

    def _is_token(self, word: str) -> bool:
        tokens = self.query_tokenizer.tokenize(f" {word}")
        return len(tokens) == 1 and tokens[0] != self.query_tokenizer.unk_token

    def _tokenize(self, tokenizer, texts: list[str], max_length: int, asked: dict) -> BatchFeature:
        settings = {"padding": True, "truncation": True, "max_length": max_length} | asked
        if settings["padding"] in (True, "longest"):
            settings["padding"] = self.text_padding
        settings |= {"return_tensors": "pt", "return_attention_mask": True, "return_token_type_ids": False}
        return tokenizer(texts, **settings)

    def _product_pictures(self, product: Mapping, row: int) -> list[Image.Image]:
        try:
            return [load_picture(picture, self.min_side) for picture in pictures_of(product.get("image"))]
        except ValueError as error:
            raise ValueError(f"product {row} ({product.get('_id', 'no _id')}), field image: {error}") from error

    def process_pictures(self, pictures: list[list[Image.Image]], **kwargs) -> dict[str, torch.Tensor]:
        """The picture part of what `process_products` returns, of pictures that `load_picture` has read.

        Args:
            pictures (`list[list[Image.Image]]`): each product's, at least one in all. They are padded to the same
                number; a missing one is all zeros and False in the mask.
            kwargs: of the image processor, in place of its own settings.
        """
        flat = [picture for row in pictures for picture in row]
        processed = self.image_processor(images=flat, **kwargs | {"return_tensors": "pt"})
        return self.arrange_pictures(processed, [len(row) for row in pictures])

    def arrange_pictures(
        self, processed: Mapping[str, torch.Tensor], counts: Sequence[int]
    ) -> dict[str, torch.Tensor]:
        """What the image processor made of all pictures, one after the other, as pictures of products.

        Args:
            processed (`Mapping[str, torch.Tensor]`): of shape `(pictures, ...)`, by name.
            counts (`Sequence[int]`): how many of them are each product's, at least one in all.

        Returns:
            The same of shape `(batch, images, ...)`, and `image_mask` `(batch, images)`.
        """
        image_mask = torch.arange(max(counts)) < torch.tensor(counts)[:, None]
        inputs = {"image_mask": image_mask}
        for name, values in processed.items():
            # the first picture stands in for missing sizes of variable-size encoders, which can't take 0 x 0 patches
            filler = values[:1] if name in ("spatial_shapes", "pixel_attention_mask") else torch.zeros_like(values[:1])
            inputs[name] = filler.expand(image_mask.numel(), *values.shape[1:]).clone()
            inputs[name][image_mask.flatten()] = values
            inputs[name] = inputs[name].unflatten(0, image_mask.shape)
        return inputs


def check_settings(texts: Mapping, lengths: Mapping, lists: Mapping, sizes) -> None:
    """Refuses settings of a processor that are not what they should be: texts, whole numbers above 0, lists of texts,
    and two whole numbers or `None`.

    Raises:
        ValueError: naming the setting; the message is one line.
    """
    wrong = [name for name, text in texts.items() if not isinstance(text, str)]
    wrong += [name for name, length in lengths.items() if type(length) is not int or length < 1]
    for name, items in lists.items():
        if not isinstance(items, (list, tuple)) or not all(isinstance(item, str) for item in items):
            wrong.append(name)
    if sizes is not None and not (isinstance(sizes, (list, tuple)) and [type(size) for size in sizes] == [int, int]):
        wrong.append("vocabulary_sizes")
    if wrong:
        value = {**texts, **lengths, **lists, "vocabulary_sizes": sizes}[wrong[0]]
        raise ValueError(f"the processor's {wrong[0]} can't be {str(value)[:40]!r}")


def on_pil(image_processor):
    """The same image processor on PIL, so that pixels are the same with and without torchvision.

    `AutoImageProcessor` loads the torchvision variant where torchvision is installed; their pixels differ slightly.
    """
    pil_class = getattr(transformers, f"{type(image_processor).__name__}Pil", None)
    return image_processor if pil_class is None else pil_class.from_dict(image_processor.to_dict())


def load_tokenizer(name: str | os.PathLike):
    """The tokenizer of a text encoder.

    Raises:
        ValueError: if there is none; the message is one line. A folder without one would else give an empty one.
    """
    folder = Path(name)
    if folder.is_dir() and not any(found for pattern in TOKENIZER_FILES for found in folder.glob(pattern)):
        raise ValueError(f"{name}: has no tokenizer: save it there with tokenizer.save_pretrained")
    return AutoTokenizer.from_pretrained(name)


def longest_text(config, tokenizer) -> int:
    """How many tokens, special ones included, a text encoder of a configuration takes at most.

    Raises:
        ValueError: if the tokenizer's own limit is no number, as in a damaged tokenizer_config.json.
    """
    if not isinstance(tokenizer.model_max_length, int):
        raise ValueError(f"the tokenizer's model_max_length is no number: {str(tokenizer.model_max_length)[:40]!r}")
    positions = longest_text_of(getattr(config, "text_config", config))
    return min(tokenizer.model_max_length, positions or tokenizer.model_max_length)


def load_image_processor(vision: str | os.PathLike):
    """The image processor of an image encoder.

    A timm backbone's preprocessing, which timm keeps in the model's configuration, becomes a plain
    `CLIPImageProcessorPil`: resize the shorter side, cut the centre, normalise.
    """
    config = AutoConfig.from_pretrained(vision)
    if config.model_type != "timm_wrapper":
        try:
            return AutoImageProcessor.from_pretrained(vision)
        except (OSError, ValueError) as error:
            if not Path(vision).is_dir():
                raise
            reason = "save it there with image_processor.save_pretrained"
            raise ValueError(f"{vision}: has no image processor: {reason}") from error
    settings = config.pretrained_cfg
    height, width = settings["input_size"][1:]
    resampling = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}
    return CLIPImageProcessorPil(
        size={"shortest_edge": int(height / settings["crop_pct"])},
        crop_size={"height": height, "width": width},
        resample=resampling[settings["interpolation"]],
        image_mean=list(settings["mean"]),
        image_std=list(settings["std"]),
    )


__all__ = ["PICTURE_FORMATS", "MMFusionProcessor", "load_picture"]
