"""What the tests of the panels share: waiting, and reading the status line."""

import re


def done(panel):
    """The panel, once everything asked for is shown."""
    assert panel.wait(300), "the panel is still at work"
    return panel


def text_of(panel):
    """The status line without its tags."""
    return re.sub("<[^>]*>", "", panel.status.value)
