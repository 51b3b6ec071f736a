"""A probe package of treatments that do nothing: whatever a scan claims about them is a false alarm."""
