"""DPO's loss of a micro-batch: margins of the policy and of the reference, and the SFT loss.

The policy is the base with its adapter, the reference the same network with the adapter off.
Shapes: B pairs, L length.
"""

from collections.abc import Sequence

import torch
from peft import PeftModel

from components.dpo.config import DpoConfig
from components.dpo.pairs import Pair
from components.dpo.reference import ReferenceMargins
from components.session.session import to_device
from model import diffusion, estimators, preference
from model.attention import training_kernels
from model.estimators import View
from model.llada import LLaDA
from model.training.draws import Draw
from model.training.figures import Figures

Tensors = dict[str, torch.Tensor]


class PreferenceLoss:
    """Called with the tensors of a micro-batch and its draw, as the training loop does."""

    def __init__(
        self,
        model: LLaDA,
        adapter: PeftModel,
        pairs: Sequence[Pair],
        config: DpoConfig,
        cache: ReferenceMargins | None,
    ) -> None:
        """`cache` stores the reference's margins; None computes them at every step."""
        self.model, self.adapter, self.pairs = model, adapter, pairs
        self.config, self.cache = config, cache

    def __call__(self, batch: Tensors, draw: Draw) -> Figures:
        """The loss, the mean margin, and the share of the pairs whose margin is above 0."""
        config = self.config
        batch = to_device(batch, self.model)
        pairs = [self.pairs[number] for number in draw.micro_batch]
        views = self._views(batch, pairs, draw)
        # The reference first: nothing of the policy's pass is in memory then.
        reference_B = self._reference_margins(batch, pairs, views).to(self.model.device)
        margin_B = self._margins(batch, views) - reference_B
        loss = preference.dpo_loss(
            margin_B, beta=config.beta, kind=config.loss, label_smoothing=config.label_smoothing
        ).mean()
        if config.sft_weight:
            loss = loss + config.sft_weight * self._sft_loss(batch, draw)
        return {
            "loss": loss,
            "margin": margin_B.detach().mean(),
            "accuracy": (margin_B.detach() > 0).float().mean(),
        }

    def _views(self, batch: Tensors, pairs: Sequence[Pair], draw: Draw) -> list[View]:
        """The step's masks; margins that are stored need masks that belong to their pair."""
        if self.cache is not None:
            return self.cache.views(pairs, batch["answer"])
        return estimators.monte_carlo(
            batch["answer"], draws=self.config.draws, generator=draw.twice()
        )

    def _margins(self, batch: Tensors, views: list[View]) -> torch.Tensor:
        """Chosen minus rejected ELBO of each pair [B]."""
        elbo_B = preference.elbo(self.model, batch["tokens"], batch["attention"], views)
        if self.config.length_normalized:
            elbo_B = elbo_B / batch["answer"].sum(1)
        chosen_B, rejected_B = elbo_B.chunk(2)
        return chosen_B - rejected_B

    def _reference_margins(
        self, batch: Tensors, pairs: Sequence[Pair], views: list[View]
    ) -> torch.Tensor:
        @torch.no_grad()
        def compute() -> torch.Tensor:
            with self.adapter.disable_adapter(), training_kernels(self.model.device):
                return self._margins(batch, views)

        return compute() if self.cache is None else self.cache.margins(pairs, compute)

    def _sft_loss(self, batch: Tensors, draw: Draw) -> torch.Tensor:
        return diffusion.sft_loss(
            self.model, batch["plain_tokens"], batch["plain_answer"], generator=draw.of("plain")
        )
