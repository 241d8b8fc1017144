"""Trainers as processes of this machine."""
