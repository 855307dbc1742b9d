"""What all rooms need: options, errors, files, the facts of a run."""
