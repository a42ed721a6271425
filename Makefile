# Each target sets up what it needs. `make notebooks` and `make test` are the two that most people want.

PYTHON ?= python3
VERSION := $(word 2,$(shell $(PYTHON) -V))
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready-$(VERSION)
COLAB := .venv-colab
COLAB_READY := $(COLAB)/.ready
DATA := data/.complete
NOTEBOOKS := FashionMNIST_PyTorch.ipynb FashionMNIST_TensorFlow.ipynb

PIP_INSTALL := -m pip install --quiet --disable-pip-version-check
FETCH := $(BIN)/python -c "import fmnist_utils; fmnist_utils.load_fashion_mnist('data')"
# A kernel warns of connections that are not encrypted. Here they are.
RUN := $(BIN)/jupyter nbconvert --log-level ERROR --to notebook --inplace \
	--KernelManager.transport_encryption=auto
# Two tests or notebooks run side by side, each with half of the cores.
HALF_OF_THE_CORES = $(shell $(PYTHON) -c "import os; print(max(1, os.cpu_count() // 2))")
test validate: export OMP_NUM_THREADS = $(HALF_OF_THE_CORES)
test validate: export TF_NUM_INTRAOP_THREADS = $(HALF_OF_THE_CORES)
# With half of the cores a full training may take longer than nbval's 2,000 s for a cell.
NBVAL = $(BIN)/pytest -x --nbval --nbval-current-env --nbval-cell-timeout 7200 \
	--numprocesses 2 --dist loadfile -p no:cacheprovider build/nbval/*/*.ipynb

.PHONY: notebooks test validate colab-test browser-test lab colab seeds minutes exercises labels format clean

## notebooks: run both notebooks in full, in place; write the models, their metrics and the tables
notebooks: $(READY) $(DATA)
	for notebook in $(NOTEBOOKS); do \
		$(RUN) --execute --ExecutePreprocessor.record_timing=False $$notebook || exit 1; \
		$(RUN) --coalesce-streams $$notebook || exit 1; \
	done
	rm -r models/pytorch models/tensorflow
	cp -R exported/pytorch exported/tensorflow models
	$(BIN)/python -m tools.update_tables
	$(BIN)/python -m tools.try_page

## test: lint, unit tests, and both notebooks with two epochs
test: $(READY) $(DATA)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/check-jsonschema --quiet --builtin-schema vendor.github-workflows .github/workflows/*.yml
	$(BIN)/pytest --ignore tests/browser --ignore tests/colab --numprocesses 2
	$(BIN)/python -m tests.copy_notebooks build/nbval EPOCHS=2
	$(NBVAL)

## validate: both notebooks with the full number of epochs, before a release
validate: $(READY) $(DATA)
	$(BIN)/python -m tests.copy_notebooks build/nbval
	$(NBVAL)

## colab-test: both notebooks with one epoch in the versions that Colab has
colab-test: $(READY) $(COLAB_READY) $(DATA)
	$(BIN)/pytest tests/colab

## browser-test: both notebooks in JupyterLab, and the quiz docs/try.html, in a real Chromium
browser-test: $(READY) $(DATA)
	$(BIN)/python $(PIP_INSTALL) -r tests/browser/requirements.txt -c constraints.txt
	$(BIN)/pytest tests/browser

## lab: open JupyterLab here
lab: $(READY) $(DATA)
	$(BIN)/jupyter lab $(if $(filter 0,$(shell id -u)),--allow-root)

## colab: write the address REPO=owner/name into the notebooks and README.md, with links to Colab
colab: $(READY)
	$(BIN)/python -m tools.set_colab_address "$(REPO)"

## seeds: both notebooks in full with five seeds each; what differs is chance
seeds: $(READY) $(DATA)
	$(BIN)/python -m benchmarks.seeds
	$(BIN)/python -m tools.update_tables

## minutes: accuracy against minutes, beside well-known tutorials; hours on a quiet machine
minutes: $(READY) $(DATA)
	$(BIN)/python -m benchmarks.minutes
	$(BIN)/python -m tools.update_tables

## exercises: what comes out of the exercises at the end of the notebooks
exercises: $(READY) $(DATA)
	$(BIN)/python -m benchmarks.exercises
	$(BIN)/python -m tools.update_tables

## labels: which labels of the data may be wrong
labels: $(READY) $(DATA)
	$(BIN)/python -m benchmarks.labels --workers 2
	$(BIN)/python -m benchmarks.split
	$(BIN)/python -m tools.update_tables
	$(BIN)/python -m tools.try_page

## format: bring the code and the notebooks into shape
format: $(READY)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

## clean: remove what the other targets made, except for the results
clean:
	rm -rf $(VENV) $(COLAB) data build exported .pytest_cache .ruff_cache

$(READY): requirements.txt tests/requirements.txt benchmarks/requirements.txt constraints.txt
	@case "$(VERSION)" in 3.11.*|3.12.*|3.13.*) ;; *) \
		echo "This needs Python 3.11 to 3.13, and $(PYTHON) is $(VERSION)." >&2; exit 1;; \
	esac
	[ "$$($(BIN)/python -V 2> /dev/null)" = "Python $(VERSION)" ] || $(PYTHON) -m venv --clear $(VENV)
	$(BIN)/python $(PIP_INSTALL) \
		-r requirements.txt -r tests/requirements.txt -r benchmarks/requirements.txt -c constraints.txt
	touch $@

$(COLAB_READY): tests/colab.txt
	PYENV_VERSION=3.13 python3.13 -m venv --clear $(COLAB) || { \
		echo "There is no Python 3.13, which Colab has; $(PYTHON) stands in for it." && \
		$(PYTHON) -m venv --clear $(COLAB); \
	}
	$(COLAB)/bin/python $(PIP_INSTALL) -r tests/colab.txt
	$(COLAB)/bin/python -m pip freeze > $@

# Where no mirror answers, Debian's package brings the data, without being installed.
$(DATA): | $(READY)
	$(FETCH) 2> /dev/null || { $(MAKE) --no-print-directory debian-package && $(FETCH); }
	touch $@

.PHONY: debian-package
debian-package:
	@echo "No mirror answers; taking the data from Debian's package dataset-fashion-mnist."
	mkdir -p data
	cd data && { apt-get download dataset-fashion-mnist || \
		{ apt-get update && apt-get download dataset-fashion-mnist; }; }
	dpkg-deb --fsys-tarfile data/dataset-fashion-mnist_*.deb | \
		tar --extract --directory data --strip-components 5 --wildcards '*/fashion-mnist/*.gz'
	rm data/dataset-fashion-mnist_*.deb
