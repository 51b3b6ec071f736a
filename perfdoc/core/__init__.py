"""Words and arithmetic that every other room uses: measurements, statistics, the contracts of treatments and probes.

Standard library only: all of it also runs in the user's process.
"""
