from __future__ import annotations

import pytest
from mutations.__main__ import ROOT, Mutation, read


@pytest.mark.parametrize("mutation", read(), ids=lambda mutation: mutation.id)
def test_a_mutation_can_be_made(mutation: Mutation):
    """Its line is still there, once, and so are its tests; whether they notice takes a minute each to say."""
    assert (ROOT / mutation.file).read_text().count(mutation.old) == 1
    assert mutation.old != mutation.new
    assert mutation.tests
    assert all((ROOT / test).is_file() for test in mutation.tests)
