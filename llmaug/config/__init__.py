"""The YAML config as pydantic models: every field described, unknown keys refused.

A preset is a YAML file; a variant names its `base` and changes fields of it. Relative paths are
those from the file that they stand in (`config_paths`). Secrets never stand in a config: they come
from the environment or the standard AWS files.
"""

from __future__ import annotations

import difflib
import re
from datetime import UTC, date, datetime, time
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    model_validator,
)

from llmaug.config.file import read_config_file, unusable_texts
from llmaug.config.names import check_name
from llmaug.errors import UserError

Name = Annotated[str, AfterValidator(check_name)]
"""Of a folder."""


class _Model(BaseModel):
    # A comparison with NaN is false: a gate with `min_lift: .nan` lets every model pass.
    model_config = ConfigDict(
        extra="forbid", frozen=True, use_attribute_docstrings=True, allow_inf_nan=False,
        hide_input_in_errors=True,
    )  # fmt: skip


class StorageConfig(_Model):
    """Where everything is read from and written to."""

    root: str = "demo"
    """Folder (from the config's own, where relative) or `s3://bucket/prefix`. `--root` and
    LLMAUG_ROOT win over it, and are relative to the working folder."""
    endpoint_url: str | None = None
    """S3 endpoint for servers other than AWS. `--endpoint-url` wins over it."""


Format = Literal["parquet", "jsonl", "csv", "text"]

NULL_WORDS = (
    "\\N", "null", "Null", "NULL", "(null)", "<null>", "nil", "None", "NONE", "undefined", "nan",
    "NaN", "NAN", "-nan", "-NaN", "NaT", "NA", "<NA>", "#N/A", "N/A", "n/a", "(not set)", "-",
)  # fmt: skip
"""What databases, pandas, Python, R, JavaScript, spreadsheets, analytics and web servers write
where there is nothing."""


class FilesConfig(_Model):
    """Files of rows, and how they are written."""

    path: str
    """Folder, file or glob (`logs/2026-*/*.csv`); `{root}` stands for the storage root, and a
    relative path starts at the folder of the config."""
    format: Format = "parquet"
    """parquet, jsonl (objects: one a line, several a line, an array, or spread over lines), csv,
    or text (lines matched by `pattern`). Files packed with gzip, zstd, bz2, xz, lz4 or zip are
    unpacked. A Delta table is read through `deltalake` (`pip install 'llmaug[delta]'`)."""
    columns: dict[str, str | None] = {}
    """Our column name: the name in the files; a dotted path where it is nested (`user.id`). Columns
    of the same name need no entry. `null`: there is no such column, whatever the files call so
    (`value: null`)."""
    pattern: str | None = None
    """format text: a regular expression with a named group for each column (`(?P<user_id>...)`)."""
    delimiter: str = Field(default=",", min_length=1, max_length=8)
    """csv: what separates fields, `"\t"` for tabs."""
    quote: str | None = Field(default='"', min_length=1, max_length=1)
    """csv: what fields with delimiters or line ends stand in. null: quotes are text, as they are
    beside a delimiter of several characters."""
    header: list[str] | None = None
    """csv: names of the columns of files without a header line. None: the first line has them."""
    encoding: str | None = None
    """csv, jsonl, text: encoding of the files (`cp1252`, `latin-1`, `utf-16`). None: UTF-8, or
    UTF-16 and UTF-32 where the file begins with their mark."""
    explode: str | None = None
    """Column (or dotted path) of a list, each element of which is a row: sessions as lists of
    events, histories as lists of items. Text is a list of words. Columns within the elements are
    named by their path through the list: `explode: events`, `columns: {item_id: events.aid}`."""
    max_line_bytes: int = Field(default=16 * 2**20, ge=1_000)
    """A longer line is quarantined unread."""

    @model_validator(mode="after")
    def _text_has_a_pattern(self) -> FilesConfig:
        if (self.format == "text") != (self.pattern is not None):
            raise ValueError("pattern goes with format: text, and is required there")
        return self

    @model_validator(mode="after")
    def _known_encoding(self) -> FilesConfig:
        if self.encoding is not None:
            try:
                b"".decode(self.encoding)
            except LookupError as error:
                raise ValueError(
                    f"encoding {self.encoding!r} is unknown; cp1252, utf-16, ..."
                ) from error
        return self


class TableConfig(FilesConfig):
    """A side table: items or users."""


