"""Feeds by the systems' own headers: products and variants, pictures, prices, stock; and nothing is dropped."""

import csv
import gzip
import io
import random
import tracemalloc

import pytest

from modeling_mmfusion.errors import DataError
from training.catalogue.cells import price_number, read_attributes, read_availability, split_pictures
from training.catalogue.feeds import detect, feed_rows
from training.catalogue.missing import is_missing_text
from training.catalogue.nested import flatten, variant_rows
from training.catalogue.tables import Table
from training.catalogue.xml_feed import xml_rows

FIELDS = ("id", "title", "description", "category", "brand", "price", "image", "group", "attributes", "in_stock")
GOOGLE_SHOPPING = ",".join(
    f"Google Shopping / {name}"
    for name in ("Google Product Category,Gender,Age Group,MPN,Condition,Custom Product,Custom Label 0").split(",")
)
SHOPIFY_OLD = (
    "Handle,Title,Body (HTML),Vendor,Type,Tags,Published,Option1 Name,Option1 Value,Option2 Name,Option2 Value,"
    "Option3 Name,Option3 Value,Variant SKU,Variant Grams,Variant Inventory Tracker,Variant Inventory Qty,"
    "Variant Inventory Policy,Variant Fulfillment Service,Variant Price,Variant Compare At Price,"
    "Variant Requires Shipping,Variant Taxable,Variant Barcode,Image Src,Image Position,Image Alt Text,Gift Card,"
    f"SEO Title,SEO Description,{GOOGLE_SHOPPING},Variant Image,Variant Weight Unit,Variant Tax Code,"
    "Cost per item,Status"
)
SHOPIFY_NEW = (
    "Title,URL handle,Description,Vendor,Product category,Type,Tags,Published on online store,Status,SKU,Barcode,"
    "Option1 name,Option1 value,Option1 Linked To,Option2 name,Option2 value,Option2 Linked To,Option3 name,"
    "Option3 value,Option3 Linked To,Price,Compare-at price,Cost per item,Charge tax,Tax code,"
    "Unit price total measure,Unit price total measure unit,Unit price base measure,Unit price base measure unit,"
    "Inventory tracker,Inventory quantity,Continue selling when out of stock,Weight value (grams),"
    "Weight unit for display,Requires shipping,Fulfillment service,Product image URL,Image position,Image alt text,"
    "Variant image URL,Gift card,SEO title,SEO description,Color (product.metafields.shopify.color-pattern),"
    "Google Shopping / Google product category,Google Shopping / Gender,Google Shopping / Age group"
)
WOO = (
    "ID,Type,SKU,Name,Published,Is featured?,Visibility in catalog,Short description,Description,"
    "Date sale price starts,Date sale price ends,Tax status,Tax class,In stock?,Stock,Low stock amount,"
    "Backorders allowed?,Sold individually?,Weight (kg),Length (cm),Width (cm),Height (cm),Allow customer reviews?,"
    "Purchase note,Sale price,Regular price,Categories,Tags,Shipping class,Images,Download limit,"
    "Download expiry days,Parent,Grouped products,Upsells,Cross-sells,External URL,Button text,Position,Brands,"
    "Attribute 1 name,Attribute 1 value(s),Attribute 1 visible,Attribute 1 global,Attribute 2 name,"
    "Attribute 2 value(s),Attribute 2 visible,Attribute 2 global"
)
WOO_GERMAN = (
    "ID,Typ,Artikelnummer,Name,Veröffentlicht,Ist hervorgehoben?,Sichtbarkeit im Katalog,Kurzbeschreibung,"
    'Beschreibung,"Datum, an dem Angebotspreis beginnt","Datum, an dem Angebotspreis endet",Steuerstatus,Vorrätig?,'
    "Lager,Angebotspreis,Regulärer Preis,Kategorien,Schlagwörter,Bilder,Übergeordnetes Produkt,Position,"
    "Attribut 1 Name,Attribut 1 Wert(e)"
)
MAGENTO = (
    "sku,store_view_code,attribute_set_code,product_type,categories,product_websites,name,description,"
    "short_description,weight,product_online,tax_class_name,visibility,price,special_price,special_price_from_date,"
    "special_price_to_date,url_key,meta_title,meta_keywords,meta_description,base_image,base_image_label,small_image,"
    "small_image_label,thumbnail_image,thumbnail_image_label,swatch_image,swatch_image_label,created_at,updated_at,"
    "country_of_manufacture,additional_attributes,qty,out_of_stock_qty,is_in_stock,related_skus,additional_images,"
    "additional_image_labels,configurable_variations,configurable_variation_labels,associated_skus"
)
GOOGLE = (
    "id\ttitle\tdescription\tlink\timage link\tadditional image link\tavailability\tprice\tsale price\t"
    "sale price effective date\tbrand\tgtin\tmpn\tcondition\tgoogle product category\tproduct type\titem group id\t"
    "color\tsize\tmaterial\tgender\tage group\tproduct detail\tshipping"
).replace("\t", ",")


def as_file(header, *rows):
    """Rows as they come from a CSV file with a header, where only some cells are filled."""
    columns = next(csv.reader([header]))
    for row in rows:
        assert not row.keys() - set(columns)
    file = io.StringIO(newline="")
    writer = csv.DictWriter(file, columns, restval="")
    writer.writeheader()
    writer.writerows(rows)
    file.seek(0)
    return list(enumerate(csv.DictReader(file), start=2))


def products(rows, form=None, columns=None, variants="group", drafts=False):
    """The products of a feed and what was counted."""
    problems = Table(name="feed.csv")
    form = form or detect(rows[0][1])
    return [one for _, one in feed_rows(lambda: rows, form, columns or {}, variants, problems, drafts)], problems


def shirt(**cells):
    return {"Handle": "shirt", **cells}


