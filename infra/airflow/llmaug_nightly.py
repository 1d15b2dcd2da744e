"""Airflow DAG: a night every night, through the job API of a Ray cluster (infra/README.md).

Airflow's workers need `ray[default]` of the cluster's version, a way to the dashboard's port, and
two variables of Airflow: `llmaug_ray_address` (http://...:8265) and `llmaug_ray_token`, the
token of the cluster, in a secrets backend.
"""

from __future__ import annotations

from datetime import datetime, timedelta

from airflow import DAG
from airflow.providers.standard.operators.bash import BashOperator
from airflow.timetables.interval import CronDataIntervalTimetable

ROOT = "s3://example-bucket/llmaug"
# `ds` is the day before: the logs of a whole day. A retry resumes the run of its day; a submission
# id is used once.
JOB = "llmaug-{{ ds }}-{{ ti.try_number }}"
ADDRESS = "--address {{ var.value.llmaug_ray_address }}"
# At its time limit, or when somebody ends it, the task is told by a signal, and takes the job with
# it: else the retry would find the run held.
COMMAND = (
    f"trap 'ray job stop {ADDRESS} {JOB}' TERM INT;"
    f" ray job submit {ADDRESS} --submission-id {JOB} --"
    " python /home/ray/llmaug/jobs/nightly.py --config /home/ray/llmaug/configs/demo.yaml"
    f" --root {ROOT}"
    " --date {{ ds }} &"
    " wait $!"
)

with DAG(
    dag_id="llmaug_nightly",
    description="Augment yesterday's logs, train, and publish what the gate lets out",
    schedule=CronDataIntervalTimetable("30 2 * * *", timezone="UTC"),
    start_date=datetime(2026, 1, 1),
    catchup=False,
    max_active_runs=1,
    tags=["llmaug"],
) as dag:
    BashOperator(
        task_id="night",
        bash_command=COMMAND,
        env={"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "{{ var.value.llmaug_ray_token }}"},
        append_env=True,
        retries=2,
        retry_delay=timedelta(minutes=10),
        execution_timeout=timedelta(hours=6),
    )
