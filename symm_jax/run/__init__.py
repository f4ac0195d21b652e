"""The folder of a run (workdir): its paths, its owner, checkpoints, metric files and the best checkpoint."""
