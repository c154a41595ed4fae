"""Making jobs: reading inputs, submitting, watching, exporting, and the command line."""
