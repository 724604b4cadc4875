"""Tables of results in Chromium: a click or a key sorts, a button copies; without scripts they are read as they are."""

import pandas as pd
import pytest
from lab_pages import WAIT, write_notebook

from speakerlib.views.result_table import result_table

CELLS = {"5-way 1-shot": ["76.1 ± 0.3", "not run", "9.4 ± 0.4"], "note": ["b|c", "a <b>", "-1.5 (-2.0 to +1.0)"]}
TABLE = pd.DataFrame(CELLS, index=pd.Index(["10-way", "3-way", "5-way"], name="cell"))
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def open_table(chromium, tmp_path_factory):
    """open_table(scripts): a page from the file system with the table on it twice."""
    path = tmp_path_factory.mktemp("page") / "table.html"
    shown = result_table(TABLE, "a caption").data
    path.write_text(f"<!doctype html><meta charset='utf-8'>{shown}{shown}<textarea></textarea>", encoding="utf-8")

    def open_page(scripts=True):
        page = chromium.new_context(java_script_enabled=scripts).new_page()
        page.goto(path.as_uri())
        return page

    return open_page


def order(page, table=0):
    rows = page.locator("table").nth(table).locator("tbody th")
    return [rows.nth(each).text_content() for each in range(rows.count())]


def test_a_head_sorts_by_numbers_and_by_names_and_back_again(open_table):
    page = open_table()
    head = page.get_by_role("button", name="5-way 1-shot").first
    head.click()
    assert order(page) == ["5-way", "10-way", "3-way"]  # 9.4, 76.1, and what was not run
    assert head.locator("..").get_attribute("aria-sort") == "ascending"
    head.click()
    assert order(page)[1:] == ["10-way", "5-way"]
    head.click()
    assert order(page) == list(TABLE.index) and order(page, 1) == list(TABLE.index)
    head.focus()
    page.keyboard.press("Shift+Tab")
    page.keyboard.press("Enter")  # on the head to the left, of names
    assert order(page) == ["3-way", "5-way", "10-way"]
    page.get_by_role("button", name="cell").nth(1).press("Space")
    assert order(page, 1) == ["3-way", "5-way", "10-way"]  # the second table has buttons of its own


@pytest.mark.parametrize("name, copied", [
    ("TSV", "cell\t5-way 1-shot\tnote\n10-way\t76.1 ± 0.3\tb|c\n3-way\tnot run\ta <b>\n"
            "5-way\t9.4 ± 0.4\t-1.5 (-2.0 to +1.0)"),
    ("Markdown", "| cell | 5-way 1-shot | note |\n| --- | --- | --- |\n| 10-way | 76.1 ± 0.3 | b\\|c |\n"
                 "| 3-way | not run | a <b> |\n| 5-way | 9.4 ± 0.4 | -1.5 (-2.0 to +1.0) |"),
])
def test_a_button_copies_what_is_seen(open_table, name, copied):
    page = open_table()
    page.get_by_role("button", name=f"Copy as {name}").first.click()
    page.get_by_text(f"3 rows copied as {name}").wait_for()
    page.locator("textarea").last.focus()
    page.keyboard.press("Control+v")
    assert page.locator("textarea").last.input_value().rstrip("\n") == copied


def test_without_scripts_there_is_a_table_and_no_dead_button(open_table):
    page = open_table(scripts=False)
    assert page.get_by_role("button").count() == 0 and order(page) == list(TABLE.index)
    assert page.get_by_role("columnheader").count() == 6 and page.get_by_text("a caption").count() == 2


def test_in_jupyterlab_keys_are_the_tables(notebook, lab, lab_folder):
    write_notebook(lab_folder, "table", f"import pandas as pd\nfrom speakerlib.views.result_table import result_table\n"
                   f"result_table(pd.DataFrame({CELLS!r}, index=pd.Index({list(TABLE.index)}, name='cell')))")
    opened = notebook("table")
    opened.run_all()
    page, cells = opened.page, len(opened.cells())
    page.locator(".jp-Notebook .jp-InputArea").first.click()
    page.keyboard.press("Escape")
    page.get_by_role("button", name="cell", exact=True).press("Enter")
    assert order(page) == ["3-way", "5-way", "10-way"]
    page.get_by_role("button", name="5-way 1-shot").press("Space")
    assert order(page) == ["5-way", "10-way", "3-way"]
    page.get_by_role("button", name="Copy as TSV").press("Enter")
    page.get_by_text("3 rows copied as TSV").wait_for(timeout=WAIT)
    assert page.evaluate("jupyterapp.shell.currentWidget.content.mode") == "command" and len(opened.cells()) == cells
