"""Batches: requests that nobody waits for, run behind interactive ones."""