SHIRT = [
    shirt(Title="Shirt", Published="true", Vendor="Acme", Type="Shirts", Status="active", Tags="summer, sale")
    | {"Body (HTML)": "<p>Soft &amp; warm.</p><ul><li>Cotton</li></ul>", "Option1 Name": "Size", "Option1 Value": "S"}
    | {"Variant SKU": "'00071", "Variant Price": "12.00", "Variant Inventory Tracker": "shopify"}
    | {"Variant Inventory Qty": "0", "Variant Inventory Policy": "deny", "Variant Barcode": "'0123456789012"}
    | {"Image Src": "https://cdn.example.com/a.jpg?v=1,2", "Image Position": "1", "Cost per item": "4.00"},
    shirt(**{"Option1 Value": "M", "Variant SKU": "'00072", "Variant Price": "9.50", "Variant Inventory Qty": "3"})
    | {"Variant Inventory Tracker": "shopify", "Variant Inventory Policy": "deny", "Image Position": "3"}
    | {"Image Src": "https://cdn.example.com/c.jpg", "Variant Image": "https://cdn.example.com/m.jpg"},
    shirt(
        **{"Image Src": "https://cdn.example.com/b.jpg", "Image Position": "2", "Image Alt Text": "seen from behind"}
    ),
]
MUG = {
    "Handle": "mug",
    "Title": "Mug",
    "Option1 Name": "Title",
    "Option1 Value": "Default Title",
    "Status": "active",
} | {"Variant Price": "5"}


def test_shopify_rows_of_a_handle_are_one_product():
    (found, mug), problems = products(as_file(SHOPIFY_OLD, *SHIRT, MUG))
    assert (found.id, found.title, found.brand, found.category) == ("shirt", "Shirt", "Acme", "Shirts")
    assert found.description == "Soft & warm. Cotton"
    assert found.image == [f"https://cdn.example.com/{name}" for name in ("a.jpg?v=1,2", "b.jpg", "c.jpg", "m.jpg")]
    assert (found.price, found.in_stock, found.variants) == ("9.50", True, ["00071", "00072"])
    assert found.attributes == {"Tags": "summer, sale", "Size": "S, M"}
    assert found.extra["Variant SKU"] == "00071 | 00072" and found.extra["Variant Barcode"] == "0123456789012"
    assert found.extra["Cost per item"] == "4.00" and found.extra["price of variants"] == "12.00 | 9.50"
    assert (mug.id, mug.attributes, mug.price, mug.in_stock, mug.variants) == ("mug", {}, "5", True, [])
    assert not problems.counts


def test_shopify_each_variant_is_a_product():
    (small, medium, mug), problems = products(as_file(SHOPIFY_OLD, *SHIRT, MUG), variants="each")
    assert [small.id, medium.id, mug.id] == ["00071", "00072", "mug"]
    assert small.group == medium.group == "shirt" and mug.group == "mug"
    assert small.title == medium.title == "Shirt" and medium.description == small.description != ""
    assert (small.in_stock, medium.in_stock) == (False, True)
    assert (small.price, medium.price) == ("12.00", "9.50")
    assert medium.attributes == {"Tags": "summer, sale", "Size": "M"}
    assert [name[24:] for name in medium.image] == ["m.jpg", "a.jpg?v=1,2", "b.jpg", "c.jpg"]
    assert "https://cdn.example.com/m.jpg" not in small.image
    assert "Variant Barcode" not in medium.extra and not problems.counts
    assert medium.extra["Image Alt Text"] == "seen from behind"


def test_shopify_variants_without_a_sku_of_their_own():
    skus = ("A", "A", "", "N/A", "")
    names = {"Title": "Shirt", "Option1 Name": "Size", "Option2 Name": "Colour"}
    rows = [shirt(**names, **{"Variant SKU": sku}) for sku in skus]
    for row, size in zip(rows, "SMLLL", strict=True):
        row |= {"Option1 Value": size, "Option2 Value": "red", "Variant Price": "1"}
    found, problems = products(as_file(SHOPIFY_OLD, *rows), variants="each")
    assert [one.id for one in found] == ["A", "shirt-M-red", "shirt-L-red", "shirt-L-red-2", "shirt-L-red-3"]
    assert {kind.partition(" (")[0]: count for kind, count in problems.counts.items()} == {
        "variant whose SKU was there before": 1,
        "variant without an id": 3,
    }


def test_shopify_product_csv_of_2025():
    row = {"Title": "Cap", "URL handle": "cap", "Description": "<b>Warm</b>", "Vendor": "Nike", "SKU": "'007"}
    row |= {
        "Product category": "Apparel > Hats",
        "Type": "Caps",
        "Status": "Active",
        "Published on online store": "TRUE",
    }
    row |= {"Option1 name": "Size", "Option1 value": "One", "Price": "9.00", "Barcode": "'1234", "Image position": "1"}
    row |= {
        "Inventory tracker": "shopify",
        "Inventory quantity": "0",
        "Continue selling when out of stock": "CONTINUE",
    }
    row |= {"Product image URL": "//x.example/1.png", "Variant image URL": "//x.example/2.png"}
    row |= {"Color (product.metafields.shopify.color-pattern)": "red; blue", "Google Shopping / Gender": "Unisex"}
    (cap,), _ = products(as_file(SHOPIFY_NEW, row))
    assert (cap.id, cap.description, cap.category, cap.price, cap.in_stock) == (
        *("cap", "Warm", "Apparel > Hats", "9.00"),
        True,
    )
    assert cap.image == ["//x.example/1.png", "//x.example/2.png"] and cap.variants == ["007"]
    assert cap.attributes == {"Type": "Caps", "Color": "red; blue", "gender": "Unisex", "Size": "One"}


def test_apostrophes_before_digits_are_taken_off_codes_and_prices():
    rows = as_file(SHOPIFY_OLD, shirt(Title="'90s shirt", **{"Variant SKU": "'n-sync", "Variant Price": "'5"}))
    (found,), _ = products(rows, variants="each")
    assert (found.title, found.id, found.price) == ("'90s shirt", "'n-sync", "5")
    row = {
        "id": "'00071-B",
        "title": "'90s shirt",
        "price": '="12.50"',
        "ean": "'0123",
        "note": "'tis",
        "price (net)": "'€7.90",
    }
    (found,), _ = products([(2, row)], "table", {name: name for name in ("id", "title", "price")})
    assert (found.id, found.title, found.price) == ("00071-B", "'90s shirt", "12.50")
    assert found.extra == {"ean": "0123", "note": "'tis", "price (net)": "€7.90"}


OTHER_SHIRT = [{**row, "Handle": "b", "Variant SKU": row.get("Variant SKU", "") + "b"} for row in SHIRT]
ITEMS = [{"id": f"{i}", "title": "T", "image link": f"{i}.jpg", "item group id": f"g{i % 3}"} for i in range(9)]
MIXED = {"shopify": as_file(SHOPIFY_OLD, *SHIRT, MUG, *OTHER_SHIRT), "google": as_file(GOOGLE, *ITEMS)}