class IngestConfig(FilesConfig):
    """Reading, cleaning and sampling of the logs."""

    path: str = "{root}/logs/events"
    """Folder, file or glob of the events; `{root}` stands for the storage root, and
    a relative path starts at the folder of the config."""
    columns: dict[str, str | None] = {}
    """Our column name (user_id, item_id, action, timestamp, value): the name in the logs; a dotted
    path where it is nested (`user.id`). `null`: there is no such column, whatever the logs call so
    (`value: null`). A column that one file lacks is null there."""
    null_values: list[str] | None = None
    """Words that stand for nothing in ids, actions, times and numbers, of side tables, too. None:
    `\\N`, null, NULL, None, nan, NA, undefined and their like in CSV, text and Parquet; no word in
    JSON lines, which have a null of their own: there they stay ids, and a note counts them."""
    order: Literal["timestamp", "line"] = "timestamp"
    """What orders a user's events. `line`: the logs have no time; the line number orders
    them and stands in as seconds since 1970."""
    timestamp_unit: Literal["s", "ms", "us", "ns"] | None = None
    """Unit of integer or float timestamps; not needed for timestamp columns and ISO 8601."""
    time_format: str | None = None
    """Notation of times that do not say which number is the day, as Python's strptime has it:
    `%m/%d/%Y %I:%M:%S %p`. Without a zone (`%z`) they are UTC. What it does not match is read as
    without it."""
    default_action: str = "interact"
    """Action of logs without an action column."""
    actions: list[str] | None = None
    """All actions that the logs may hold; a row with another one is quarantined. None: any."""
    keep_actions: list[str] | None = None
    """Actions that are training material; other rows are dropped and counted. None: all."""
    date_partition: str | None = "dt"
    """Hive partition key (`dt=2026-01-31/`) that `start` and `end` prune by."""
    start: date | None = None
    """First day (UTC) to read."""
    end: date | None = None
    """Last day (UTC) to read, inclusive."""
    earliest: datetime = datetime.fromisoformat("1990-01-01T00:00:00+00:00")
    """Timestamps before this are quarantined: most often a wrong unit."""
    max_events_per_day: int | None = Field(default=2000, ge=1)
    """A user with more events than this on one day (UTC) is a bot: all its rows are dropped."""
    k_core: int = Field(default=1, ge=1)
    """Drop users and items with fewer events than this, again and again until none is left."""
    sample_users: float = Field(default=1.0, gt=0, le=1)
    """Share of the users to keep, by a hash of the user id: the same users every night."""
    max_quarantined: float = Field(default=0.01, ge=0, le=1)
    """A larger share of quarantined rows stops the run: then the config is wrong, not a row."""
    max_unreadable_files: int = Field(default=0, ge=0)
    """More files that are damaged stop the run: nobody knows how many rows they held. What stands
    before the damage is read."""
    num_parts: int | None = Field(default=None, ge=1)
    """User partitions, the unit of work of all later stages. None: by size (128 MB each)."""
    items: TableConfig | None = None
    """Catalogue: item_id, title, description, tags, price, image_uri."""
    users: TableConfig | None = None
    """User attributes: user_id and attribute columns."""

    @model_validator(mode="after")
    def _what_every_event_has(self) -> IngestConfig:
        optional = {"action", "value"} | ({"timestamp"} if self.order == "line" else set())
        for name in self.columns:
            if self.columns[name] is None and name not in optional:
                raise ValueError(
                    f"ingest.columns.{name}: null is for {', '.join(sorted(optional))}; events "
                    "without a time need ingest.order: line"
                )
        return self

    @model_validator(mode="after")
    def _time_format_reads_what_it_writes(self) -> IngestConfig:
        if self.time_format is not None:
            sample = datetime(2019, 1, 31, 15, 4, 5, tzinfo=UTC)
            try:
                datetime.strptime(sample.strftime(self.time_format), self.time_format)
            except (ValueError, re.error, LookupError) as error:
                raise ValueError(
                    f"ingest.time_format: {error}; write it as for Python's strptime, such as "
                    "'%m/%d/%Y %I:%M:%S %p' for 1/31/2019 3:04:05 PM"
                ) from error
        return self

    def null_words(self, format: Format) -> tuple[str, ...]:
        """What stands for nothing in files of `format`."""
        if self.null_values is not None:
            return tuple(self.null_values)
        return () if format == "jsonl" else NULL_WORDS


class SplitConfig(_Model):
    """Held-out events."""

    kind: Literal["leave_one_out", "temporal", "none"] = "temporal"
    """temporal: events past a global cut-off; leave_one_out: each user's last event is test,
    the one before validation; none: all events train, nothing is measured."""
    num_test_events: int = Field(default=1, ge=1)
    """leave_one_out: test events of each user, the last ones. More of them, with
    `evaluate.targets: all`, narrow the intervals where users are few and histories long."""
    validation_quantile: float = Field(default=0.8, gt=0, lt=1)
    """temporal: share of the events before the validation cut-off (rounded to an hour)."""
    test_quantile: float = Field(default=0.9, gt=0, lt=1)
    """temporal: share of the events before the test cut-off (rounded to an hour)."""
    max_train_events: int | None = Field(default=None, ge=1)
    """Keep only each user's last N training events: an experiment on thin logs."""

    @model_validator(mode="after")
    def _quantiles_in_order(self) -> SplitConfig:
        if self.validation_quantile >= self.test_quantile:
            raise ValueError("split.validation_quantile must be below split.test_quantile")
        return self

    @model_validator(mode="after")
    def _counts_where_it_matters(self) -> SplitConfig:
        if self.num_test_events > 1 and self.kind != "leave_one_out":
            raise ValueError(f"split.num_test_events is for leave_one_out, not {self.kind}")
        return self


