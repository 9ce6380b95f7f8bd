"""Sphinx configuration of the report: nothing from another host, nothing executed, no machine's paths."""

project = "mdrepro"
author = "mdrepro maintainers"
extensions = ["myst_nb", "mdrepro.reproduce.report.mathml"]
html_math_renderer = "mathml"
nb_execution_mode = "off"
nb_merge_streams = True
nb_ipywidgets_js: dict[str, dict[str, str]] = {}
myst_enable_extensions = ["dollarmath", "amsmath"]
suppress_warnings = ["myst.header"]

html_theme = "furo"
html_title = "mdrepro"
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