@pytest.mark.parametrize("variants", ["group", "each"])
@pytest.mark.parametrize(("form", "rows"), MIXED.items())
def test_the_order_of_rows_doesnt_matter(variants, form, rows):
    def facts(rows):
        found, _ = products(rows, form, variants=variants)
        return {
            (one.id, one.title, one.price, frozenset(one.image), one.in_stock, frozenset(one.attributes))
            for one in found
        }

    for seed in range(5):
        mixed = random.Random(seed).sample(rows, len(rows))
        assert facts(mixed) == facts(rows)


def test_what_customers_cant_see_is_left_out_and_counted():
    hidden = [
        {**MUG, "Handle": "draft", "Status": "draft"},
        {**MUG, "Handle": "old", "Status": "archived", "Variant SKU": "9"},
        {"Handle": "old", "Image Src": "old.jpg"},
        {**MUG, "Handle": "off", "Published": "false"},
    ]
    rows = as_file(SHOPIFY_OLD, MUG, *hidden)
    found, problems = products(rows)
    assert [one.id for one in found] == ["mug"]
    assert problems.counts == {
        "product with status draft (left out)": 1,
        "product with status archived (left out)": 2,
        "product that isn't published (left out)": 1,
    }
    assert problems.examples["product with status archived (left out)"][0]["value"] == "9"
    found, problems = products(rows, drafts=True)
    assert [one.id for one in found] == ["mug", "draft", "old", "off"] and not problems.counts


def woo_rows(parent="id:12"):
    return as_file(
        WOO,
        {"ID": "13", "Type": "variation", "SKU": "H-R", "Name": "Hoodie - Red", "Published": "1", "In stock?": "0"}
        | {"Regular price": "45", "Sale price": "42", "Parent": parent, "Attribute 1 name": "Colour"}
        | {"Attribute 1 value(s)": "Red", "Images": "https://x.example/red.jpg"},
        {"ID": "12", "Type": "variable", "SKU": "HOODIE", "Name": "Hoodie", "Published": "1", "Brands": "Acme"}
        | {"Short description": "A hoodie", "Description": "<p>Warm</p>\\n<p>Soft</p>", "In stock?": "1"}
        | {"Categories": "Clothing > Hoodies, Sale", "Tags": "warm", "Visibility in catalog": "visible"}
        | {"Images": "https://x.example/w_3,h_2/1.jpg, https://x.example/2.jpg", "Tax status": "none"}
        | {"Attribute 1 name": "Colour", "Attribute 1 value(s)": "Red, Blue", "Attribute 2 name": "Material"}
        | {"Attribute 2 value(s)": "Cotton"},
        {"ID": "20", "Type": "simple, virtual", "Name": "E-book", "Published": "1", "In stock?": "backorder"}
        | {"Regular price": "20", "Sale price": "10", "Date sale price ends": "2030-01-01", "Images": "a.jpg,b.jpg"},
        {"ID": "14", "Type": "variation", "SKU": "H-B", "Published": "1", "In stock?": "1", "Regular price": "50"}
        | {"Parent": parent, "Attribute 1 value(s)": "Blue", "Images": "https://x.example/blue.jpg"},
    )


@pytest.mark.parametrize("parent", ["id:12", "HOODIE"])
def test_woocommerce_variations_go_to_their_product(parent):
    (book, hoodie), problems = products(woo_rows(parent))
    assert (hoodie.id, hoodie.title, hoodie.brand) == ("12", "Hoodie", "Acme")
    assert hoodie.description == "A hoodie. Warm. Soft" and hoodie.category == "Clothing > Hoodies, Sale"
    assert (hoodie.price, hoodie.in_stock, hoodie.variants) == ("42", True, ["13", "14"])
    assert hoodie.attributes == {"Tags": "warm", "Colour": "Red, Blue", "Material": "Cotton"}
    names = ("w_3,h_2/1.jpg", "2.jpg", "red.jpg", "blue.jpg")
    assert hoodie.image == [f"https://x.example/{name}" for name in names]
    assert hoodie.extra["Tax status"] == "none" and hoodie.extra["Regular price"] == "45"
    assert (book.price, book.in_stock, book.image) == ("20", True, ["a.jpg", "b.jpg"])
    assert book.extra["Sale price"] == "10" and not problems.counts
    (book, red, blue), _ = products(woo_rows(parent), variants="each")
    assert [(one.id, one.group, one.title) for one in (red, blue)] == [
        ("13", "12", "Hoodie - Red"),
        ("14", "12", "Hoodie"),
    ]
    assert blue.attributes == {"Tags": "warm", "Colour": "Blue", "Material": "Cotton"}
    assert blue.image[0] == "https://x.example/blue.jpg" and "https://x.example/red.jpg" not in blue.image
    assert (red.in_stock, blue.in_stock, blue.brand) == (False, True, "Acme")


def test_woocommerce_drafts_and_ids_that_were_renamed():
    rows = woo_rows()
    rows[1][1]["Published"] = "-1"
    rows[2][1]["Visibility in catalog"] = "hidden"
    found, problems = products(rows)
    assert not found and problems.dropped == 4
    found, _ = products(rows, drafts=True, columns={"id": "SKU"}, variants="each")
    assert [one.id for one in found] == ["", "H-R", "H-B"] and found[1].extra["ID"] == "13"


def test_woocommerce_in_german():
    row = {"ID": "1", "Typ": "simple", "Artikelnummer": "A", "Name": "Tasse", "Veröffentlicht": "1", "Vorrätig?": "0"}
    row |= {"Regulärer Preis": "9,90", "Bilder": "a.jpg, b.jpg", "Kategorien": "Küche", "Beschreibung": "Schön"}
    row |= {"Attribut 1 Name": "Farbe", "Attribut 1 Wert(e)": "Rot"}
    parts = [{"ID": "2", "Typ": "variable", "Artikelnummer": "B", "Name": "Hemd", "Veröffentlicht": "1"}]
    parts += [{"ID": "3", "Typ": "variation", "Übergeordnetes Produkt": "B", "Veröffentlicht": "1"}]
    (cup, shirt), _ = products(as_file(WOO_GERMAN, row, *parts))
    assert (cup.title, cup.price, cup.in_stock, cup.image) == ("Tasse", "9,90", False, ["a.jpg", "b.jpg"])
    assert (cup.description, cup.category, cup.attributes) == ("Schön", "Küche", {"Farbe": "Rot"})
    assert (shirt.id, shirt.variants) == ("2", ["3"])


