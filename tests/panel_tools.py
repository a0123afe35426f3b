"""What the tests of the panels share: one thread, waiting, and reading the status line."""

import re

import pytest
import torch


@pytest.fixture(scope="module", autouse=True)
def one_core():
    """Networks this tiny gain nothing from threads, which wait for each other on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def done(panel):
    """The panel, once everything asked for is shown."""
    assert panel.wait(300), "the panel is still at work"
    return panel


def text_of(panel):
    """The status line without its tags."""
    return re.sub("<[^>]*>", "", panel.status.value)
