"""Column names and Arrow schemas of everything that crosses a stage boundary.

A part file holds rows of one of these schemas. `validate` is called once at each boundary.
"""

from __future__ import annotations

import pyarrow as pa

from llmaug.errors import UserError

REAL, SYNTHETIC = "real", "synthetic"

# One row of behaviour, real or synthetic (the columns from run_id on are null for real rows).
EVENT = pa.schema(
    [
        pa.field("user_id", pa.string(), nullable=False),
        pa.field("item_id", pa.string(), nullable=False),
        pa.field("action", pa.dictionary(pa.int32(), pa.string())),
        pa.field("timestamp", pa.timestamp("us", "UTC"), nullable=False),
        pa.field("value", pa.float32()),  # rating, dwell seconds, amount
        pa.field("weight", pa.float32(), nullable=False),  # training weight
        pa.field("origin", pa.dictionary(pa.int32(), pa.string()), nullable=False),
        pa.field("run_id", pa.string()),
        pa.field("unit_id", pa.string()),
        pa.field("strategy", pa.string()),
        pa.field("generator", pa.string()),  # model name @ content digest
        pa.field("position", pa.int16()),  # place among the unit's generated events, from 0
        # Place in the user's real events: it stands before that one, or (substitute) for it.
        pa.field("place", pa.int32()),
        pa.field("logprob", pa.float32()),
    ]
)

ITEM = pa.schema(
    [
        pa.field("item_id", pa.string(), nullable=False),
        pa.field("title", pa.string()),
        pa.field("description", pa.string()),
        pa.field("tags", pa.list_(pa.string())),
        pa.field("price", pa.float32()),
        pa.field("image_uri", pa.string()),
        pa.field("origin", pa.string(), nullable=False),
        # Before and after these it is not there, and is neither generated nor recommended.
        pa.field("available_from", pa.timestamp("us", "UTC")),
        pa.field("available_until", pa.timestamp("us", "UTC")),
    ]
)

USER = pa.schema(
    [
        pa.field("user_id", pa.string(), nullable=False),
        pa.field("attributes", pa.map_(pa.string(), pa.string())),
    ]
)

# Rows that ingest refused, with where they stood.
QUARANTINE = pa.schema(
    [
        pa.field("file", pa.string(), nullable=False),
        pa.field("row", pa.int64()),  # from 1; null when the whole file is unreadable
        pa.field("reason", pa.string(), nullable=False),
        pa.field("detail", pa.string()),
    ]
)

SAMPLING = pa.struct(
    [
        pa.field("temperature", pa.float32()),
        pa.field("top_p", pa.float32()),
        pa.field("top_k", pa.int32()),  # -1: all tokens
        pa.field("max_tokens", pa.int32()),
        pa.field("forbid_repeats", pa.bool_()),  # no item of the prompt, and none twice
    ]
)

# One request to a generator.
UNIT = pa.schema(
    [
        pa.field("unit_id", pa.string(), nullable=False),
        pa.field("user_id", pa.string()),  # null for new users
        pa.field("strategy", pa.string(), nullable=False),
        pa.field("sample", pa.int32(), nullable=False),
        pa.field("prompt", pa.list_(pa.int32()), nullable=False),  # token ids
        pa.field("sampling", SAMPLING, nullable=False),
        pa.field("seed", pa.int64(), nullable=False),
        # Where the events go in the user's training events, the last one for all that follow:
        # before that event, or (substitute) in its stead. Null for new users.
        pa.field("places", pa.list_(pa.int32())),
        # Where repeats are forbidden: events of the history that the prompt does not show.
        pa.field("also_seen", pa.list_(pa.int32())),
        # Where some actions may repeat and others may not: the words of those that may.
        pa.field("may_repeat", pa.list_(pa.int32())),
        # choose: the items that were offered, in the order of their letters.
        pa.field("candidates", pa.list_(pa.int32())),
        # Of a text task: the item in question, and the question where an endpoint is asked, which
        # takes no token ids.
        pa.field("item_id", pa.string()),
        pa.field("text", pa.string()),
        # The image that goes with the question: where it lies, and the digest of its bytes (null
        # where they could not be read).
        pa.field("image", pa.struct([("uri", pa.string()), ("digest", pa.string())])),
    ]
)

GENERATED, FAILED, ACCEPTED, REJECTED = "generated", "failed", "accepted", "rejected"

GENERATED_EVENT = pa.struct(
    [
        pa.field("item_id", pa.string()),
        pa.field("action", pa.string()),
        pa.field("timestamp", pa.timestamp("us", "UTC")),
        pa.field("position", pa.int16()),
        pa.field("place", pa.int32()),
        pa.field("logprob", pa.float32()),
        pa.field("keep", pa.bool_()),
        pa.field("reason", pa.string()),
    ]
)