WOO_LANGUAGES = {
    "french": 'ID,Type,UGS,"GTIN, UPC, EAN ou ISBN",Nom,Publié,"Mis en avant ?","Visibilité dans le catalogue",'
    '"Description courte",Description,"Date de début de promo","Date de fin de promo","En stock ?",Stock,'
    '"Tarif promo","Tarif régulier",Catégories,Étiquettes,Images,Parent,Brands,'
    '"Nom de l\'attribut 1","Valeur(s) de l\'attribut 1"',
    "spanish": 'ID,Tipo,SKU,"GTIN, UPC, EAN o ISBN",Nombre,Publicado,"¿Está destacado?","Visibilidad en el catálogo",'
    '"Descripción corta",Descripción,"Día en que empieza el precio rebajado","Día en que termina el precio rebajado",'
    "¿Existencias?,Inventario,Precio rebajado,Precio normal,Categorías,Etiquetas,Imágenes,Superior,Marcas,"
    '"Nombre del atributo 1","Valor(es) del atributo 1"',
    "italian": 'ID,Tipo,SKU,"GTIN, UPC, EAN, o ISBN",Nome,Pubblicato,"In primo piano?","Visibilità nel catalogo",'
    '"Breve descrizione",Descrizione,"Data di partenza del prezzo in saldo","Data in cui termina l\'offerta",'
    "In stock?,Magazzino,Prezzo in offerta,Prezzo di listino,Categorie,Tag,Immagine,Genitore,Marchi,"
    "Nome dell'attributo 1,Valore dell'attributo 1",
    "dutch": 'ID,Type,Artikelnummer,"GTIN, UPC, EAN of ISBN",Naam,Gepubliceerd,Uitgelicht?,Zichtbaarheid in catalogus,'
    "Korte beschrijving,Beschrijving,Startdatum actieprijs,Einddatum actieprijs,Op voorraad?,Voorraad,"
    "Actieprijs,Reguliere prijs,Categorieën,Tags,Afbeeldingen,Hoofd,Merken,Naam eigenschap 1,Waarde eigenschap 1",
}
WOO_CELLS = (
    "ID Type SKU gtin Name Published featured Visibility Short Long starts ends in_stock stock sale regular "
    "categories tags images parent brands attribute value"
).split()


@pytest.mark.parametrize("language", WOO_LANGUAGES)
def test_woocommerce_in_other_languages(language):
    columns = next(csv.reader([WOO_LANGUAGES[language]]))
    assert detect(columns) == detect(reversed(columns)) == "woocommerce"
    names = dict(zip(WOO_CELLS, columns, strict=True))
    assert detect([column for name, column in names.items() if name != "Visibility"]) == "woocommerce"

    def row(**cells):
        return {names[name]: cell for name, cell in cells.items()}

    cup = {"ID": "1", "Type": "simple", "SKU": "A", "Name": "Cup", "Published": "1", "Short": "Short", "Long": "Long"}
    cup |= {"in_stock": "0", "regular": "9,90", "sale": "8,90", "categories": "Home > Cups", "tags": "new"}
    cup |= {"images": "a.jpg, b.jpg", "brands": "Acme", "attribute": "Colour", "value": "Red"}
    shirt = {"ID": "2", "Type": "variable", "SKU": "B", "Name": "Shirt", "Published": "1"}
    small = {"ID": "3", "Type": "variation", "parent": "B", "Published": "1", "regular": "5", "ends": "2030-01-01"}
    draft = {"ID": "4", "Type": "simple", "Published": "-1"}
    rows = as_file(WOO_LANGUAGES[language], row(**cup), row(**shirt), row(**small, sale="4"), row(**draft))
    (cup, shirt), problems = products(rows)
    assert (cup.id, cup.title, cup.description, cup.category) == ("1", "Cup", "Short. Long", "Home > Cups")
    assert (cup.brand, cup.price, cup.in_stock, cup.image) == ("Acme", "8,90", False, ["a.jpg", "b.jpg"])
    assert cup.attributes == {"Tags": "new", "Colour": "Red"}
    assert (shirt.id, shirt.variants, shirt.price) == ("2", ["3"], "5"), "a sale with a last day is no price"
    assert problems.counts == {"product that is a draft (left out)": 1}


@pytest.mark.parametrize("variants", ["group", "each"])
def test_woocommerce_variations_without_their_product_are_products(variants):
    orphans = [row for row in woo_rows() if row[1]["Type"] != "variable"]
    found, problems = products(orphans, variants=variants)
    assert [(one.id, one.price) for one in found] == [("13", "42"), ("20", "20"), ("14", "50")]
    assert found[0].group == found[2].group == "id:12"
    assert found[0].image == ["https://x.example/red.jpg"] and found[0].attributes == {"Colour": "Red"}
    kind = "variation whose product is not in the file (kept as a product of its own)"
    assert [place["value"] for place in problems.examples[kind]] == ["id:12", "id:12"] and not problems.dropped


@pytest.mark.parametrize(
    ("root", "cells", "expected"),
    [
        ("Default Category", ["Default Category/A,Default Category/A/B", "Default Category"], ["A > B", ""]),
        ("Shop", ["Shop/Home, Garden/Pots,Shop/Sale", "Shop/A\\/B"], ["Home, Garden > Pots, Sale", "A/B"]),
        ("", ["Default Category/Gear", "Second/Gear"], ["Default Category > Gear", "Second > Gear"]),
        ("", ["Gear", "Gear"], ["Gear", "Gear"]),
    ],
)
def test_magento_category_paths_lose_the_root_that_all_share(root, cells, expected):
    rows = [
        {"sku": f"{number}", "product_type": "simple", "name": "T", "categories": cell}
        for number, cell in enumerate(cells)
    ]
    rows = as_file(MAGENTO, *({**row, "visibility": "Catalog, Search"} for row in rows))
    found, problems = products(rows)
    assert [one.category for one in found] == expected
    assert problems.counts == ({f"root {root!r} of the category paths (not kept)": 2} if root else {})
    (first, *_), _ = products(rows, columns={"category": "categories"})
    assert first.category == cells[0]


def test_backslashes_that_seem_to_escape_are_counted():
    row = {"id": "1", "title": "Wide\\tmug", "description": "a\\nb", "brand": "C:\\Mugs"}
    (found,), problems = products([(2, row)], "table", {name: name for name in row})
    assert found.title == "Wide\\tmug" and list(problems.counts.values()) == [1, 1]


