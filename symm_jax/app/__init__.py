"""The program: flags, modes, checks of a config, downloads, and comparisons. No other folder knows the command line."""
