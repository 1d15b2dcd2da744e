"""Semantic ids: an item of a large catalogue as a few code words instead of one token.

A table of a million item embeddings is larger than the model around it. So each item becomes
a path of codes, from coarse to fine: k-means of item vectors, k-means of what that leaves
over, and so on (residual quantisation; TIGER, Rajput et al. 2023), and a last code that tells
apart the items whose other codes agree. Items that are alike share their first codes, so an
item that few people took borrows from its neighbours.

The vectors are what items are known by: who takes them together in the training events, and
their text (title and tags). Both through a truncated SVD.

Shapes: I items, L codes an item, W code words.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from typing import Any

import numpy as np
import pyarrow as pa

from llmaug.sequences import group_bounds
from llmaug.storage import Storage, digest
from llmaug.vocabulary import NUM_SPECIAL, Vocabulary

IDS_FILE = "semantic_ids.parquet"
_DIM = 32  # of the co-occurrence and of the text vectors, each
_FIT_ITEMS = 50_000  # k-means is fitted on so many items at most
_KNOWN_PLACES = 100_000  # of the trie whose children are kept


@dataclass(frozen=True)
class SemanticIds:
    """Items as code words. Word 0 of level 0 has token `NUM_SPECIAL`; level by level."""

    codes: np.ndarray
    """(I, L) int32, codes of each level from 0."""

    @property
    def word_len(self) -> int:
        return self.codes.shape[1]

    @cached_property
    def sizes(self) -> list[int]:
        """Number of codes in each level."""
        return (self.codes.max(0) + 1).tolist()

    @cached_property
    def digest(self) -> str:
        return digest(self.codes.astype("<i4").tobytes())

    @property
    def num_words(self) -> int:
        """Special tokens and all code words."""
        return NUM_SPECIAL + sum(self.sizes)

    @cached_property
    def words(self) -> np.ndarray:
        """(I, L) int32 tokens of each item."""
        first = [0, *accumulate(self.sizes[:-1])]
        return (self.codes + np.array(first) + NUM_SPECIAL).astype(np.int32)

    def spell(self, items: Any) -> np.ndarray:
        """(N,) item tokens to (N * L,) words."""
        return self.words[np.asarray(items, np.int64) - NUM_SPECIAL].reshape(-1)

    def read(self, words: list[int]) -> list[int]:
        """Words to item tokens; a path that is no item's gives -1, a cut one nothing."""
        length = self.word_len
        paths = zip(*[iter(words)] * length, strict=False)
        return [self._items.get(path, -1) for path in paths]

    @cached_property
    def _items(self) -> dict[tuple[int, ...], int]:
        return {tuple(path): NUM_SPECIAL + item for item, path in enumerate(self.words.tolist())}


def build(vectors: np.ndarray, num_levels: int, num_codes: int, seed: int) -> SemanticIds:
    """(I, D) item vectors to ids of `num_levels` codes and a last one that makes them unique."""
    from sklearn.cluster import MiniBatchKMeans

    rng = np.random.default_rng(seed)
    rest = vectors.astype(np.float32)
    sample = rng.permutation(len(rest))[:_FIT_ITEMS]
    levels = []
    for _ in range(num_levels):
        clusters = MiniBatchKMeans(
            n_clusters=min(num_codes, len(sample)), random_state=seed, n_init=1,
            batch_size=4096,
        )  # fmt: skip
        clusters.fit(rest[sample])
        code = clusters.predict(rest)
        rest = rest - clusters.cluster_centers_[code]
        levels.append(np.unique(code, return_inverse=True)[1])  # without empty clusters
    return SemanticIds(_unique(np.stack(levels, axis=1)))


def _unique(codes: np.ndarray) -> np.ndarray:
    """(I, L) codes to (I, L + 1): items with equal codes are numbered."""
    _, group = np.unique(codes, axis=0, return_inverse=True)
    group = group.reshape(-1)
    order = np.argsort(group, kind="stable")
    first = np.r_[True, np.diff(group[order]) > 0]
    start = np.maximum.accumulate(np.where(first, np.arange(len(order)), 0))
    number = np.empty(len(order), np.int64)
    number[order] = np.arange(len(order)) - start
    return np.c_[codes, number].astype(np.int32)


def item_vectors(storage: Storage, train: str, vocabulary: Vocabulary, seed: int) -> np.ndarray:
    """(I, D) float32, D at most 64: by training events in folder `train`, and by text."""
    from sklearn.preprocessing import normalize

    parts = [_by_text(vocabulary, seed), _by_events(storage, train, vocabulary, seed)]
    return np.concatenate([normalize(part) for part in parts if part.size], axis=1)


