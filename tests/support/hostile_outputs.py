"""Outputs of a notebook that would run or load something, in every media type that a page is made from."""

from typing import Any

import nbformat

HOST = "https://elsewhere.example"  # a line of what is printed may be long
# ruff: noqa: E501
RAN = "window.mdreproRan = true"
SVG = f"""<?xml version="1.0"?><?xml-stylesheet href="{HOST}/a.css"?>
<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" viewBox="0 0 9 9" onload="{RAN}">
<style>@import url({HOST}/b.css); rect {{ fill: url({HOST}/c.svg#x) }}</style><script>{RAN}</script>
<defs><linearGradient id="ours"/></defs><rect width="9" height="9" fill="url(#ours)" onclick="{RAN}"/>
<rect width="9" height="9" style="fill: url({HOST}/d.svg#x)"/><circle r="3" fill="url({HOST}/e.svg#x)"/>
<image xlink:href="{HOST}/f.png"/><use href="{HOST}/g.svg#x"/><a xlink:href="javascript:{RAN}"><text>label</text></a>
<foreignObject><iframe src="{HOST}/h"></iframe></foreignObject><animate attributeName="href" values="{HOST}/i"/>
<set attributeName="onclick" to="{RAN}"/></svg>"""
HTML = f"""<style scoped>@import "{HOST}/j.css"; .dataframe td {{ background: url({HOST}/k.png) }}</style>
<table border="1" class="dataframe"><tr style="text-align: right; background: url({HOST}/l.png)"><td>860</td></tr></table>
<script>{RAN}</script><script src="{HOST}/m.js"></script><img src="x" onerror="{RAN}"><img src="{HOST}/n.png">
<img srcset="{HOST}/o.png 1x"><img src="data:image/svg+xml,<svg onload='{RAN}'>"><img src=" //elsewhere.example/p.png">
<iframe src="{HOST}/q" srcdoc="<script>{RAN}</script>"></iframe><object data="{HOST}/r"></object><embed src="{HOST}/s">
<link rel="stylesheet" href="{HOST}/t.css"><meta http-equiv="refresh" content="0;url={HOST}/u"><base href="{HOST}/">
<a href="javascript:{RAN}">one</a><a href="java&#10;script:{RAN}">two</a><video src="{HOST}/v" poster="{HOST}/w"></video>
<form action="{HOST}/x"><button formaction="javascript:{RAN}" autofocus onfocus="{RAN}">go</button></form>
<body background="{HOST}/y.png" onload="{RAN}"><details open ontoggle="{RAN}">more</details><math><mtext><table><mglyph>
<style><img src=x onerror="{RAN}"></style></mglyph></table></mtext></math><noscript><p title="</noscript><img src=x onerror={RAN}>">
<div style="list-style: url({HOST}/z.png); background-image: image-set('{HOST}/z' 1x); border-color: red">end</div>"""
MARKDOWN = f"""**bold** ![picture]({HOST}/1.png) [link](javascript:{RAN}) <script>{RAN}</script> <img src=x onerror="{RAN}">

<iframe src="{HOST}/2"></iframe>

[![badge][b]]({HOST}/followed)

[b]: {HOST}/3.svg
"""
LATEX = f"$$\\text{{<script>{RAN}</script>}} \\href{{javascript:{RAN}}}{{x}} \\includegraphics{{{HOST}/4.png}}$$"
TEXT = f"<script>{RAN}</script><img src={HOST}/5.png>"
BUNDLES: dict[str, dict[str, Any]] = {
    "html": {"text/html": HTML, "text/plain": TEXT},
    "html in lines": {"text/html": HTML.splitlines(keepends=True)},
    "svg": {"image/svg+xml": SVG, "text/plain": TEXT},
    "markdown": {"text/markdown": MARKDOWN},
    "latex": {"text/latex": LATEX},
    "javascript": {"application/javascript": RAN, "text/plain": TEXT},
    "javascript alone": {"text/javascript": RAN},
    "widget": {"application/vnd.jupyter.widget-view+json": {"model_id": f"</script><script>{RAN}</script>"}},
    "pdf": {"application/pdf": "JVBERi0xLjQK"},
    "json": {"application/vnd.plotly.v1+json": {"data": HOST}, "application/json": {"a": HOST}},
}


def cell() -> nbformat.NotebookNode:
    """One executed cell that printed all of it, in streams and a traceback too."""
    kinds = ("display_data", "execute_result")
    outputs = [nbformat.v4.new_output(kinds[n % 2], data=data) for n, data in enumerate(BUNDLES.values())]
    outputs += [nbformat.v4.new_output("stream", name=name, text=TEXT) for name in ("stdout", "stderr")]
    outputs.append(nbformat.v4.new_output("error", ename="E", evalue=TEXT, traceback=[TEXT]))
    return nbformat.v4.new_code_cell("show()", execution_count=2, outputs=outputs)
