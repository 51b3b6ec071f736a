"""How fast decoders of pictures are: measured outside of the user's process, and answered from the capture."""
