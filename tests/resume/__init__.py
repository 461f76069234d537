"""Trainings that are killed, resumed, killed and resumed again."""
