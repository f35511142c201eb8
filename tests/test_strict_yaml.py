"""The file of parameters as text: each key once, a size that a person reads, and one line for whatever is wrong."""

from __future__ import annotations

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from ssimbad import strict_yaml
from ssimbad.errors import ParameterError
from ssimbad.params import tree as params


def complaint(text: str) -> str:
    with pytest.raises(ParameterError) as caught:
        strict_yaml.parse(text, "params.yaml")
    assert caught.value.code == 2
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith("params.yaml")
    return str(caught.value)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("seed: 1\nseed: 2\n", "line 2: key seed is given twice, before in line 1"),
        ("data:\n  size: 64\n  seed: 0\n\n  size: 32\n", "line 5: key data.size is given twice, before in line 2"),
        ('a: 1\n"a": 1\n', "line 2: key a is given twice"),
        ("a: {b: 1, c: 2, b: 1}", "line 1: key a.b is given twice"),
        ("a:\n- b: 1\n- b: 1\n  c: 2\n  b: 3\n", "line 5: key a.1.b is given twice, before in line 3"),
        ("true: 1\nyes: 2\n", "line 2: key yes is given twice"),
        ("a: &a {x: 1}\nb:\n  <<: *a\n  <<: *a\n", "line 4: key b.<< is given twice"),
    ],
)
def test_a_key_given_twice_is_named_with_both_lines(text, said):
    assert said in complaint(text)


@given(st.lists(st.sampled_from("abcdefgh"), min_size=1, max_size=8), st.integers(0, 3))
def test_keys_are_refused_exactly_when_one_comes_twice(keys, depth):
    lines = [f"{'  ' * i}level{i}:" for i in range(depth)] + [f"{'  ' * depth}{k}: {i}" for i, k in enumerate(keys)]
    text = "\n".join(lines)
    if len(set(keys)) == len(keys):
        assert strict_yaml.parse(text, "params.yaml") == yaml.safe_load(text)
    else:
        assert "is given twice" in complaint(text)


def test_anchors_and_merge_keys_are_fine():
    text = "a: &a {x: 1, y: 2}\nb:\n  <<: *a\n  x: 3\nc: *a\nd: [*a, *a]\n"
    assert strict_yaml.parse(text, "params.yaml") == yaml.safe_load(text)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("data:\n\tsize: 64\n", "line 2: not valid YAML"),
        ("a: [1, 2\nb: 3\n", "line 2: not valid YAML"),
        ("a: b: c\n", "line 1: not valid YAML: mapping values are not allowed here"),
        ("a: 'open\n", "not valid YAML: while scanning a quoted scalar"),
        ("a: *nobody\n", "line 1: not valid YAML: found undefined alias 'nobody'"),
        ("a: 1\n---\na: 2\n", "line 2: not valid YAML: expected a single document"),
        ("a: !!python/object/apply:os.system [id]\n", "line 1: not valid YAML: could not determine a constructor"),
        ("a: 1\x07\n", "not valid YAML: unacceptable character"),
        ("a: 2026-13-01\n", "line 1: not valid YAML: a: '2026-13-01' is no timestamp: month must be in"),
        ("a:\n  b: !!bool maybe\n", "line 2: not valid YAML: a.b: 'maybe' is no bool"),
        ("a:\n- 1\n- !!int ''\n", "line 3: not valid YAML: a.1: '' is no int"),
        ("a: !!float ''\n", "line 1: not valid YAML: a: '' is no float"),
        ("a: !!timestamp x\n", "line 1: not valid YAML: a: 'x' is no timestamp"),
        ("!!timestamp x\n", "line 1: not valid YAML: 'x' is no timestamp"),
        ("a: 1\n!!bool maybe: 1\n", "line 2: not valid YAML: maybe: 'maybe' is no bool"),
        ("!!int '': 1\n", "line 1: not valid YAML: '' is no int"),
        ("a: {!!seq x: 1}\n", "line 1: not valid YAML: a.x: 'x' is no seq"),
        ("a: !!map x\n", "line 1: not valid YAML: a: 'x' is no map"),
        (f"a: 1{':1' * 300}.0\n", "is no float"),
        ('a: "\\ud800"\n', "line 1: not valid YAML: a: '\\ud800' is no str"),
        (f"a: {'9' * 5000}\n", "not valid YAML"),
        ("? [1]\n: 2\n", "line 1: the file has a key that is no word"),
        ("a: &a [1, *a]\n", "line 1: a.1 holds itself"),
        ("[" * 20_000, "too deep"),
        ("{a: " * 20_000, "too deep"),
    ],
)
def test_what_is_no_yaml_ends_in_one_line_that_says_where(text, said):
    assert said in complaint(text)


