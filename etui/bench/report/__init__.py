"""``report.html``: one self-contained page to look at a run, drawn as SVG and HTML."""