def google_row(item, **cells):
    return {"id": item, "title": f"Tee {item}", "link": "https://x.example", "image link": f"{item}.jpg", **cells}


def test_google_items_of_a_group():
    first = google_row("0071", **{"item group id": "G", "price": "1.299,00 EUR", "availability": "out of stock"})
    first |= {"additional image link": "https://x.example/1.jpg,https://x.example/2.jpg", "color": "red", "size": "M"}
    first |= {"google product category": "2271", "product type": "Home &gt; Women, Tall", "gtin": "4006381333931"}
    first |= {"product detail": '"General:Screen, size:5.5 in",General:Weight:1:2,Loose'}
    second = google_row("0072", **{"item group id": "G", "price": "899 EUR", "availability": "preorder", "size": "L"})
    second |= {"color": "red", "sale price": "799 EUR", "sale price effective date": "", "brand": "Acme"}
    alone = google_row("3", **{"item group id": "N/A", "availability": "in_stock", "price": "5 USD"})
    alone |= {"sale price": "4 USD", "sale price effective date": "2024-01-01T00:00/2024-02-01T00:00"}
    rows = as_file(GOOGLE, first, alone, second)
    (lone, tee), problems = products(rows)
    assert (tee.id, tee.group, tee.variants, tee.price) == ("G", "G", ["0071", "0072"], "799 EUR")
    assert tee.in_stock and tee.category == "Home > Women, Tall" and tee.brand == "Acme"
    assert tee.image == ["0071.jpg", "https://x.example/1.jpg", "https://x.example/2.jpg", "0072.jpg"]
    assert tee.attributes == {
        **{"Screen, size": "5.5 in", "Weight": "1:2", "product detail": "Loose"},
        **{"color": "red", "size": "M, L"},
    }
    assert tee.extra["gtin"] == "4006381333931" and tee.extra["google product category"] == "2271"
    assert tee.extra["title of variants"] == "Tee 0071 | Tee 0072" and tee.extra["price"] == "899 EUR"
    assert (lone.id, lone.group, lone.price, lone.extra["sale price"]) == ("3", "", "5 USD", "4 USD")
    assert sum(problems.counts.values()) == 1 and "item group id" in next(iter(problems.counts))
    (lone, low, high), _ = products(rows, variants="each")
    assert (low.id, low.image[0], low.group, high.id, high.image) == ("0071", "0071.jpg", "G", "0072", ["0072.jpg"])
    assert (low.in_stock, high.in_stock, high.attributes) == (False, True, {"color": "red", "size": "L"})


def test_seventeen_pictures_are_kept():
    names = [f"https://x.example/{i}.jpg" for i in range(17)]
    row = {"id": "1", "title": "T", "image_link": names[0], "additional_image_link": ",".join(names[1:9])}
    row |= {"additional_image_link_2": ",".join(names[9:]), "availability": "in stock"}
    (found,), _ = products([(2, row)], "google")
    assert found.image == names


CONFIGURABLE = [
    {
        "sku": "T-S",
        "product_type": "simple",
        "name": "Tee-S-Red",
        "visibility": "Not Visible Individually",
        "price": "9",
    }
    | {"product_online": "1", "is_in_stock": "0", "additional_attributes": "color=Red,fit=Slim, long,eco=Yes"}
    | {"base_image": "/t/s.jpg", "small_image": "/t/s.jpg", "thumbnail_image": "no_selection"},
    {"sku": "lone", "product_type": "simple", "name": "Lone", "visibility": "Not Visible Individually", "price": "1"},
    {"sku": "bag", "product_type": "simple", "name": "Bag", "visibility": "Catalog, Search", "product_online": "1"}
    | {"price": "30.00", "special_price": "25.00", "qty": "4.0000", "base_image": "/b.jpg"}
    | {"additional_images": "/b.jpg,/b2.jpg", "categories": "Default Category/Gear,Default Category/Gear/Bags"}
    | {"additional_attributes": '{"material": ["Nylon", "Mesh"], "manufacturer": "Acme"}'},
    {"sku": "T", "product_type": "configurable", "name": "Tee", "visibility": "Catalog, Search", "product_online": "1"}
    | {"description": "<p>Fine</p>", "short_description": "Nice tee", "is_in_stock": "1", "base_image": "/t/t.jpg"}
    | {"configurable_variations": "sku=T-S,size=S,color=Red| sku=T-M,size=M,color=Red"}
    | {"configurable_variation_labels": "size=Size,color=Color", "additional_attributes": "climate=Cool|Mild"},
    {
        "sku": "T-M",
        "product_type": "simple",
        "name": "Tee-M-Red",
        "visibility": "Not Visible Individually",
        "price": "8",
    }
    | {"product_online": "1", "is_in_stock": "1", "base_image": "/t/m.jpg"},
    {"sku": "T", "store_view_code": "french", "product_type": "configurable", "name": "T-shirt"},
    {"sku": "off", "product_type": "simple", "name": "Off", "visibility": "Catalog, Search", "product_online": "2"},
]


def test_magento_configurable_products():
    (bag, tee), problems = products(as_file(MAGENTO, *CONFIGURABLE))
    assert (tee.id, tee.title, tee.description) == ("T", "Tee", "Nice tee. Fine")
    assert (tee.price, tee.in_stock, tee.variants) == ("8", True, ["T-S", "T-M"])
    assert tee.image == ["/t/t.jpg", "/t/s.jpg", "/t/m.jpg"]
    assert tee.attributes == {
        **{"climate": "Cool, Mild", "color": "Red", "fit": "Slim, long", "eco": "Yes"},
        **{"size": "S, M"},
    }
    assert (bag.price, bag.in_stock, bag.brand, bag.image) == ("25.00", True, "Acme", ["/b.jpg", "/b2.jpg"])
    assert bag.attributes == {"material": "Nylon, Mesh", "manufacturer": "Acme"} and bag.extra["price"] == "30.00"
    kinds = {
        "product that isn't visible individually and is no variant of one (left out)": "lone",
        "row of another store view (left out)": "T",
        "product that is disabled (left out)": "off",
    }
    assert {kind: examples[0]["value"] for kind, examples in problems.examples.items() if kind in kinds} == kinds
    assert problems.dropped == 3
    (bag, small, medium), _ = products(as_file(MAGENTO, *CONFIGURABLE), variants="each")
    assert [(one.id, one.group, one.title) for one in (small, medium)] == [
        ("T-S", "T", "Tee-S-Red"),
        ("T-M", "T", "Tee-M-Red"),
    ]
    assert medium.description == "Nice tee. Fine" and medium.image == ["/t/m.jpg", "/t/t.jpg"]
    assert small.attributes["size"] == "S" and small.attributes["climate"] == "Cool|Mild".replace("|", ", ")