class VocabularyConfig(_Model):
    """Items to tokens."""

    cold_items: bool = True
    """Also give a token to catalogue items without a training event (the items table is then
    taken to be the catalogue as of the cut-off)."""
    min_tag_items: int = Field(default=3, ge=1)
    """Tags on fewer items are left out of the item features."""
    title_words: bool = False
    """The words of a title are tags of the item (`word:toy`), too."""
    text_encoder: str | None = None
    """Hugging Face folder of a sentence encoder (or of an LLM, which then serves as one):
    `{root}/...`, an absolute path or a URI. Its vectors of the items' titles and tags are item
    features beside the tags. It is copied below the root once."""
    max_atomic_items: int = Field(default=100_000, ge=1)
    """In larger catalogues causal models write semantic ids, some code words an item, where
    else an item is one token."""
    num_levels: int = Field(default=3, ge=1, le=8)
    """Semantic ids: levels of codes; one more makes ids unique."""
    num_codes: int = Field(default=256, ge=2)
    """Semantic ids: codes of a level."""


class OptimiserConfig(_Model):
    """AdamW with linear warm-up, early stop on a validation metric (NDCG@10)."""

    num_steps: int = Field(default=1000, ge=1)
    """Optimiser steps at most: the same for every arm."""
    batch_size: int = Field(default=128, ge=1)
    """Sequences (or pairs) in one step, over all workers."""
    learning_rate: float = Field(default=1e-3, gt=0)
    """Peak learning rate."""
    weight_decay: float = Field(default=0.01, ge=0)
    """AdamW's decoupled weight decay."""
    warmup_steps: int = Field(default=100, ge=0)
    """Steps of linear warm-up."""
    schedule: Literal["constant", "cosine"] = "constant"
    """Learning rate after the warm-up: constant, or half a cosine to 0 at `num_steps`."""
    num_accumulations: int = Field(default=1, ge=1)
    """Pieces that each worker's share of a batch is run in, one after another: a large batch in
    little memory."""
    precision: Literal["float32", "bfloat16"] | None = "float32"
    """Of forward and backward passes; weights stay float32. None: bfloat16 on GPUs that have
    it."""
    validate_every: int = Field(default=50, ge=1)
    """Steps between validations; each one also writes a checkpoint."""
    patience: int = Field(default=8, ge=1)
    """Stop after this many validations without a better one; the best weights are kept."""
    num_workers: int = Field(default=1, ge=1)
    """Ray Train workers (DDP)."""
    use_gpu: bool = False
    """One GPU for each worker."""
    threads_per_worker: int = Field(default=1, ge=1)
    """CPU threads of each worker."""


