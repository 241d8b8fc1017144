"""Durable checkpoints: safetensors files that the trainers write, each its share, and a manifest that the supervisor commits last."""
