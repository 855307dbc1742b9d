"""Trains a model on a catalogue's queries and judgments, in up to three stages.

    accelerate launch training/train.py --recipe training/recipes/quickstart.yaml
    accelerate launch training/train.py --recipe training/recipes/quickstart.yaml --data.path data/myshop \\
        --output runs/myshop --fuse.epochs 30
    accelerate launch --config_file training/accelerate/multi_cpu.yaml training/train.py --recipe ...

Options on the command line override the recipe. The stages are `domain` (encoders learn the shop's language: titles
against pictures, queries against texts), `align` (queries against texts and, apart, against pictures) and `fuse`
(queries against fused products); one with 0 epochs is left out, and each starts from what the one before left. To run
them one by one, give each the folder of the one before as --model.start.

What frozen encoders say of the catalogue is computed once and kept. A run that was interrupted goes on from its last
checkpoint when the same command is given again.
"""

from training.common.cli import run
from training.common.stopping import end_with_launcher
from training.learning.options import TrainArguments

if __name__ == "__main__":
    end_with_launcher()
    run("training.train", TrainArguments, __doc__, recipe=True)

from pathlib import Path

from training.common.stopping import end_with_launcher, ends_on_sigterm
from training.learning.stages import train


def main(arguments: TrainArguments) -> Path:
    """Trains, and returns the folder of the model; SIGTERM ends it, in a stage's epochs with a checkpoint."""
    with ends_on_sigterm() as stop:
        return train(arguments, stop)
