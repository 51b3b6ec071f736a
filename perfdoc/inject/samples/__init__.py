"""Single samples and steps, watched closely: who made them, how long each part took, what memory they keep."""
