"""Edits, one treatment a file (see ``perfdoc.patch.edit``); nothing else lists them."""
