"""Sphinx configuration of the report and, with the tag "api", of the API reference inside it.

Nothing is loaded from another host, nothing is executed, no path of this machine is shown.
"""

from mdrepro.core.library_warnings import leave_out_grammars

leave_out_grammars()
_api = tags.has("api")  # type: ignore[name-defined]  # noqa: F821

project = "mdrepro"
extensions = ["mdrepro.reproduce.report.mathml"] if _api else ["myst_nb", "mdrepro.reproduce.report.mathml"]
html_math_renderer = "mathml"
default_role = "py:obj" if _api else None
add_module_names = False
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 100
nb_execution_mode = "off"
nb_merge_streams = True
nb_ipywidgets_js: dict[str, dict[str, str]] = {}
myst_enable_extensions = ["dollarmath", "amsmath"]
suppress_warnings = ["myst.header", "ref.python"]  # ref.python: a name of several objects in a docstring

html_theme = "furo"
html_title = "mdrepro API" if _api else "mdrepro"
templates_path = ["sidebars"]
html_context = {"api": _api}
_around = ("brand", "search", "scroll-start", "navigation"), ("scroll-end",)
_before, _after = ([f"sidebar/{name}.html" for name in names] for names in _around)
html_sidebars = {"**": [*_before, "crosslink.html", *_after]}
html_static_path = ["static"]
html_css_files = ["mdrepro.css"]
html_js_files = [("mdrepro.js", {"defer": "defer"})]
html_copy_source = False
html_show_sourcelink = False
html_show_search_summary = False
html_use_index = False
html_domain_indices = False
html_show_copyright = False
pygments_style = "friendly"
pygments_dark_style = "github-dark"
_mono = "ui-monospace, SFMono-Regular, Menlo, Consolas, 'Liberation Mono', monospace"
_light = {"font-stack--monospace": _mono, "color-brand-primary": "#0b5cad", "color-brand-content": "#0b5cad"}
_dark = {"color-brand-primary": "#7db7f5", "color-brand-content": "#7db7f5"}
html_theme_options = {
    "light_css_variables": _light,
    "dark_css_variables": _dark,
    "top_of_page_buttons": [],
    "navigation_with_keys": True,
}
