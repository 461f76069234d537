"""Data: from a list of items to a training and a validation loader."""
