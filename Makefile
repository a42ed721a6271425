# Each target sets up what it needs. `make notebooks` and `make test` are the two that most people want.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
OLDEST := .venv-oldest
OLDEST_READY := $(OLDEST)/.ready
COLAB := .venv-colab
COLAB_READY := $(COLAB)/.ready
DATA := data/FashionMNIST/raw/.complete
NOTEBOOKS := FashionMNIST_PyTorch.ipynb FashionMNIST_TensorFlow.ipynb

FETCH := $(BIN)/python -c "import fmnist_utils; print(fmnist_utils.fetch_fashion_mnist('data'))"
RUN := $(BIN)/jupyter nbconvert --log-level ERROR --to notebook --inplace
# The notebooks run side by side, each with half of the cores: on the whole that is faster than one after the other.
HALF_OF_THE_CORES = $(shell $(PYTHON) -c "import os; print(max(1, os.cpu_count() // 2))")
# $(1) is the environment's folder of programs. Training without bfloat16 takes longer than nbval's 2,000 s for a cell.
NBVAL = OMP_NUM_THREADS=$(HALF_OF_THE_CORES) TF_NUM_INTRAOP_THREADS=$(HALF_OF_THE_CORES) \
	$(1)/pytest -x --nbval --nbval-current-env --nbval-cell-timeout 7200 --numprocesses 2 --dist loadfile \
	-p no:cacheprovider

.PHONY: notebooks test validate slow-test colab-test browser-test lab colab seeds benchmark exercises format clean

## notebooks: run both notebooks in full, in place; write the models, their metrics and the tables
notebooks: $(READY) $(DATA)
	for notebook in $(NOTEBOOKS); do \
		$(RUN) --execute --ExecutePreprocessor.record_timing=False $$notebook || exit 1; \
		$(RUN) --coalesce-streams $$notebook || exit 1; \
	done
	$(BIN)/python tools/update_tables.py

## test: lint, unit tests, and both notebooks with one epoch
test: $(READY) $(OLDEST_READY) $(DATA)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pytest --ignore tests/browser -m "not slow" --numprocesses 2 --dist loadfile
	FMNIST_EPOCHS=1 $(call NBVAL,$(BIN)) $(NOTEBOOKS)

## validate: both notebooks with the full number of epochs, each on a copy, so that the models here stay
validate: $(READY) $(DATA)
	rm -rf build
	for notebook in $(NOTEBOOKS); do \
		mkdir -p build/$$notebook && \
		cp -r $$notebook fmnist_utils.py models build/$$notebook/ && \
		ln -s ../../data build/$$notebook/data || exit 1; \
	done
	$(call NBVAL,$(BIN)) $(foreach notebook,$(NOTEBOOKS),build/$(notebook)/$(notebook))

## slow-test: the notebooks in a stand-in for Colab, and a study over seeds in which a worker dies
slow-test: $(READY) $(DATA)
	$(BIN)/pytest --ignore tests/browser -m slow

## colab-test: both notebooks with one epoch and the versions that Colab has
# PyTorch's exporter of that time warns of its own use of something deprecated.
colab-test: $(COLAB_READY) $(DATA)
	FMNIST_EPOCHS=1 PYTHONWARNINGS=ignore::FutureWarning $(call NBVAL,$(COLAB)/bin) $(NOTEBOOKS)

## browser-test: both notebooks with one epoch in JupyterLab, in a real Chromium
browser-test: $(READY) $(DATA)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r tests/browser/requirements.txt
	$(BIN)/pytest tests/browser

## lab: open JupyterLab here
lab: $(READY) $(DATA)
	$(BIN)/jupyter lab

## colab: write the address REPO=owner/name into the notebooks and the README, for Colab
colab: $(READY)
	$(BIN)/python tools/set_colab_address.py "$(REPO)"

## seeds: both notebooks in full with five seeds each; what differs is chance
seeds: $(READY) $(DATA)
	$(BIN)/python benchmarks/seeds.py

## benchmark: the notebooks' training against that of the usual tutorials; an hour on a quiet machine
benchmark: $(READY) $(DATA)
	$(BIN)/python benchmarks/speed.py
	$(BIN)/python benchmarks/profile_epoch.py

## exercises: what comes out of the exercises at the end of the notebooks
exercises: $(READY) $(DATA)
	$(BIN)/python benchmarks/exercises.py
	$(BIN)/python tools/update_tables.py

## format: bring the code and the notebooks into shape
format: $(READY)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

## clean: remove what the other targets made, except for the results
clean:
	rm -rf $(VENV) $(OLDEST) $(COLAB) data build .pytest_cache .ruff_cache

$(READY): requirements.txt tests/requirements.txt benchmarks/requirements.txt constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check \
		-r requirements.txt -r tests/requirements.txt -r benchmarks/requirements.txt -c constraints.txt
	touch $@

$(OLDEST_READY): tests/oldest-keras.txt
	$(PYTHON) -m venv $(OLDEST)
	$(OLDEST)/bin/python -m pip install --quiet --disable-pip-version-check -r $<
	touch $@

$(COLAB_READY): requirements.txt tests/requirements.txt tests/colab.txt
	$(PYTHON) -m venv $(COLAB)
	$(COLAB)/bin/python -m pip install --quiet --disable-pip-version-check \
		-r requirements.txt -r tests/requirements.txt -c tests/colab.txt
	touch $@

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
	dpkg-deb -x data/dataset-fashion-mnist_*.deb data
	rm data/dataset-fashion-mnist_*.deb
