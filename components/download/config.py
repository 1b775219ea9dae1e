"""Sources of the base model and the data, or the shape of both where they are made."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from components.data.config import Entry, Sample, Source, check_source, read_catalogue
from model.options import Checked, check, check_text

LARGEST = 2**20  # the largest size of a new model; no machine holds a larger one
MOST_LAYERS = 1000


@dataclass(frozen=True, kw_only=True)
class Shape(Checked):
    """A new, untrained LLaDA of this shape."""

    d_model: int = 128
    """Width of the residual stream."""
    n_layers: int = 4
    """Transformer blocks."""
    n_heads: int = 4
    """Attention heads."""
    n_kv_heads: int | None = None
    """Heads of keys and values, which groups of attention heads share; null has one to each."""
    mlp_hidden_size: int = 384
    """Width of the feed-forward layers."""
    vocabulary: int = 384
    """Embedding rows; the tokenizer trained on the data takes as many or fewer."""
    context: int = 128
    """Longest sequence in tokens."""
    weight_tying: bool = False
    """Use the embedding as the head."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """How the weights are stored; bf16 is the published models'."""
    rope_theta: float = 30.0
    """Base of the rotary frequencies. At 30 the longest wavelength of heads of 32 is 150 tokens, so
    that every frequency distinguishes positions of a short sequence."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("d_model", "n_layers", "n_heads", "mlp_hidden_size", "context"):
            size, most = getattr(self, name), MOST_LAYERS if name == "n_layers" else LARGEST
            check(f"shape.{name}", size, 1 <= size <= most, f"1 or more, up to {most}")
        rows = self.vocabulary
        check("shape.vocabulary", rows, 300 <= rows <= LARGEST, f"300 or more, up to {LARGEST}")
        check("shape.rope_theta", self.rope_theta, self.rope_theta > 1, "above 1")
        even = self.d_model % (2 * self.n_heads) == 0
        check("shape.d_model", self.d_model, even, f"a multiple of {2 * self.n_heads}")
        groups = self.n_kv_heads
        shared = groups is None or (groups >= 1 and self.n_heads % groups == 0)
        check("shape.n_kv_heads", groups, shared, f"null, or a divisor of n_heads={self.n_heads}")


@dataclass(frozen=True, kw_only=True)
class DownloadConfig(Checked):
    """Where the base model and the data come from."""

    model: str = "GSAI-ML/LLaDA-8B-Base"
    """A local directory or a Hub repository; "new" makes an untrained model of `shape`."""
    revision: str | None = None
    """Commit of the Hub model repository; pin it, a branch moves."""
    mirror: str | None = None
    """Where base models are kept for every run: a path that all pods mount, or s3://BUCKET/KEY. The
    weights are written there once, and stages read them there; a `model` that is below it already
    stays as it is. Null: the artifact holds them."""
    cache: str | None = None
    """Directory of a node where a stage keeps a copy of weights that it read from s3://. Null, or
    on a node without it: they are read into memory."""
    shape: Shape = Shape()
    """Shape of a new model, where `model` is "new"."""
    dataset: str | None = None
    """A local directory, s3://BUCKET/KEY or a Hub dataset repository with the stages' JSONL files,
    read like sources."""
    dataset_revision: str | None = None
    """Commit of the Hub dataset repository."""
    made: Literal["sums"] | None = None
    """Data that are made here where there is neither a dataset nor a source: sums with worked
    solutions. Null makes none."""
    catalogue: tuple[Entry, ...] = ()
    """Data sets of your own that sources may name: a list of entries, an object of entries by name,
    or the path of a file with one (JSON, or Python with CATALOGUE = {...}, which is read and never
    run). They come before those of components/data/entries.py."""
    pretrain: tuple[Source, ...] = ()
    """Sources of plain text for pretraining. The sources of a part replace its file in
    `dataset`."""
    sft: tuple[Source, ...] = ()
    """Sources of conversations: messages, ShareGPT's conversations, or prompt and completion."""
    preferences: tuple[Source, ...] = ()
    """Sources of pairs: prompt, chosen, rejected."""
    problems: tuple[Source, ...] = ()
    """Sources of problems with a verified answer: prompt (or question), answer, verifier."""
    test: tuple[Source, ...] = ()
    """Sources of held-out problems, in the same form."""
    held_out: tuple[Source, ...] = ()
    """Sources of further tests, in the same form: nothing is evaluated on them in this run, but
    their problems are left out of training like those of `test`."""
    sample: Sample = Sample()
    """Which documents of the pretraining sources are taken."""
    max_tokens: int = 4096
    """Longest example of the other sources, prompt and answer together; longer examples are dropped
    and counted."""
    examples: int | None = None
    """Number of examples taken for each part but pretraining; null takes all."""
    decontaminate: bool = True
    """Leave out of training what also stands in the test part (components/data/contamination.py);
    it is counted in the report by the name of the test set. Made sums never overlap."""
    test_problems: int = 250
    """Sums that are held out for the test, where the data are made."""
    seed: int = 0
    """Seed of made data, of the draws among sources, and of new weights."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_source("model", self.model, hub=False)
        check_source("dataset", self.dataset, hub=False)
        place = self.mirror
        good = place is None or place.startswith(("/", "s3://"))
        check("mirror", place, good, "null, an absolute path or s3://BUCKET/KEY")
        new = place is not None and self.model == "new"
        check("mirror", place, not new, 'null, where model is "new"')
        good = self.cache is None or (self.cache.startswith("/") and place is not None)
        check("cache", self.cache, good, "null, or an absolute path beside a mirror")
        for name in ("revision", "dataset_revision"):
            check_text(name, getattr(self, name), "null or a commit")
        check("test_problems", self.test_problems, 1 <= self.test_problems <= 2000, "1 to 2000")
        check("max_tokens", self.max_tokens, self.max_tokens >= 8, "8 or more")
        check("examples", self.examples, self.examples is None or self.examples >= 1, "1 or more")
        check("seed", self.seed, 0 <= self.seed < 2**31, "0 to 2^31 - 1")

    @classmethod
    def completed(cls, values: Mapping[str, Any]) -> Mapping[str, Any]:
        """With the entries of the catalogue in place of the path of a file that holds them."""
        own = values.get("catalogue", ())
        return {**values, "catalogue": read_catalogue(own)} if own else values

    @property
    def sources(self) -> tuple[Source, ...]:
        """The sources of every part."""
        return (*self.pretrain, *self.sft, *self.preferences, *self.problems, *self.test)
