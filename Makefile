# `make help` lists what there is. Each target sets up .venv by itself.
VENV := .venv
PYTHON := $(VENV)/bin/python
DATA ?= data/demo_shop
RUN ?= runs/$(if $(filter data/demo_shop,$(DATA:/=)),quickstart,$(notdir $(DATA:/=)))
HM ?= ../shared/data/hm
IKEA ?= ../shared/data/ikea
FASHION ?= ../shared/data/fashion
AMAZON ?= ../shared/data/amazon
OWNER ?=
NAME ?= $(subst _,-,$(notdir $(DATA:/=)))
TAG ?=
BEFORE ?=
LAUNCH ?= --config_file training/accelerate/cpu.yaml
TRAIN_MULTISHOP = $(VENV)/bin/accelerate launch $(LAUNCH) training/train.py --recipe training/recipes/multishop.yaml \
	--data.path "$(FASHION),$(HM),$(AMAZON)"
# other fusion types and the image alone get heads on the text encoder that our align stage has fine-tuned
TRAIN_ON_ENCODERS = $(TRAIN_MULTISHOP) --align.epochs 0 --model.encoders runs/multishop-$$seed/align
# what was measured of a model is kept with the results, so it is trained once, and not anew where runs/ is gone
MEASURED = hub_card/results/multishop
COMPARE = $(PYTHON) -m training.benchmarks.compare --data "$(FASHION),$(HM),$(AMAZON),$(IKEA)" --keep $(MEASURED)
TRAIN_ONCE = (test -f runs/$(1)/model/config.json || { $(2) --output runs/$(1) --seed $$seed; })
# the last catalogue's file says that all were measured
IS_MEASURED = test -f $(MEASURED)/$(1)/$(notdir $(IKEA:/=)).parquet
MEASURE_ONCE = ($(IS_MEASURED) || ($(TRAIN_ONCE) && \
	$(COMPARE) --models "{model: runs/$(1)/model}" --results runs/compare/$(1).json))
ENCODERS = $(call TRAIN_ONCE,multishop-$$seed,$(TRAIN_MULTISHOP))
# ours and the strongest of the others with each of these seeds, the rest with the first
MULTISHOP_SEEDS ?= 0,1,2
COMMA := ,
SEEDS = $(subst $(COMMA), ,$(MULTISHOP_SEEDS))
each_seed = $(subst $() ,$(COMMA),$(SEEDS:%=$(1)))
MULTISHOP_MODELS = {mmfusion: [$(call each_seed,runs/multishop-%/model)], text only: runs/multishop_text/model, \
	image only: runs/multishop_image/model, gated: [$(call each_seed,runs/multishop_gated-%/model)], \
	text 0.5 + image 0.5: runs/multishop_mean0.5/model, text 0.7 + image 0.3: runs/multishop_mean0.7/model, \
	text 0.9 + image 0.1: runs/multishop_mean0.9/model, sum: runs/multishop_sum/model, \
	concat: runs/multishop_concat/model, zero-shot text: minilm, bm25 tuned: bm25-tuned}
STYLES_MODELS ?= {mmfusion: runs/multishop-0/model, bm25 tuned: bm25-tuned, zero-shot text: minilm}
STYLES_BASELINE ?= runs/baseline-0
FASHION_SEEDS ?= 0,1,2
FASHION_VARIANTS ?= experts,gated,weighted_mean,text only,image only,sum,concat
RECIPE_SEEDS ?= 0,1,2
RECIPE_VARIANTS = full recipe,no domain stage,no align stage,no fuse stage,one stage,frozen encoders
RELEASE = $(if $(TAG),--tag "$(TAG)") --collection mmfusion

# Each worker takes a file of tests at a time, in their order.
WORKERS = -n auto --dist loadfile --no-loadscope-reorder

# Where this is set, every import of torch and transformers compiles their files again.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help quickstart test test-fast space screenshots load hub release results ablation recipe multishop styles judged left-out bench catalogue
.PHONY: engines lint format lock clean

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/'

