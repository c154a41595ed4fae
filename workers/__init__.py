"""Doing jobs: Celery workers, engines that form batches, and runners that wrap models."""
