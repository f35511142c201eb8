"""What is said of somebody else's exceptions."""

import pytest

from ssimbad.errors import first_line, there


@pytest.mark.parametrize(
    ("said", "line"), [("", "ValueError"), ("\n", "ValueError"), ("one\ntwo", "one"), ("\n one\ntwo", "one")]
)
def test_the_first_line_of_an_exception_that_may_say_nothing(said, line):
    assert first_line(ValueError(said)) == line


@pytest.mark.parametrize("thing", [0, "", [], False])
def test_what_is_sure_to_be_there_is_handed_on_whatever_it_is(thing):
    assert there(thing) is thing


def test_what_is_not_there_after_all_is_a_mistake_in_the_program():
    with pytest.raises(ValueError, match="None"):
        there(None)
