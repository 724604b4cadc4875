# `make run` on a clean clone is all that is needed; `make help` lists the rest.

CORPUS ?= demo
READY  := .venv/.ready
VENV   := .venv/bin/python
PIP    := $(VENV) -m pip install -qq --disable-pip-version-check --no-input -c constraints.txt
export CORPUS

.DEFAULT_GOAL := help
.PHONY: help setup run book test bench lab moved

# In this order; the other files of tests/benchmarks are what these share, or answer another kind of question.
BENCHMARKS := imports demo_speech trials episodes distances masks on_the_fly frames nine_cells training_step float32_step extraction scale_figure

help:
	@echo "make run      set up once, make the demo corpus, execute the notebooks, print the tables"
	@echo "make run CORPUS=<name or folder>"
	@echo "              the same on speech of your own"
	@echo "make book     the same, and the executed notebooks as HTML pages with an index: data/book/<corpus>/index.html"
	@echo "make lab      set up once, open JupyterLab at the first notebook"
	@echo "make test     set up once, run all tests"
	@echo "make bench    set up once, measure how fast it is beside what is published and what is possible,"
	@echo "              and write figures/benchmarks.md (half an hour on two idle cores)"
	@echo "make setup    the set-up alone: .venv with the versions of constraints.txt, about 2 GB"
	@echo
	@echo "After the set-up, '.venv/bin/speakerlib --help' shows the single steps,"
	@echo "and '.venv/bin/speakerlib doctor' says what is wrong and what to do about it."

run: $(READY)
	@.venv/bin/speakerlib workbook --corpus "$$CORPUS"

book: run
	@.venv/bin/speakerlib book --corpus "$$CORPUS"

test: $(READY)
	@$(VENV) -m pytest -n 2

bench: $(READY)
	@for name in $(BENCHMARKS); do $(VENV) tests/benchmarks/$$name.py $(BENCH_OPTIONS) || exit 1; done

# Only this machine can reach the server, and only with the token in the printed address. The settings keep JupyterLab
# from asking the network for a newer one, and the reader for news, in a window that would lie over the pictures.
lab: $(READY)
	@$(VENV) -m jupyterlab --ip=127.0.0.1 $(if $(filter 0,$(shell id -u)),--allow-root) --LabApp.app_settings_dir='$(CURDIR)/notebooks/.lab' notebooks/00_start_here.ipynb

setup: $(READY)

# A virtual environment holds its own path: after a move or a copy of the folder it is made afresh.
ifneq ($(shell cat $(READY) 2>/dev/null),$(CURDIR))
$(READY): moved
endif

# Each step can be interrupted and repeated; the stamp is written when all of them are done.
$(READY): constraints.txt pyproject.toml
	@.venv/bin/pip --version 2>/dev/null | grep -qF "$(CURDIR)/.venv/" || { \
	    for python in $(or $(PYTHON),python3.11 python3 python); do \
	        $$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && break; \
	        seen="$$seen, $$($$python --version 2>&1 | head -n 1)"; python=; \
	    done; \
	    if [ -z "$$python" ]; then \
	        echo "Set-up needs Python 3.11 or newer; found none (seen: $${seen#, })." >&2; \
	        echo "Install Python 3.11, or name one: make PYTHON=/path/to/python3.11 $(MAKECMDGOALS)" >&2; \
	        exit 1; \
	    fi; \
	    echo "Set-up 1/4: a Python environment in .venv, with $$($$python --version)"; \
	    $$python -m venv --clear .venv; \
	}
	@echo "Set-up 2/4: PyTorch (the largest download; a minute or more)"
	@$(PIP) torch torchaudio
	@echo "Set-up 3/4: JupyterLab and the other packages (a minute or two)"
	@$(PIP) -e ".[demo,onnx,test]"
	@echo "Set-up 4/4: torchaudio"
	@$(VENV) -m speakerlib.setup_torchaudio
	@echo "$(CURDIR)" > $@
