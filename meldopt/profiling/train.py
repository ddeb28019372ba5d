"""The recipe of the project's own models: small OLMoE models, trained on a CPU."""

from __future__ import annotations

import json
import math
import time
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from transformers import OlmoeConfig, OlmoeForCausalLM

from .corpus import domain_names
from .tokenizer import read_tokens, save_tokenizer, windows

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from numpy.typing import NDArray

LOG = "train_log.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """Shape of a model and how it is trained.

    Attributes
    ----------
    layers, hidden, experts, top_k, ffn
        MoE layers, hidden size, experts of a layer, how many a token calls, width of
        an expert.
    steps, sequence, per_domain
        Updates, tokens of a sequence, sequences of each domain in an update.
    learning_rate, warmup, decay
        Peak, updates that it rises, weight decay; it falls along a cosine to 5 %.
    balance, logit_size
        Weights of the load-balancing loss and of the router's z-loss.
    """

    layers: int
    hidden: int
    experts: int
    top_k: int
    ffn: int
    steps: int
    vocabulary: int = 2048
    sequence: int = 256
    per_domain: int = 1
    learning_rate: float = 3e-3
    warmup: int = 100
    decay: float = 0.1
    initial_range: float = 0.04
    balance: float = 5e-3
    logit_size: float = 1e-4
    seed: int = 0


RECIPES = {
    "a": Recipe(layers=6, hidden=192, experts=16, top_k=2, ffn=128, steps=2400),
    "b": Recipe(layers=8, hidden=160, experts=32, top_k=4, ffn=64, steps=2000, seed=1),
}
"""The two shapes that the project records."""


@dataclass(slots=True, kw_only=True)
class _Log:
    """What training writes beside the weights."""

    recipe: dict[str, Any]
    parameters: int
    steps_done: int = 0
    evaluations: list[dict[str, Any]] = field(default_factory=list)

    def write(self, folder: Path) -> None:
        text = json.dumps(asdict(self), indent=1) + "\n"
        (folder / LOG).write_text(text, encoding="utf-8")


def build_model(recipe: Recipe) -> OlmoeForCausalLM:
    """Make a model of that shape with random weights."""
    torch.manual_seed(recipe.seed)
    model = OlmoeForCausalLM(
        OlmoeConfig(
            vocab_size=recipe.vocabulary,
            hidden_size=recipe.hidden,
            intermediate_size=recipe.ffn,
            num_hidden_layers=recipe.layers,
            num_attention_heads=recipe.hidden // 32,
            num_experts=recipe.experts,
            num_experts_per_tok=recipe.top_k,
            max_position_embeddings=2 * recipe.sequence,
            tie_word_embeddings=True,
            norm_topk_prob=True,
            initializer_range=recipe.initial_range,
            pad_token_id=None,
            bos_token_id=None,
            eos_token_id=0,
            use_cache=False,
        )
    )
    model.set_experts_implementation("grouped_mm")
    return model


def train(
    corpus: Path,
    folder: Path,
    recipe: Recipe,
    *,
    minutes: float = math.inf,
    evaluate_every: int = 200,
    on_progress: Callable[[str], None] | None = None,
) -> int:
    """Train a model and save it; every evaluation is a checkpoint.

    Parameters
    ----------
    corpus
        A corpus with its tokens (`write_corpus`, `train_tokenizer`).
    folder
        Gets the weights, the configuration and ``train_log.json``, which says how many
        updates were really done.
    recipe
        Shape and training.
    minutes
        Stop after so much wall time, wherever training is.
    evaluate_every
        Updates between two evaluations on the split ``plan``.
    on_progress
        Is told a line now and then.

    Returns
    -------
    int
        Updates done.
    """
    folder.mkdir(parents=True, exist_ok=True)
    save_tokenizer(corpus, folder)
    names = domain_names(corpus)
    tokens = [read_tokens(corpus, name, "train") for name in names]
    held = [read_tokens(corpus, name, "plan") for name in names]
    for part in tokens + held:
        windows(part, 1, recipe.sequence + 2)  # refuse text that is too short
    model = build_model(recipe)
    rng = np.random.default_rng(recipe.seed)
    matrices = [p for p in model.parameters() if p.ndim >= 2]
    vectors = [p for p in model.parameters() if p.ndim < 2]
    optimizer = torch.optim.AdamW(
        [
            {"params": matrices, "weight_decay": recipe.decay},
            {"params": vectors, "weight_decay": 0.0},
        ],
        lr=recipe.learning_rate,
        betas=(0.9, 0.95),
        fused=True,
    )
    log = _Log(
        recipe=asdict(recipe), parameters=sum(p.numel() for p in model.parameters())
    )
    start, cpu = time.monotonic(), time.process_time()
    model.train()
    for step in range(recipe.steps):
        for group in optimizer.param_groups:
            group["lr"] = _rate(recipe, step)
        batch = _batch(tokens, recipe, rng)
        loss = _step(model, batch, recipe)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        late = time.monotonic() - start > 60 * minutes
        if (step + 1) % evaluate_every == 0 or step + 1 == recipe.steps or late:
            log.steps_done = step + 1
            log.evaluations.append(
                {
                    "step": step + 1,
                    "tokens": (step + 1) * batch[:, 1:].numel(),
                    "wall_s": round(time.monotonic() - start, 1),
                    "cpu_s": round(time.process_time() - cpu, 1),
                    "train_loss": round(loss, 4),
                    "loss": dict(
                        zip(names, _evaluate(model, held, recipe), strict=True)
                    ),
                }
            )
            model.save_pretrained(folder)
            log.write(folder)
            if on_progress is not None:
                on_progress(f"step {step + 1} of {recipe.steps}: {log.evaluations[-1]}")
        if late:
            break
    return log.steps_done


def _rate(recipe: Recipe, step: int) -> float:
    """Learning rate: a linear rise, then a cosine down to 5 % of the peak."""
    cosine = 0.5 * (1 + math.cos(math.pi * step / recipe.steps))
    rise = min(1.0, (step + 1) / recipe.warmup)
    return recipe.learning_rate * rise * (0.05 + 0.95 * cosine)


def _batch(
    tokens: list[NDArray[np.int64]], recipe: Recipe, rng: np.random.Generator
) -> torch.Tensor:
    """Draw sequences of every domain and the token after each; (B, sequence + 1)."""
    rows = [
        domain[start : start + recipe.sequence + 1]
        for domain in tokens
        for start in rng.integers(
            0, len(domain) - recipe.sequence - 1, recipe.per_domain
        )
    ]
    return torch.from_numpy(np.stack(rows))


def _step(model: OlmoeForCausalLM, batch: torch.Tensor, recipe: Recipe) -> float:
    """Add the gradient of a batch; return its cross entropy in nats per token."""
    out = model(batch[:, :-1], output_router_logits=True)
    loss = F.cross_entropy(out.logits.flatten(0, 1), batch[:, 1:].flatten())
    balance = size = torch.zeros(())
    for logits in out.router_logits:  # Hugging Face's own helper pools the layers
        scores = logits.reshape(-1, recipe.experts)
        chosen = scores.topk(recipe.top_k, dim=-1).indices.flatten()
        share = torch.bincount(chosen, minlength=recipe.experts) / len(chosen)
        mean = scores.softmax(dim=-1).mean(dim=0)
        balance = balance + recipe.experts * (share * mean).sum() / recipe.layers
        size = size + scores.logsumexp(dim=-1).pow(2).mean() / recipe.layers
    (loss + recipe.balance * balance + recipe.logit_size * size).backward()
    return float(loss.detach())


def _evaluate(
    model: OlmoeForCausalLM, held: list[NDArray[np.int64]], recipe: Recipe
) -> list[float]:
    """Cross entropy of a few held-back sequences by domain, nats per token."""
    model.eval()
    losses = []
    with torch.no_grad():
        for tokens in held:
            count = min(12, max(1, len(tokens) // (recipe.sequence + 1)))
            rows = torch.from_numpy(windows(tokens, count, recipe.sequence + 1))
            logits = model(rows[:, :-1]).logits
            loss = F.cross_entropy(logits.flatten(0, 1), rows[:, 1:].flatten())
            losses.append(round(float(loss), 4))
    model.train()
    return losses
