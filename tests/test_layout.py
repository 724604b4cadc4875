"""The package's shape: imports run one way, modules stay readable in one sitting."""

import ast

import pytest

from speakerlib.data.files import project_folder

PACKAGE = project_folder() / "speakerlib"
MAY_IMPORT = {
    "data": {"data"},
    "models": {"models"},
    "experiments": {"experiments", "data", "models"},
    "views": {"views", "experiments", "data", "models"},
}
MODULES = sorted(PACKAGE.rglob("*.py"))


def imported(path):
    """The parts of speakerlib that a module imports, anywhere in it."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            above = path.relative_to(PACKAGE.parent).parts[: -node.level] if node.level else ()
            names = [".".join([*above, node.module or ""]).strip(".")]
        else:
            continue
        yield from (name.split(".")[1] for name in names if name.startswith("speakerlib."))


@pytest.mark.parametrize("part", MAY_IMPORT)
def test_imports_run_one_way(part):
    modules = [path for path in MODULES if path.relative_to(PACKAGE).parts[0] == part]
    assert len(modules) > 2
    for path in modules:
        assert set(imported(path)) <= MAY_IMPORT[part], path.name


def test_a_module_fits_in_one_sitting():
    for path in MODULES:
        text = path.read_text(encoding="utf-8")
        assert len(text.splitlines()) <= 300, path.name
        assert not text or ast.get_docstring(ast.parse(text)), f"{path.name} does not say what it is for"
