"""Behaviour language models: what generates synthetic events."""