quickstart: $(VENV)/installed  ## train, evaluate, index and search on DATA (default: the demo shop), into RUN
	$(PYTHON) -m training.quickstart --data "$(DATA)" --output "$(RUN)"

test: $(VENV)/installed  ## run all tests, several files at a time
	HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 $(PYTHON) -m pytest $(WORKERS)

test-fast: $(VENV)/installed  ## run the tests that take some two seconds at most
	HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 $(PYTHON) -m pytest $(WORKERS) -m "not slow and not browser"

space: $(VENV)/installed  ## open the Space on the run in RUN; without one the quickstart is run first
	test -d "$(RUN)/model" || $(PYTHON) -m training.quickstart --data "$(DATA)" --output "$(RUN)"
	MMFUSION_RUN="$(RUN)" MMFUSION_DATA="$(DATA)" $(PYTHON) space/app.py

screenshots: $(VENV)/installed  ## take the pictures of the Space in README anew (after make quickstart; needs Chromium)
	PYTHONPATH=tests $(PYTHON) tests/space/screenshots.py

load: $(VENV)/installed  ## measure the Space and the service with many clients at once, and write the tables (after make quickstart)
	$(PYTHON) -m training.benchmarks.space_load --output hub_card/results/bench_space.json
	$(PYTHON) -m training.benchmarks.service_load --output hub_card/results/bench_service.json
	$(PYTHON) -m training.benchmarks.results --copy=false

hub: $(VENV)/installed  ## build the Hub's repositories of RUN and DATA for OWNER, into runs/hub: read their cards
	$(if $(OWNER),,$(error give your name on the Hub: make $@ OWNER=...))
	$(PYTHON) -m hub_card.build --what dataset --data "$(DATA)" --repo-id "$(OWNER)/$(NAME)"
	$(PYTHON) -m hub_card.build --what model --run "$(RUN)" --repo-id "$(OWNER)/mmfusion-$(NAME)" \
		--dataset-ids "$(OWNER)/$(NAME)"
	$(PYTHON) -m hub_card.build --what metric --repo-id "$(OWNER)/product_retrieval"
	$(PYTHON) -m hub_card.build --what space --repo-id "$(OWNER)/mmfusion-$(NAME)" \
		--model-id "$(OWNER)/mmfusion-$(NAME)" --dataset-ids "$(OWNER)/$(NAME)"

release: $(VENV)/installed  ## push what `make hub` built, prove that it loads, set TAG if it is given, tie all in a collection
	$(if $(OWNER),,$(error give your name on the Hub: make $@ OWNER=...))
	$(PYTHON) -m hub_card.push --what dataset --repo-id "$(OWNER)/$(NAME)" $(RELEASE)
	$(PYTHON) -m hub_card.push --what model --repo-id "$(OWNER)/mmfusion-$(NAME)" $(RELEASE)
	$(PYTHON) -m hub_card.push --what metric --repo-id "$(OWNER)/product_retrieval" $(RELEASE)
	$(PYTHON) -m hub_card.push --what space --repo-id "$(OWNER)/mmfusion-$(NAME)" $(RELEASE)

results: $(VENV)/installed  ## run the quickstart on the demo shop and on HM, and write their numbers into README.md
	$(PYTHON) -m training.quickstart
	$(PYTHON) -m training.quickstart --data "$(HM)" --output runs/hm
	$(PYTHON) -m training.benchmarks.like
	$(PYTHON) -m training.benchmarks.results

ablation: $(VENV)/installed  ## compare fusion types on HM, FASHION and IKEA (some hours), and write README's tables
	$(PYTHON) -m training.benchmarks.ablate --tests "$(HM),$(IKEA)" \
		--overrides "{data.path: [$(HM)]}" --results hub_card/results/fusion_ablation.json
	$(PYTHON) -m training.benchmarks.ablate --tests "$(FASHION),$(IKEA)" --seeds "$(FASHION_SEEDS)" --variants "$(FASHION_VARIANTS)" \
		--overrides "{fuse.epochs: 6, data.path: [$(FASHION)], output: runs/ablation_fashion}" --results hub_card/results/fusion_fashion.json
	$(PYTHON) -m training.benchmarks.results --copy=false