def test_magento_drafts_and_what_hangs_on_them():
    found, problems = products(as_file(MAGENTO, *CONFIGURABLE), drafts=True)
    assert sorted(one.id for one in found) == ["T", "bag", "lone", "off"]
    assert problems.dropped == problems.counts["row of another store view (left out)"] == 1
    rows = [dict(row) for row in CONFIGURABLE]
    rows[3]["product_online"], rows[4]["visibility"] = "2", "Catalog"
    found, problems = products(as_file(MAGENTO, *rows), variants="each")
    assert [(one.id, one.title) for one in found] == [("bag", "Bag"), ("T-M", "Tee-M-Red")]
    assert problems.counts["product that is disabled (left out)"] == 3
    again = [{"sku": "a", "name": "A", "product_type": "simple"}, {"sku": "a", "name": "B", "product_type": "simple"}]
    found, problems = products(as_file(MAGENTO, *again))
    assert [one.title for one in found] == ["A"]
    assert problems.counts == {"row with a sku that was there before (left out)": 1}


def test_a_google_item_whose_id_is_the_group():
    rows = as_file(GOOGLE, google_row("G"), google_row("G2"), google_row("1", **{"item group id": "G"}))
    lone, tee = products(rows)[0]
    assert (lone.id, lone.variants, tee.id, tee.variants) == ("G2", [], "G", ["1"])
    assert tee.image == ["G.jpg", "1.jpg"]
    assert [(one.id, one.group) for one in products(rows, variants="each")[0]] == [
        ("G2", "G2"),
        ("G", "G"),
        ("1", "G"),
    ]


def test_google_items_with_one_id_are_two():
    rows = as_file(GOOGLE, google_row("1", price="5"), google_row("1", price="6"))
    assert [(one.id, one.price) for one in products(rows)[0]] == [("1", "5"), ("1", "6")]


def test_a_shopify_variant_has_nothing_of_a_later_one():
    rows = [shirt(Title="Shirt", SKU="a", Price="1"), shirt(Title="Shirt", SKU="b", Price="2", Tags="late")]
    rows = [{"Option1 Value": row["SKU"]} | row for row in rows]
    first, second = products(list(enumerate(rows)), "shopify", variants="each")[0]
    assert (first.attributes, second.attributes) == ({"Option 1": "a"}, {"Tags": "late", "Option 1": "b"})


def test_nothing_of_any_row_vanishes():
    """Each cell is found again in the product, by some word of its own."""
    for header, mark in (
        (SHOPIFY_OLD, "Handle"),
        (SHOPIFY_NEW, "Title"),
        (WOO, "ID"),
        (MAGENTO, "sku"),
        (GOOGLE, "id"),
    ):
        columns = next(csv.reader([header]))
        cells = {column: f"w{i}x" for i, column in enumerate(columns)}
        for quiet in (
            "Type",
            "Published",
            "Status",
            "Published on online store",
            "Visibility in catalog",
            "visibility",
        ):
            cells |= {quiet: "simple active 1"} if quiet in cells and header in (WOO, SHOPIFY_OLD) else {}
        rows = as_file(header, cells)
        (found,), _ = products(rows, drafts=True)
        text = repr(found)
        lost = [column for column, value in cells.items() if value not in text]
        assert lost == [], mark


HEADERS = {SHOPIFY_OLD: "shopify", SHOPIFY_NEW: "shopify", WOO: "woocommerce", WOO_GERMAN: "woocommerce"}


@pytest.mark.parametrize(("header", "form"), [*HEADERS.items(), (MAGENTO, "magento"), (GOOGLE, "google")])
def test_a_format_is_told_by_its_header(header, form):
    columns = next(csv.reader([header]))
    assert detect(columns) == detect(map(str.upper, columns)) == detect(reversed(columns)) == form


@pytest.mark.parametrize(
    ("columns", "form"),
    [
        ("id title description category brand price image group", "table"),
        ("sku name price description category image", "table"),
        ("id name type price in_stock", "table"),
        ("id name type parent published price", "table"),
        ("id title link price brand availability", "table"),
        ("handle title description", "table"),
        ("g:id g:title g:image_link g:price g:availability", "google"),
        ("offerId title imageLink itemGroupId price", "google"),
        ("Handle Title Variant_Price", "shopify"),
        ("sku attribute_set_code product_type name price", "magento"),
        ("", "table"),
    ],
)
def test_odd_headers(columns, form):
    assert detect(columns.split(" ")) == form


def test_a_header_with_the_attributes_codes():
    columns = ["ID [id]", "Title [title]", "Image link [image_link]", "Availability [availability]"]
    assert detect(columns) == "google"
    (found,), _ = products([(2, dict(zip(columns, ["1", "T", "a.jpg", "out of stock"], strict=True)))])
    assert (found.id, found.title, found.image, found.in_stock) == ("1", "T", ["a.jpg"], False)


def test_a_table_by_its_columns():
    columns = {"id": "nr", "title": "name", "image": "pics", "attributes": "specs", "in_stock": "lager", "price": "p"}
    row = {"nr": " 007 ", "name": "Tom &amp; Jerry", "pics": "a,b.jpg | c.jpg", "specs": "colour: red; size: M"}
    rows = [
        (2, row | {"lager": "Sold Out", "p": "N/A", "ean": "'1", "note": "N/A"}),
        (3, row | {"nr": "nan", "specs": "soft, red", "lager": "maybe"}),
        (4, {"nr": "", "name": "x", "pics": '["u.jpg", "v.jpg"]', "specs": [{"name": "Size", "value": "L"}]}),
    ]
    for variants in ("group", "each"):
        (first, second, third), problems = products(rows, "table", columns, variants)
        assert (first.id, first.title, first.price, first.in_stock) == ("007", "Tom & Jerry", "", False)
        assert first.image == ["a,b.jpg", "c.jpg"] and first.attributes == {"colour": "red", "size": "M"}
        assert first.extra == {"ean": "1", "note": "N/A"} and first.group == ""
        assert (second.id, second.in_stock, second.attributes) == ("nan", None, {"specs": "soft, red"})
        assert (third.id, third.image, third.attributes) == ("", ["u.jpg", "v.jpg"], {"Size": "L"})
        assert sorted(problems.counts.values()) == [1, 1]
        assert problems.examples["p: value such as N/A or - (taken for missing)"][0]["row"] == 2


