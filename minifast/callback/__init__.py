"""Callbacks: one idea a file, each knowing the base class and never another callback."""