@given(st.text(alphabet=st.sampled_from("ab:-[]{}&*!|>'\"%@`#?,~<=0.\n\t \ufeff\x00é"), max_size=60))
def test_any_text_is_values_or_one_line(text):
    try:
        strict_yaml.parse(text, "params.yaml")
    except ParameterError as error:
        assert "\n" not in str(error)


TAGS = st.sampled_from(
    ["bool", "int", "float", "timestamp", "null", "str", "binary", "seq", "map", "set", "omap", "merge"]
)
WORDS = st.sampled_from(["", "x", "maybe", "yes", "1", "-", ".", "1:2", "0x", "0b", "1e", "2001-01-01", "é", "=", "<<"])


@given(TAGS, WORDS, st.sampled_from(["{}", "a: {}", "{}: a", "a: [1, {}]", "a: {{{}: 1}}"]))
def test_a_word_of_any_kind_is_a_value_or_one_line(tag, word, form):
    try:
        strict_yaml.parse(form.format(f"!!{tag} '{word}'"), "params.yaml")
    except ParameterError as error:
        assert "\n" not in str(error)
        assert str(error).startswith("params.yaml, line 1: ")


LEVELS = range(1, 12)
LISTS = "a0: &a0 [x]\n" + "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in LEVELS)
MERGES = "a0: &a0 {k: 1}\n" + "".join(f"a{i}: &a{i}\n  <<: [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in LEVELS)


@pytest.mark.parametrize("text", [LISTS, MERGES])
def test_aliases_that_unfold_into_billions_are_refused_before_they_do(text):
    assert "more than 100000 values" in complaint(text)


def test_a_file_of_parameters_may_have_a_byte_order_mark_and_the_line_ends_of_windows(house):
    text = (house / "params.yaml").read_text()
    before = params.load()
    (house / "params.yaml").write_bytes(b"\xef\xbb\xbf" + text.replace("\n", "\r\n").encode())
    assert params.load() == before


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("seed: é".encode("latin-1"), "not UTF-8 text (byte 6); save it as UTF-8"),
        ("seed: 1".encode("utf-16"), "not UTF-8 text (byte 0); save it as UTF-8"),
        (b"# " + b"x" * 100_000_000, "larger than 1 MiB"),
        (b"", "expected keys and values at the top"),
        (b"seed: 1\nseed: 2\n", "line 2: key seed is given twice"),
    ],
)
@pytest.mark.parametrize("name", ["params.yaml", "presets/mine.yaml"])
def test_a_file_that_is_none_of_parameters_is_one_line(house, monkeypatch, name, content, said):
    """A preset like the active file."""
    from typer.testing import CliRunner

    from ssimbad.cli import app

    (house / name).write_bytes(content)
    before = (house / "params.yaml").read_bytes()
    done = CliRunner().invoke(app, ["status"] if name == "params.yaml" else ["preset", "mine"])
    assert isinstance(done.exception, ParameterError)
    assert str(done.exception).startswith(name)
    assert said in str(done.exception)
    assert (house / "params.yaml").read_bytes() == before
