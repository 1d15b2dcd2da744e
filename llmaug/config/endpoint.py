"""Section `text.endpoint`: a chat model on another server."""

from __future__ import annotations

import math

from pydantic import Field, model_validator

from llmaug.config.base import Section


class EndpointConfig(Section):
    """An OpenAI-compatible server (`/v1/chat/completions`)."""

    base_url: str
    """Such as `http://localhost:8000/v1`."""
    model: str
    """The model's name there. It is part of the generator's name: the outcomes cache takes another
    one for another model."""
    api_key_env: str = "OPENAI_API_KEY"
    """Name of the environment variable that holds the key. Not set: no key is sent."""
    max_in_flight: int = Field(default=16, ge=1)
    """Requests of one engine at a time."""
    max_retries: int = Field(default=5, ge=0)
    """Of a request that is answered with 429 or 5xx, or not at all; then the unit has failed."""
    first_wait_s: float = Field(default=1.0, gt=0)
    """Before the first retry; twice as long before each further one, with some chance in it. A
    header Retry-After is obeyed."""
    timeout_s: float = Field(default=120.0, gt=0)
    """Of one request."""
    price_per_million_input: float = Field(default=0.0, ge=0)
    """Price of a million prompt tokens, for the cost that is shown."""
    price_per_million_output: float = Field(default=0.0, ge=0)
    """Price of a million generated tokens."""

    @model_validator(mode="after")
    def _is_http(self) -> EndpointConfig:
        if not self.base_url.startswith(("http://", "https://")):
            raise ValueError("text.endpoint.base_url: an address that begins with http:// or "
                             "https://")  # fmt: skip
        return self

    def cost(self, prompt_tokens: float, output_tokens: float) -> float:
        """By the price list, in its currency."""
        input_cost = prompt_tokens * self.price_per_million_input
        return math.fsum([input_cost, output_tokens * self.price_per_million_output]) / 1e6
