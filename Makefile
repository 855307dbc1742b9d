# `make help` lists what there is. Each target sets up .venv by itself; with uv on the PATH that takes a minute less.
VENV := .venv
PYTHON := $(VENV)/bin/python
DATA ?= data/demo_shop
RUN ?= runs/quickstart
HM ?= ../shared/data/hm
IKEA ?= ../shared/data/ikea
FASHION ?= ../shared/data/fashion
AMAZON ?= ../shared/data/amazon
LAUNCH ?= --config_file training/accelerate/cpu.yaml
FASHION_SEEDS ?= 0,1,2
FASHION_VARIANTS ?= experts,gated,weighted_mean,text only,image only,sum,concat

# Where this is set, every import of torch and transformers compiles their files again.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help quickstart test space results ablation multishop bench bench-embed lint format lock clean

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/'

quickstart: $(VENV)/installed  ## train, evaluate, index and search on DATA (default: the demo shop), into RUN
	$(PYTHON) -m training.quickstart --data "$(DATA)" --output "$(RUN)"

test: $(VENV)/installed  ## run all tests
	HF_HUB_OFFLINE=1 $(PYTHON) -m pytest

space: $(VENV)/installed  ## open the Space on the run in RUN
	MMFUSION_RUN="$(RUN)" MMFUSION_DATA="$(DATA)" $(PYTHON) space/app.py

results: $(VENV)/installed  ## run the quickstart on the demo shop and on HM, and write their numbers into README.md
	$(PYTHON) -m training.quickstart
	$(PYTHON) -m training.quickstart --data "$(HM)" --output runs/hm
	$(PYTHON) -m training.results

ablation: $(VENV)/installed  ## compare fusion types on HM, FASHION and IKEA (some hours), and write README's tables
	$(PYTHON) -m training.ablate --tests "$(HM),$(IKEA)" --results hub_card/results/fusion_ablation.json
	$(PYTHON) -m training.ablate --tests "$(FASHION),$(IKEA)" --seeds "$(FASHION_SEEDS)" --variants "$(FASHION_VARIANTS)" \
		--overrides "{data.path: $(FASHION), output: runs/ablation_fashion}" --results hub_card/results/fusion_fashion.json
	$(PYTHON) -m training.results --copy=false

multishop: $(VENV)/installed  ## train on three shops and compare with other systems (some hours), and write README's table
	$(VENV)/bin/accelerate launch $(LAUNCH) training/train.py --recipe training/recipes/multishop.yaml
	$(VENV)/bin/accelerate launch $(LAUNCH) training/train.py --recipe training/recipes/multishop.yaml \
		--data.modality text --output runs/multishop_text
	$(PYTHON) -m training.peer --data "$(FASHION),$(HM),$(AMAZON)" --tests "$(FASHION),$(HM),$(AMAZON),$(IKEA)"
	$(PYTHON) -m training.compare --data "$(FASHION),$(HM),$(AMAZON),$(IKEA)" --peer runs/peer/report.json \
		--models "{mmfusion: runs/multishop/model, text only: runs/multishop_text/model, zero-shot text: minilm}" \
		--results hub_card/results/multishop.json
	$(PYTHON) -m training.results --copy=false

bench-embed: $(VENV)/installed  ## compare the embedding's speed with the bare towers and sentence-transformers, and write README's table
	$(PYTHON) -m training.bench_embed --data "$(HM)" --output hub_card/results/bench_embed.json
	$(PYTHON) -m training.results --copy=false

bench: $(VENV)/installed  ## compare the training's speed and memory with sentence-transformers, and write README's table
	$(PYTHON) -m training.bench_train --data "$(HM)" --output hub_card/results/bench_train.json
	$(PYTHON) -m training.results --copy=false

lint: $(VENV)/installed  ## check style
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .

format: $(VENV)/installed  ## mend style
	$(VENV)/bin/ruff check --fix .
	$(VENV)/bin/ruff format .

lock: $(VENV)/installed  ## write constraints.txt anew, with the newest versions that pyproject.toml allows
	$(PYTHON) -m pip install --quiet uv
	$(VENV)/bin/uv pip compile pyproject.toml --all-extras --universal --python-version 3.11 --upgrade --quiet \
		--no-emit-index-url --no-emit-find-links --no-annotate --no-header --output-file constraints.txt

clean:  ## remove .venv and what the quickstart made
	rm -rf $(VENV) runs/quickstart data/demo_shop

$(VENV)/installed: pyproject.toml constraints.txt
	python3 -m venv $(VENV)
	if command -v uv >/dev/null; then uv pip install --python $(PYTHON) -c constraints.txt -e '.[space,test]'; \
	else $(PYTHON) -m pip install --quiet -c constraints.txt -e '.[space,test]'; fi
	touch $@
