"""Figures beside their limits or their peers': `python -m benchmarks.NAME`; exit 1 where one is missed."""