# What else could have come at the events of a history: `soft_k` item tokens an event, -1 where
# there are fewer, and how likely each is, of all that may come. All null for other strategies.
SOFT = pa.schema(
    [
        pa.field("soft_k", pa.int32()),
        pa.field("soft_tokens", pa.list_(pa.int32())),
        pa.field("soft_chances", pa.list_(pa.float32())),
    ]
)

# Real events in training shards, with what could have come in their stead: of each as many tokens
# as chances, null where nothing is known.
SOFT_EVENT = pa.schema([*EVENT, SOFT.field("soft_tokens"), SOFT.field("soft_chances")])

# What a chat model said, and the tokens of question and answer as the server counted them where it
# was asked elsewhere. All null for events.
SAID = pa.schema(
    [
        pa.field("text", pa.string()),
        pa.field("asked_tokens", pa.int32()),
        pa.field("said_tokens", pa.int32()),
    ]
)

# Exactly one a Unit. `generate` writes status generated or failed with the raw tokens;
# `filter` writes the final status (accepted, rejected, failed) with the events. Strategy
# soft_events: `tokens` are the real events that the chances are of, and `filter` gives those of all
# training events of the user, in tokens of the run's vocabulary.
OUTCOME = pa.schema(
    [
        pa.field("unit_id", pa.string(), nullable=False),
        pa.field("user_id", pa.string()),
        pa.field("strategy", pa.string(), nullable=False),
        pa.field("sample", pa.int32(), nullable=False),
        pa.field("status", pa.string(), nullable=False),
        pa.field("reason", pa.string()),
        pa.field("detail", pa.string()),
        pa.field("tokens", pa.list_(pa.int32())),
        pa.field("events", pa.list_(GENERATED_EVENT)),
        pa.field("num_prompt_tokens", pa.int32(), nullable=False),
        pa.field("num_cached_tokens", pa.int32()),  # of the prompt, from the prefix cache
        pa.field("num_generated_tokens", pa.int32(), nullable=False),
        pa.field("engine_seconds", pa.float32(), nullable=False),
        pa.field("attempts", pa.int16(), nullable=False),
        *SOFT,
        pa.field("text", pa.string()),  # of a text task: the answer
    ]
)

# What came of a question to a chat model: one row for each unit of a text task.
VERDICT = pa.schema(
    [
        pa.field("unit_id", pa.string(), nullable=False),
        pa.field("user_id", pa.string()),
        pa.field("item_id", pa.string()),
        pa.field("status", pa.string(), nullable=False),
        pa.field("reason", pa.string()),
        pa.field("detail", pa.string()),
        pa.field("answer", pa.string()),  # JSON; null where it is none
    ]
)

# What a chat model wrote in the name of a user about an item that the user took.
REVIEW = pa.schema(
    [
        pa.field("user_id", pa.string(), nullable=False),
        pa.field("item_id", pa.string(), nullable=False),
        pa.field("action", pa.dictionary(pa.int32(), pa.string())),  # that of the real event,
        pa.field("timestamp", pa.timestamp("us", "UTC"), nullable=False),  # and its time
        pa.field("value", pa.float32(), nullable=False),  # the rating
        pa.field("review", pa.string(), nullable=False),
        pa.field("origin", pa.string(), nullable=False),
        pa.field("run_id", pa.string(), nullable=False),
        pa.field("unit_id", pa.string(), nullable=False),
        pa.field("generator", pa.string(), nullable=False),  # model name @ content digest
    ]
)

# A list for a chat model to choose from, and what its user had, oldest first.
CANDIDATES = pa.schema(
    [
        pa.field("user_id", pa.string(), nullable=False),
        pa.field("history", pa.list_(pa.string()), nullable=False),
        pa.field("candidates", pa.list_(pa.string()), nullable=False),
        pa.field("held_out", pa.list_(pa.string()), nullable=False),  # rerank: to be found there
        pa.field("item_id", pa.string()),  # cold_items, explain: the item in question
        USER.field("attributes"),  # cold_users: the persona
        pa.field("timestamp", pa.timestamp("us", "UTC")),  # of events that come of it
    ]
)

# What a chat model chose twice from such a list, which becomes events.
CHOSEN = pa.schema(
    [
        pa.field("user_id", pa.string()),  # null: a synthetic user
        pa.field("item_ids", pa.list_(pa.string()), nullable=False),  # in their order
        pa.field("timestamp", pa.timestamp("us", "UTC"), nullable=False),
        pa.field("origin", pa.string(), nullable=False),
        pa.field("run_id", pa.string(), nullable=False),
        pa.field("unit_id", pa.string(), nullable=False),
        pa.field("generator", pa.string(), nullable=False),  # model name @ content digest
    ]
)

RERANKED = pa.schema(
    [
        pa.field("user_id", pa.string(), nullable=False),
        pa.field("item_ids", pa.list_(pa.string()), nullable=False),  # best first
    ]
)

