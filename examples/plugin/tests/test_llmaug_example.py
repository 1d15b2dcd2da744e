"""Both keep what llmaug asks of every kind, and do what they are for."""

from llmaug_example.filter import UnwantedTagsConfig
from llmaug_example.model import FadedNeighbours
from llmaug_example.recommender import FadedNeighboursConfig

from llmaug.recommenders import DataFacts
from llmaug.testing import catalogue, check_filter, check_recommender, events, histories


def test_the_contracts() -> None:
    check_recommender(FadedNeighboursConfig(model="faded_neighbours"))
    check_filter(UnwantedTagsConfig(kind="unwanted_tags", tags=["x"]))


def test_the_last_event_counts_most() -> None:
    config = FadedNeighboursConfig(model="faded_neighbours", fade=0.5)
    model = FadedNeighbours(config, DataFacts(catalogue("abcd")))
    model.fit(lambda: [events(histories(u1="ab", u2="cd"))])
    a, b, c, d = range(3, 7)
    after_ac, after_ca = model.score(["u3", "u4"], [[a, c], [c, a]])
    assert after_ac[d] > after_ac[b]
    assert after_ca[b] > after_ca[d]
