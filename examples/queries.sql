-- Questions to the latest job, the same on SQLite and PostgreSQL:
--
--   sqlite3 -header -column textmill.db < examples/queries.sql
--   psql "$TEXTMILL_DATABASE_URL" -f examples/queries.sql
--
-- (SELECT max(id) FROM jobs) is the latest job, because ids sort by time; put another id there to
-- ask about that one. docs/schema.md has more, with JSON columns and dates.

-- What is it, and how far is it?
SELECT id, name, model, status, total_records, done_records, error_records, error
FROM jobs
WHERE id = (SELECT max(id) FROM jobs);

-- How many records have which label?
SELECT label, records,
       round(CAST(100.0 * records / sum(records) OVER () AS numeric), 1) AS percent
FROM label_counts
WHERE job_id = (SELECT max(id) FROM jobs) AND records > 0
ORDER BY records DESC;

-- Which records is the model surest to be spam?
SELECT record_id, score, text
FROM results
WHERE job_id = (SELECT max(id) FROM jobs) AND label = 'spam' AND score > 0.9
ORDER BY score DESC
LIMIT 10;

-- Which is it least sure of, whatever their label? Label these by hand first.
SELECT record_id, label, score, text
FROM results
WHERE job_id = (SELECT max(id) FROM jobs) AND label IS NOT NULL
ORDER BY score
LIMIT 10;

-- How sure is it altogether? Records by label and score, in steps of a tenth.
SELECT label, round(CAST(score - 0.05 AS numeric), 1) AS score_from, count(*) AS records
FROM results
WHERE job_id = (SELECT max(id) FROM jobs) AND label IS NOT NULL
GROUP BY label, score_from
ORDER BY label, score_from DESC;

-- Which records are errors, and why?
SELECT error_code, count(*) AS records, min(record_id) AS one_record,
       min(error_message) AS for_example
FROM results
WHERE job_id = (SELECT max(id) FROM jobs) AND error_code IS NOT NULL
GROUP BY error_code
ORDER BY records DESC;

-- Which texts came more than once?
SELECT count(*) AS copies, min(record_id) AS one_record, min(label) AS label, min(text) AS text
FROM results
WHERE job_id = (SELECT max(id) FROM jobs) AND text <> ''
GROUP BY text_hash
HAVING count(*) > 1
ORDER BY copies DESC
LIMIT 10;

-- Which texts got another label than in the job before it?
SELECT latest.text, latest.label, earlier.label AS earlier_label
FROM (SELECT text_hash, label, min(text) AS text
      FROM results
      WHERE job_id = (SELECT max(id) FROM jobs) AND label IS NOT NULL
      GROUP BY text_hash, label) AS latest
JOIN (SELECT text_hash, label
      FROM results
      WHERE job_id = (SELECT max(id) FROM jobs WHERE id < (SELECT max(id) FROM jobs))
        AND label IS NOT NULL
      GROUP BY text_hash, label) AS earlier
  ON earlier.text_hash = latest.text_hash AND earlier.label <> latest.label
LIMIT 10;

-- What did each of the last jobs cost?
SELECT id, name, done_records + error_records AS records, input_tokens,
       round(CAST(device_seconds AS numeric), 1) AS device_seconds,
       round(CAST((done_records + error_records) / nullif(finished_at - started_at, 0) AS numeric), 0)
         AS records_per_second
FROM jobs
ORDER BY id DESC
LIMIT 10;

-- Where do its chunks stand?
SELECT status, count(*) AS chunks, sum(records) AS records, max(attempt) AS attempts
FROM chunks
WHERE job_id = (SELECT max(id) FROM jobs)
GROUP BY status;

-- Which jobs have not ended?
SELECT id, name, status, queue, done_records + error_records AS processed, total_records
FROM jobs
WHERE finished_at IS NULL
ORDER BY id;

-- Who works? (A worker that ended without a word stays here for up to an hour.)
SELECT host, pid, device, slots, queues, models
FROM workers
ORDER BY host, device;
