"""The verbs of the command line that need no training code, one module each."""
