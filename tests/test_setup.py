"""The set-up: one set of versions for pip and conda users, the Makefile's promises, and torchaudio's repair."""

import os
import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from speakerlib.setup_torchaudio import import_error, mend_torchaudio

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def pins():
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if line and line[0] != "#"]
    requirements = [Requirement(line) for line in lines]
    return {canonicalize_name(requirement.name): requirement for requirement in requirements}


def declared():
    lists = [PROJECT["dependencies"], *PROJECT["optional-dependencies"].values()]
    return [Requirement(line) for lines in lists for line in lines]


def test_every_constraint_is_one_exact_version_without_a_build_of_its_own():
    for requirement in pins().values():
        assert re.fullmatch(r"==\d[\w.]*", str(requirement.specifier)), requirement  # no ranges, no 2.13.0+cpu


def test_every_dependency_is_pinned_and_the_two_files_agree():
    assert len(declared()) > 20
    for requirement in declared():
        pin = pins()[canonicalize_name(requirement.name)]
        assert requirement.specifier.contains(str(pin.specifier).removeprefix("==")), f"{requirement} against {pin}"


def test_torch_is_exact_even_without_the_constraints():
    exact = {requirement.name: str(requirement.specifier) for requirement in declared()}
    assert exact["torch"].startswith("==") and exact["torchaudio"].startswith("==")


def test_conda_users_get_the_same_versions():
    """environment.yml must add nothing to what make installs: the same constraints, the same extras."""
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    conda = [package for package in environment["dependencies"] if isinstance(package, str)]
    (pip,) = [package["pip"] for package in environment["dependencies"] if isinstance(package, dict)]
    assert conda == ["python=3.11", "pip"]
    assert Requirement(f"python{PROJECT['requires-python']}").specifier.contains("3.11")
    makefile = (ROOT / "Makefile").read_text()
    (extras,) = re.findall(r'\$\(PIP\) -e "\.\[(.+?)\]"', makefile)
    assert "-c constraints.txt" in makefile
    assert pip == ["-c constraints.txt", f"-e .[{extras}]"]
    assert set(extras.split(",")) == set(PROJECT["optional-dependencies"])


def test_citation_names_both_works():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == PROJECT["version"] and citation["license"] == PROJECT["license"]
    first_authors = [work["authors"][0]["family-names"] for work in citation["references"]]
    assert first_authors == ["Boccio", "Kye"]


# --- the Makefile, with a pretended Python that writes down what it is asked to do ---

PRETENDED_PYTHON = """#!/bin/sh
echo "python $*" >> "$RECORD"
case "$*" in
  --version) echo "Python $VERSION" ;;
  "-c import sys"*) case "$VERSION" in 3.9*) exit 1 ;; esac ;;
  "-m venv --clear .venv")
    mkdir -p .venv/bin
    cp "$0" .venv/bin/python
    printf '#!/bin/sh\\necho "pip from %s/.venv/lib"\\n' "$PWD" > .venv/bin/pip
    printf '#!/bin/sh\\necho "speakerlib $*" >> "$RECORD"\\n' > .venv/bin/speakerlib
    chmod +x .venv/bin/* ;;
  "-m pip"*) exit ${PIP_STATUS:-0} ;;
esac
"""


class Clone:
    """A copy of what the set-up reads, and a PATH on which every Python is the pretended one."""

    def __init__(self, folder):
        self.folder, self.record = folder / "a clone", folder / "record"
        self.folder.mkdir()
        for name in ("Makefile", "constraints.txt", "pyproject.toml"):
            shutil.copy(ROOT / name, self.folder)
        (folder / "bin").mkdir()
        for name in ("python3.11", "python3", "python"):
            (folder / "bin" / name).write_text(PRETENDED_PYTHON)
            (folder / "bin" / name).chmod(0o755)
        self.path = f"{folder / 'bin'}:/usr/bin:/bin"

    def make(self, *arguments, version="3.11.7", **environment):
        """(exit status, all that was printed, the commands that were run)."""
        self.record.write_text("")
        environment |= {"PATH": self.path, "RECORD": str(self.record), "VERSION": version}
        done = subprocess.run(["make", *arguments], cwd=self.folder, env=environment, check=False,
                              capture_output=True, text=True)
        return done.returncode, done.stdout + done.stderr, self.record.read_text().splitlines()


@pytest.fixture
def clone(tmp_path):
    if shutil.which("make", path="/usr/bin:/bin") is None:
        pytest.skip("make is not installed")
    return Clone(tmp_path)


