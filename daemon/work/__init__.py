"""Deciding what to do next, and doing it in child processes."""
