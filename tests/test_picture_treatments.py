"""Pictures: decoders, scaled decoding and a cache, tried inside the user's own data set while the loop runs."""

from __future__ import annotations

import pytest


@pytest.mark.alone
def test_decoding_is_what_holds_the_step_back(scan):
    """Pictures of 2 megapixels for 64 pixels: scaled decoding and the cache help, the anatomy says decoding, files stay."""
    ran = scan("pictures.py", budget=24, options=("--only", "image_decoder,scaled_decode,cached_pictures", "--json"))
    assert ran.code == 0, ran.err
    findings = {finding["code"]: finding for finding in ran.found["findings"]}
    assert findings["PD108"]["verdict"] == "helps"
    assert findings["PD108"]["effect"]["low"] > 1.3
    assert any("million pixels are decoded" in line for line in findings["PD108"]["evidence"])
    assert findings["PD116"]["effect"]["speedup"] > 1.1
    assert "decode JPEGs with" in findings["PD107"]["fix"]
    # Neither changes what the plan may contain: one changes pixels, one takes memory.
    assert not {"scaled_decode", "cached_pictures"} & set(ran.capture["experiment"]["plan"])
    parts = {m["conditions"]["part"]: m for m in ran.capture["measurements"] if m["metric"] == "sample.part"}
    assert "decode" in parts
    assert len(list((ran.folder / "pictures").rglob("*.jpg"))) == 8
