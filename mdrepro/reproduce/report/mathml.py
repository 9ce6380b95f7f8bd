"""A Sphinx extension that writes formulas as MathML, so that no page needs a script from another host."""

import html
from typing import TYPE_CHECKING

from docutils import nodes
from docutils.utils.math import MathError
from docutils.utils.math.latex2mathml import tex2mathml

if TYPE_CHECKING:
    from sphinx.application import Sphinx
    from sphinx.writers.html5 import HTML5Translator


def render(tex: str, *, block: bool) -> str:
    """``tex`` as MathML; as code where it uses a command that has no MathML translation."""
    try:
        return tex2mathml(tex, as_block=block)
    except (MathError, SyntaxError):
        return f"<code>{html.escape(tex)}</code>"


def _write(writer: "HTML5Translator", node: nodes.math | nodes.math_block) -> None:
    tag = "div" if (block := isinstance(node, nodes.math_block)) else "span"
    writer.body.append(f'<{tag} class="math">{render(node.astext(), block=block)}</{tag}>')
    raise nodes.SkipNode


def setup(app: "Sphinx") -> dict[str, bool]:
    """Register the renderer "mathml"."""
    app.add_html_math_renderer("mathml", (_write, None), (_write, None))
    return {"parallel_read_safe": True, "parallel_write_safe": True}
