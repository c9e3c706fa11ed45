"""Hooks before and after every handler."""