class LmConfig(OptimiserConfig):
    """Behaviour language model (DESIGN section 3)."""

    model: Literal["causal", "masked", "ngram", "instruct"] = "causal"
    """causal: a small Llama over item tokens; masked: a small BERT, which fills gaps; ngram:
    counts with Kneser-Ney smoothing; instruct: a chat model, which chooses among candidates."""
    name: Name = ""
    """Folder below `lm/` and first half of the generator's name. Default: as `model`."""
    folder: str | None = None
    """instruct: the Hugging Face folder of the chat model: `{root}/...`, an absolute path or a
    URI. It is copied below the root once."""
    prompt_language: Literal["en", "zh"] = "en"
    """instruct: language of the question."""
    finetune: Literal["full", "lora"] | None = None
    """instruct: train the chat model on the same questions about the training events first, all
    of its weights or low-rank adapters that are merged into them. Set a `learning_rate` for it:
    about 2e-4 for lora, 1e-5 for full. None: as it is."""
    lora_rank: int = Field(default=8, ge=1)
    """finetune lora: rank of the adapters."""
    order: int = Field(default=3, ge=1, le=4)
    """ngram: length of the longest n-gram, the event that it predicts included."""
    hidden_size: int = Field(default=64, ge=8)
    """Width."""
    num_layers: int = Field(default=2, ge=1)
    """Transformer layers."""
    num_heads: int = Field(default=2, ge=1)
    """Attention heads; vLLM's CPU attention takes head sizes 32, 64, 80, 96, 112, 128."""
    context_len: int = Field(default=64, ge=4)
    """Longest sequence in tokens, prompt and continuation together."""
    dropout: float = Field(default=0.2, ge=0, lt=1)
    """Dropout on embeddings and on the last hidden state while training."""
    from_run: Name | None = None
    """Generate with the behaviour model (and vocabulary) of this earlier run instead of
    training one: its outcomes cache then answers whatever has not changed since. Refused when
    that run trained on events that are held out now."""
    warm_start: Name | None = None
    """causal: start training from the model of this earlier run (of the same lm.name and
    shape), last night's or another domain's in the same root. Refused when that run trained on
    events that are held out now."""
    item_features: bool = True
    """Add item tags and projected text vectors (`vocabulary.text_encoder`) to the item
    embeddings (folded into one table at export)."""
    cold_items_are_negatives: bool = True
    """Items with features but without a training event are competitors in training, and learn
    that nobody takes them; the more so with text vectors, which tell each item apart. False: they
    are left out of it, and their features alone place them beside known items: they are
    generated."""
    directions: dict[Literal["forward", "reverse", "infill"], Annotated[float, Field(gt=0)]] = {
        "forward": 1.0
    }
    """causal: share of the training visits that are read in each direction."""
    user_attributes: list[str] = []
    """causal: attributes of the users table that stand before a history, one token each."""
    min_attribute_users: int = Field(default=5, ge=1)
    """Attribute values of fewer training users than this count as unknown."""
    action_tokens: bool = True
    """causal: where the training events have several actions (view, buy), an event is the token
    of its action and then those of its item, and synthetic events have the action that was
    generated. False: items alone, and synthetic events have the most frequent action."""
    packed: bool = False
    """causal: several short histories share a row instead of being padded."""
    mask_share: float = Field(default=0.3, gt=0, lt=1)
    """masked: share of the events that are hidden at a visit."""
    num_passes: int = Field(default=4, ge=1)
    """masked: times that the events of a gap are drawn; all at first, then the unlikeliest."""
    stop_on: Literal["ndcg", "perplexity"] = "ndcg"
    """What early stopping looks at: NDCG@10 or perplexity of the validation events."""
    weight_decay: float = Field(default=0.05, ge=0)
    """AdamW's decoupled weight decay."""
    precision: Literal["float32", "bfloat16"] | None = None
    """Of forward and backward passes; weights stay float32. None: bfloat16 on GPUs that have
    it."""

    @model_validator(mode="before")
    @classmethod
    def _named_after_its_model(cls, raw: Any) -> Any:
        if isinstance(raw, dict) and not raw.get("name"):
            return {**raw, "name": raw.get("model", "causal")}
        return raw

    @model_validator(mode="after")
    def _head_size(self) -> LmConfig:
        size, rest = divmod(self.hidden_size, self.num_heads)
        if rest:
            raise ValueError(
                f"lm.hidden_size {self.hidden_size} is not a multiple of lm.num_heads "
                f"{self.num_heads}"
            )
        if self.model == "causal" and size not in (32, 64, 80, 96, 112, 128, 160, 192, 224, 256):
            raise ValueError(
                f"lm.hidden_size / lm.num_heads is {self.hidden_size}/{self.num_heads}; vLLM "
                "takes head sizes 32, 64, 80, 96, 112, 128, 160, 192, 224, 256"
            )
        return self

    @model_validator(mode="after")
    def _has_a_chat_model(self) -> LmConfig:
        if self.model == "instruct" and not self.folder:
            raise ValueError("lm.model instruct needs lm.folder, a Hugging Face folder")
        if self.model == "instruct" and self.context_len < 256:
            raise ValueError(
                f"lm.context_len {self.context_len} is too short for a question in prose; give "
                "lm.model instruct 512 or more"
            )
        return self

    @model_validator(mode="after")
    def _finetunes_a_chat_model(self) -> LmConfig:
        if self.finetune and self.model != "instruct":
            raise ValueError(f"lm.finetune is for model instruct, not {self.model}")
        return self

    @model_validator(mode="after")
    def _one_start(self) -> LmConfig:
        if self.warm_start and self.from_run:
            raise ValueError("lm.from_run trains nothing: leave lm.warm_start out")
        if self.warm_start and self.model != "causal":
            raise ValueError(f"lm.warm_start is for model causal, not {self.model}")
        return self

    @model_validator(mode="after")
    def _reads_forward(self) -> LmConfig:
        # Validation, new users and continuations ask forward.
        if "forward" not in self.directions:
            raise ValueError("lm.directions needs a share of forward")
        num_controls = 4 if len(self.directions) > 1 else 1
        if self.context_len < num_controls + len(self.user_attributes) + 2:
            raise ValueError(
                f"lm.context_len {self.context_len} leaves no room for events beside control "
                f"tokens and {len(self.user_attributes)} user attributes"
            )
        return self


class SamplingConfig(_Model):
    """How tokens are drawn."""

    temperature: float = Field(default=0.8, gt=0)
    """Below 1: closer to the likeliest items."""
    top_p: float = Field(default=1.0, gt=0, le=1)
    """Nucleus sampling."""
    top_k: int = Field(default=-1, ge=-1)
    """Draw among the k likeliest tokens; -1: all."""


class _OfUsers(SamplingConfig):
    """What strategies for users that exist share."""

    samples_per_user: int = Field(default=1, ge=1)
    """Units for each history."""
    num_events: int = Field(default=5, ge=1)
    """Events of each unit."""
    max_history_len: int | None = Field(default=None, ge=1)
    """Only users with at most this many training events: the sparse ones. None: all."""
    accepted_per_user: int | None = Field(default=None, ge=1)
    """Stop asking for a user once so many of its outcomes would be accepted;
    `samples_per_user` is then the most tries. None: all samples are generated."""

    @property
    def min_history_len(self) -> int:
        """Training events that a user must have."""
        return 1


class ContinueConfig(_OfUsers):
    """Events after a user's training history."""

    kind: Literal["continue"]


class PrefixConfig(_OfUsers):
    """Events before a user's training history: the reverse, for short ones."""

    kind: Literal["prefix"]
    max_history_len: int | None = Field(default=10, ge=1)
    """Only users with at most this many training events. None: all."""


