"""Run text models over large batches: jobs in SQL, chunks through Redis, results in SQL."""
