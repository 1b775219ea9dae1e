"""The pretraining documents of a dataset: filtered, tokenised, sampled by length, in shards.

One pass over a stream, in constant memory. `components.data.sources` reads the texts.
"""

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from transformers import PreTrainedTokenizerBase

from components.data import quality
from components.data.config import Sample
from components.data.datacard import Card
from components.data.token_shards import Document, ShardWriter, tokenize

Clean = Callable[[str], list[str]]
ALL = Sample(min_tokens=1, long_share=0.0, quality=False)


def write(
    directory: Path,
    texts: Iterable[str],
    tokenizer: PreTrainedTokenizerBase,
    sample: Sample,
    card: Card,
    clean: Clean = lambda text: [text],
) -> None:
    """Writes the shards, and counts documents and drops on the card.

    `clean` gives the pieces of a document that may be trained on.

    Raises ValueError with the reasons for the drops when no document is left.
    """
    quotas = Quotas(sample)
    writer = ShardWriter(directory, tokenizer)
    for document, ids in tokenize(_candidates(texts, sample, quotas, card, clean), tokenizer):
        if reason := quotas.refusal(len(ids)):
            card.drop(reason, document.place)
            continue
        quotas.take(len(ids))
        writer.add(ids)
        card.add(len(ids), document.text)
        if quotas.full:
            break
    writer.close()
    card.notes += quotas.notes()
    if not card.documents:
        raise ValueError(f"pretrain: no document is left; dropped: {card.losses}")


def _candidates(
    texts: Iterable[str], sample: Sample, quotas: "Quotas", card: Card, clean: Clean
) -> Iterator[Document]:
    """The texts worth tokenising, each with its place in the sources; drops are counted.

    Texts are tokenised in batches: a quota may fill up while a candidate waits, so its length in
    tokens decides afterwards.
    """
    for text in texts:
        reason = quotas.hopeless(text) or (quality.fault(text) if sample.quality else None)
        if reason:
            card.drop(reason)
            continue
        for piece in clean(text):
            yield Document(piece, card.place)


class Quotas:
    """How many long and short documents are still wanted.

    With `sample.documents` both lengths have a quota. Without it every long document is taken, and
    a short one whenever the share of short documents allows it.
    """

    def __init__(self, sample: Sample) -> None:
        self.sample, self.long, self.short = sample, 0, 0
        self.long_quota = self.short_quota = None
        if sample.documents is not None and sample.long_share:
            self.long_quota = round(sample.documents * sample.long_share)
            self.short_quota = sample.documents - self.long_quota

    @property
    def full(self) -> bool:
        """Whether nothing more is wanted."""
        goal = self.sample.documents
        return goal is not None and self.long + self.short >= goal

    def hopeless(self, text: str) -> str | None:
        """The reason to refuse a text that no tokenizer could save, or None.

        A token stands for one byte or more, so a text has at most one token per byte, plus EOS.
        """
        most = 4 * len(text) + 1
        if most >= self.sample.long_tokens:
            return None
        most = len(text.encode(errors="replace")) + 1
        return self.refusal(most) if most < self.sample.long_tokens else None

    def refusal(self, tokens: int) -> str | None:
        """Why a document of so many tokens is not wanted, or None."""
        sample = self.sample
        if tokens < sample.min_tokens:
            return "too_short"
        if not sample.long_share:
            return None
        if tokens >= sample.long_tokens:
            return "enough_long" if self.long == self.long_quota else None
        if self.short_quota is not None:
            return "enough_short" if self.short == self.short_quota else None
        allowed = self.long * (1 - sample.long_share) / sample.long_share
        return "enough_short" if self.short + 1 > allowed + 1e-6 else None

    def take(self, tokens: int) -> None:
        """Counts a document that is taken."""
        if tokens >= self.sample.long_tokens:
            self.long += 1
        else:
            self.short += 1

    def notes(self) -> list[str]:
        """One line on the shares that were reached, and one more if the sources ended early."""
        if not self.sample.long_share:
            return []
        total, goal = self.long + self.short, self.sample.documents
        share = 100 * self.long / max(total, 1)
        least = f"{self.sample.long_tokens:,} tokens or more"
        lines = [f"{self.long:,} documents of {least} ({share:.1f}%), {self.short:,} shorter."]
        if goal is not None and total < goal:
            lines.append(
                f"The sources ended before the {goal:,} documents that were asked for: wanted "
                f"{self.long_quota:,} long and {self.short_quota:,} shorter ones."
            )
        return lines
