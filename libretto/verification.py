"""``libretto <encoder|llm> verify NAME``: whether the weights of a package are those of the hub.

In: a catalogue entry whose source is of kind ``package``; its card names the entry of the hub's own
weights (``original``). Out: the digest of its tensors, the entries that have the same one, and how
many tensors equal the hub's after rounding to the stored dtype. Cost: both checkpoints are fetched
if the work cache lacks them, and read once.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from components.config import catalogue
from components.config.errors import InputError, LibrettoError, TransientError
from components.config.model_sources import PackageSource


@dataclass(frozen=True)
class Comparison:
    """Tensors of a package beside those of the hub."""

    num_equal: int
    deviations: dict[str, float]  # of the tensors that differ: root mean square, relative
    unmatched: list[str]  # names that one of them lacks, or has in another shape


def build_parser(kind: str, prog: str = "") -> argparse.ArgumentParser:
    """The parser of ``libretto encoder`` and ``libretto llm``."""
    parser = argparse.ArgumentParser(
        prog=prog or f"python -m components.{kind}",
        description="Compares the weights of a package with those of the hub, if it answers.",
    )
    parser.add_argument(
        "action", choices=["verify"], metavar="verify", help="compare digests of tensors"
    )
    parser.add_argument("name", help=f"of catalogue/{kind}.yaml, with a source of kind package")
    return parser


def main(arguments: Sequence[str], prog: str = "") -> int:
    """Prints what was compared; ``arguments`` begin with ``encoder`` or ``llm``. Returns 0 if the
    weights are the hub's, 1 if not, 75 if nobody could be asked.

    Raises InputError for an entry of another kind and as its source does; TransientError where the
    package can't be fetched.
    """
    kind, *own_arguments = arguments
    return verify(kind, build_parser(kind, prog).parse_args(own_arguments).name)


def verify(kind: str, name: str) -> int:
    """See ``main``."""
    from components.model.folders.folder import cache_checkpoint
    from components.model.folders.tensor_digests import combine_digests, read_tensor_digests

    entry = catalogue.READERS[kind](name)
    if not isinstance(entry.source, PackageSource):
        raise InputError(
            f"{kind} '{name}': its source is of kind '{entry.source.kind}', not package.",
            subject=name,
            hint="The files of a hub are compared with its hashes when they are fetched.",
        )
    folder = cache_checkpoint(kind, name, entry.source)
    digests = read_tensor_digests(folder)
    digest = combine_digests(digests)
    print(f"{name}: {len(digests)} tensors, digest {digest}")
    for entry_name in catalogue.names(kind):
        source = catalogue.READERS[kind](entry_name).source
        if entry_name != name and getattr(source, "tensors", "") == digest:
            print(f"{entry_name} of the catalogue has the same tensors")
    original = entry.card.get("original")
    if not original:
        print("Not compared: the entry's card names no 'original' of a hub")
        return TransientError.exit_code
    try:
        published = cache_checkpoint(kind, original, catalogue.READERS[kind](original).source)
    except LibrettoError as error:  # no network, or none allowed
        print(f"Not compared with {original}: {error}")
        return error.exit_code
    return _report(compare_tensors(folder, published), original, entry.source.converter == "gguf")


def compare_tensors(folder: Path, published: Path) -> Comparison:
    """Compares the tensors of ``folder`` with those of ``published``, which are rounded to the
    dtype of the former.
    """
    from components.model.folders.tensor_digests import read_tensor, tensor_files
    from components.model.folders.weight_samples import TIED

    files, published_files = tensor_files(folder), tensor_files(published)
    unmatched = [name for name in sorted(files.keys() ^ published_files.keys()) if name not in TIED]
    num_equal, deviations = 0, {}
    for name in sorted(files.keys() & published_files.keys()):
        tensor = read_tensor(files[name], name)
        reference = read_tensor(published_files[name], name)
        if tensor.shape != reference.shape:
            unmatched.append(name)
        elif tensor.equal(reference.to(tensor.dtype)):
            num_equal += 1
        else:
            difference, scale = tensor.float() - reference.float(), reference.float().norm()
            deviations[name] = float(difference.norm() / scale.clamp_min(1e-30))
    return Comparison(num_equal, deviations, unmatched)


def _report(comparison: Comparison, original: str, is_quantised: bool) -> int:
    """Prints a comparison; returns 0 where the weights are those of the hub."""
    from components.model.folders.weight_samples import MAX_DEVIATION

    print(f"{comparison.num_equal} tensors equal those of {original} after rounding")
    deviations = comparison.deviations
    largest = max(deviations, key=lambda name: deviations[name], default="")
    if largest:
        share = 100 * deviations[largest]
        print(f"{len(deviations)} differ, most in {largest}: by {share:.2g} % (root mean square)")
    for name in comparison.unmatched:
        print(f"{name}: missing on one side, or of another shape")
    is_near = is_quantised and deviations.get(largest, 0.0) <= MAX_DEVIATION
    return 0 if not comparison.unmatched and (is_near or not deviations) else 1
