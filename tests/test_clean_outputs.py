"""The judge of executed notebooks sees what a reader would see, and only that."""

import nbformat
import pytest
from clean_outputs import unclean
from nbformat.v4 import new_code_cell, new_notebook, new_output


@pytest.mark.parametrize("output", [
    new_output("error", ename="ValueError", evalue="x", traceback=[]),
    new_output("stream", name="stderr", text="anything"),
    new_output("stream", name="stdout", text="ok\nUserWarning: no"),
    new_output("stream", name="stdout", text="{'a': 1}"),
    new_output("execute_result", {"text/plain": "{'a': 1}"}),
    new_output("execute_result", {"text/plain": "<Run at 0x7f>"}),
    new_output("execute_result", {"text/plain": "Empty DataFrame\nColumns: [a]", "text/html": "<table>"}),
])
def test_an_output_that_is_not_for_readers_is_named(tmp_path, output):
    good = [new_output("stream", name="stdout", text="3 speakers"),
            new_output("display_data", {"text/plain": "<Figure size>", "image/png": "x"})]
    cells = [new_code_cell("# first\nprint()", outputs=good), new_code_cell("second()", outputs=[*good, output])]
    nbformat.write(new_notebook(cells=cells), tmp_path / "a.ipynb")
    assert [line for line, _ in unclean(tmp_path / "a.ipynb")] == ["second()"]
