"""Made-up logs of each domain: the same every time, and what is particular to it is in them."""

from __future__ import annotations

from pathlib import Path

import pyarrow.compute as pc
import pytest

from llmaug.commands.made_up_logs import DOMAINS, made_up, write_made_up
from llmaug.config import load_config
from llmaug.core.storage import Storage
from llmaug.errors import UserError

CONFIGS = Path(__file__).parents[2] / "configs"


@pytest.mark.parametrize("name", DOMAINS)
def test_the_config_of_a_domain_knows_its_actions_and_its_columns(name: str) -> None:
    config, tables = load_config(CONFIGS / f"{name}.yaml"), made_up(DOMAINS[name], seed=7)
    assert set(config.ingest.actions or ()) == set(tables.events["action"].unique().to_pylist())
    assert config.ingest.columns["value"] in tables.events.column_names
    assert set(config.lm.user_attributes_read) <= set(tables.users.column_names)
    assert tables.events.equals(made_up(DOMAINS[name], seed=7).events)


def test_articles_are_read_while_they_are_there() -> None:
    tables = made_up(DOMAINS["news"], seed=7)
    joined = tables.events.join(tables.items.drop_columns(["tags"]), "item_id")
    first = joined.filter(pc.equal(joined["action"], "click"))
    assert pc.all(pc.greater_equal(first["timestamp"], first["available_from"])).as_py()
    late = pc.mean(pc.greater(first["timestamp"], first["available_until"]).cast("int8")).as_py()
    assert late < 0.01  # the last of a visit, some seconds after


def test_a_festival_ends_the_logs_of_the_shop_with_more_visits_a_day() -> None:
    events = made_up(DOMAINS["ecommerce"], seed=7).events
    days = pc.value_counts(pc.strftime(events["timestamp"], "%F")).to_pylist()
    a_day = [row["counts"] for row in sorted(days, key=lambda row: row["values"])]
    assert min(a_day[-3:]) > 2 * (sum(a_day[:-3]) / len(a_day[:-3]))


def test_they_are_written_once_and_over_nothing_else(tmp_path: Path) -> None:
    storage = Storage(str(tmp_path))
    assert write_made_up(storage, "health")["files_written"] == 30
    assert write_made_up(storage, "health")["files_written"] == 0
    theirs = tmp_path / "events" / "theirs.parquet"
    theirs.write_bytes(b"logs")
    with pytest.raises(UserError, match="did not write it"):
        write_made_up(storage, "news")
    assert theirs.exists()
