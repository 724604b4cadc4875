"""The executed workbook as HTML: pages that need no network and no kernel, linked with each other."""

import base64
import re
from types import SimpleNamespace

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from speakerlib.cli import main
from speakerlib.experiments import book

PICTURE = base64.b64encode(b"\x89PNG\r\n\x1a\n made up").decode()
STEPS = (("05_protonet_training", {"num_support": 1}), ("05_protonet_training", {"num_support": 5}),
         ("08_result_tables", {}))


@pytest.fixture
def executed(data_folder, monkeypatch):
    """Three made-up executed chapters of corpus `voices`."""
    def place(notebook, parameters):
        folder = data_folder / "runs" / notebook / f"{notebook}-{parameters.get('num_support', 'tables')}"
        return notebook, parameters, folder

    for notebook, parameters in STEPS:
        folder = place(notebook, parameters)[2]
        folder.mkdir(parents=True)
        cells = [
            new_markdown_cell(f"# {notebook[:2]} · A title\n\n**What it shows.** A <b>first</b> paragraph. **Needs** x."
                              "\n\n← [08 Result tables](08_result_tables.ipynb) · [05](05_protonet_training.ipynb)"),
            new_markdown_cell("The loss is $L = -\\log p_y$, `a $b$ c`, and costs 5 $ or 6 $.\n$$\\frac{a}{b}$$"),
            new_code_cell("draw()", outputs=[
                new_output("display_data", {"image/png": PICTURE, "text/plain": "<Figure>"}),
                new_output("display_data", {book.WIDGET: {}, "text/plain": "training:   0%|          | 0/600"}),
                new_output("display_data", {book.WIDGET: {}, "text/plain": "HBox(children=(VBox(children=(IntSlider"}),
            ]),
        ]
        nbformat.write(new_notebook(cells=cells, metadata={"widgets": {"state": {}}}), folder / "executed.ipynb")
    monkeypatch.setattr(book, "STEPS", STEPS)
    monkeypatch.setattr(book, "place_of", place)
    monkeypatch.setattr(book, "is_done", lambda notebook, folder: (folder / "executed.ipynb").exists())
    monkeypatch.setattr(book, "find_corpus", lambda corpus: SimpleNamespace(name="voices", synthetic=True))
    return data_folder


def test_the_book_is_read_without_a_network_or_a_kernel(executed, capsys):
    assert main(["book", "--corpus", "voices"]) == 0
    folder = executed / "book" / "voices"
    assert str(folder / "index.html") in capsys.readouterr().out
    pages = {path.name: path.read_text(encoding="utf-8") for path in folder.iterdir()}
    assert sorted(pages) == ["05_protonet_training.html", "05_protonet_training_num_support-1.html",
                             "08_result_tables.html", "index.html"]
    page = pages["05_protonet_training.html"]
    for text in pages.values():
        assert not re.search(r"<(script|link|img|iframe)[^>]+(src|href)=[\"']?(https?:)?//", text)
    assert PICTURE in page and book.WIDGET not in page and "0/600" not in page
    assert page.count("JupyterLab shows sliders") == 1 and "IntSlider" not in page
    assert page.count("<math") == 2 and 'display="block"' in page and "a $b$ c" in page
    assert "<mfrac><mrow><mi>a</mi></mrow><mrow><mi>b</mi></mrow></mfrac>" in page  # still one in the other
    assert 'href="08_result_tables.html"' in page and ".ipynb" not in page


def test_the_index_has_every_chapter_with_its_first_words_and_picture(executed, tmp_path):
    index = book.write_book("voices", tmp_path / "book").read_text(encoding="utf-8")
    assert "executed on voices (synthetic speech)</h1>" in index
    targets = re.findall(r'<a href="([^"]+)"><h2>([^<]+)</h2>', index)
    assert targets == [("05_protonet_training.html", "05 · A title"),
                       ("05_protonet_training_num_support-1.html", "05 · A title (num_support = 1)"),
                       ("08_result_tables.html", "08 · A title")]
    assert all((tmp_path / "book" / target).exists() for target, _ in targets)
    assert index.count("<p>A &lt;b&gt;first&lt;/b&gt; paragraph.</p>") == 3 and index.count(PICTURE) == 3


def test_a_chapter_that_was_not_executed_is_named_before_anything_is_written(executed, tmp_path):
    (executed / "runs/08_result_tables/08_result_tables-tables/executed.ipynb").unlink()
    with pytest.raises(FileNotFoundError, match="08_result_tables was not executed yet on 'voices'. First: make run"):
        book.write_book("voices", tmp_path / "book")
    assert not (tmp_path / "book").exists()
