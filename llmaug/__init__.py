"""llmaug: language-model augmentation for recommenders, from logs to a published model."""

__version__ = "0.1.0"
