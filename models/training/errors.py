"""What can be wrong with the input of training."""

from __future__ import annotations


class TrainingError(ValueError):
    """Training cannot start or go on; says in one line why and what to do."""