class InfillConfig(_OfUsers):
    """Events between two events of a user's training history, drawn anew for each unit."""

    kind: Literal["infill"]
    num_events: int = Field(default=2, ge=1)
    """Events at most: a causal model may end the gap earlier."""

    @property
    def min_history_len(self) -> int:
        return 2


class SubstituteConfig(_OfUsers):
    """Some events of a user's training history, drawn for each unit, replaced by others."""

    kind: Literal["substitute"]
    num_events: int = Field(default=2, ge=1)
    """Events that are replaced. A causal model replaces neighbours."""

    @property
    def min_history_len(self) -> int:
        return self.num_events + 1


class ChooseConfig(_OfUsers):
    """The next event of users with few, chosen by a chat model among what others took, too."""

    kind: Literal["choose"]
    num_events: Literal[1] = 1
    """One: the next."""
    num_candidates: int = Field(default=8, ge=2, le=20)
    """Items to choose among."""
    max_history_len: int | None = Field(default=10, ge=1)
    """Only users with at most this many training events. None: all."""


OfUsersConfig = ContinueConfig | PrefixConfig | InfillConfig | SubstituteConfig | ChooseConfig


class NewUsersConfig(SamplingConfig):
    """Whole histories of users who do not exist."""

    kind: Literal["new_users"]
    num_users: int = Field(default=1000, ge=1)
    """How many."""
    num_events: int = Field(default=10, ge=2)
    """Events of each."""


class PlanConfig(_Model):
    """Which Units are generated."""

    strategies: list[Annotated[OfUsersConfig | NewUsersConfig, Field(discriminator="kind")]] = (
        Field(default=[], max_length=16)
    )
    """What to generate; empty: nothing, only the arm `real` is trained."""
    units_per_part: int = Field(default=512, ge=1)
    """Units in one part, the piece of work that is committed as a whole."""
    allocation: Literal["sparse_first", "uniform", "proportional"] = "sparse_first"
    """Who comes first, and who gets what when the budget is smaller than the demand.
    sparse_first: users with the shortest histories, all their samples; uniform: a first sample
    for everyone before anyone gets a second; proportional: samples in proportion to the
    history (Webster's method)."""

    @model_validator(mode="after")
    def _no_question_twice(self) -> PlanConfig:
        # A unit's id is made from its question: a repeated strategy repeats the units.
        asked = [
            strategy.model_dump(
                exclude={"num_users", "samples_per_user", "max_history_len", "accepted_per_user"}
            )
            for strategy in self.strategies
        ]
        for number, question in enumerate(asked):
            if question in asked[:number]:
                raise ValueError(
                    f"plan.strategies {asked.index(question)} and {number} ask the same questions; "
                    "raise num_users or samples_per_user of one, or change its sampling"
                )
        return self


class BudgetConfig(_Model):
    """What generation may cost. Reaching a limit ends it in a valid, smaller data set."""

    max_units: int | None = Field(default=None, ge=1)
    """Units at most, all strategies together, each cut by the same share."""
    max_tokens: int | None = Field(default=None, ge=1)
    """Generated tokens at most."""
    max_gpu_hours: float | None = Field(default=None, gt=0)
    """Hours of all engines together (on a CPU: of its engines), start-up included."""
    deadline: datetime | time | None = None
    """When generation has to end: a date and time with zone, or a time of day in UTC
    (`06:30`), the next one after generation starts."""
    price_per_hour: float = Field(default=0.0, ge=0)
    """Price of one engine for an hour, in any currency: for the cost that is shown."""

    @model_validator(mode="after")
    def _deadline_has_a_zone(self) -> BudgetConfig:
        if isinstance(self.deadline, datetime) and self.deadline.tzinfo is None:
            raise ValueError("budget.deadline needs a zone: 2026-02-01T06:30:00Z")
        return self


class GenerateConfig(_Model):
    """The generation actors."""

    engine: Literal["vllm", "uniform"] = "vllm"
    """vllm, or uniform: items drawn at random, a control that the gate must refuse."""
    simulated_tokens_per_s: float | None = Field(default=None, gt=0)
    """engine uniform: take the time of a GPU with this rate, to try a cluster's set-up."""
    num_actors: int = Field(default=1, ge=1)
    """Fixed number of engines."""
    num_cpus: float = Field(default=1, ge=0)
    """Ray CPUs of each engine."""
    num_gpus: float | None = Field(default=None, ge=0)
    """GPUs of each engine. None: one where the cluster has GPUs, else none."""
    max_num_seqs: int = Field(default=256, ge=1)
    """Units in flight in one engine."""
    kv_cache_gib: float = Field(default=1.0, gt=0)
    """CPU only: key-value cache of each engine in GiB."""
    dtype: Literal["float32", "bfloat16", "float16", "auto"] = "float32"
    """Weights and activations in the engine."""
    parts_in_flight: int = Field(default=3, ge=1)
    """Parts in one engine at a time: the next runs while one drains and one is written."""
    use_cache: bool = True
    """Take answers that the same generator gave to the same units on an earlier night."""


