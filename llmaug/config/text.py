"""Section `text`: a chat model writes what the logs lack, for items and users."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import Field, model_validator

from llmaug.config.base import Name, Section
from llmaug.config.endpoint import EndpointConfig
from llmaug.config.kinds import Kinds
from llmaug.config.text_choices import ColdItemsConfig, ColdUsersConfig
from llmaug.config.text_custom import CustomConfig
from llmaug.config.text_task import TextTaskConfig

_MEDICAL = re.compile(
    r"\b(?:dos(?:e|es|age)|diagnos\w+|prescri\w+|medical advice)\b"
    r"|\b(?:medication|medicine|drug|treatment)s?\b[^.]{0,30}\b(?:advice|recommend\w*|take)\b"
    r"|\b(?:advice|recommend\w*|suggest\w*|which|what)\b[^.]{0,20}"
    r"\b(?:medication|medicine|drug|treatment)s?\b|剂量|用药|处方|诊断|[吃服]什么药|什么药",
    re.IGNORECASE,
)
"""What a question asks for that nobody but a physician may answer."""


class DescribeItemsConfig(TextTaskConfig):
    """Description and tags of items with a thin text."""

    implementation = "llmaug.text.describe_items:task"
    feeds_vocabulary = True

    kind: Literal["describe_items"] = "describe_items"
    """The task."""
    min_description_len: int = Field(default=40, ge=1)
    """Items are asked about whose description has fewer characters than this."""
    max_new_tokens: int = Field(default=320, ge=8)
    """Longest answer. One that is cut there is rejected (`too_long`)."""
    max_tags: int = Field(default=5, ge=1, le=20)
    """Tags of an item at most."""


class CaptionItemsConfig(TextTaskConfig):
    """Description and tags of items with an image, by what a vision-language model sees in it."""

    implementation = "llmaug.text.caption_items:task"
    feeds_vocabulary = True
    shows_images = True

    kind: Literal["caption_items"] = "caption_items"
    """The task."""
    max_new_tokens: int = Field(default=320, ge=8)
    """Longest answer. One that is cut there is rejected (`too_long`)."""
    max_tags: int = Field(default=5, ge=1, le=20)
    """Tags of an item at most."""
    max_image_mib: float = Field(default=8.0, gt=0, le=256)
    """Largest file that is read, in MiB; larger ones fail their unit (`image_too_large`)."""
    max_image_pixels: int = Field(default=40_000_000, ge=1, le=178_000_000)
    """Most pixels (width times height) that are unpacked; above that as well."""
    image_side: int = Field(default=448, ge=16, le=4096)
    """Longer side of what the model is shown, in pixels: larger images are made smaller first. Of
    many models it decides how many tokens of `text.context_len` an image takes."""


class WriteReviewsConfig(TextTaskConfig):
    """Ratings and reviews of items that users took in the training events and did not rate."""

    implementation = "llmaug.text.write_reviews:task"
    labels_events = True
    names_people = True

    kind: Literal["write_reviews"] = "write_reviews"
    """The task."""
    min_rating: int = 1
    """Worst rating of the logs' column `value`."""
    max_rating: int = 5
    """Best rating."""
    max_history_len: int = Field(default=8, ge=1)
    """Earlier events of the user in a question at most, those with ratings before others."""
    share: float = Field(default=1.0, gt=0, le=1)
    """Share of the pairs without a rating that are asked about, drawn by a hash."""
    max_field_tokens: int = Field(default=64, ge=4)
    """Longest text of one field of a row; what is behind it is cut, and counted (`cut_fields`)."""

    @model_validator(mode="after")
    def _ratings_go_up(self) -> WriteReviewsConfig:
        if self.min_rating >= self.max_rating:
            raise ValueError("max_rating must be above min_rating")
        return self


class RerankConfig(TextTaskConfig):
    """Recommendations in the order that a chat model would give them; it is measured."""

    implementation = "llmaug.text.rerank:task"
    comes_last = True

    kind: Literal["rerank"] = "rerank"
    """The task."""
    of: Literal["held_out", "recommendations"] = "held_out"
    """held_out: the lists of held-out users, by the arm that goes out: both orders are measured.
    recommendations: those that everybody gets; `text/rerank/rows` has them in the new order."""
    top_n: int = Field(default=20, ge=2, le=50)
    """Candidates that the model is shown: those that the recommender ranks first."""
    num_best: int = Field(default=10, ge=1, le=50)
    """How many of them it names at most, the best first; the others follow as they were."""
    max_history_len: int = Field(default=10, ge=1)
    """Latest events of the user in a question."""
    max_new_tokens: int = Field(default=96, ge=8)
    """Longest answer. One that is cut there is rejected (`too_long`)."""
    max_field_tokens: int = Field(default=32, ge=4)
    """Longest title; what is behind it is cut, and counted (`cut_fields`)."""
    temperature: float = Field(default=0.1, gt=0)
    """Below 1: closer to the likeliest order."""


