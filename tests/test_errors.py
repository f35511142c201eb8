"""What is said of somebody else's exceptions."""

import pytest

from ssimbad.errors import first_line


@pytest.mark.parametrize(
    ("said", "line"), [("", "ValueError"), ("\n", "ValueError"), ("one\ntwo", "one"), ("\n one\ntwo", "one")]
)
def test_the_first_line_of_an_exception_that_may_say_nothing(said, line):
    assert first_line(ValueError(said)) == line
