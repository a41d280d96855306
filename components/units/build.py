"""The stage: frames of the role train → ``models/units``, the centroids of discrete units.

Only a bridge of the kind ``discrete-units`` needs them: for every other kind the folder has its
record alone, and nothing is computed. The centroids are one unit of the work cache: a fit that is
killed starts again. Cost: see ``components.units.fit``.
"""

from __future__ import annotations

from pathlib import Path

from components.config import catalogue
from components.config.projector import DiscreteUnits
from components.features.key import digest_frames
from components.model.folders.linked_checkpoint import open_checkpoint
from components.runtime.artifact import empty_folder, write_record
from components.runtime.settings import device
from components.runtime.stage import Stage
from components.runtime.unit_cache import cached_unit, link_files, unit_digests
from components.units import RESULT_VERSION

DATA, ENCODER, OUT = Path("data"), Path("models/encoder"), Path("models/units")
FEATURES = DATA / "features" / "train"


def work(stage: Stage) -> None:
    """Writes the folder; raises InputError where the speech has fewer frames than there are
    units.
    """
    entry = catalogue.projector(stage.params.projector)
    folder = empty_folder(OUT)
    if not isinstance(entry, DiscreteUnits):
        write_record(folder, "units", parameters=None, inputs={})
        return
    parameters = {name: getattr(entry, name) for name in ("units", "hours", "iterations", "seed")}
    inputs = {"train": digest_frames(FEATURES)}
    key = {"version": RESULT_VERSION, "parameters": parameters, "inputs": inputs}
    unit = cached_unit(
        "units", key, lambda scratch: _fit(scratch, entry), code="components.units.fit"
    )
    link_files(unit, folder)
    write_record(
        folder,
        "units",
        parameters=parameters,
        inputs=inputs,
        outputs=unit_digests(unit),
        libraries=("torch", "transformers"),
    )


def _fit(folder: Path, entry: DiscreteUnits) -> None:
    from components.units import fit

    fit.fit_units(folder, DATA, open_checkpoint(ENCODER), device(), entry)
