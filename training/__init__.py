"""Training, evaluation, embedding and search scripts; run them as `python -m training.NAME --help`."""
