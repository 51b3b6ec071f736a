"""From a plan to a patch of the user's source: one file in ``edits`` for each treatment that can be written as code."""
