"""JupyterLab as `make lab` starts it, and what a person does with a notebook in it, for the tests with a browser."""

import json
import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from urllib.error import URLError
from urllib.request import urlopen

from speakerlib.data.files import project_folder

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
TOKEN = "made-up"
WAIT = 60_000  # ms for what takes a moment
LONGEST = 600_000  # ms for a whole notebook: a bound on hangs alone


def lab_command():
    """The command of `make lab`, its Python by an absolute path."""
    said = subprocess.run(["make", "-n", "lab"], cwd=project_folder(), capture_output=True, text=True, check=True)
    (line,) = [line for line in said.stdout.splitlines() if "-m jupyterlab" in line]
    return [sys.executable, *shlex.split(line)[1:]]


@contextmanager
def running_lab(folder, data, command=None):
    """Yields the address of a JupyterLab on copies of the notebooks in `folder`, with `data` as its data folder."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shutil.copytree(project_folder() / "notebooks", folder / "notebooks", dirs_exist_ok=True)
    own = {name: str(folder / name.lower()) for name in ("JUPYTER_CONFIG_DIR", "JUPYTER_RUNTIME_DIR",
                                                         "JUPYTER_DATA_DIR", "IPYTHONDIR")}
    environment = {**os.environ, **own, "JUPYTER_TOKEN": TOKEN, "SPEAKERLIB_DATA": str(data), "HOME": str(folder),
                   "PYTHONPATH": os.pathsep.join([str(project_folder()), str(project_folder() / "tests")])}
    more = ["--no-browser", f"--port={port}", "--ServerApp.port_retries=0", "--LabApp.expose_app_in_browser=True"]
    with open(folder / "lab.log", "w") as log:
        server = subprocess.Popen([*(command or lab_command()), *more], cwd=folder, env=environment, stdout=log,
                                  stderr=log)
    address, until = f"http://127.0.0.1:{port}", time.monotonic() + 120
    try:
        while True:
            try:
                urlopen(f"{address}/api?token={TOKEN}", timeout=5).close()
                break
            except (URLError, OSError):
                assert server.poll() is None and time.monotonic() < until, (folder / "lab.log").read_text()
                time.sleep(0.2)
        yield address
    finally:
        server.terminate()
        server.wait(60)


def write_notebook(folder, name, source):
    """Puts a notebook with one cell beside the chapters of the JupyterLab in `folder`; returns its path."""
    import nbformat

    kernel = {"name": "python3", "language": "python", "display_name": "Python 3"}
    path = folder / "notebooks" / f"{name}.ipynb"
    nbformat.write(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source)],
                                            metadata={"kernelspec": kernel}), path)
    return path


class OpenNotebook:
    """A notebook in a page of JupyterLab. errors: what the page's console said of errors."""

    def __init__(self, page, address, name):
        self.page, self.name, self.errors = page, name, []
        page.on("console", lambda message: self.errors.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.goto(f"{address}/lab/tree/{name}.ipynb?token={TOKEN}&reset", timeout=2 * WAIT)
        self.ready()

    def ready(self):
        """Waits until the notebook is there and its kernel answers."""
        page = self.page
        page.wait_for_function("() => window.jupyterapp && jupyterapp.shell.currentWidget?.sessionContext",
                               timeout=2 * WAIT)
        page.evaluate("""async () => { const panel = jupyterapp.shell.currentWidget;
            await panel.context.ready; await panel.sessionContext.ready; }""")
        page.locator(".jp-Notebook .jp-Cell").first.wait_for(timeout=WAIT)

    def command(self, name, wait=True, **arguments):
        """Does what the menu's entry of that name does."""
        body = f"jupyterapp.commands.execute({json.dumps(name)}, {json.dumps(arguments)})"
        return self.page.evaluate(f"async () => {{ await {body}; }}" if wait else f"() => {{ {body}; }}")

    def run_all(self, wait=True):
        """Runs all cells; `finished` waits for them."""
        self.command("notebook:run-all-cells", wait=False)
        if wait:
            self.finished()

    def finished(self, timeout=LONGEST):
        """Waits until no cell waits or runs."""
        self.page.wait_for_function("""() => { const cells = jupyterapp.shell.currentWidget.content.widgets;
            return cells.every((each) => !(each.promptNode?.textContent || "").includes("*"))
                && cells.some((each) => each.model.executionCount); }""", timeout=timeout, polling=300)

    def cells(self):
        """The cells as they would be saved."""
        return self.page.evaluate("() => jupyterapp.shell.currentWidget.model.toJSON().cells")

    def outputs(self):
        """[(number of the cell, output)] of all code cells."""
        return [(number, output) for number, cell in enumerate(self.cells()) for output in cell.get("outputs", ())]

    def find(self, text):
        """The number of the one cell whose source has this text."""
        (number,) = [number for number, cell in enumerate(self.cells()) if text in "".join(cell["source"])]
        return number

    def show(self, number):
        """Scrolls to a cell and returns its locator."""
        self.page.evaluate("""async (number) => { const notebook = jupyterapp.shell.currentWidget.content;
            notebook.activeCellIndex = number; await notebook.scrollToItem(number, "start"); }""", number)
        cell = self.page.locator(f'.jp-Notebook .jp-Cell[data-windowed-list-index="{number}"]')
        cell.wait_for(timeout=WAIT)
        return cell

    def set_parameters(self, **values):
        """Writes other values into the parameters cell."""
        (number,) = [number for number, cell in enumerate(self.cells())
                     if "parameters" in cell["metadata"].get("tags", ())]
        source = "".join(self.cells()[number]["source"])
        for name, value in values.items():
            source, count = re.subn(rf"(?m)^{name} = \S+", f"{name} = {value!r}", source)
            assert count == 1, name
        self.page.evaluate("""([number, source]) => jupyterapp.shell.currentWidget.content.widgets[number]
            .model.sharedModel.setSource(source)""", [number, source])

    def save(self):
        """Saves the notebook."""
        self.command("docmanager:save")

    def close(self):
        """Ends the kernel and the page."""
        self.page.evaluate("async () => { await jupyterapp.shell.currentWidget.sessionContext.shutdown(); }")
        self.page.close()
