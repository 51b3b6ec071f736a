"""A gate's verdict as JUnit XML, which CI servers show beside a project's tests."""

from __future__ import annotations

import xml.etree.ElementTree as ET

from perfdoc.compare.gate import Verdict

SUITE = "perfdoc gate"


def render(verdict: Verdict, seconds: float) -> str:
    """A regression is a failure, what could not be decided is skipped. ``seconds``: what the gate took."""
    suite = ET.Element("testsuite", name=SUITE, tests=str(len(verdict.checks)), time=f"{seconds:.1f}",
                       failures=str(sum(c.decision == "regression" for c in verdict.checks)),
                       skipped=str(sum(c.decision == "undecided" for c in verdict.checks)), errors="0")
    for check in verdict.checks:
        case = ET.SubElement(suite, "testcase", classname=SUITE, name=check.name)
        if check.decision == "regression":
            ET.SubElement(case, "failure", message=check.said)
        elif check.decision == "undecided":
            ET.SubElement(case, "skipped", message=check.said)
        else:
            ET.SubElement(case, "system-out").text = check.said
    return _text(suite)


def failed(message: str) -> str:
    """For a script that could not be measured."""
    suite = ET.Element("testsuite", name=SUITE, tests="1", failures="0", skipped="0", errors="1")
    case = ET.SubElement(suite, "testcase", classname=SUITE, name="step time")
    ET.SubElement(case, "error", message=message.splitlines()[0]).text = message
    return _text(suite)


def _text(suite: ET.Element) -> str:
    return ET.tostring(suite, encoding="unicode", xml_declaration=True) + "\n"
