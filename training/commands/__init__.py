"""Verbs of the command line that train and measure."""
