"""A Chromium, and a JupyterLab on the data that the notebooks' own tests left: shared by all tests with a browser."""

import pytest
from lab_pages import CHROMIUM, OpenNotebook, running_lab


@pytest.fixture(scope="session")
def playwright():
    """playwright, started; the test is skipped where it or a Chromium is absent."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: make setup")
    if CHROMIUM is None:
        pytest.skip("there is no chromium on the PATH: apt-get install chromium")
    with sync_api.sync_playwright() as started:
        yield started


@pytest.fixture(scope="session")
def chromium(playwright):
    """A Chromium without a microphone."""
    arguments = ["--no-sandbox", "--autoplay-policy=no-user-gesture-required"]
    started = playwright.chromium.launch(executable_path=CHROMIUM, args=arguments)
    yield started
    started.close()


@pytest.fixture(scope="session")
def lab_folder(tmp_path_factory):
    """Where JupyterLab runs; its notebooks are in `notebooks`."""
    return tmp_path_factory.mktemp("lab")


@pytest.fixture(scope="session")
def lab(playwright, workbook_data, lab_folder):
    """The address of a JupyterLab as `make lab` starts it."""
    with running_lab(lab_folder, workbook_data) as address:
        yield address


@pytest.fixture
def notebook(lab, chromium):
    """notebook(name, width=1280): that chapter, opened in JupyterLab; its kernel ends with the test."""
    opened = []

    def open_one(name, width=1280):
        page = chromium.new_page(viewport={"width": width, "height": 900})
        opened.append(OpenNotebook(page, lab, name))
        return opened[-1]

    yield open_one
    for each in opened:
        each.close()
