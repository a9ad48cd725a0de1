"""Sphinx: how the site is built. `make docs` builds it from a staged copy (generate/site.py)."""

project = "counter"
author = "the counter's operators"
project_copyright = "see LICENSE"
copyright = project_copyright

extensions = ["myst_parser"]
source_suffix = {".md": "markdown"}
root_doc = "index"
exclude_patterns = ["generate", "_build"]
# Every link that leads nowhere is a warning, and a warning ends the build.
nitpicky = True
myst_heading_anchors = 4
myst_enable_extensions = ["colon_fence", "deflist"]

# A dash in `--option` is a dash.
smartquotes = False

html_theme = "furo"
html_title = "counter"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_show_sphinx = False
html_copy_source = False
html_last_updated_fmt = None
# A block that does not say what it is, is not guessed to be Python.
highlight_language = "none"
# Readable colours on both backgrounds; everything else is the theme's.
pygments_style = "a11y-high-contrast-light"
pygments_dark_style = "a11y-high-contrast-dark"
html_theme_options = {
    "navigation_with_keys": True,
    "light_css_variables": {"color-brand-primary": "#0550ae", "color-brand-content": "#0550ae"},
    "dark_css_variables": {"color-brand-primary": "#79c0ff", "color-brand-content": "#79c0ff"},
}
