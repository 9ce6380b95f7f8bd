"""Outputs of executed notebooks, without what would run or load anything in the report.

A notebook prints what its libraries give it: HTML with scripts, pictures from another host, widgets. A page of the
report is opened from the file system and sent around, so it shows text, tables, pictures and formulas alone. Text
that was printed as text stays text; markdown cells are the notebook's source, and stay.
"""

import re
from collections.abc import Mapping
from typing import Any

RASTER = ("image/png", "image/jpeg", "image/gif")
KEPT = ("text/plain", "text/latex", *RASTER)  # shown as escaped text, as MathML, and by <img>
CLEANED = ("text/html", "image/svg+xml", "text/markdown")  # the first of them that shows anything

_BLOCKS = "p div span br hr pre blockquote ul ol li dl dt dd details summary figure figcaption h1 h2 h3 h4 h5 h6"
_INLINE = "a abbr b strong i em u s del ins small sub sup code kbd samp var q cite mark"
_TABLES = "table caption colgroup col thead tbody tfoot tr th td img"
_SVG = (
    "svg g defs title desc path rect circle ellipse line polyline polygon text tspan use clipPath mask pattern "
    "marker linearGradient radialGradient stop symbol"
)
_EVERYWHERE = "class title style dir lang align valign"
_SHAPES = (
    "id d x y x1 y1 x2 y2 cx cy r rx ry dx dy fx fy width height points transform viewBox preserveAspectRatio "
    "offset version fill fill-opacity fill-rule stroke stroke-width stroke-opacity stroke-linecap "
    "stroke-linejoin stroke-dasharray stroke-dashoffset stroke-miterlimit opacity clip-path clip-rule "
    "clipPathUnits mask marker-start marker-mid marker-end markerWidth markerHeight refX refY orient "
    "gradientUnits gradientTransform patternUnits patternTransform spreadMethod stop-color stop-opacity "
    "font-family font-size font-style font-weight text-anchor dominant-baseline href color display"
)
_STYLES = (
    "background-color border border-bottom border-collapse border-color border-left border-right border-style "
    "border-top border-width color display fill fill-opacity fill-rule font-family font-size font-style "
    "font-variant font-weight line-height margin max-width opacity padding stroke stroke-dasharray "
    "stroke-dashoffset stroke-linecap stroke-linejoin stroke-miterlimit stroke-opacity stroke-width text-align "
    "text-anchor text-decoration vertical-align white-space width"
)
_ATTRIBUTES = {"a": "href name", "img": "src alt width height", "table": "border", "ol": "start type", "abbr": "title"}
_ATTRIBUTES |= dict.fromkeys(("td", "th"), "colspan rowspan scope headers abbr width") | dict.fromkeys(("col",), "span")


def _attribute(tag: str, name: str, value: str) -> str | None:
    """The value as it is kept; None where it would be loaded, or lead elsewhere than a link that is followed."""
    text = value.strip().lower()
    if name == "src":
        return value if text.startswith(tuple(f"data:{kind};base64," for kind in (*RASTER, "image/webp"))) else None
    if name == "href" and tag == "a":
        return value if text.startswith(("http://", "https://", "mailto:", "#")) else None
    if name == "href":
        return value if text.startswith("#") else None
    bare = text.replace(" ", "").replace('"', "").replace("'", "")  # url(#gradient) is in the same picture
    foreign = bare.count("url(") != bare.count("url(#") or "\\" in bare or "image(" in bare or "image-set(" in bare
    return None if foreign and name not in ("title", "alt") else value


def clean(markup: str) -> str:
    """HTML or SVG that neither runs nor loads anything: tags, attributes and styles of a list, by nh3 (Ammonia).

    Pictures in it are ``data:`` URLs of raster images, references are to the same fragment, links wait for a click.
    Scripts and style sheets go with what they hold; of other tags what they hold stays.
    """
    import nh3

    shapes = set(_SVG.split())
    attributes = {"*": set(_EVERYWHERE.split())} | {tag: set(names.split()) for tag, names in _ATTRIBUTES.items()}
    attributes |= {tag: set(_SHAPES.split()) for tag in shapes}
    return nh3.clean(
        markup,
        tags=set(f"{_BLOCKS} {_INLINE} {_TABLES}".split()) | shapes,
        clean_content_tags={"script", "style", "iframe", "object", "noscript", "template", "foreignObject"},
        attributes=attributes,
        attribute_filter=_attribute,
        url_schemes={"http", "https", "mailto", "data"},
        filter_style_properties=set(_STYLES.split()),
    )


def _html(kind: str, text: str) -> str:
    """One representation as clean HTML; "" where nothing is left that a reader sees."""
    if kind == "text/markdown":
        from markdown_it import MarkdownIt

        text = MarkdownIt("commonmark").enable("table").render(text)
    markup = clean(text)
    seen = re.search(r"<(img|path|rect|circle|use)\b", markup) or re.sub(r"<[^>]*>", "", markup).strip()
    return markup if seen else ""


def _data(data: Mapping[str, Any]) -> dict[str, Any]:
    """One output's representations by their media types: those that can do no harm, and one of the cleaned ones."""
    joined = {kind: "".join(value) if isinstance(value, list) else value for kind, value in data.items()}
    texts = {kind: value for kind, value in joined.items() if isinstance(value, str)}
    kept = {kind: value for kind, value in texts.items() if kind in KEPT}
    cleaned = (_html(kind, texts[kind]) for kind in CLEANED if kind in texts)
    if markup := next(filter(None, cleaned), ""):
        kept["text/html"] = markup
    if not kept:
        kept["text/plain"] = f"[left out of the report: {', '.join(sorted(joined))}]"
    return kept


def harmless(notebook: dict[str, Any]) -> dict[str, Any]:
    """The notebook, as JSON of nbformat 4, with its outputs made harmless in place; streams and tracebacks are text."""
    for cell in notebook["cells"]:
        for output in cell.get("outputs", ()):
            if "data" in output:
                output["data"] = _data(output["data"])
    return notebook
