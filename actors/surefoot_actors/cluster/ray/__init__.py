"""Trainers as Ray actors."""
