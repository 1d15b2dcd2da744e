"""Semantic ids: an item of a large catalogue as a few code words instead of one token.

A table of a million item embeddings is larger than the model around it. So each item becomes
a path of codes, from coarse to fine: k-means of item vectors, k-means of what that leaves
over, and so on (residual quantisation; TIGER, Rajput et al. 2023), and a last code that tells
apart the items whose other codes agree. Items that are alike share their first codes, so an
item that few people took borrows from its neighbours.

The vectors are what items are known by: who takes them together in the training events, and
their text: the text vectors of the vocabulary, where it has them, else TF-IDF of title and
tags. Both through a truncated SVD.

Shapes: I items, L codes an item, W code words.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from typing import Any

import numpy as np
import pyarrow as pa

from llmaug.core.storage import Storage, digest
from llmaug.items.arrays import group_bounds
from llmaug.items.vocabulary import NUM_SPECIAL, Vocabulary

IDS_FILE = "semantic_ids.parquet"
_DIM = 32  # of the co-occurrence and of the text vectors, each
_FIT_ITEMS = 50_000  # k-means is fitted on so many items at most
FIT_EVENTS = 20_000_000  # who takes what is learnt of so many training events at most


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
    from scipy.sparse import diags

    events, lengths = taken_items(storage, train, vocabulary, FIT_EVENTS)
    return _reduced((diags(1 / np.sqrt(np.maximum(lengths, 1))) @ events).T.tocsr(), seed)


def taken_items(
    storage: Storage, train: str, vocabulary: Vocabulary, max_events: int | None = None
) -> tuple[Any, np.ndarray]:
    """(U, I) sparse float32: how often each user of the training events took each item; and the
    (U,) events of each user, those of unknown items included.

    max_events: no further part is read behind so many. Parts hold users by a hash of their ids, so
    those that are read are a random sample of users.
    """
    from scipy.sparse import coo_matrix, csr_matrix, vstack

    rows, lengths, num_events = [], [np.empty(0, np.int64)], 0
    for part in storage.parts(train):
        if max_events is not None and num_events >= max_events:
            break
        events = storage.read_part(train, part, columns=["user_id", "item_id"])
        item = vocabulary.encode(events["item_id"]) - NUM_SPECIAL
        bounds = group_bounds(events["user_id"].to_numpy(zero_copy_only=False))
        lengths.append(np.array([end - start for start, end in bounds], np.int64))
        user = np.repeat(np.arange(len(bounds)), lengths[-1])
        known = item >= 0
        shape = (len(bounds), vocabulary.num_items)
        num_events += events.num_rows
        once = np.ones(int(known.sum()), np.float32)
        rows.append(coo_matrix((once, (user[known], item[known])), shape=shape))
    return csr_matrix(vstack(rows)), np.concatenate(lengths)


def _by_text(vocabulary: Vocabulary, seed: int) -> np.ndarray:
    """(I, D) of text vectors; without any, TF-IDF of title and tags: these one word each."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    if vocabulary.text is not None:
        return _reduced(vocabulary.text, seed)
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


def write_ids(storage: Storage, ids: SemanticIds, *folder: str) -> None:
    table = pa.table({"codes": pa.FixedSizeListArray.from_arrays(ids.codes.ravel(), ids.word_len)})
    storage.write_table(table, *folder, IDS_FILE)


NO_ITEM_VECTORS = (
    "train.start_from: generator, and the arms started and augmented_started, need a vector for "
    "each item, and this generator spells items, since there are more of them than "
    "vocabulary.max_atomic_items: leave these out, or raise it"
)


def read_ids(storage: Storage, *folder: str) -> SemanticIds | None:
    """Those in `folder` (of a vocabulary, or of a model that writes them); None where there
    are none, and an item is one token."""
    if not storage.exists(*folder, IDS_FILE):
        return None
    codes = storage.read_table(*folder, IDS_FILE)["codes"].combine_chunks()
    return SemanticIds(codes.flatten().to_numpy().reshape(len(codes), -1))


class Trie:
    """All items as paths from a root: what may follow the first words of an item.

    N inner nodes, the root is 0; node N + i is item i. An edge is (node, word) to a node; the
    edges of a node stand together, by word. Two integers an edge: 30 MB for a million items.
    """

    def __init__(self, ids: Any) -> None:
        """ids: SemanticIds, or what has their `words`, `word_len` and `num_words`, too."""
        order = np.lexsort(ids.words.T[::-1])
        paths = ids.words[order]
        changes = np.zeros(len(paths), bool)
        changes[:1] = True
        source, first_node = np.zeros(len(paths), np.int64), 1
        found = []
        self.path = np.empty(paths.shape, np.int32)  # (I, L) nodes that an item passes
        for level in range(ids.word_len):
            column = paths[:, level]
            changes[1:] |= column[1:] != column[:-1]
            rows = np.flatnonzero(changes)
            if level + 1 < ids.word_len:
                target = first_node + np.cumsum(changes) - 1
                first_node += len(rows)
            else:
                target = first_node + order
            self.path[order, level] = source
            found.append((source[rows], column[rows], target[rows]))
            source = target
        self.num_nodes = first_node
        nodes, words, targets = (np.concatenate(columns) for columns in zip(*found, strict=True))
        self.words, self._targets = words.astype(np.int32), targets.astype(np.int32)
        self.starts = np.searchsorted(nodes, np.arange(self.num_nodes + 1))
        self._base = ids.num_words
        self._keys = nodes * self._base + words

    def after(self, nodes: np.ndarray, words: np.ndarray) -> np.ndarray:
        """(B,) the nodes after one more word; the root where no item goes on like that."""
        keys = nodes * self._base + words
        place = np.minimum(np.searchsorted(self._keys, keys), len(self._keys) - 1)
        return np.where(self._keys[place] == keys, self._targets[place], 0)

    def allowed(self, nodes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(M,) rows of the (B,) nodes, and the (M,) words that may follow there."""
        first, size = self.starts[nodes], self.starts[nodes + 1] - self.starts[nodes]
        rows = np.repeat(np.arange(len(nodes)), size)
        offset = np.arange(len(rows)) - np.repeat(np.cumsum(size) - size, size)
        return rows, self.words[np.repeat(first, size) + offset]

    def num_words(self, node: int) -> int:
        """How many words may follow."""
        return int(self.starts[node + 1] - self.starts[node])