@pytest.mark.parametrize(
    ("text", "expected"),
    [("in stock", True), ("IN_STOCK", True), ("https://schema.org/InStock", True), ("onbackorder", True), ("", None)]
    + [("Sold out", False), ("0", False), ("-3", False), ("12.0", True), ("No", False), ("schema.org/SoldOut", False)]
    + [("http://schema.org/OutOfStock/", False)],
)  # fmt: skip
def test_availability(text, expected):
    assert read_availability(text) is expected


def test_availability_that_isnt_known():
    for text in ("maybe", "in stock soon", "1-2 days"):
        with pytest.raises(ValueError):
            read_availability(text)


@pytest.mark.parametrize(
    ("text", "number"),
    [("1.299,00 €", 1299), ("$1,299.00", 1299), ("1'299.50 CHF", 1299.5), ("9,90", 9.9), ("1,299", 1299)]
    + [("12.5", 12.5), ("1 299,00 kr", 1299), ("1.299.000", 1299000), ("USD 5", 5), ("free", None), ("", None)]
    + [("from 3.", 3)],
)  # fmt: skip
def test_prices(text, number):
    assert price_number(text) == number


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ('{"size": "M", "colour": null, "n": 1.10, "new": true}', {"size": "M", "n": "1.10", "new": "true"}),
        ("color=Red,size=M", {"color": "Red", "size": "M"}),
        ('"color"="Red, dark","size"="M"', {"color": "Red, dark", "size": "M"}),
        ("a=1|2,b=x, y,c_d=x=y", {"a": "1, 2", "b": "x, y", "c_d": "x=y"}),
        ("Colour: red | Size: M: wide", {"Colour": "red", "Size": "M: wide"}),
        ([{"attribute_code": "c", "value": "Red"}, {"attribute_code": "c", "value": "Blue"}], {"c": "Red, Blue"}),
        ("https://x.example", {"attributes": "https://x.example"}),
        ("{broken", {"attributes": "{broken"}),
        ("-", {}),
        (["soft", "warm"], {"attributes": "soft; warm"}),
    ],
)  # fmt: skip
def test_attributes(value, expected):
    assert read_attributes(value) == expected


@pytest.mark.parametrize(
    ("value", "separator", "expected"),
    [
        ("a.jpg,b.jpg", ",", ["a.jpg", "b.jpg"]),
        ("a,b.jpg", "|", ["a,b.jpg"]),
        ("https://x/a,1.jpg https://x/b.jpg;//x/c.jpg", "|", ["https://x/a,1.jpg", "https://x/b.jpg", "//x/c.jpg"]),
        ([{"src": "a"}, {"url": "b"}, "c | d"], "|", ["a", "b", "c", "d"]),
        ("data:image/png;base64,AA|BB", ",", ["data:image/png;base64,AA|BB"]),
        ("no_selection", ",", []),
        (None, ",", []),
    ],
)
def test_lists_of_pictures(value, separator, expected):
    assert split_pictures(value, separator) == expected


def test_missing_values():
    for text in (" nan ", "NaN", "None", "NULL", "n/a", "#N/A", "-", "\u2014", "?", "NA", "", "(blank)"):
        assert is_missing_text(text), text
    for text in ("0", "-5", "Na", "na", "none of these", "unknown", "N/A yet", "no"):
        assert not is_missing_text(text), text


def test_nested_objects_become_one_level():
    row = {
        "id": 1,
        "price": {"amount": 9, "currency": "EUR"},
        "images": [{"src": "a.jpg", "alt": "A"}, {"src": "b.jpg"}],
        "image": {"url": "c.jpg", "width": 5},
        "brand": {"name": "Acme", "id": 3},
        "categories": [{"name": "Home"}, {"name": "Mugs"}],
        "specs": [{"name": "Size", "value": "M"}],
        "attributes": {"size": {"eu": 38}},
        "box": {"size": {"height": 3}, "price": {"amount": 1, "currency": "EUR", "tax": 2}},
        "offers": [{"name": "x", "stock": 1}],
        "box.size.height": 4,
    }
    assert flatten(row) == {
        "id": 1,
        "price": "9 EUR",
        "images": ["a.jpg", "b.jpg"],
        "images.all": row["images"],
        "image": "c.jpg",
        "image.width": 5,
        "brand": "Acme",
        "brand.id": 3,
        "categories": ["Home", "Mugs"],
        "specs": {"Size": "M"},
        "attributes": {"size": {"eu": 38}},
        "box.size.height": [3, 4],
        "box.price.amount": 1,
        "box.price.currency": "EUR",
        "box.price.tax": 2,
        "offers": [{"name": "x", "stock": 1}],
    }


def test_shopify_json_with_its_variants():
    record = {"id": 1, "title": "Shirt", "handle": "shirt", "body_html": "<p>Soft</p>", "tags": ["a", "b"]}
    record["variants"] = [
        {
            "id": 11,
            "option1": "S",
            "sku": "0071",
            "price": "9.00",
            "available": False,
            "featured_image": {"src": "s.jpg"},
        },
        {"id": 12, "option1": "M", "sku": "0072", "price": "8.00", "available": True, "featured_image": None},
    ]
    record |= {"images": [{"src": "2.jpg", "position": 2}, {"src": "1.jpg", "position": 1}]}
    record |= {"options": [{"name": "Size", "values": ["S", "M"]}], "vendor": "Acme"}
    rows = list(enumerate(flatten(row) for row in variant_rows(record)))
    assert detect(dict.fromkeys(column for _, row in rows for column in row)) == "shopify"
    (found,), _ = products(rows, "shopify")
    assert (found.price, found.in_stock, found.variants) == ("8.00", True, ["0071", "0072"])
    assert found.image == ["1.jpg", "2.jpg", "s.jpg"] and found.attributes == {"Tags": "a, b", "Size": "S, M"}
    assert found.extra["Variant id"] == "11 | 12"
    (small, medium), _ = products(rows, "shopify", variants="each")
    assert (small.in_stock, medium.in_stock, medium.brand) == (False, True, "Acme")
    plain = {"id": 1, "variants": "3"}
    assert variant_rows(plain) == [plain]


