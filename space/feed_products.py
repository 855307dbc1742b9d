"""A product of a feed, and what one row of the feed says of it."""

from dataclasses import dataclass, field


@dataclass
class FeedProduct:
    """A product of a feed, as `feed_rows` gives it.

    Attributes:
        id (`str`): exactly as it was found, `""` if there is none.
        title, description, category, brand (`str`): as text without HTML.
        price (`str`): as it was found, with its currency if it has one there.
        image (`list[str]`): all of its pictures, in order and each once: addresses or file names.
        group (`str`): what variants of one product share.
        in_stock (`bool`, *optional*): whether it can be ordered; `None` if that isn't known.
        attributes (`dict[str, str]`): its attributes and options.
        extra (`dict[str, str]`): the file's other columns, as they were found.
        variants (`list[str]`): ids of the variants that were made one product.
    """

    id: str = ""
    title: str = ""
    description: str = ""
    category: str = ""
    brand: str = ""
    price: str = ""
    image: list[str] = field(default_factory=list)
    group: str = ""
    in_stock: bool | None = None
    attributes: dict[str, str] = field(default_factory=dict)
    extra: dict[str, str] = field(default_factory=dict)
    variants: list[str] = field(default_factory=list)


@dataclass
class Part:
    """What one row says: of a product, of a variant of it, or of both.

    Attributes:
        number (`int`): the row's number.
        product (`FeedProduct`): its fields; the pictures are the product's.
        variant (`str`): the variant's own id.
        sells (`bool`): it is something to buy, and so a product of its own if each variant is one.
        parent (`bool`): its texts are those of the whole product.
        pictures (`list[str]`): the variant's own pictures.
        options (`dict[str, str]`): what tells the variant from others: `{"Size": "M"}`.
        option_names (`dict[str, str]`): the names of options that are numbered in `options`.
        position (`float`): the place of its pictures among the product's.
        hidden (`str`): why it isn't shown to customers, `""` if it is.
        sku (`str`): Magento's SKU.
        view (`str`): Magento's store view that the row is of.
        alone (`bool`): Magento also shows the variant by itself.
    """

    number: int
    product: FeedProduct
    variant: str = ""
    sells: bool = True
    parent: bool = False
    pictures: list[str] = field(default_factory=list)
    options: dict[str, str] = field(default_factory=dict)
    option_names: dict[str, str] = field(default_factory=dict)
    position: float = 0
    hidden: str = ""
    sku: str = ""
    view: str = ""
    alone: bool = False
