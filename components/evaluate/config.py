"""The configuration of an evaluation."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from components.evaluate.presets import protocol
from model.options import Cache, Checked, Remasking, check, check_text
from model.training.config import check_place

Form = Literal["chat", "text"]
EndToken = Literal["eos", "eot"]
"""The end of a text (<|endoftext|>), and of a turn of a chat (<|eot_id|>)."""
MaskDraw = Literal["exact", "reference"]
"""How the number of masked tokens is drawn (`model.likelihood.mask_counts`)."""
Choices = Literal["likelihood", "confidence"]
TooLong = Literal["refuse", "truncate"]


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig(Checked):
    """Scores on unseen problems, by lm_eval. The defaults are those of the 8B recipe."""

    tasks: tuple[str, ...] = ("test",)
    """Names of tasks: test (the dataset's own part), countdown, sudoku and sums (made from the
    seed, without a network), or any task or group of lm_eval."""
    preset: str | None = None
    """A published protocol by its name (components/evaluate/presets.py), which sets every field
    that is not set here."""
    task_files: tuple[str, ...] = ()
    """Absolute paths of YAML files in lm_eval's format, or of directories with such files, whose
    tasks may be named in `tasks`."""
    fewshot: int | None = None
    """Worked examples before each problem of an lm_eval task; null is the task's own number."""
    fewshot_multiturn: bool = False
    """Give each worked example as a turn of the chat, and not all in one; for `form` chat."""
    form: Form = "chat"
    """How the model is given a problem: as a turn of a chat, with its solution between delimiters,
    or as plain text to continue, as in pretraining, with the last result of a line as solution.
    For a task of lm_eval: with the chat template, or without."""
    system: str | None = None
    """System message before the first turn, for `form` chat; null has none."""
    gen_length: int = 256
    """New tokens per answer."""
    block_length: int = 16
    """Tokens denoised together, a block after a block; at most gen_length."""
    steps: int | None = None
    """Most passes over all blocks; null is one per token."""
    temperature: float = 0.0
    """Spread of the draw of tokens; 0 takes the likeliest."""
    cfg_scale: float = 0.0
    """Classifier-free guidance of generation: how far an answer moves away from the answer
    without the prompt."""
    remasking: Remasking = "low_confidence"
    """Which positions stay masked: those of low confidence, or random ones."""
    threshold: float | None = None
    """Confidence from which a token is committed at once; null commits one token a pass."""
    factor: float | None = None
    """Commits the n surest tokens while (n + 1)(1 - confidence of the n-th) is below it."""
    cache: Cache = "prefix"
    """Which keys and values are kept between the passes of a block."""
    repetition_penalty: float = 1.0
    """Divides the chances of tokens that the text holds already; 1 changes nothing."""
    forbidden: tuple[EndToken, ...] = ()
    """End tokens that are never generated (upstream's logits_eos_inf is eos)."""
    deferred: tuple[EndToken, ...] = ()
    """End tokens that are committed after all others (upstream's confidence_eos_eot_inf: both)."""
    stop: tuple[str, ...] = ()
    """Texts that end an answer, beside those of the task."""
    samples: int = 128
    """Monte Carlo samples of a likelihood; a multiple of likelihood_batch, or fewer."""
    draw: MaskDraw = "exact"
    """How the number of masked tokens of a sample is drawn: all equally likely, or as the
    published evaluations do."""
    likelihood_batch: int = 8
    """Samples whose numbers of masked tokens are stratified together."""
    likelihood_cfg_scale: float = 0.0
    """Classifier-free guidance of likelihoods."""
    choices: Choices = "likelihood"
    """How a choice of a question is scored: by its likelihood (a bound), or by the probabilities of
    its tokens as they are revealed one by one, where the model is most confident first
    (model/choices.py), which takes a pass per token."""
    check_greedy: bool = False
    """Say for every likelihood whether greedy decoding gives that text; costs a pass per token."""
    too_long: TooLong = "refuse"
    """A request of lm_eval that does not fit the context: refused by name before anything is
    asked, or its prompt cut from the left, and counted."""
    batch_size: int = 8
    """Answers generated together."""
    batch_tokens: int | None = None
    """Most tokens of the answers that are generated together, their prompts and padding included;
    null has no bound."""
    limit: int | None = None
    """Number of problems asked of each task, counted from the first; null asks all of them, and 256
    of a task that is made from the seed, which has 10000 at most."""
    allow_code: bool = False
    """Run programs that the model writes, in the sandbox, where an lm_eval task asks for it. Also
    import the Python functions of `task_files`, and metrics that are scripts of the Hub; no sandbox
    confines these."""
    reward_workers: int = 8
    """Answers that are judged at the same time, for verifiers that run other processes."""
    traces: int = 8
    """Number of problems of each task of ours, from the first, whose denoising is recorded pass by
    pass."""
    seed: int = 0
    """Seed of likelihoods, of draws at a temperature, and of the tasks that are made."""
    checkpoint_uri: str | None = None
    """Absolute path or s3://BUCKET/KEY where answers are kept as they come, so that an evaluation
    that is started again asks no request twice; null keeps them in the output's directory."""

    @classmethod
    def completed(cls, values: Mapping[str, Any]) -> Mapping[str, Any]:
        """The fields of a preset, where `values` names one, with `values` in their place.

        Raises ValueError for an unknown preset.
        """
        name = values.get("preset")
        return {**protocol(name).fields, **values} if isinstance(name, str) else values

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.preset is not None:
            protocol(self.preset)
        self._check_tasks()
        self._check_sampling()
        self._check_likelihood()
        check("batch_size", self.batch_size, self.batch_size >= 1, "1 or more")
        tokens = self.batch_tokens
        check("batch_tokens", tokens, tokens is None or tokens >= 1, "1 or more, or null")
        check("limit", self.limit, self.limit is None or self.limit >= 1, "1 or more")
        check("reward_workers", self.reward_workers, self.reward_workers >= 1, "1 or more")
        check("traces", self.traces, self.traces >= 0, "0 or more")
        check("seed", self.seed, 0 <= self.seed < 2**32, "0 to 2^32 - 1")
        check_place("checkpoint_uri", self.checkpoint_uri)

    def _check_tasks(self) -> None:
        check("tasks", self.tasks, bool(self.tasks), "the name of a task, or several")
        for number, name in enumerate(self.tasks):
            good = bool(name.strip()) and self.tasks.count(name) == 1
            check(f"tasks[{number}]", name, good, "the name of a task, each once")
        for number, path in enumerate(self.task_files):
            check(f"task_files[{number}]", path, path.startswith("/"), "an absolute path")
        good = self.fewshot is None or 0 <= self.fewshot <= 1000
        check("fewshot", self.fewshot, good, "0 to 1000, or null")
        check_text("system", self.system)
        chat = "null unless form is chat"
        check("system", self.system, self.system is None or self.form == "chat", chat)
        good = not self.fewshot_multiturn or self.form == "chat"
        check("fewshot_multiturn", self.fewshot_multiturn, good, "false unless form is chat")

    def _check_sampling(self) -> None:
        check("gen_length", self.gen_length, self.gen_length >= 1, "1 or more")
        fits = 1 <= self.block_length <= self.gen_length
        check("block_length", self.block_length, fits, f"1 to gen_length={self.gen_length}")
        blocks = -(-self.gen_length // self.block_length)
        good = self.steps is None or self.steps >= blocks
        check("steps", self.steps, good, f"1 or more for each of {blocks} blocks, or null")
        check("temperature", self.temperature, self.temperature >= 0, "0 or more")
        check("cfg_scale", self.cfg_scale, self.cfg_scale >= 0, "0 or more")
        in_range = self.threshold is None or 0 <= self.threshold <= 1
        check("threshold", self.threshold, in_range, "0 to 1")
        check("factor", self.factor, self.factor is None or self.factor > 0, "above 0, or null")
        alone = self.factor is None or self.threshold is None
        check("factor", self.factor, alone, f"null beside threshold={self.threshold}")
        penalty = self.repetition_penalty
        check("repetition_penalty", penalty, penalty > 0, "above 0")
        check("stop", self.stop, all(self.stop), "texts of one character or more")

    def _check_likelihood(self) -> None:
        batch, scale = self.likelihood_batch, self.likelihood_cfg_scale
        check("likelihood_batch", batch, batch >= 1, "1 or more")
        whole = self.samples >= 1 and self.samples % min(batch, self.samples) == 0
        allowed = f"1 or more, and a multiple of likelihood_batch={batch} if above it"
        check("samples", self.samples, whole, allowed)
        check("likelihood_cfg_scale", scale, scale >= 0, "0 or more")