_Repeats = Literal["allow", "forbid"]


class FiltersConfig(_Model):
    """What generated events must be."""

    repeats: _Repeats | dict[str, _Repeats] = "forbid"
    """forbid: an item already in the history (films); allow: news, groceries. With action
    tokens: the same item with the same action. Or by action, `{view: allow, buy: forbid}`; an
    action without an entry is forbidden."""
    min_events: int = Field(default=2, ge=1)
    """Outcomes with fewer kept events are rejected; of `infill` and `choose` one is enough."""
    copied_ngram: int = Field(default=5, ge=2)
    """Length of the runs of events by which copies of real people are recognised."""
    max_copied_share: float = Field(default=0.5, ge=0, lt=1)
    """New users of whose runs more than this share occur in training histories are rejected
    as copies of real people."""

    def may_repeat(self, action: str) -> bool:
        rule = self.repeats if isinstance(self.repeats, str) else self.repeats.get(action)
        return rule == "allow"


class MergeConfig(_Model):
    """Real and synthetic events into training shards."""

    synthetic_weight: float = Field(default=1.0, gt=0)
    """Training weight of a synthetic event; a real one has 1."""


ArmName = Literal[
    "real",
    "popularity",
    "ease",
    "oversampled",
    "duplicate",
    "ngram",
    "fusion",
    "augmented",
    "augmented_fusion",
]

# Losses of each model, its default first; models without one are solved in closed form.
LOSSES: dict[str, tuple[str, ...]] = {
    "sasrec": ("softmax", "sampled_softmax"),
    "two_tower": ("sampled_softmax", "bpr"),
    "linear": ("bce", "mse"),
    "ease": (),
    "popularity": (),
}
_READ_HISTORIES = ("sasrec", "two_tower")


class TrainConfig(OptimiserConfig):
    """The recommender."""

    model: Literal["sasrec", "two_tower", "linear", "ease", "popularity"] = "sasrec"
    """sasrec (sequences), two_tower (history and item vectors), linear (sigmoid(beta^T [u; i])),
    and two in closed form: ease (item to item), popularity (the same for everybody)."""
    arms: list[ArmName] = ["real", "augmented"]
    """What is compared. real: the logs; augmented: with synthetic events; oversampled: real
    events repeated to the volume of augmented, the control; duplicate: every user once more
    as a synthetic user; ngram: with as many synthetic events, from a trigram model; fusion:
    real events, and the recommender sees the items' tags and texts itself; augmented_fusion:
    both; popularity, ease: these models on real events, as yardsticks. `real` is always one of
    them."""
    item_features: bool = False
    """sasrec, two_tower: add item tags and projected text vectors to the item vectors (the
    fusion arms do)."""
    seeds: list[int] = Field(default=[1], min_length=1)
    """One model a seed and arm; the first is the one published."""
    embedding_dim: int = Field(default=64, ge=1)
    """Width of item (and user) vectors."""
    num_layers: int = Field(default=2, ge=1)
    """sasrec: transformer layers."""
    num_heads: int = Field(default=2, ge=1)
    """sasrec: attention heads."""
    history_len: int = Field(default=50, ge=1)
    """sasrec, two_tower: events the model looks at."""
    dropout: float = Field(default=0.2, ge=0, lt=1)
    """sasrec, two_tower: dropout."""
    loss: Literal["softmax", "sampled_softmax", "bpr", "bce", "mse"] | None = None
    """sasrec: softmax over the catalogue, or sampled_softmax over some of it, for catalogues
    of 100,000 items and more. two_tower: sampled_softmax, or bpr (pairwise).
    linear: binary cross-entropy or mean squared error on sigmoid outputs. None: the first."""
    finetune_after: int | None = Field(default=None, ge=1)
    """sasrec, two_tower: after this many steps on all events, train on real ones alone: what is
    synthetic then prepares the model and does not decide it. None: on all to the end."""
    max_negatives: int = Field(default=1024, ge=1)
    """sampled_softmax: negatives of a batch at most, half of them its own targets."""
    interaction: Literal["concat", "hadamard"] = "concat"
    """linear: [u; i], or [u; i; u*i]."""
    num_negatives: int = Field(default=4, ge=0)
    """linear: items drawn at random as negatives for each event."""
    popularity_days: float | None = Field(default=None, gt=0)
    """popularity: count only the last N days of the training events. None: all."""
    ease_l2: float = Field(default=300.0, gt=0)
    """ease: strength of its regularisation."""
    ease_max_items: int = Field(default=10_000, ge=1)
    """ease: refuse larger catalogues; memory grows with their square (2.2 GiB for 10,000)."""

    @property
    def loss_name(self) -> str | None:
        """The loss that counts; None for models in closed form."""
        return self.loss or next(iter(LOSSES[self.model]), None)

    @model_validator(mode="after")
    def _loss_fits_the_model(self) -> TrainConfig:
        if self.loss and self.loss not in LOSSES[self.model]:
            has = " or ".join(LOSSES[self.model]) or "none: it has a closed form"
            raise ValueError(f"train.loss of model {self.model} is {has}, not {self.loss}")
        return self

    @model_validator(mode="after")
    def _finetunes_at_the_end(self) -> TrainConfig:
        if self.finetune_after is None:
            return self
        if self.model not in _READ_HISTORIES:
            raise ValueError(f"train.finetune_after is for sasrec and two_tower, not {self.model}")
        if self.finetune_after >= self.num_steps:
            raise ValueError(
                f"train.finetune_after {self.finetune_after} leaves no step of num_steps "
                f"{self.num_steps} for real events alone"
            )
        return self

    @model_validator(mode="after")
    def _heads_divide_the_width(self) -> TrainConfig:
        if self.model == "sasrec" and self.embedding_dim % self.num_heads:
            raise ValueError(
                f"train.embedding_dim {self.embedding_dim} is not a multiple of train.num_heads "
                f"{self.num_heads}"
            )
        return self

    @model_validator(mode="after")
    def _arms_fit_the_model(self) -> TrainConfig:
        if "real" not in self.arms or len(set(self.arms)) < len(self.arms):
            raise ValueError("train.arms names each arm once, and `real` is one of them")
        fusion = self.item_features or {"fusion", "augmented_fusion"} & set(self.arms)
        if fusion and self.model not in _READ_HISTORIES:
            raise ValueError(
                f"train.model {self.model} cannot see item tags: leave out train.item_features "
                f"and the fusion arms, or take {' or '.join(_READ_HISTORIES)}"
            )
        return self