def _by_events(storage: Storage, train: str, vocabulary: Vocabulary, seed: int) -> np.ndarray:
    """(I, D) who takes the items; users with many events count less each."""
    from scipy.sparse import coo_matrix, csr_matrix, vstack

    rows = []
    for part in storage.parts(train):
        events = storage.read_part(train, part, columns=["user_id", "item_id"])
        item = vocabulary.encode(events["item_id"]) - NUM_SPECIAL
        bounds = group_bounds(events["user_id"].to_numpy(zero_copy_only=False))
        lengths = np.array([end - start for start, end in bounds], np.int64)
        user = np.repeat(np.arange(len(bounds)), lengths)
        value = np.repeat(1 / np.sqrt(np.maximum(lengths, 1)), lengths)
        known = item >= 0
        shape = (len(bounds), vocabulary.num_items)
        rows.append(coo_matrix((value[known], (user[known], item[known])), shape=shape))
    return _reduced(csr_matrix(vstack(rows)).T, seed)


def _by_text(vocabulary: Vocabulary, seed: int) -> np.ndarray:
    """(I, D) TF-IDF of title and tags; tags count as one word each."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    columns = (vocabulary.items["title"].to_pylist(), vocabulary.items["tags"].to_pylist())
    texts = [
        f"{title or ''} {' '.join(str(tag).replace(' ', '_') for tag in tags or ())}"
        for title, tags in zip(*columns, strict=True)
    ]
    if not any(text.strip() for text in texts):
        return np.empty((len(texts), 0), np.float32)
    return _reduced(TfidfVectorizer(max_features=50_000).fit_transform(texts), seed)


def _reduced(matrix: Any, seed: int) -> np.ndarray:
    from sklearn.decomposition import TruncatedSVD

    size = min(_DIM, min(matrix.shape) - 1)
    if size < 1:
        return np.empty((matrix.shape[0], 0), np.float32)
    return TruncatedSVD(size, random_state=seed).fit_transform(matrix).astype(np.float32)


def write_ids(storage: Storage, folder: str, ids: SemanticIds) -> None:
    table = pa.table({"codes": pa.FixedSizeListArray.from_arrays(ids.codes.ravel(), ids.word_len)})
    storage.write_table(table, folder, IDS_FILE)


def read_ids(storage: Storage, folder: str) -> SemanticIds | None:
    """Those in `folder` (of a vocabulary, or of a model that writes them); None where there
    are none, and an item is one token."""
    if not storage.exists(folder, IDS_FILE):
        return None
    codes = storage.read_table(folder, IDS_FILE)["codes"].combine_chunks()
    return SemanticIds(codes.flatten().to_numpy().reshape(len(codes), -1))


class Trie:
    """All items as sorted paths of words: what may follow the first words of an item.

    A place in it is (start, end, level): the rows of the sorted paths that agree so far.
    """

    def __init__(self, ids: SemanticIds) -> None:
        order = np.lexsort(ids.words.T[::-1])
        self._paths = ids.words[order]
        self._row = np.empty(len(order), np.int64)
        self._row[order] = np.arange(len(order))
        self._known: dict[tuple[int, int, int], tuple[np.ndarray, np.ndarray]] = {}

    @property
    def root(self) -> tuple[int, int, int]:
        return 0, len(self._paths), 0

    def rows_of(self, items: list[int]) -> np.ndarray:
        """Sorted rows of item tokens."""
        return np.unique(self._row[np.array(items, np.int64) - NUM_SPECIAL])

    def children(self, place: tuple[int, int, int]) -> tuple[np.ndarray, np.ndarray]:
        """(C,) words that may follow, and the (C + 1,) rows where each one's items begin."""
        found = self._known.get(place)
        if found is None:
            start, end, level = place
            column = self._paths[start:end, level]
            begins = np.flatnonzero(np.r_[True, column[1:] != column[:-1]])
            found = column[begins], np.r_[begins, end - start] + start
            if len(self._known) < _KNOWN_PLACES:
                self._known[place] = found
        return found

    def after(self, place: tuple[int, int, int], word: int) -> tuple[int, int, int] | None:
        """The place after one more word; None when no item goes on like that."""
        words, begins = self.children(place)
        child = int(np.searchsorted(words, word))
        if child == len(words) or words[child] != word:
            return None
        return int(begins[child]), int(begins[child + 1]), place[2] + 1