recipe: $(VENV)/installed  ## leave out one stage of the training after the other, on HM (some hours), and write README's table
	$(PYTHON) -m training.benchmarks.ablate --recipe training/recipes/hm.yaml --tests "$(HM)" --seeds "$(RECIPE_SEEDS)" \
		--overrides "{align.epochs: 1, data.path: [$(HM)], output: runs/recipe_ablation}" --variants "$(RECIPE_VARIANTS)" \
		--results hub_card/results/recipe_ablation.json
	$(PYTHON) -m training.benchmarks.results --copy=false

multishop: export seed = $(firstword $(SEEDS))
multishop: $(VENV)/installed  ## train on three shops and compare with other systems (some hours), and write README's table
	for seed in $(SEEDS); do \
		$(call MEASURE_ONCE,multishop-$$seed,$(TRAIN_MULTISHOP)) && \
		$(call MEASURE_ONCE,multishop_gated-$$seed,$(ENCODERS) && $(TRAIN_ON_ENCODERS) --model.config.fusion_type gated) && \
		($(call IS_MEASURED,baseline-$$seed) || ($(PYTHON) -m training.benchmarks.baseline_trainer \
			--data "$(FASHION),$(HM),$(AMAZON)" --tests "$(FASHION),$(HM),$(AMAZON),$(IKEA)" \
			--seed $$seed --output runs/baseline-$$seed && \
			$(COMPARE) --models "{mmfusion: runs/multishop-$$seed/model}" --baseline runs/baseline-$$seed/report.json \
			--results runs/compare/baseline-$$seed.json)) || exit 1; done
	$(call MEASURE_ONCE,multishop_text,$(TRAIN_MULTISHOP) --data.modality text)
	$(call MEASURE_ONCE,multishop_image,$(ENCODERS) && $(TRAIN_ON_ENCODERS) --data.modality image)
	for type in sum concat; do \
		$(call MEASURE_ONCE,multishop_$$type,$(ENCODERS) && $(TRAIN_ON_ENCODERS) --model.config.fusion_type $$type) || exit 1; \
	done
	for weight in 0.5 0.7 0.9; do \
		$(call MEASURE_ONCE,multishop_mean$$weight,$(ENCODERS) && $(TRAIN_ON_ENCODERS) \
			--model.config.fusion_type weighted_mean --model.config.text_mean_weight $$weight) || exit 1; done
	$(COMPARE) --baseline "$(call each_seed,runs/baseline-%/report.json)" --models "$(MULTISHOP_MODELS)" \
		--views "{text only: text, image only: image}" --results hub_card/results/multishop.json
	$(PYTHON) -m training.benchmarks.results --copy=false

styles: $(VENV)/installed  ## measure styles of queries, and how often fusion harms, on all four shops (after `make multishop`)
	$(PYTHON) -m training.benchmarks.styles --data "$(FASHION),$(HM),$(AMAZON),$(IKEA)" --models "$(STYLES_MODELS)" \
		--baseline "$(STYLES_BASELINE)" --output runs/styles --results hub_card/results/styles.json
	$(PYTHON) -m training.benchmarks.results --copy=false

judged: $(VENV)/installed  ## judge what six systems find on HM by the grades in hub_card/results/ (after `make results`)
	$(PYTHON) -m training.evaluate --model runs/hm/model --data "$(HM)" --views rrf --run-file runs/rrf.trec
	$(PYTHON) -m training.judge pool --data "$(HM)" --systems bm25,minilm,runs/hm/model,runs/rrf.trec --depth 5 \
		--output runs/judging
	$(PYTHON) -m training.judge result --output runs/judging --grades hub_card/results/judged_hm.csv
	cp runs/judging/report.json hub_card/results/judged_hm.json
	$(PYTHON) -m training.judge agree --output runs/judging --grades hub_card/results/judged_hm.csv,qrels
	cp runs/judging/agreement.json hub_card/results/agreement_hm_qrels.json
	$(PYTHON) -m training.judge agree --output runs/judging \
		--grades hub_card/results/judged_hm.csv,hub_card/results/judged_hm_again.csv
	cp runs/judging/agreement.json hub_card/results/agreement_hm_again.json
	$(PYTHON) -m training.benchmarks.results --copy=false

