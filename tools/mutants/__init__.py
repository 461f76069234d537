"""Faults put into the package one at a time, to see which of them the tests notice: `make test-mutants`."""
