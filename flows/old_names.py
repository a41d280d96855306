"""Parameters of flows that have a new name: a deployment that still uses the old one fails with the
new one in its message.

In: a flow, and new names by old ones. Out: the same flow. Cost: nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ParamSpec, TypeVar

from prefect import Flow

from components.config.errors import InputError

P = ParamSpec("P")
R = TypeVar("R")


def refuse_old_names(new_names: Mapping[str, str]) -> Callable[[Flow[P, R]], Flow[P, R]]:
    """Makes a flow raise InputError for a parameter that goes by an old name."""

    def decorate(flow: Flow[P, R]) -> Flow[P, R]:
        validate = flow.validate_parameters

        def validate_parameters(parameters: dict[str, Any]) -> dict[str, Any]:
            for old_name in parameters.keys() & new_names.keys():
                raise InputError(
                    f"The flow '{flow.name}' has no parameter '{old_name}'.",
                    subject=old_name,
                    hint=f"It is '{new_names[old_name]}' now: change the deployment.",
                )
            return validate(parameters)

        flow.validate_parameters = validate_parameters  # type: ignore[method-assign]
        return flow

    return decorate
