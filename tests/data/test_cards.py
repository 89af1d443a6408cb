"""What a model card says about the data of the model."""

import pytest

from aga_model.data import find_card, says_rendered


@pytest.mark.parametrize(
    ("card", "expected"),
    [
        ("---\ntags:\n- other\n- rendered-data\n---\n", True),
        ("---\ntags: no rendered-data at all\n---\n", False),
        ("---\ntags: [unclosed\n---\n", False),
        ("---\nlicense: mit\n---\n", False),
        ("", False),
    ],
)
def test_only_a_list_with_the_tag_says_rendered(tmp_path, card, expected):
    (tmp_path / "README.md").write_text(card)
    assert find_card(str(tmp_path)) == tmp_path / "README.md"
    assert says_rendered(tmp_path / "README.md") is expected


def test_names_that_the_hub_refuses_have_no_card(tmp_path):
    assert find_card("not/a/repository") is None
    assert not says_rendered(None) and not says_rendered(tmp_path / "README.md")
