"""What all sections of the config share."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict

from llmaug.config.names import check_name

Name = Annotated[str, AfterValidator(check_name)]
"""Of a folder."""


class Section(BaseModel):
    # A comparison with NaN is false: a gate with `min_lift: .nan` lets every model pass.
    model_config = ConfigDict(
        extra="forbid", frozen=True, use_attribute_docstrings=True, allow_inf_nan=False,
        hide_input_in_errors=True, defer_build=True,
    )  # fmt: skip
