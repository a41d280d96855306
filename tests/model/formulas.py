"""A second implementation of the papers' systems for tests, written from the formulas on tensors
alone: none of the project's modules, none of transformers' layers.

In: tensors by their plain names and one utterance. Out: hidden states, losses, texts. Cost: no
cache and no batch, so a search computes each prefix anew.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch

Tensors = Mapping[str, torch.Tensor]
Projector = Callable[[Tensors, torch.Tensor], torch.Tensor]


def linear(tensors: Tensors, name: str, inputs: torch.Tensor, scale: float = 0.0) -> torch.Tensor:
    """x Wᵀ + b, and with LoRA (arXiv 2106.09685, equation 3) ``scale`` · x Aᵀ Bᵀ beside it."""
    outputs = inputs @ tensors[f"{name}.weight"].T
    if f"{name}.bias" in tensors:
        outputs = outputs + tensors[f"{name}.bias"]
    if f"{name}.lora_A.weight" in tensors:
        low = inputs @ tensors[f"{name}.lora_A.weight"].T
        outputs = outputs + scale * low @ tensors[f"{name}.lora_B.weight"].T
    return outputs


def layer_norm(tensors: Tensors, name: str, inputs: torch.Tensor, epsilon: float) -> torch.Tensor:
    """(x - mean) / standard deviation · w + b (arXiv 1607.06450)."""
    return normalise(inputs, epsilon) * tensors[f"{name}.weight"] + tensors[f"{name}.bias"]


def normalise(inputs: torch.Tensor, epsilon: float = 1e-5) -> torch.Tensor:
    """(x - mean) / standard deviation of the last dimension."""
    mean = inputs.mean(-1, keepdim=True)
    variance = (inputs - mean).pow(2).mean(-1, keepdim=True)
    return (inputs - mean) / (variance + epsilon).sqrt()


def gelu(inputs: torch.Tensor) -> torch.Tensor:
    """x · Φ(x) (arXiv 1606.08415)."""
    return inputs * 0.5 * (1 + torch.erf(inputs / math.sqrt(2)))


def attend(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, heads: int, is_causal: bool = False
) -> torch.Tensor:
    """softmax(Q Kᵀ / √d) V head by head (arXiv 1706.03762, equation 1): (T, width)."""
    outputs = []
    for q, k, v in zip(*(side.chunk(heads, -1) for side in (query, key, value)), strict=True):
        scores = q @ k.T / math.sqrt(q.shape[-1])
        if is_causal:
            is_future = torch.ones_like(scores).triu(1).bool()
            scores = scores.masked_fill(is_future, -math.inf)
        outputs.append(scores.softmax(-1) @ v)
    return torch.cat(outputs, -1)


@dataclass(frozen=True)
class Llama:
    """A LLaMA (arXiv 2302.13971) of ``layers`` and ``heads``; ``lora`` is alpha / rank."""

    tensors: Tensors  # names begin with "llm."
    layers: int
    heads: int
    lora: float = 0.0
    epsilon: float = 1e-6
    theta: float = 10_000.0

    def embed(self, ids: Sequence[int]) -> torch.Tensor:
        """Rows of the embedding table, (tokens, H)."""
        return self.tensors["llm.model.embed_tokens.weight"][list(ids)]

    def logits(self, embeddings: torch.Tensor) -> torch.Tensor:
        """(T, H) → (T, vocabulary)."""
        hidden = embeddings
        for layer in range(self.layers):
            name = f"llm.model.layers.{layer}"
            inputs = self._norm(f"{name}.input_layernorm", hidden)
            query, key, value = (
                linear(self.tensors, f"{name}.self_attn.{side}_proj", inputs, self.lora)
                for side in "qkv"
            )
            mixed = attend(self._rotate(query), self._rotate(key), value, self.heads, True)
            hidden = hidden + linear(self.tensors, f"{name}.self_attn.o_proj", mixed, self.lora)
            inputs = self._norm(f"{name}.post_attention_layernorm", hidden)
            gate = linear(self.tensors, f"{name}.mlp.gate_proj", inputs)
            up = linear(self.tensors, f"{name}.mlp.up_proj", inputs)
            product = gate * torch.sigmoid(gate) * up
            hidden = hidden + linear(self.tensors, f"{name}.mlp.down_proj", product)
        return linear(self.tensors, "llm.lm_head", self._norm("llm.model.norm", hidden))

    def _norm(self, name: str, inputs: torch.Tensor) -> torch.Tensor:
        """x / √mean(x²) · w (arXiv 1910.07467)."""
        mean_square = inputs.pow(2).mean(-1, keepdim=True)
        return inputs / (mean_square + self.epsilon).sqrt() * self.tensors[f"{name}.weight"]

    def _rotate(self, vectors: torch.Tensor) -> torch.Tensor:
        """Rotary positions (arXiv 2104.09864, equation 34), the halves of a head as its pairs."""
        length, width = vectors.shape
        half = width // self.heads // 2
        rates = self.theta ** (-torch.arange(half) / half)
        angles = torch.arange(length)[:, None] * rates  # (T, half)
        heads = vectors.view(length, self.heads, 2, half)
        first, second = heads[:, :, 0], heads[:, :, 1]
        cos, sin = angles.cos()[:, None], angles.sin()[:, None]
        rotated = torch.stack([first * cos - second * sin, second * cos + first * sin], 2)
        return rotated.reshape(length, width)


@dataclass(frozen=True)
class Utterance:
    """What is known of an utterance: token ids around the speech, its frames, its transcript."""

    before: list[int]
    frames: torch.Tensor  # (frames, encoder width)
    after: list[int]
    target: list[int]  # with the end of sequence


def cross_entropy(llm: Llama, project: Projector, utterance: Utterance) -> torch.Tensor:
    """-Σ log p(target | prompt, speech, targets before it), shape ()."""
    speech = project(llm.tensors, utterance.frames)
    prompt = [llm.embed(utterance.before), speech, llm.embed(utterance.after)]
    rows = torch.cat([*prompt, llm.embed(utterance.target[:-1])])
    log_probs = llm.logits(rows)[-len(utterance.target) :].log_softmax(-1)
    return -log_probs.gather(1, torch.tensor(utterance.target)[:, None]).sum()


def matching_loss(llm: Llama, project: Projector, utterance: Utterance) -> torch.Tensor:
    """Σ over text tokens of squared error / mean square of the embeddings + 1 - cosine, of the text
    and the speech that it attends to (Pham et al., arXiv 2406.17272); shape ().
    """
    speech = project(llm.tensors, utterance.frames)
    text = llm.embed(utterance.target[:-1]).detach()
    query = linear(llm.tensors, "matching.query", normalise(text))
    key = linear(llm.tensors, "matching.key", normalise(speech))
    attended = attend(query, key, speech, heads=1)
    scale = llm.tensors["llm.model.embed_tokens.weight"].pow(2).mean()
    error = (attended - text).pow(2).mean(-1) / scale
    norms = attended.norm(dim=-1) * text.norm(dim=-1)
    return (error + 1 - (attended * text).sum(-1) / norms).sum()


def stacked_linear(tensors: Tensors, frames: torch.Tensor) -> torch.Tensor:
    """SLAM-ASR (arXiv 2402.08846), equations 2 to 4: five frames, linear, ReLU, linear."""
    count = len(frames) // 5
    stacked = frames[: 5 * count].reshape(count, -1)
    hidden = linear(tensors, "projector.linear1", stacked).clamp(min=0)
    return linear(tensors, "projector.linear2", hidden)


def convolution(tensors: Tensors, frames: torch.Tensor) -> torch.Tensor:
    """MaLa-ASR (arXiv 2406.05839): Conv1d of five frames every five, then two linear layers, a ReLU
    before each.
    """
    weight = tensors["projector.conv1d.weight"]  # (out, in, 5)
    vectors = []
    for start in range(0, len(frames) - 4, 5):
        products = [weight[:, :, step] @ frames[start + step] for step in range(5)]
        vectors.append(sum(products, tensors["projector.conv1d.bias"]))
    hidden = linear(tensors, "projector.linear1", torch.stack(vectors).clamp(min=0))
    return linear(tensors, "projector.linear2", hidden.clamp(min=0))


def window_qformer(tensors: Tensors, frames: torch.Tensor) -> torch.Tensor:
    """SALMONN (arXiv 2310.13289): one query for each 17 frames, two layers of BERT's form with
    cross-attention; a last part counts from half a window on.
    """
    count = max(1, (len(frames) + 17 - 9) // 17)
    vectors = [
        _query_window(tensors, frames[17 * index : 17 * (index + 1)]) for index in range(count)
    ]
    return linear(tensors, "projector.linear", torch.cat(vectors))


def _query_window(tensors: Tensors, frames: torch.Tensor) -> torch.Tensor:
    """(frames, encoder width) → (1, width)."""
    network = "projector.attention.network"
    keys = layer_norm(tensors, "projector.norm", frames, 1e-5)
    hidden = layer_norm(tensors, f"{network}.layernorm", tensors["projector.queries"], 1e-12)
    for layer in range(2):
        name = f"{network}.encoder.layer.{layer}"
        for block, source in (("attention", None), ("crossattention", keys)):
            inputs = hidden if source is None else source
            query = linear(tensors, f"{name}.{block}.attention.query", hidden)
            key = linear(tensors, f"{name}.{block}.attention.key", inputs)
            value = linear(tensors, f"{name}.{block}.attention.value", inputs)
            mixed = attend(query, key, value, heads=12)
            output = linear(tensors, f"{name}.{block}.output.dense", mixed) + hidden
            hidden = layer_norm(tensors, f"{name}.{block}.output.LayerNorm", output, 1e-12)
        inner = gelu(linear(tensors, f"{name}.intermediate_query.dense", hidden))
        output = linear(tensors, f"{name}.output_query.dense", inner) + hidden
        hidden = layer_norm(tensors, f"{name}.output_query.LayerNorm", output, 1e-12)
    return hidden


def ctc_compressor(layers: int, heads: int, blank: int) -> Projector:
    """SpeechLLaMA (arXiv 2307.03917): frames in a row with one best unit become their mean, then
    transformer layers of the pre-norm form.
    """

    def project(tensors: Tensors, frames: torch.Tensor) -> torch.Tensor:
        units = (frames @ tensors["head.weight"].T + tensors["head.bias"]).argmax(-1).tolist()
        runs: list[list[torch.Tensor]] = []
        for index, unit in enumerate(units):
            if index == 0 or unit != units[index - 1]:
                runs.append([])
            runs[-1].append(frames[index])
        means = torch.stack([torch.stack(run).mean(0) for run in runs])
        hidden = linear(tensors, "projector.linear1", means)
        for layer in range(layers):
            hidden = _pre_norm_layer(tensors, f"projector.layers.layers.{layer}", hidden, heads)
        hidden = layer_norm(tensors, "projector.layers.norm", hidden, 1e-5)
        return linear(tensors, "projector.linear2", hidden)

    return project


def _pre_norm_layer(tensors: Tensors, name: str, hidden: torch.Tensor, heads: int) -> torch.Tensor:
    """x + attention(norm(x)), then x + feed-forward(norm(x)) (arXiv 2002.04745)."""
    inputs = layer_norm(tensors, f"{name}.norm1", hidden, 1e-5)
    joint = inputs @ tensors[f"{name}.self_attn.in_proj_weight"].T
    query, key, value = (joint + tensors[f"{name}.self_attn.in_proj_bias"]).chunk(3, -1)
    mixed = attend(query, key, value, heads)
    hidden = hidden + linear(tensors, f"{name}.self_attn.out_proj", mixed)
    inputs = layer_norm(tensors, f"{name}.norm2", hidden, 1e-5)
    inner = gelu(linear(tensors, f"{name}.linear1", inputs))
    return hidden + linear(tensors, f"{name}.linear2", inner)


def first_adamw_step(
    parameter: torch.Tensor, gradient: torch.Tensor, rate: float, largest_norm: float, norm: float
) -> torch.Tensor:
    """The parameter after the first step of AdamW (arXiv 1711.05101) without decay: its moments are
    the clipped gradient and its square, both corrected for their start at zero.
    """
    clipped = gradient * min(1.0, largest_norm / (norm + 1e-6))
    return parameter - rate * clipped / (clipped.pow(2).sqrt() + 1e-8)


@torch.no_grad()
def beam_search(
    llm: Llama, project: Projector, utterance: Utterance, beams: int, num_tokens: int, end: int
) -> list[int]:
    """The best text of at most ``num_tokens`` by mean log-probability, the end included."""
    speech = project(llm.tensors, utterance.frames)
    prompt = torch.cat([llm.embed(utterance.before), speech, llm.embed(utterance.after)])
    running: list[tuple[list[int], float]] = [([], 0.0)]
    finished: list[tuple[list[int], float]] = []
    for length in range(num_tokens + 1):
        candidates = []
        for tokens, score in running:
            rows = torch.cat([prompt, llm.embed(tokens)])
            log_probs = llm.logits(rows)[-1].log_softmax(-1).tolist()
            allowed = range(len(log_probs)) if length < num_tokens else [end]
            candidates += [([*tokens, token], score + log_probs[token]) for token in allowed]
        candidates.sort(key=lambda candidate: candidate[1], reverse=True)
        finished += [each for each in candidates[:beams] if each[0][-1] == end]
        running = [each for each in candidates if each[0][-1] != end][:beams]
    tokens, _ = max(finished, key=lambda each: each[1] / len(each[0]))
    return tokens[:-1]
