"""Arithmetic, processes, AdamW, its schedule and one clipped step; on accelerate and FSDP2.

`model.training.loop` is made of these pieces, and so is GRPO's loop, which generates between its
steps.
"""

import math
from collections.abc import Iterator, Mapping

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs
from torch import nn
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from model.training.config import Optimization


def accelerate(settings: Optimization) -> Accelerator:
    """An accelerator with the arithmetic of the settings.

    Under torchrun it joins the other processes: NCCL between GPUs, gloo between CPUs.
    """
    torch.set_float32_matmul_precision("highest")
    copies = DistributedDataParallelKwargs(gradient_as_bucket_view=True)
    return Accelerator(
        mixed_precision=arithmetic(settings),
        gradient_accumulation_steps=1,
        cpu=not torch.cuda.is_available(),
        kwargs_handlers=[copies],
    )


def arithmetic(settings: Optimization) -> str:
    """Arithmetic of the passes as accelerate names it: "bf16", or "no" for fp32."""
    bf16 = settings.precision == "bf16" or (settings.precision == "auto" and _multiplies_bf16())
    return "bf16" if bf16 else "no"


def device_of(accelerator: Accelerator) -> torch.device:
    """This process's device. Accelerate numbers CPUs, and safetensors does not know `cpu:0`."""
    device = accelerator.device
    return torch.device("cpu") if device.type == "cpu" else device


def _multiplies_bf16() -> bool:
    if torch.cuda.is_available():
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported()


def optimizer_for(
    model: nn.Module, settings: Optimization, *, steps: int | None = None
) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LambdaLR]:
    """Fused AdamW over the trainable weights, and linear warmup followed by the settings' decay."""
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(
        trainable,
        lr=settings.learning_rate,
        betas=settings.betas,
        weight_decay=settings.weight_decay,
        fused=True,
    )
    total, warmup = steps or settings.steps, settings.warmup_steps

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / warmup
        progress = min((step - warmup) / max(total - warmup, 1), 1.0)
        left = 1 - progress
        if settings.decay == "cosine":
            left = 0.5 * (1 + math.cos(math.pi * progress))
        return settings.final_learning_rate + (1 - settings.final_learning_rate) * left

    return optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, factor)


def clipped_step(
    accelerator: Accelerator,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    schedule: torch.optim.lr_scheduler.LRScheduler,
    settings: Optimization,
) -> dict[str, float]:
    """One clipped optimizer step; returns the gradient's norm and the learning rate.

    Where the norm is not finite no weight changes, and the schedule goes on.
    """
    norm = float(full_tensor(accelerator.clip_grad_norm_(model.parameters(), settings.clip)))
    rate = optimizer.param_groups[0]["lr"]
    if math.isfinite(norm):
        optimizer.step()
    schedule.step()
    optimizer.zero_grad()
    return {"gradient_norm": norm, "learning_rate": rate}


def parallelize(
    objective: nn.Module, blocks: list[nn.Module], accelerator: Accelerator, *, shard: bool
) -> nn.Module:
    """The module over all processes: replicated (DDP), or sharded block by block (FSDP2)."""
    if accelerator.num_processes == 1:
        return objective
    if not shard:
        return accelerator.prepare_model(objective)
    is_bf16 = accelerator.mixed_precision == "bf16"
    # Inputs stay as they are: the rotary tables are fp32, and bf16 loses far positions.
    policy = MixedPrecisionPolicy(
        param_dtype=torch.bfloat16 if is_bf16 else None,
        reduce_dtype=torch.float32,
        cast_forward_inputs=False,
    )
    for block in blocks:
        fully_shard(block, mp_policy=policy)
    fully_shard(objective, mp_policy=policy)
    return objective


def state(model: nn.Module, optimizer: torch.optim.Optimizer) -> Iterator[tuple[str, torch.Tensor]]:
    """Every trained weight and its AdamW moments by name, unsharded; all processes must join."""
    for name, parameter in _trained(model):
        yield f"weight/{name}", full_tensor(parameter.detach())
        for field, tensor in optimizer.state[parameter].items():
            yield f"{field}/{name}", full_tensor(tensor)


def restore(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    schedule: torch.optim.lr_scheduler.LambdaLR,
    tensors: Mapping[str, torch.Tensor],
    step: int,
) -> None:
    """Puts back the tensors of `state` after `step` steps, and the schedule of that step.

    Raises ValueError for a tensor that is missing or of another shape.
    """
    seek(optimizer, schedule, step)
    for name, parameter in _trained(model):
        with torch.no_grad():
            parameter.copy_(_share(parameter, _checked(tensors, f"weight/{name}", parameter)))
        if f"step/{name}" not in tensors:
            continue  # AdamW has no moments before a parameter's first update
        optimizer.state[parameter] = {
            "step": tensors[f"step/{name}"].to(parameter.device),
            "exp_avg": _share(parameter, _checked(tensors, f"exp_avg/{name}", parameter)),
            "exp_avg_sq": _share(parameter, _checked(tensors, f"exp_avg_sq/{name}", parameter)),
        }


def seek(
    optimizer: torch.optim.Optimizer, schedule: torch.optim.lr_scheduler.LambdaLR, step: int
) -> None:
    """Sets the learning rate that the schedule has after `step` steps."""
    schedule.last_epoch, schedule._step_count = step, step + 1
    rates = zip(optimizer.param_groups, schedule.base_lrs, schedule.lr_lambdas, strict=True)
    for group, peak, factor in rates:
        group["lr"] = peak * factor(step)


def full_tensor(tensor: torch.Tensor) -> torch.Tensor:
    """The tensor put together from the shares of all processes, which must all call this."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def _trained(model: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    return ((name, p) for name, p in model.named_parameters() if p.requires_grad)


def _checked(
    tensors: Mapping[str, torch.Tensor], name: str, parameter: torch.Tensor
) -> torch.Tensor:
    if name not in tensors:
        raise ValueError(f"{name} is missing")
    tensor, expected = tensors[name], tuple(parameter.shape)
    if tuple(tensor.shape) != expected:
        raise ValueError(f"{name} has shape {tuple(tensor.shape)}, expected {expected}")
    return tensor


def _share(parameter: torch.Tensor, tensor: torch.Tensor) -> torch.Tensor:
    """The tensor on the parameter's device; of a sharded parameter this process's share."""
    tensor = tensor.to(parameter.device, parameter.dtype)
    if not isinstance(parameter, DTensor):
        return tensor
    return distribute_tensor(
        tensor, parameter.device_mesh, parameter.placements, src_data_rank=None
    )