# Why a chat model thinks that an item fits a user.
EXPLANATION = pa.schema(
    [
        pa.field("user_id", pa.string(), nullable=False),
        pa.field("item_id", pa.string(), nullable=False),
        pa.field("because", pa.list_(pa.string()), nullable=False),  # items of the history
        pa.field("sentence", pa.string(), nullable=False),
        pa.field("origin", pa.string(), nullable=False),
        pa.field("run_id", pa.string(), nullable=False),
        pa.field("unit_id", pa.string(), nullable=False),
        pa.field("generator", pa.string(), nullable=False),  # model name @ content digest
    ]
)

# Where a held-out item of one user was ranked by one trained model. The list that the user
# would have got stands on the first row of each user.
RANK = pa.schema(
    [
        pa.field("user_id", pa.string(), nullable=False),
        pa.field("item_id", pa.string(), nullable=False),
        pa.field("arm", pa.string(), nullable=False),
        pa.field("seed", pa.int32(), nullable=False),
        pa.field("rank", pa.int32(), nullable=False),  # from 0 among the unseen items
        pa.field("num_ranked", pa.int32(), nullable=False),  # of these, the held-out ones included
        pa.field("history_len", pa.int32(), nullable=False),  # training events of the user
        pa.field("item_train_events", pa.int32(), nullable=False),
        pa.field("recommended", pa.list_(pa.int32())),  # tokens, best first; -1: none left
        pa.field("log_loss", pa.float64()),  # of models that judge pairs: see labels.py
        pa.field("squared_error", pa.float64()),
    ]
)

RECOMMENDATION = pa.schema(
    [
        pa.field("user_id", pa.string(), nullable=False),
        pa.field("item_id", pa.string(), nullable=False),
        pa.field("position", pa.int16(), nullable=False),  # from 1
        pa.field("score", pa.float32(), nullable=False),
    ]
)

# What a published model says when it is asked by hand.
ANSWER = pa.schema(
    [
        pa.field("user_id", pa.string(), nullable=False),
        pa.field("position", pa.int16(), nullable=False),  # from 1
        pa.field("item_id", pa.string(), nullable=False),
        pa.field("title", pa.string()),
        pa.field("score", pa.float64(), nullable=False),
        pa.field("known_user", pa.bool_(), nullable=False),  # whether the logs have the user
    ]
)

SCORED_PAIR = pa.schema(
    [
        pa.field("user_id", pa.string(), nullable=False),
        pa.field("item_id", pa.string(), nullable=False),
        pa.field("score", pa.float64()),  # null: an item that the model cannot judge
        pa.field("known_user", pa.bool_(), nullable=False),
        pa.field("known_item", pa.bool_(), nullable=False),
    ]
)

# Live results. A nullable column may also be missing in the files.
EXPOSURE = pa.schema(
    [
        pa.field("user_id", pa.string(), nullable=False),
        pa.field("variant", pa.string(), nullable=False),
        pa.field("timestamp", pa.timestamp("us", "UTC"), nullable=False),
        pa.field("item_id", pa.string()),
    ]
)

FEEDBACK = pa.schema(
    [
        pa.field("user_id", pa.string(), nullable=False),
        pa.field("action", pa.string(), nullable=False),
        pa.field("timestamp", pa.timestamp("us", "UTC"), nullable=False),
        pa.field("item_id", pa.string()),
        pa.field("value", pa.float32()),  # satisfaction score
    ]
)

# One item that was shown by a policy which drew at random and logged with what probability.
LOGGED_CHOICE = pa.schema(
    [
        pa.field("user_id", pa.string(), nullable=False),
        pa.field("item_id", pa.string(), nullable=False),
        pa.field("propensity", pa.float32(), nullable=False),  # of the policy that was live
        pa.field("reward", pa.float32(), nullable=False),
        pa.field("new_probability", pa.float32()),  # of the new policy, for this item
        pa.field("predicted_reward", pa.float32()),  # a reward model's q(x, a) for this item
        pa.field("expected_reward", pa.float32()),  # its mean over what the new policy shows
    ]
)


def validate(table: pa.Table, schema: pa.Schema, where: str) -> pa.Table:
    """`table` with exactly the columns of `schema`, cast; columns it lacks become null.

    Raises UserError naming `where` and the column when a cast fails, a column is not in
    the schema, or a null stands where none may.
    """
    unknown = set(table.column_names) - set(schema.names)
    if unknown:
        raise UserError(f"{where}: unknown columns {sorted(unknown)}; known: {schema.names}")
    columns = []
    for field in schema:
        if field.name in table.column_names:
            column = table[field.name]
        else:
            column = pa.nulls(table.num_rows, field.type)
        if column.type != field.type:
            try:
                column = column.cast(field.type)
            except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
                raise UserError(
                    f"{where}: column '{field.name}' is {column.type}, not {field.type}: {error}"
                ) from error
        if not field.nullable and column.null_count:
            raise UserError(f"{where}: column '{field.name}' has {column.null_count} nulls")
        columns.append(column)
    return pa.table(columns, schema=schema)


def empty(schema: pa.Schema) -> pa.Table:
    """A table of `schema` without rows."""
    return schema.empty_table()