def test_make_run_sets_up_with_the_constraints_and_then_runs(clone):
    status, said, ran = clone.make("run", "CORPUS=my speech")
    assert status == 0, said
    installs = [line for line in ran if "-m pip install" in line]
    assert len(installs) == 2 and all("-c constraints.txt" in line for line in installs)
    assert "python -m speakerlib.setup_torchaudio" in ran
    assert ran[-1] == "speakerlib workbook --corpus my speech"
    assert all(f"Set-up {step}/4" in said for step in (1, 2, 3, 4))


def test_set_up_is_done_once_and_again_when_the_versions_change(clone):
    clone.make("setup")
    assert clone.make("run")[2] == ["speakerlib workbook --corpus demo"]
    changed = clone.folder / "constraints.txt"
    os.utime(changed, (changed.stat().st_atime, changed.stat().st_mtime + 3600))
    ran = clone.make("setup")[2]
    assert any("pip install" in line for line in ran)
    assert not any("venv" in line for line in ran)  # what is installed is kept


def test_a_failed_install_is_not_taken_for_a_finished_one(clone):
    status, _, ran = clone.make("run", PIP_STATUS="1")
    assert status != 0 and not any("speakerlib workbook" in line for line in ran)
    status, _, ran = clone.make("run")
    assert status == 0 and ran[-1] == "speakerlib workbook --corpus demo"


def test_a_moved_clone_is_set_up_afresh(clone):
    clone.make("setup")
    clone.folder = clone.folder.rename(clone.folder.with_name("moved"))
    assert "python -m venv --clear .venv" in clone.make("setup")[2]
    assert clone.make("setup")[2] == []


def test_an_old_python_is_named_with_what_to_do(clone):
    status, said, _ = clone.make("run", version="3.9.2")
    assert status != 0
    assert "Python 3.11 or newer" in said and "seen: Python 3.9.2" in said and "make PYTHON=" in said
    assert not (clone.folder / ".venv").exists()


def test_help_names_every_target_that_a_person_calls(clone):
    status, said, ran = clone.make()
    assert status == 0 and ran == []
    (phony,) = re.findall(r"^\.PHONY: (.+)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    for target in set(phony.split()) - {"help", "moved"}:
        assert f"make {target} " in said


# --- torchaudio's repair, on a pretended site-packages ---

PRETENDED_TORCHAUDIO = """
from pathlib import Path
if {broken}:
    try:
        raise OSError("libc10_cuda.so: cannot open shared object file")
    except OSError as error:
        raise OSError("Could not load this library") from error
"""
NEEDS_CUDA = 'list((Path(__file__).parent / "lib").glob("_torchaudio*.so"))'


@pytest.fixture
def pretended(tmp_path):
    def make(broken):
        folder = tmp_path / "site packages" / "torchaudio"
        (folder / "lib").mkdir(parents=True)
        (folder / "__init__.py").write_text(PRETENDED_TORCHAUDIO.format(broken=broken))
        for name in ("_torchaudio.abi3.so", "libtorchaudio.abi3.so"):
            (folder / "lib" / name).write_bytes(name.encode())
        return folder
    return make


def libraries(folder):
    return {path.name: path.read_bytes() for path in (folder / "lib").iterdir()}


def test_an_extension_for_cuda_is_set_aside_once(pretended):
    folder = pretended(NEEDS_CUDA)
    assert "libc10_cuda.so" in import_error(folder)  # the cause, not what wraps it
    said = mend_torchaudio(folder)
    assert "libc10_cuda.so" in said and "_torchaudio.abi3.so" in said
    assert import_error(folder) is None
    assert libraries(folder) == {"_torchaudio.abi3.so.set-aside": b"_torchaudio.abi3.so",
                                 "libtorchaudio.abi3.so": b"libtorchaudio.abi3.so"}
    before = libraries(folder)
    assert "nothing to do" in mend_torchaudio(folder)
    assert libraries(folder) == before


def test_a_torchaudio_that_imports_is_left_alone(pretended):
    folder = pretended("False")
    before = libraries(folder)
    assert "nothing to do" in mend_torchaudio(folder)
    assert libraries(folder) == before


def test_another_fault_is_reported_and_nothing_is_changed(pretended):
    folder = pretended("True")
    before = libraries(folder)
    with pytest.raises(RuntimeError, match="not the reason"):
        mend_torchaudio(folder)
    assert libraries(folder) == before


def test_torchaudio_imports_here():
    """What the set-up promises, in the Python that runs the tests."""
    import torchaudio

    assert import_error(Path(torchaudio.__file__).parent) is None