class EvaluateConfig(_Model):
    """Before and after, on held-out real events."""

    cutoffs: list[int] = Field(default=[10, 20], min_length=1)
    """k of the metrics; the first is the one that gate and lift look at."""
    targets: Literal["first", "all"] = "first"
    """Which held-out events of a user are to be found: the first one after the cut-off, or
    all (each item once). With leave_one_out there is one, or `split.num_test_events`."""
    exclude_seen: bool = True
    """Leave items of the history out of the ranking (false where repeats are normal)."""
    liked_value: float = 4.0
    """A recommended item that its user rated at least this later was liked. Ratings are the
    column `value` of the held-out events; where they have none, nothing is judged."""
    num_bootstrap: int = Field(default=2000, ge=100)
    """Paired bootstrap samples over users (and over seeds, where there are several)."""
    min_users: int = Field(default=100, ge=1)
    """Warn below this many held-out users."""


class GateConfig(_Model):
    """When the augmented model may go out."""

    against: list[ArmName] | None = None
    """Arms that the augmented one must beat, each by the rule of `min_lift`. None: `real`
    (what goes out otherwise), and the control `oversampled` where it is trained."""
    min_lift: float = Field(default=0.0, ge=-1)
    """The whole 95% interval of the relative NDCG lift must lie above this."""
    max_segment_loss: float = Field(default=0.0, ge=0)
    """A segment fails the gate when it is significantly worse than `real` by more than this
    (absolute NDCG)."""
    segment_alpha: float = Field(default=0.05, gt=0, lt=1)
    """Chance, over all segments together (Holm's correction), of refusing a model that is
    worse in none."""
    min_segment_users: int = Field(default=30, ge=1)
    """Segments with fewer users are shown but do not decide."""
    min_run_users: int = Field(default=5, ge=2)
    """A run of `filters.copied_ngram` events that fewer real users than this have in their
    training histories identifies them (k-anonymity)."""
    max_identifying_share: float = Field(default=0.01, ge=0, le=1)
    """A larger share of synthetic histories that hold such a run fails the gate."""


class PublishConfig(_Model):
    """The versioned model folder."""

    name: Name = "recommender"
    """Folder below `published/`."""


class RecommendConfig(_Model):
    """Batch recommendations from the published model."""

    k: int = Field(default=10, ge=1)
    """Items for each user."""
    include_seen: bool = False
    """Recommend items of the history again."""
    num_actors: int = Field(default=1, ge=1)
    """Ray Data actors that score all users, each with the model in memory."""
    num_gpus: float = Field(default=0, ge=0)
    """GPUs of each actor."""


class RayConfig(_Model):
    """The cluster."""

    address: str | None = None
    """None: RAY_ADDRESS if set, else a local single-node Ray; `auto` inside a cluster."""
    num_cpus: int | None = Field(default=None, ge=4)
    """Logical CPUs of a local Ray (Ray Data needs spare ones: at least 4)."""


