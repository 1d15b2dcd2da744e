"""Train where needed, measure on held-out events, decide; publish nothing.

Example: `ray job submit --working-dir . -- python jobs/evaluate.py --config configs/demo.yaml
--root s3://my-bucket/llmaug --run-id 2026-01-31`
"""

from llmaug.cli.app import job

if __name__ == "__main__":
    job(until="gate", about=__doc__)
