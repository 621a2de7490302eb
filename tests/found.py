"""Reads what the doctor found."""

from whet.doctor.finding import Finding
from whet.doctor.look import Diagnosis


def named(found: Diagnosis, name: str) -> Finding:
    """The finding of that name, whole."""
    hits = [finding for finding in found.findings if finding.name == name]
    assert hits, [finding.name for finding in found.findings]
    assert hits[0].place
    assert hits[0].why
    assert hits[0].remedy
    return hits[0]


def alarms(found: Diagnosis) -> list[Finding]:
    """What is more than a note."""
    return [finding for finding in found.findings if finding.severity != "note"]
