"""Tables of results as HTML: all that is in them, nothing that runs from a cell, readable without a script."""

import re
from html.parser import HTMLParser

import pandas as pd

from speakerlib.views.result_table import result_table


class Cells(HTMLParser):
    """The rows of a page's tables as texts, and the heads' scopes."""

    def __init__(self, text):
        super().__init__()
        self.rows, self.scopes, self._open = [], [], False
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        if tag == "tr":
            self.rows.append([])
        self._open = tag in ("td", "th")
        if self._open:
            self.rows[-1].append("")
            self.scopes.append(dict(attributes).get("scope"))

    def handle_data(self, data):
        if self._open and self.rows:
            self.rows[-1][-1] += data

    def handle_endtag(self, tag):
        self._open = False


def test_every_level_of_the_index_is_a_column_of_heads():
    index = pd.MultiIndex.from_product([["recorded", "changed"], ["cosine"]], names=["condition", "scoring"])
    shown = result_table(pd.DataFrame({"EER": ["1.0 (0.5 to 2.0)", None]}, index=index), "Errors & <more>").data
    found = Cells(shown.partition("<script>")[0])
    assert found.rows == [["condition", "scoring", "EER"], ["recorded", "cosine", "1.0 (0.5 to 2.0)"],
                          ["changed", "cosine", ""]]
    assert found.scopes == ["col"] * 3 + ["row", "row", None] * 2 and "Errors &amp; &lt;more&gt;</caption>" in shown


def test_an_index_without_a_name_is_left_out_and_text_stays_text():
    shown = result_table(pd.DataFrame({"<script>": ["</table><script>alert(1)</script>"]})).data
    assert Cells(shown.partition("<script>")[0]).rows == [["<script>"], ["</table><script>alert(1)</script>"]]
    assert shown.count("<script>") == 1 and "<caption" not in shown


def test_the_script_needs_nothing_from_elsewhere_and_finds_its_own_table():
    one, other = (result_table(pd.DataFrame({"a": [text]})).data for text in "xy")
    script = one.partition("<script>")[2]
    assert "TABLE_ID" not in script and not re.search(r"https?:|src=|import ", script) and len(script) < 5000
    name = re.search(r'<div id="([^"]+)">', one)[1]
    assert script.count(f'"{name}"') == 2 and name not in other  # the same table has the same name in every run