class Config(_Model):
    """One nightly job."""

    name: Name = "llmaug"
    """Name of the job; also the run id when none is given."""
    seed: int = 7
    """Of everything random."""
    storage: StorageConfig = StorageConfig()
    ingest: IngestConfig = IngestConfig()
    split: SplitConfig = SplitConfig()
    vocabulary: VocabularyConfig = VocabularyConfig()
    lm: LmConfig = LmConfig()
    plan: PlanConfig = PlanConfig()
    budget: BudgetConfig = BudgetConfig()
    generate: GenerateConfig = GenerateConfig()
    filters: FiltersConfig = FiltersConfig()
    merge: MergeConfig = MergeConfig()
    train: TrainConfig = TrainConfig()
    evaluate: EvaluateConfig = EvaluateConfig()
    gate: GateConfig = GateConfig()
    publish: PublishConfig = PublishConfig()
    recommend: RecommendConfig = RecommendConfig()
    ray: RayConfig = RayConfig()

    @model_validator(mode="before")
    @classmethod
    def _texts_can_be_used(cls, raw: Any) -> Any:
        for field, wrong in unusable_texts(raw):
            raise ValueError(f"{field}: {wrong}")
        return raw

    @model_validator(mode="after")
    def _fits_together(self) -> Config:
        if self.lm.user_attributes and self.ingest.users is None:
            raise ValueError("lm.user_attributes needs a users table: set ingest.users")
        for strategy in self.plan.strategies:
            self._check_strategy(strategy)
        untrained = set(self.gate.against or ()) - set(self.train.arms)
        if untrained or "augmented" in (self.gate.against or ()):
            raise ValueError("gate.against: arms of train.arms other than `augmented`")
        if self.split.num_test_events > 1 and self.evaluate.targets == "first":
            raise ValueError(
                f"evaluate.targets first measures one of the {self.split.num_test_events} test "
                "events of split.num_test_events: set evaluate.targets: all"
            )
        return self

    def _check_strategy(self, strategy: OfUsersConfig | NewUsersConfig) -> None:
        room = self.lm.context_len - 2
        if self.lm.model == "causal":  # room for user attributes and the marks of a gap
            room -= len(self.lm.user_attributes) + 2 * (len(self.lm.directions) > 1)
        if strategy.num_events > room:
            raise ValueError(
                f"plan.strategies: num_events {strategy.num_events} does not fit into "
                f"lm.context_len {self.lm.context_len}; at most {room}"
            )
        if self.generate.engine == "uniform" and strategy.kind != "choose":
            return
        fits = _STRATEGIES_OF[self.lm.model]
        if strategy.kind not in fits:
            raise ValueError(
                f"plan.strategies: {strategy.kind} is nothing that lm.model {self.lm.model} can "
                f"do; it can do {', '.join(fits)}"
            )
        needed = DIRECTION_OF[strategy.kind]
        if self.lm.model == "causal" and needed not in self.lm.directions:
            raise ValueError(
                f"plan.strategies: {strategy.kind} needs a model that reads {needed}: give "
                f"lm.directions a share of {needed}, such as {{forward: 2, {needed}: 1}}"
            )


DIRECTION_OF = {
    "new_users": "forward",
    "continue": "forward",
    "prefix": "reverse",
    "infill": "infill",
    "substitute": "infill",
    "choose": "forward",
}
"""Strategy of a unit: the direction in which a causal model answers it."""
_STRATEGIES_OF = {
    "causal": ("continue", "prefix", "infill", "substitute", "new_users"),
    "masked": ("continue", "prefix", "infill", "substitute"),
    "ngram": ("continue", "new_users"),
    "instruct": ("choose",),
}


_MAX_MISTAKES = 20  # are told at once


def load_config(path: str | Path) -> Config:
    """Read a YAML config, its `base` first.

    Raises UserError naming the file, the field and, for an unknown key, the likely one.
    """
    return parse_config(read_config_file(Path(path)), str(path))


def parse_config(raw: dict[str, Any], where: str = "config") -> Config:
    """Check a config that was read already; `where` names it in messages."""
    try:
        return Config.model_validate(raw)
    except ValidationError as error:
        problems = error.errors(include_url=False, include_context=False, include_input=False)
        lines = [_explain(problem) for problem in problems[:_MAX_MISTAKES]]
        if len(problems) > len(lines):
            lines.append(f"and {len(problems) - len(lines)} more")
        raise UserError("\n".join(f"{where}: {line}" for line in lines)) from error


def _explain(problem: Any) -> str:
    where = ".".join(str(step) for step in problem["loc"]) or "(top level)"
    if problem["type"] == "value_error" and not problem["loc"]:  # of fields that it names
        return str(problem["msg"].removeprefix("Value error, "))
    if problem["type"] != "extra_forbidden":
        return f"{where}: {problem['msg'].removeprefix('Value error, ')}"
    known = _fields_at(problem["loc"][:-1])
    close = difflib.get_close_matches(str(problem["loc"][-1]), known, n=1)
    hint = f"did you mean '{close[0]}'?" if close else f"known: {', '.join(sorted(known))}"
    return f"{where}: unknown key; {hint}"


def _fields_at(path: tuple[Any, ...]) -> list[str]:
    """Field names of the model that `path` leads to (list items and unions by their tag)."""
    models: list[type[BaseModel]] = [Config]
    for step in path:
        if step == "strategies":
            models = [*get_args(OfUsersConfig), NewUsersConfig]
        elif any(step in model.model_fields for model in models):
            annotations = [
                m.model_fields[step].annotation for m in models if step in m.model_fields
            ]
            found = [a for a in annotations if isinstance(a, type) and issubclass(a, BaseModel)]
            models = found or [TableConfig]
        else:  # an index or a union tag
            tagged = [m for m in models if f"'{step}'" in str(m.model_fields.get("kind"))]
            models = tagged or models
    return [name for model in models for name in model.model_fields]
