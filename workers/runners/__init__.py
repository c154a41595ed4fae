"""Runners: one file per kind of model. The only place that imports torch and transformers."""