class ExplainConfig(TextTaskConfig):
    """Why a recommendation, or a synthetic event, is plausible: a sentence, and the items of the
    history that it goes by."""

    implementation = "llmaug.text.explain:task"
    candidates = "llmaug.text.explain_pairs:candidates_stage"
    comes_last = True

    kind: Literal["explain"] = "explain"
    """The task."""
    what: Literal["recommendations", "synthetic_events"] = "recommendations"
    """recommendations: the first `top_n` that everybody gets. synthetic_events: of each accepted
    unit the last event, as the arm `augmented` learns it."""
    top_n: int = Field(default=1, ge=1)
    """Recommendations of a user that are explained: those that rank first."""
    max_history_len: int = Field(default=8, ge=1, le=50)
    """Latest items of the user's training events that can be cited."""
    max_new_tokens: int = Field(default=160, ge=8)
    """Longest answer. One that is cut there is rejected (`too_long`)."""
    max_field_tokens: int = Field(default=32, ge=4)
    """Longest title; what is behind it is cut, and counted (`cut_fields`)."""


TEXT_TASKS: Kinds[TextTaskConfig] = Kinds(
    "text task", (TextTaskConfig,), "kind", "llmaug.text_tasks",
    DescribeItemsConfig, CaptionItemsConfig, WriteReviewsConfig, RerankConfig, ColdItemsConfig,
    ColdUsersConfig, ExplainConfig, CustomConfig,
)  # fmt: skip


class TextConfig(Section):
    """Texts by a chat model, before anything is trained."""

    engine: Literal["vllm", "openai"] = "vllm"
    """vllm: the chat model of `folder`, in engines as section `generate` says; openai: the server
    of `endpoint`."""
    folder: str | None = None
    """engine vllm: the Hugging Face folder of the chat model: `{root}/...`, an absolute path or a
    URI. It is copied below the root once."""
    endpoint: EndpointConfig | None = None
    """engine openai: which server, and which model."""
    image_root: str | None = None
    """Where the images lie that `image_uri` of the items table names: a folder, `{root}/...` or
    `s3://bucket/prefix` of the same storage. Nothing else is read, no address of the web either."""
    context_len: int = Field(default=1024, ge=128)
    """Longest question and answer in tokens, those of an image included."""
    units_per_part: int = Field(default=256, ge=1)
    """Questions in one part, the piece of work that is committed as a whole."""
    domain: Name = "general"
    """Folder of the templates of the tasks that come with llmaug."""
    safety: Literal["none", "health"] = "none"
    """health: texts that name a dose, make a diagnosis or say what to take are rejected, what is
    kept ends with "[synthetic, not advice]", and questions that ask for such advice are refused."""
    tasks: list[Annotated[TextTaskConfig, TEXT_TASKS]] = []
    """What is written; empty: nothing."""

    @model_validator(mode="after")
    def _has_a_model(self) -> TextConfig:
        needed = "folder" if self.engine == "vllm" else "endpoint"
        if self.tasks and getattr(self, needed) is None:
            raise ValueError(f"text.{needed} is missing: text.engine is {self.engine}")
        return self

    @model_validator(mode="after")
    def _images_lie_somewhere(self) -> TextConfig:
        for task in self.tasks:
            if task.shows_images and self.image_root is None:
                raise ValueError(
                    f"text.tasks: {task.name} reads images below text.image_root alone: set it to "
                    "their folder"
                )
        scheme, found, _ = (self.image_root or "").partition("://")
        if found and scheme not in ("s3", "file"):
            raise ValueError(
                f"text.image_root {self.image_root}: a folder or s3://bucket/prefix is read; copy "
                "the images to one"
            )
        return self

    @model_validator(mode="after")
    def _nobody_is_asked_for_medical_advice(self) -> TextConfig:
        for task in self.tasks if self.safety == "health" else ():
            if found := _MEDICAL.search(task.asks):
                raise ValueError(
                    f"text.tasks: {task.name} asks for advice on medicines or illness "
                    f"({found[0]!r}), which text.safety: health refuses: a language model is no "
                    "physician, and what it makes up would stand beside real articles. Ask what "
                    "texts are about"
                )
        return self

    @model_validator(mode="after")
    def _each_has_a_folder(self) -> TextConfig:
        names = [task.name for task in self.tasks]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"text.tasks: two are called {name}: give one another name")
        if "model" in names:
            raise ValueError("text.tasks: `model` is the folder of the chat model: another name")
        for task in self.tasks:
            if task.max_new_tokens * 2 > self.context_len:
                raise ValueError(
                    f"text.tasks: {task.name}: max_new_tokens {task.max_new_tokens} is more than "
                    f"half of text.context_len {self.context_len}"
                )
        return self
