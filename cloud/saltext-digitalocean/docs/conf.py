"""Sphinx: ``nox -s docs``."""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "src"))

project = "saltext.digitalocean"
copyright = "see LICENSE"
extensions = ["myst_parser", "sphinx.ext.autodoc"]
root_doc = "index"
exclude_patterns = ["_build"]
# Documented without being run.
autodoc_mock_imports = ["pydo", "salt"]
html_theme = "furo"
# Of files that are included from beside this folder.
suppress_warnings = ["myst.xref_missing"]