left-out: $(VENV)/installed  ## train on one shop, measure on others, from a dual encoder and not (an hour), and write the table
	$(PYTHON) -m training.demo.shop
	$(PYTHON) -m training.benchmarks.leave_one_out --pretrained "$(FASHION),$(HM)" --shops "$(AMAZON),data/demo_shop" \
		--unseen "$(IKEA)" --results hub_card/results/leave_one_out.json
	$(PYTHON) -m training.benchmarks.results --copy=false

bench: $(VENV)/installed  ## compare the training's speed and memory with sentence-transformers, and write README's table
	$(PYTHON) -m training.benchmarks.training_speed --data "$(HM)" --output runs/bench_train.json
	cp runs/bench_train.json hub_card/results/bench_train.json
	$(PYTHON) -m training.benchmarks.results --copy=false

catalogue: $(VENV)/installed  ## measure embedding, search at a million products beside faiss and hnswlib, and faults (four hours)
	$(PYTHON) -m pip install --quiet -c constraints.txt -e '.[bench]'
	$(PYTHON) -m training.benchmarks.scaling --data "$(HM),$(FASHION),$(AMAZON),$(IKEA)"
	$(PYTHON) -m training.benchmarks.results --copy=false

engines: $(VENV)/installed  ## compare engines, kill a follower and a cluster's machines, time shards and starts (an hour)
	$(PYTHON) -m pip install --quiet -c constraints.txt -e '.[engines,export,ray]'
	test -d runs/quickstart/index || $(PYTHON) -m training.quickstart
	$(PYTHON) -m training.export --formats onnx --quantize_query int8
	$(PYTHON) -m training.benchmarks.engines
	$(PYTHON) -m training.benchmarks.follow
	$(PYTHON) -m training.benchmarks.shard_speed
	$(PYTHON) -m training.benchmarks.ray_cluster
	$(PYTHON) -m training.benchmarks.start --output hub_card/results/bench_start.json $(if $(BEFORE),--before "$(BEFORE)")
	$(PYTHON) -m training.benchmarks.results --copy=false

lint: $(VENV)/installed  ## check style, and the types of the package
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

format: $(VENV)/installed  ## mend style
	$(VENV)/bin/ruff check --fix .
	$(VENV)/bin/ruff format .

lock: $(VENV)/installed  ## write constraints.txt anew, with the newest versions that pyproject.toml allows
	$(VENV)/bin/uv pip compile pyproject.toml --all-extras --universal --python-version 3.11 --upgrade --quiet \
		--no-emit-index-url --no-emit-find-links --no-annotate --no-header --output-file constraints.txt

clean:  ## remove .venv and what the quickstart made
	rm -rf $(VENV) runs/quickstart data/demo_shop

# uv installs several times faster than pip, which is there wherever uv can't be used. Where there is no GPU it takes torch
# without CUDA, some gigabytes less, from torch's own index if that can be reached.
INSTALL = pip install --quiet -c constraints.txt -e '.[space,test]'
$(VENV)/installed: pyproject.toml constraints.txt
	python3 -m venv $(VENV)
	$(PYTHON) -m pip install --quiet -c constraints.txt uv
	$(VENV)/bin/uv $(INSTALL) --python $(PYTHON) --torch-backend=auto 2>/dev/null || \
		$(VENV)/bin/uv $(INSTALL) --python $(PYTHON) || $(PYTHON) -m $(INSTALL)
	touch $@
