"""What a kind must keep to, as functions that its tests call: one for each sort.

    from llmaug.testing import check_recommender

    def test_it_keeps_the_contract() -> None:
        check_recommender(MyConfig(model="mine", embedding_dim=8))

Each raises AssertionError that says what is wrong and what is expected. They need no test
framework and take seconds. What is special about a kind (that it learns what it is for) is for its
own tests: `catalogue`, `events` and `histories` make data small enough to check by hand.
"""

from llmaug.testing.behaviour_models import check_behaviour_model
from llmaug.testing.filters import check_filter
from llmaug.testing.recommenders import check_recommender
from llmaug.testing.strategies import check_strategy
from llmaug.testing.tables import catalogue, events, histories
from llmaug.testing.text_tasks import check_text_task

__all__ = [
    "catalogue",
    "check_behaviour_model",
    "check_filter",
    "check_recommender",
    "check_strategy",
    "check_text_task",
    "events",
    "histories",
]
