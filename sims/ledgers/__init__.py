"""Ledgers of trained networks: where they come from, how they are drawn and written, and the study over many."""
