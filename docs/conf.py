"""Settings of Sphinx for these pages. ``make docs`` builds them and fails on every warning, a broken link among them."""

from __future__ import annotations

import sys
from pathlib import Path

import perfdoc

sys.path.insert(0, str(Path(__file__).parent))  # for rule_pages

project = "perfdoc"
version = release = perfdoc.__version__
html_title = "perfdoc"
extensions = ["myst_parser", "rule_pages"]
html_theme = "furo"
html_copy_source = False
html_show_copyright = False
myst_heading_anchors = 3
nitpicky = True
