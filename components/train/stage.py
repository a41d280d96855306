"""The training loop: a curriculum of stages, each from the checkpoint that the one before it chose.

Loss: cross-entropy on the transcript and its end of sequence, and the matching loss, both divided
by the target tokens of the whole step, so that neither ranks nor micro-batches weigh in. Every
checkpoint is decoded on dev; the best is kept. Killed at any step and started again, it ends with
the bits of a run that was never killed.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from components.config.errors import InputError
from components.config.training import CurriculumStage, Train
from components.features.frames import FrameSource
from components.model.llms.causal import check_packing, load_llm
from components.model.lora import check_gradients
from components.model.speech_llm import ModelConfig, SpeechLLM, load_tuned_encoder
from components.model.trainable import printed
from components.optim import checkpoint, recomputation
from components.optim.loop import learning_rate_factor
from components.optim.precision import Precision
from components.optim.ranks import Ranks, split_micro_batches
from components.optim.sharding import shard
from components.runtime.hashing import seed_of
from components.runtime.progress import Progress, progress
from components.runtime.unit_cache import Key
from components.shards.order import split_by_length
from components.shards.reader import IndexedUtterance
from components.train import stage_cache
from components.train.data import Example, Step, count_short, join_utterances, pieces_of, plan
from components.train.divergence import DivergenceGuard
from components.train.encoder_ctc import EncoderCtcLoss
from components.train.forward import Forward
from components.train.lengths import Lengths
from components.train.parts import TABLE, TrainableParts, write_table
from components.train.selection import dev_errors, selection_utterances
from components.train.stage_cache import BEST, CURVE, DONE
from components.train.throughput import Throughput

# steps; so often the reader is told what the next two times as many will read, for tars that come
# over a network
AHEAD = 20


@dataclass(frozen=True)
class Job:
    """What a training process needs to know; plain data."""

    data: Path
    encoder: Path
    llm: Path
    out: Path
    scratch: Path
    device: str
    settings: Train
    shape: ModelConfig
    lora_targets: dict[str, list[str]]  # by the part: lora, encoder-lora
    ends: list[Key]  # of the stages, in the work cache


def train(ranks: Ranks, job: Job) -> None:
    """Trains all stages as ``ranks`` says and, on the first rank, writes the model to
    ``job.out``.
    """
    llm, tokenizer = load_llm(job.llm, job.shape.llm_dtype, job.device)
    encoder = load_tuned_encoder(job.shape, job.encoder, job.device)
    torch.manual_seed(seed_of("bridge", job.settings.seed))
    model = SpeechLLM(job.shape, llm, tokenizer, encoder).to(job.device)
    model.use_ctc_head_of(job.encoder)
    model.has_matching_head = bool(job.settings.matching.weight)
    parts = TrainableParts(model, job.settings, job.lora_targets)
    parts.check()
    speech = FrameSource("train", job.encoder, job.device, job.data, encoder)
    silence = FrameSource(
        "nonspeech-train", job.encoder, job.device, job.data, speech.encoder
    )  # one encoder hears all
    dev = FrameSource("dev", job.encoder, job.device, job.data, speech.encoder)
    if not dev.items:
        raise InputError(
            "train: the corpus has no utterance in its role dev to choose a checkpoint by.",
            subject="dev",
            hint="Give the role a source.",
        )
    stride = model.projector.stride
    short = count_short([speech.count(item, 0) for item in speech.items], stride)
    if short and ranks.rank == 0:
        print(
            f"train: {short} of {len(speech.items)} utterances have fewer frames than the "
            f"{stride:g} of one token"
        )
    if job.settings.packing:
        check_packing(llm)
    if job.settings.gradient_checkpointing:
        for network in filter(None, (llm, encoder and encoder.model)):
            recomputation.enable(network)
    if ranks.sharded:
        shard(llm, ranks.count)
    first, tables = 0, []
    for number, stage in enumerate(job.settings.curriculum):
        running = _Stage(ranks, job, parts, stage, number, first)
        tables.append((stage.name, parts.rows(speech.encoder)))
        if ranks.rank == 0:
            print(f"train: parameters in stage '{stage.name}':\n{printed(tables[-1][1])}")
        running.take(job.ends[number])
        running.run(speech, silence, dev)
        running.keep(job.ends[number])
        first += stage.steps
    model.save(job.out / "bridge", write=ranks.rank == 0)
    if ranks.rank == 0:
        write_table(tables, job.out / "bridge" / TABLE)
        _write_curve(job.scratch, job.out / "curve.csv")
    ranks.wait()


class _Stage:
    """One stage of the curriculum: its optimiser, its checkpoints and its curve."""

    def __init__(
        self,
        ranks: Ranks,
        job: Job,
        parts: TrainableParts,
        stage: CurriculumStage,
        number: int,
        first: int,
    ) -> None:
        self.ranks, self.job, self.model, self.stage, self.first = (
            ranks,
            job,
            parts.model,
            stage,
            first,
        )
        self.label = f"{number}-{stage.name}"
        self.folder = job.scratch / self.label
        self.hears = parts.uses_ctc_loss(stage)
        groups, peaks = parts.tune(stage), parts.rates(stage)
        self.optimiser = torch.optim.AdamW(
            [
                {"params": parameters, "lr": peaks[part], "peak": peaks[part]}
                for part, parameters in groups.items()
            ],
            weight_decay=job.settings.weight_decay,
        )
        self.precision = Precision(job.settings.precision, job.device)
        self.alarm = DivergenceGuard(job.scratch, stage.name, job.settings.spike)
        self.throughput = Throughput(self.folder)
        self.trained = [parameter for parameters in groups.values() for parameter in parameters]

    def take(self, end: Key) -> None:
        """Takes the stage as another training left it, whose curriculum was the same up
        to its end.
        """
        if self.ranks.rank == 0 and stage_cache.restore(end, self.folder):
            print(
                f"train: stage '{self.stage.name}' is taken from the work cache, where a "
                "training with the same beginning left it"
            )
        self.ranks.wait()

    def keep(self, end: Key) -> None:
        """Keeps the finished stage for others that begin like this one."""
        if self.ranks.rank == 0:
            stage_cache.store(end, self.folder)
        self.ranks.wait()

    def run(self, speech: FrameSource, silence: FrameSource, dev: FrameSource) -> None:
        """Trains the stage, or takes its finished checkpoint, and leaves the best checkpoint's
        weights in the model.
        """
        if not (self.folder / DONE).is_file():
            kept, left_out = split_by_length(
                speech.items, self.job.settings.max_seconds / speech.stretch
            )
            quiet = split_by_length(silence.items, self.job.settings.max_seconds / silence.stretch)[
                0
            ]
            share = self.stage.nonspeech_share
            if (share < 1 and not kept) or (share and not quiet):
                raise InputError(
                    f"train, stage '{self.stage.name}': nothing is left to train on.",
                    subject=self.stage.name,
                    hint="Raise train.max_seconds or add a source.",
                )
            if left_out and self.ranks.rank == 0:
                print(
                    f"train: {left_out} of {len(speech.items)} utterances are over "
                    f"{self.job.settings.max_seconds} s and left out"
                )
            auxiliary = EncoderCtcLoss(speech, kept) if self.hears else None
            if auxiliary and auxiliary.said and self.ranks.rank == 0:
                print(auxiliary.said)
            forward = Forward(
                self.model,
                self.job.settings,
                self.label,
                self.precision,
                speech,
                silence,
                auxiliary,
            )

            def lengths(epoch: int) -> list[float]:
                return [
                    source.seconds(item, epoch)
                    for source, items in ((speech, kept), (silence, quiet))
                    for item in items
                ]

            tokens = (
                self._tokens(kept, quiet, speech, silence)
                if self.job.settings.batch_tokens
                else None
            )
            steps = plan(kept, quiet, self.job.settings, self.stage, lengths, tokens)
            self._train([*kept, *quiet], len(kept), steps, forward, dev)
        checkpoint.load(self.folder / BEST, self.model, None)

    def _tokens(
        self,
        kept: list[IndexedUtterance],
        quiet: list[IndexedUtterance],
        speech: FrameSource,
        silence: FrameSource,
    ) -> Lengths:
        """Counts tokens of utterances, and says how many are over the budget by themselves."""
        tokens, most = Lengths(self.model, speech, silence), self.job.settings.batch_tokens
        over = sum(
            tokens(item, spoken, 0) > most
            for items, spoken in ((kept, True), (quiet, False))
            for item in items
        )
        if over and self.ranks.rank == 0:
            print(
                f"train: {over} of {len(kept) + len(quiet)} utterances have over {most} tokens "
                "and make batches of their own"
            )
        return tokens

    def _train(
        self,
        items: list[IndexedUtterance],
        speech_count: int,
        steps: list[Step],
        forward: Forward,
        dev: FrameSource,
    ) -> None:
        state: dict[str, Any] = {"step": 0, "best": None, "curve": [], "waited": 0, "scaler": None}
        last = self.folder / "last"

        def examples(step: Step) -> list[Example]:
            return [
                (join_utterances([items[each] for each in place]), place[0] < speech_count)
                for place in step.places
            ]

        if checkpoint.has_checkpoint(last):
            state = checkpoint.load(last, self.model, self.optimiser)
            self.precision.restore(state["scaler"])
        self.ranks.wait()
        with progress("train", self.stage.name, len(steps), "steps", state["step"]) as shown:
            for step in range(state["step"], len(steps)):
                if self._waited_enough(state):
                    shown.end(f"no better dev WER in {state['waited']} checks")
                    break
                places = examples(steps[step])
                if step % AHEAD == 0 or step == state["step"]:
                    forward.prefetch(
                        [(each.epoch, examples(each)) for each in steps[step : step + 2 * AHEAD]]
                    )
                facts = self._step(step, len(steps), places, steps[step].epoch, forward)
                self.alarm.check(step, facts, state["curve"], _ids(places))
                state["curve"].append(facts)
                if (step + 1) % self.job.settings.selection.every == 0 or step + 1 == len(steps):
                    self._check(state, step + 1, dev, shown)
                shown.advance(1, f"accuracy {facts['accuracy']:.3f}, {self.throughput.note()}")
        if self.ranks.rank == 0:
            (self.folder / CURVE).write_text(
                "".join(json.dumps(line) + "\n" for line in state["curve"])
            )
            (self.folder / DONE).touch()
        self.ranks.wait()

    def _step(
        self, step: int, steps: int, places: list[Example], epoch: int, forward: Forward
    ) -> dict[str, Any]:
        settings, started = self.job.settings, time.monotonic()
        _training_mode(self.model)
        factor = learning_rate_factor(step, steps, self.stage.warmup, self.stage.decay)
        for group in self.optimiser.param_groups:
            group["lr"] = group["peak"] * factor
        self.optimiser.zero_grad()
        tokens, utterances = forward.target_tokens(places), len(pieces_of(places))
        sums = torch.zeros(6, dtype=torch.float64)
        mine = self.ranks.assigned_items(split_micro_batches(places, settings.micro_batches))
        for part, counts in mine:
            loss = forward.loss(part, step, epoch, tokens, utterances)
            if not torch.isfinite(loss.total):
                raise self.alarm.non_finite(step, loss.total.item(), _ids(part), _ids(places))
            self.precision.backward(loss.total if counts else loss.total * 0.0)
            sums += counts * loss.sums()
        if mine and step == 0:  # the matching head has none where its loss is not weighed
            check_gradients(self.model, f"train, stage '{self.stage.name}'", spared=("matching.",))
        self.ranks.sum_gradients(self.trained)
        made = self.precision.step(
            self.optimiser, lambda: self.ranks.clip(self.trained, settings.clip)
        )
        entropy, matching, correct, ctc, read, padding = self.ranks.sum(sums).tolist()
        self.throughput.add(
            time.monotonic() - started,
            sum(item.entry.seconds for item, _ in places),
            int(read),
            int(padding),
        )
        return {
            "step": self.first + step,
            "stage": self.stage.name,
            "loss": entropy / tokens,
            "matching": matching / tokens,
            "accuracy": correct / tokens,
            **({"ctc": ctc / utterances} if self.hears else {}),
            **({} if made else {"skipped": 1}),
        }

    def _waited_enough(self, state: dict[str, Any]) -> bool:
        """Whether dev has not got better for as many checks as the stage is given."""
        return 0 < self.job.settings.selection.patience <= state["waited"]

    def _check(self, state: dict[str, Any], done: int, dev: FrameSource, shown: Progress) -> None:
        """Decodes dev, keeps the checkpoint if it is the best so far, and the newest one to resume
        from.

        All ranks decode, each its share, and come to the same errors.
        """
        state["step"], state["scaler"] = done, self.precision.state()
        self.model.eval()
        settings, first = self.job.settings, self.ranks.rank == 0
        errors = dev_errors(
            self.model,
            dev,
            selection_utterances(dev, settings.selection),
            settings.batch_seconds * 2,
            self.ranks,
        )
        state["curve"][-1]["dev_wer"] = errors.wer
        shown.advance(0, f"dev WER {errors.wer:.3f}")
        better = state["best"] is None or errors.wer < state["best"]["wer"]
        state["waited"] = 0 if better else state["waited"] + 1
        if better:
            state["best"] = {"step": done, "wer": errors.wer}
            checkpoint.save(self.folder / BEST, self.model, None, state["best"], write=first)
        if self._waited_enough(state):
            state["curve"][-1]["stopped"] = "early"
        if first:
            self.throughput.save()
            print(
                f"train: {self.stage.name}, step {done}: dev word error rate {errors.wer:.4f}, "
                f"next-token accuracy {state['curve'][-1]['accuracy']:.3f}",
                flush=True,
            )
            if self._waited_enough(state):
                print(
                    f"train: {self.stage.name} ends at step {done}: no better dev WER in "
                    f"{state['waited']} checks",
                    flush=True,
                )
        checkpoint.save(self.folder / "last", self.model, self.optimiser, state, write=first)
        self.ranks.wait()


def _ids(places: list[Example]) -> list[str]:
    return [item.entry.id for item, _ in pieces_of(places)]


def _training_mode(model: SpeechLLM) -> None:
    """Projector, matching head and LoRA's dropout alone leave evaluation mode.

    Encoder and LLM stay in it although they are tuned: batch norm keeps the statistics of a
    pre-training that saw far more speech than a step does, and layer drop and masking, made for
    training from nothing, would hide frames from an LLM that reads them all.
    """
    model.eval()
    model.projector.train()
    model.matching.train()
    for network in filter(None, (model.llm, model.encoder)):
        recomputation.recomputing(network)
    for name, module in model.named_modules():
        if "lora_dropout" in name:
            module.train()


def _write_curve(scratch: Path, path: Path) -> None:
    """The curves of all stages as one table: step, stage, loss, matching, accuracy, dev_wer (empty
    where not decoded); and, in a training that has such, ctc (the encoder's CTC loss), skipped (1
    where fp16 overflowed) and stopped (``early`` where a stage ended before its steps).
    """
    stages = sorted(
        scratch.glob(f"*/{CURVE}"), key=lambda file: int(file.parent.name.split("-")[0])
    )
    lines = [json.loads(line) for file in stages for line in file.read_text().splitlines()]
    columns = ["step", "stage", "loss", "matching", "accuracy", "dev_wer"]
    columns += [
        name for name in ("ctc", "skipped", "stopped") if any(name in line for line in lines)
    ]
    rows = [",".join(_cell(line.get(column, "")) for column in columns) for line in lines]
    path.write_text("\n".join([",".join(columns), *rows]) + "\n")


def _cell(value: Any) -> str:
    return f"{value:.6f}" if isinstance(value, float) else str(value)
