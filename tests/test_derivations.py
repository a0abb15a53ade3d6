"""docs/derivations.md: its formulas in what code hosts render, and the functions that it names."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "derivations.md").read_text(encoding="utf-8")
DISPLAYED = re.findall(r"^\$\$ (.*) \$\$$", PAGE, re.M)
TEXT = re.sub(r"^\$\$.*\$\$$", "", PAGE, flags=re.M)
INLINE = re.findall(r"\$([^$]*)\$", TEXT)
FORMULAS = [*DISPLAYED, *INLINE]
NAMES = re.findall(r"`([\w/]+\.py): ([\w.]+)`", PAGE)

# Commands that MathJax and KaTeX both have. GitHub's renderer refuses \operatorname and \require.
KNOWN = """
    Omega mu lambda alpha varphi sigma rho theta delta varepsilon pi partial infty ast top hat sqrt frac tfrac
    sum max min in ne le ge lt gt to times leftarrow langle rangle lVert rVert lvert rvert left right Bigl Bigr
    qquad quad mathrm begin end cr Sigma approx
"""


def test_there_are_formulas():
    assert len(DISPLAYED) >= 18
    assert len(INLINE) >= 80


@pytest.mark.parametrize("formula", FORMULAS)
def test_a_formula_is_one_that_code_hosts_render(formula):
    assert set(re.findall(r"\\([A-Za-z]+)", formula)) <= set(KNOWN.split())
    # Markdown unescapes a backslash before punctuation, and reads < as HTML and * as emphasis.
    assert not re.search(r"\\[^A-Za-z]", formula)
    assert not re.search(r"[<>*\n]", formula)
    assert formula.count("{") == formula.count("}")
    assert formula.count("(") == formula.count(")")
    assert len(re.findall(r"\\left\b", formula)) == len(re.findall(r"\\right\b", formula))
    assert len(re.findall(r"\\Bigl\b", formula)) == len(re.findall(r"\\Bigr\b", formula))
    assert re.findall(r"\\begin{(\w+)}", formula) == re.findall(r"\\end{(\w+)}", formula)


def test_dollars_stand_where_code_hosts_look_for_them():
    assert TEXT.count("$") % 2 == 0
    for line in TEXT.splitlines():
        assert line.count("$") % 2 == 0  # a formula broken over lines is not found everywhere
        for match in re.finditer(r"\$[^$]+\$", line):
            before, after = line[: match.start()][-1:], line[match.end() :][:1]
            assert not re.match(r"[\w$]", before)
            assert not re.match(r"[\w$]", after)
            assert match[0][1] != " "
            assert match[0][-2] != " "
    for line in PAGE.splitlines():
        assert "$$" not in line or re.fullmatch(r"\$\$ .* \$\$", line)
    assert not re.search(r"[^\n]\n\$\$", PAGE)
    assert not re.search(r"\$\$\n[^\n]", PAGE)


def test_every_displayed_equation_names_its_function():
    for text in re.split(r"^\$\$ .* \$\$$", PAGE, flags=re.M)[1:]:
        assert re.search(r"`[\w/]+\.py: [\w.]+`", text.split("\n#")[0]), text[:200]


@pytest.mark.parametrize(("path", "name"), sorted(set(NAMES)), ids=lambda value: value)
def test_a_function_that_is_named_exists(path, name):
    body = ast.parse((ROOT / path).read_text(encoding="utf-8")).body
    for part in name.split("."):
        found = [
            node for node in body if isinstance(node, ast.FunctionDef | ast.ClassDef) and node.name == part
        ]
        assert found, f"{path} has no {name}"
        body = found[0].body
