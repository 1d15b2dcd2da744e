"""Only the synthetic data: from the logs to merged training shards.

Example: `ray job submit --working-dir . -- python jobs/augment.py --config configs/demo.yaml
--root s3://my-bucket/llmaug --run-id 2026-01-31`
"""

from llmaug.cli.app import job

if __name__ == "__main__":
    job(until="merge", about=__doc__)
