"""Links of README and docs/ lead to files and folders of the repository, and to headings there."""

import re

import pytest
from documentation import PAGES, ROOT

_LINK = re.compile(r"\]\((?!https?:)([^)#\s]*)(?:#([^)\s]*))?\)")
_HEADING = re.compile(r"^#+ (.*)$", re.MULTILINE)


def anchors_of(content: str) -> set[str]:
    """Returns the anchors of the headings, as GitHub and mkdocs make them of plain words."""
    plain = (re.sub(r"[^\w\s-]", "", heading.lower()) for heading in _HEADING.findall(content))
    return {re.sub(r"\s+", "-", words.strip()) for words in plain}


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: str) -> None:
    for path, anchor in _LINK.findall((ROOT / page).read_text()):
        target = (ROOT / page).parent / path if path else ROOT / page
        assert target.exists(), f"{page}: there is no {path}"
        if anchor:
            assert anchor in anchors_of(target.read_text()), f"{page}: {path} has no #{anchor}"


def test_an_anchor_is_made_of_the_words_of_a_heading() -> None:
    assert anchors_of("# How sure: images\n\n## `ossa val`, and AP\n") == {
        "how-sure-images",
        "ossa-val-and-ap",
    }
