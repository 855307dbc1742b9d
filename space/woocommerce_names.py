"""The columns of WooCommerce's product CSV in German, French, Spanish, Italian and Dutch, as real exports have them.

WooCommerce writes its header in the language of the person who exports. Where a translation changed over the years,
older names are here too.
"""

import re
from functools import lru_cache

FEWEST = 3  # columns of a language in a header that is of it
# Each language's columns with those in English, and patterns of its `Attribute 1 name` and `Attribute 1 value(s)`.
LANGUAGES: list[tuple[dict[str, str], str, str]] = [
    (
        {
            "typ": "type",
            "artikelnummer": "sku",
            "veröffentlicht": "published",
            "sichtbarkeit im katalog": "visibility in catalog",
            "kurzbeschreibung": "short description",
            "beschreibung": "description",
            "datum, an dem angebotspreis beginnt": "date sale price starts",
            "datum, an dem angebotspreis endet": "date sale price ends",
            "vorrätig?": "in stock?",
            "lager": "stock",
            "angebotspreis": "sale price",
            "regulärer preis": "regular price",
            "kategorien": "categories",
            "schlagwörter": "tags",
            "bilder": "images",
            "übergeordnetes produkt": "parent",
            "marken": "brands",
        },
        r"attribut (\d+) name",
        r"attribut (\d+) wert\(e\)",
    ),
    (
        {
            "ugs": "sku",
            "nom": "name",
            "publié": "published",
            "visibilité dans le catalogue": "visibility in catalog",
            "description courte": "short description",
            "date de début de promo": "date sale price starts",
            "date de fin de promo": "date sale price ends",
            "en stock ?": "in stock?",
            "en stock?": "in stock?",
            "tarif promo": "sale price",
            "tarif régulier": "regular price",
            "catégories": "categories",
            "étiquettes": "tags",
            "marques": "brands",
        },
        r"nom de l.attribut (\d+)",
        r"valeur\(s\) de l.attribut (\d+)",
    ),
    (
        {
            "tipo": "type",
            "nombre": "name",
            "publicado": "published",
            "visibilidad en el catálogo": "visibility in catalog",
            "descripción corta": "short description",
            "descripción": "description",
            "día en que empieza el precio rebajado": "date sale price starts",
            "día en que termina el precio rebajado": "date sale price ends",
            "¿existencias?": "in stock?",
            "¿en inventario?": "in stock?",
            "inventario": "stock",
            "precio rebajado": "sale price",
            "precio normal": "regular price",
            "categorías": "categories",
            "etiquetas": "tags",
            "imágenes": "images",
            "superior": "parent",
            "marcas": "brands",
        },
        r"nombre del atributo (\d+)",
        r"valor\(es\) del atributo (\d+)",
    ),
    (
        {
            "tipo": "type",
            "cod": "sku",
            "nome": "name",
            "pubblicato": "published",
            "visibilità nel catalogo": "visibility in catalog",
            "breve descrizione": "short description",
            "descrizione": "description",
            "data di partenza del prezzo in saldo": "date sale price starts",
            "data in cui termina l'offerta": "date sale price ends",
            "termine data del prezzo di vendita": "date sale price ends",
            "magazzino": "stock",
            "prezzo in offerta": "sale price",
            "prezzo di listino": "regular price",
            "categorie": "categories",
            "tag": "tags",
            "etichette": "tags",
            "immagine": "images",
            "immagini": "images",
            "genitore": "parent",
            "marchi": "brands",
        },
        r"nome dell.attributo (\d+)|attributo (\d+) nome",
        r"valore dell.attributo (\d+)|attributo (\d+) val\w+\(\w\)",
    ),
    (
        {
            "artikelnummer": "sku",
            "naam": "name",
            "gepubliceerd": "published",
            "zichtbaarheid in catalogus": "visibility in catalog",
            "korte beschrijving": "short description",
            "korte omschrijving": "short description",
            "beschrijving": "description",
            "startdatum actieprijs": "date sale price starts",
            "einddatum actieprijs": "date sale price ends",
            "op voorraad?": "in stock?",
            "voorraad": "stock",
            "actieprijs": "sale price",
            "reguliere prijs": "regular price",
            "categorieën": "categories",
            "afbeeldingen": "images",
            "hoofd": "parent",
            "merken": "brands",
        },
        r"naam eigenschap (\d+)",
        r"waarden? eigenschap (\d+)",
    ),
]


def in_english(names: dict[str, str]) -> dict[str, str]:
    """A table's columns by the keys of an English export; as they are if too few are of one of the languages.

    Args:
        names (`dict[str, str]`): the columns by [`column_key`].
    """
    return dict(zip(_keys(tuple(names)), names.values(), strict=True))


@lru_cache(maxsize=100)
def _keys(keys: tuple[str, ...]) -> tuple[str, ...]:
    english, name, value = max(LANGUAGES, key=lambda language: len(language[0].keys() & set(keys)))
    if len(english.keys() & set(keys)) < FEWEST:
        return keys
    return tuple(english.get(key) or _attribute(key, name, value) for key in keys)


def _attribute(key: str, name: str, value: str) -> str:
    for pattern, what in ((name, "name"), (value, "value(s)")):
        if found := re.fullmatch(pattern, key):
            return f"attribute {next(filter(None, found.groups()))} {what}"
    return key
