"""Decoders of encoded pictures, one a file (see ``perfdoc.core.decoder``); nothing else lists them."""
