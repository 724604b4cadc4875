"""Fixtures that every test may ask for."""

import os
import sys
from pathlib import Path
from types import ModuleType

import pytest
from hypothesis import settings

if "PYTEST_XDIST_WORKER" in os.environ:  # one of several processes: two threads each on two cores mostly wait
    os.environ.setdefault("OMP_NUM_THREADS", "1")
settings.register_profile("any machine", deadline=None)  # how long an example takes is the machine's matter
settings.load_profile("any machine")

CHAPTERS = ("tests/test_notebooks.py", "tests/test_workbook.py", "tests/browser/")
SO762 = Path(__file__).resolve().parents[2] / "shared" / "data" / "so762"


@pytest.fixture
def data_folder(tmp_path, monkeypatch):
    """An empty data folder of the test's own."""
    monkeypatch.setenv("SPEAKERLIB_DATA", str(tmp_path / "data"))
    return tmp_path / "data"


@pytest.fixture(scope="session")
def workbook_data(tmp_path_factory):
    """The data folder of the notebooks' tests; those with a browser come after them and find their runs."""
    return tmp_path_factory.mktemp("workbook") / "data"


@pytest.fixture(scope="session")
def so762():
    """The folder of real speech; the test is skipped where it is absent."""
    if not (SO762 / "speech").is_dir():
        pytest.skip(f"real speech is not at hand: {SO762} is absent")
    return SO762


@pytest.fixture
def pretend(monkeypatch):
    """Puts functions in place of a module's: pretend("speakerlib.x", f=...)."""
    def put(name, **functions):
        module = ModuleType(name)
        module.__dict__.update(functions)
        monkeypatch.setitem(sys.modules, name, module)
    return put


def pytest_collection_modifyitems(items):
    """Fast tests first, those with a browser last."""
    items.sort(key=lambda item: (item.get_closest_marker("slow") is not None, "browser" in item.path.parts))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """For two processes: the chapters, and the browser on their runs, in one; all else in the other; each in order."""
    from xdist.scheduler import LoadScopeScheduling

    class TwoChains(LoadScopeScheduling):
        def _split_scope(self, nodeid):
            return nodeid.startswith(CHAPTERS)

    return TwoChains(config, log)


def pytest_terminal_summary(terminalreporter):
    """What tests measured."""
    for report in terminalreporter.stats.get("passed", ()):
        for name, value in report.user_properties:
            terminalreporter.write_line(f"{name}: {value}")
