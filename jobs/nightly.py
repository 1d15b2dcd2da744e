"""The whole nightly job: real logs in, a published model and its report out.

Example: `ray job submit --working-dir . -- python jobs/nightly.py --config configs/demo.yaml
--root s3://my-bucket/llmaug --run-id 2026-01-31`
"""

from llmaug.cli.app import job

if __name__ == "__main__":
    job(until="report", about=__doc__)
