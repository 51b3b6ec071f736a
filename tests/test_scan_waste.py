"""A script that wastes work in three ways, scanned: each is measured beside its loop, at the line where it comes from."""

from __future__ import annotations

from collections.abc import Callable

from conftest import Scanned

Scan = Callable[..., Scanned]


def test_what_a_script_wastes_is_measured_at_its_lines(scan: Scan) -> None:
    """Padding, samples fetched one by one, a table of which few rows are used: told with their lines, and nothing is broken."""
    scanned = scan("wasteful.py", budget=6)
    assert scanned.code == 0, scanned.err
    capture = scanned.capture
    found = {entry["metric"]: entry for entry in capture["measurements"] if "samples" in entry}
    assert found["padding.share"]["conditions"]["site"] == "wasteful.py:12"
    assert 0.7 < found["padding.share"]["samples"][0] < 0.9
    assert found["padding.longest"]["samples"][0] <= 11
    assert found["embedding.rows_used"]["conditions"]["site"] == "wasteful.py:20"
    assert 0 < found["embedding.rows_used"]["samples"][0] < 0.01
    assert found["batch.one_by_one"]["conditions"]["batch_size"] == 16
    offers = {offer["slug"]: offer["status"] for offer in capture["offers"]}
    assert {offers[slug] for slug in ("whole_batches", "trimmed_padding")} == {"offered"}
    assert not {"whole_batches=on", "trimmed_padding=longest"} & set(capture["experiment"]["failed"])
    assert scanned.events("probe_failed") == []
