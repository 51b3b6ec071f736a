"""Decoders of encoded pictures, one a file (see ``perfdoc.decoder``); nothing else lists them."""
