"""torchaudio beside a build of torch without CUDA: its compiled part cannot be loaded there.

The wheels of torchaudio are compiled against the CUDA libraries of torch. Where torch has them,
with or without a GPU, everything is torchaudio's own. A build of torch for the CPU has none:
``import torchaudio`` fails, and so do the classes of transformers and peft that import it if it is
installed. ``install`` (called by ``components/__init__.py``, so before any of them) lets torchaudio
load without its compiled part in that case. Of what is compiled, one operator is used here,
``forced_align``: this module defines it instead. Not available then: ``rnnt_loss`` and CUDA's CTC
decoder; ``lfilter`` runs in Python.

In: nothing. Out: an entry of ``sys.meta_path``. Cost: none before torchaudio is imported; the
operator takes about 20 ms for 20 s of speech.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    import torch

logger = logging.getLogger(__name__)

EXTENSION = "torchaudio._extension"  # loads the compiled part as it is imported
OPERATOR = "torchaudio::forced_align"
SCHEMA = (
    "(Tensor log_probs, Tensor targets, Tensor input_lengths, Tensor target_lengths, int blank)"
    " -> (Tensor, Tensor)"
)


def install() -> None:
    """From here on, torchaudio can be imported beside any build of torch."""
    if not any(isinstance(finder, ExtensionFinder) for finder in sys.meta_path):
        sys.meta_path.insert(0, ExtensionFinder())


class ExtensionFinder(MetaPathFinder):
    """Finds the module that loads the compiled part, and nothing else."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """The module as it is installed, with a loader that survives missing libraries."""
        if fullname != EXTENSION:
            return None
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is not None and spec.loader is not None:
            spec.loader = ExtensionLoader(spec.loader)
        return spec


class ExtensionLoader(Loader):
    """Runs the module; where the compiled part cannot be loaded, the operator is defined here."""

    def __init__(self, loader: Loader) -> None:
        self._loader = loader

    def __getattr__(self, name: str) -> Any:  # of the file that it loads
        return getattr(self._loader, name)

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        """As for any module."""
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        """Runs the module's own code as far as it gets."""
        try:
            self._loader.exec_module(module)
        except OSError as error:  # libraries of CUDA that are not there
            logger.debug("torchaudio without its compiled part: %s", error.__cause__ or error)
            _define_operator()
            module.__dict__.update(
                _IS_TORCHAUDIO_EXT_AVAILABLE=False,
                _IS_ALIGN_AVAILABLE=True,
                fail_if_no_align=lambda function: function,
            )


def _define_operator() -> None:
    import torch

    torch.library.define(OPERATOR, SCHEMA)
    torch.library.impl(OPERATOR, "CPU", _forced_align)


def _forced_align(
    log_probs: torch.Tensor,
    targets: torch.Tensor,
    input_lengths: torch.Tensor,
    target_lengths: torch.Tensor,
    blank: int,
) -> tuple[torch.Tensor, torch.Tensor]:
    """What the compiled operator returns for a batch of one: the unit at each frame on the most
    probable path, (1, frames), and the log-probabilities, (1, frames, units).
    """
    import torch

    scores = log_probs[0, : int(input_lengths[0])].double().numpy()
    path = align(scores, targets[0, : int(target_lengths[0])].numpy(), blank)
    return torch.from_numpy(path).to(targets.dtype)[None], log_probs.clone()


def align(scores: np.ndarray, target: np.ndarray, blank: int) -> np.ndarray:
    """The most probable of all paths of blanks and units that collapse to ``target``, (frames,),
    by Viterbi's algorithm (Graves et al. 2006, section 4.1).

    ``scores`` are log-probabilities, (frames, units). Raises ValueError if there are too few
    frames.
    """
    import numpy as np

    units = np.full(2 * len(target) + 1, blank)  # of the states: blank, unit, blank, …, blank
    units[1::2] = target
    emitted = scores[:, units]  # (frames, states)
    # A unit may follow the unit before it without a blank if the two differ.
    can_skip = np.concatenate([[False, False], (units[2:] != blank) & (units[2:] != units[:-2])])
    best = np.full(len(units), -np.inf)  # (states,)
    best[:2] = emitted[0, :2]
    steps = np.zeros(emitted.shape, np.int8)  # (frames, states): how many states a path advanced
    for frame in range(1, len(scores)):
        from_one = np.concatenate([[-np.inf], best[:-1]])
        from_two = np.where(can_skip, np.concatenate([[-np.inf, -np.inf], best[:-2]]), -np.inf)
        choices = np.stack([best, from_one, from_two])  # (3, states)
        steps[frame] = choices.argmax(axis=0)
        best = choices.max(axis=0) + emitted[frame]
    if not np.isfinite(best[-2:]).any():
        raise ValueError(f"{len(scores)} frames are too few for {len(target)} units")
    state = int(best[-2:].argmax()) + len(units) - 2
    states: np.ndarray = np.empty(len(scores), np.int64)
    for frame in range(len(scores) - 1, -1, -1):
        states[frame] = state
        state -= int(steps[frame, state])
    path: np.ndarray = units[states]
    return path
