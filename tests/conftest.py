"""Fixtures that every test may ask for."""

import sys
from pathlib import Path
from types import ModuleType

import pytest
from hypothesis import settings

settings.register_profile("any machine", deadline=None)  # how long an example takes is the machine's matter
settings.load_profile("any machine")

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
