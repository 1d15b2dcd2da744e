"""From the logs (or the shards that are there already) to trained recommenders.

Example: `ray job submit --working-dir . -- python jobs/train.py --config configs/demo.yaml
--root s3://my-bucket/llmaug --run-id 2026-01-31`
"""

from llmaug.cli.app import job

if __name__ == "__main__":
    job(until="train", about=__doc__)