CELLS = ("", "N/A", "1,5", "<p>x &amp; y</p>", "a=b,c=d", "{", "[1, [2]]", '{"a": {"b": 1}}', "id:1", "variable", "-1")
CELLS += ("variation", "'0", "|", ",", ":", '"', "a:b:c,d", "active", None, 3, 2.5, True, float("nan"), ["x", None])
CELLS += (
    {"a": 1},
    [{"src": "x"}, "y"],
    "https://x/1.jpg,https://x/2.jpg",
    "sku=1,size=S|sku=2",
    "\x00",
    "1" * 400,
    "٣",
)


@pytest.mark.parametrize("variants", ["group", "each"])
@pytest.mark.parametrize("header", [SHOPIFY_OLD, SHOPIFY_NEW, WOO, WOO_GERMAN, MAGENTO, GOOGLE, ",".join(FIELDS)])
def test_any_cells_are_read_without_an_error(header, variants):
    columns, chance = next(csv.reader([header])), random.Random(1)
    mapped = dict(zip(FIELDS, FIELDS, strict=True)) if columns == list(FIELDS) else {}
    rows = [(i, {column: chance.choice(CELLS) for column in columns}) for i in range(120)]
    found, problems = products(rows, detect(columns), mapped, variants)
    for one in found:
        assert all(
            isinstance(text, str) for text in (one.id, one.title, one.price, one.group, *one.image, *one.variants)
        )
        assert all(isinstance(text, str) for pair in (*one.attributes.items(), *one.extra.items()) for text in pair)
    if variants == "each" and header in (SHOPIFY_OLD, SHOPIFY_NEW):
        ids = [one.id for one in found if one.id]
        assert len(ids) == len(set(ids))
    assert found or problems.dropped


def test_what_is_deeply_nested_stays_as_it_is():
    deep = row = {}
    for _ in range(900):
        deep["a"] = deep = {}
    ((name, value),) = flatten(row).items()
    assert name == ".".join("a" * 21) and isinstance(value, dict)


RSS = """<?xml version="1.0"?>
<rss xmlns:g="http://base.google.com/ns/1.0" version="2.0"><channel><title>Shop</title><link>https://x.example</link>
<item>
  <g:id>007</g:id><title>Plain</title><g:title>Red &amp; blue</g:title>
  <description><![CDATA[<p>Soft</p><p>Warm</p>]]></description>
  <g:image_link>a.jpg</g:image_link>
  <g:additional_image_link>b.jpg</g:additional_image_link><g:additional_image_link>c.jpg</g:additional_image_link>
  <g:availability>in_stock</g:availability><g:price>9.90 EUR</g:price>
  <g:shipping><g:country>DE</g:country><g:price>4 EUR</g:price></g:shipping>
  <g:product_detail><g:section_name>A</g:section_name><g:attribute_name>Width</g:attribute_name>
    <g:attribute_value>5 cm</g:attribute_value></g:product_detail>
  <g:product_detail><g:attribute_name>Width</g:attribute_name><g:attribute_value>6</g:attribute_value></g:product_detail>
</item>
<item><g:id>2</g:id><description><p>Soft <b>and</b></p><p>warm</p></description></item>
</channel></rss>
"""


def test_google_xml(tmp_path):
    path = tmp_path / "feed.xml.gz"
    path.write_bytes(gzip.compress(RSS.encode()))
    rows = list(xml_rows(path))
    assert [number for number, _ in rows] == [3, 14] and detect(rows[0][1]) == "google"
    (first, second), problems = products(rows, "google")
    assert (first.id, first.title, first.description) == ("007", "Red & blue", "Soft. Warm")
    assert first.image == ["a.jpg", "b.jpg", "c.jpg"] and first.in_stock and first.price == "9.90 EUR"
    assert first.attributes == {"Width": "5 cm, 6"}
    shipping = '{"country": "DE", "price": "4 EUR"}'
    assert first.extra == {"shipping": shipping, "feed.title": "Plain", "availability": "in_stock"}
    assert second.description == "Soft and. warm" and not problems.counts


def test_google_atom(tmp_path):
    path = tmp_path / "feed.xml"
    path.write_text(
        '<feed xmlns="http://www.w3.org/2005/Atom" xmlns:g="http://base.google.com/ns/1.0"><title>T</title>'
        '<entry><id>tag:x</id><g:id>5</g:id><title>Wool</title><link href="https://x.example/5"/>'
        "<summary>Warm</summary><g:image_link>5.jpg</g:image_link></entry></feed>",
        encoding="utf-16",
    )
    ((_, row),) = xml_rows(path)
    assert row == {"id": "5", "image_link": "5.jpg", "feed.id": "tag:x", "title": "Wool"} | {
        "link": "https://x.example/5",
        "description": "Warm",
    }


BOMB = '<!DOCTYPE x [<!ENTITY a "b"><!ENTITY c "&a;&a;">]>\n'


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (RSS.replace("</item>\n<item>", "\n<item>"), "line 15"),
        (RSS[:600], "damaged XML on line"),
        (RSS.replace("&amp;", "&"), "line 4"),
        (RSS.replace("<rss", f"{BOMB}<rss").replace("Soft", "&c;"), "line 2 has a DOCTYPE"),
        (RSS.replace("<rss", '<!DOCTYPE x [<!ENTITY a SYSTEM "file:///etc/passwd">]><rss'), "DOCTYPE"),
        ("<rss><channel></channel></rss>", "no <item>"),
        ("", "line 1"),
        ("id\ttitle\n1\tx\n", "line 1"),
        (RSS.replace('version="1.0"?>', 'version="1.0" encoding="klingon"?>', 1), "line 1"),
    ],
)  # fmt: skip
def test_xml_that_cant_be_used_is_refused_in_one_line(tmp_path, text, message):
    path = tmp_path / "feed.xml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match=message) as refused:
        list(xml_rows(path))
    assert "\n" not in str(refused.value) and str(path) in str(refused.value)


def test_memory_holds_a_group_and_not_the_file():
    row = dict.fromkeys(next(csv.reader([SHOPIFY_OLD])), "")

    def read():
        for i in range(4000):
            body = {"Title": "T", "Body (HTML)": "x" * 5000} if i % 4 == 0 else {}
            yield i, row | {"Handle": f"h{i // 4}", "Variant Price": "1", "Option1 Value": f"{i}"} | body

    tracemalloc.start()
    count = sum(1 for _ in feed_rows(read, "shopify", {}, "group", Table(name="x")))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert count == 1000 and peak < 2_000_000
