"""The command `python -m ufm.flow`: configuration, start, run, report."""
