"""Runs the program inside a saved `.mlpackage` off Apple hardware: coremltools reads it, torch computes each operation.

What an operation means is Core ML's definition (coremltools 9.0, `converters/mil/mil/ops/defs/iOS15` and `iOS16`).
Every float16 result is rounded to float16, as hardware stores it; sums inside an operation are float32, which hardware
need not do. Only the operations that a Whisper package holds are known.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from exporters.mlpackage import MODEL, WEIGHTS
from exporters.whisperkit import SPEC_VERSION
from idiolect.errors import ArtifactError, RuntimeFailed, first_line, require

if TYPE_CHECKING:
    import numpy.typing as npt
    import torch

    Array: TypeAlias = npt.NDArray[Any]
    Values: TypeAlias = dict[str, Any]

_HINT = "export or pull it again"
_NOWHERE, _ONES = (False,) * 5, (1,) * 5  # defaults for as many axes as Core ML has


@dataclass(frozen=True)
class _Step:
    """One operation: arguments are constants by name, or (lists of) names of earlier results."""

    op: str
    constants: Mapping[str, Any]
    arguments: Mapping[str, str | tuple[str, ...]]
    outputs: tuple[tuple[str, tuple[int, ...], str], ...]  # name, shape, Core ML's type

    @property
    def needs(self) -> set[str]:
        return {n for name in self.arguments.values() for n in ((name,) if isinstance(name, str) else name)}


class Program:
    """The program of one package. Results that depend on nothing but the inputs `fixed` are kept between calls, for as
    long as those inputs stay the same arrays (which must not be written to)."""

    def __init__(self, package: Path, fixed: Collection[str] = ()) -> None:
        """Raises ArtifactError (coremltools refuses the program), RuntimeFailed (an operation is unknown)."""
        steps, self.outputs = _load(package)
        self._name = package.name
        if unknown := sorted({step.op for step in steps} - _OPS.keys()):
            raise RuntimeFailed(f"{package.name} has the unknown operation {', '.join(unknown)}", "try it on a Mac")
        self._fixed = tuple(name for name in fixed if any(name in step.needs for step in steps))
        self._seen: dict[str, Array] = {}
        self._kept: Values = {}
        once = set(self._fixed)
        for step in steps:
            if step.needs and step.needs <= once:
                once |= {name for name, _, _ in step.outputs}
        self._once = [step for step in steps if step.outputs[0][0] in once]
        self._steps = [step for step in steps if step.outputs[0][0] not in once]

    def __call__(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Outputs by name for inputs by name. Raises RuntimeFailed when a result has not the shape the program says."""
        import torch

        with torch.inference_mode():
            fixed = {name: inputs[name] for name in self._fixed}
            if any(self._seen.get(name) is not array for name, array in fixed.items()):
                later = {need for step in self._steps for need in step.needs} | set(self.outputs)
                self._kept, self._seen = self._run(self._once, _tensors(fixed), later), fixed
            results = self._run(self._steps, {**self._kept, **_tensors(inputs)}, self.outputs)
        return {name: results[name].numpy() for name in self.outputs}

    def _run(self, steps: Sequence[_Step], values: Values, wanted: Collection[str]) -> Values:
        last = {need: index for index, step in enumerate(steps) for need in step.needs}
        for index, step in enumerate(steps):
            for (name, shape, kind), result in self._compute(step, values):
                if tuple(result.shape) != shape:
                    raise RuntimeFailed(f"{self._name}: {name} is {tuple(result.shape)}, not {shape}", _HINT)
                values[name] = result.half().float() if kind == "fp16" else result
            for name in step.needs:
                if last[name] == index and name not in wanted:
                    del values[name]
        return {name: values[name] for name in wanted if name in values}

    def _compute(self, step: _Step, values: Values) -> list[tuple[tuple[str, tuple[int, ...], str], torch.Tensor]]:
        """The outputs of a step, each with its result."""
        try:
            given = {
                key: values[name] if isinstance(name, str) else [values[each] for each in name]
                for key, name in step.arguments.items()
            }
            results = _OPS[step.op](**step.constants, **given)
            found = results if isinstance(results, tuple | list) else (results,)
            return list(zip(step.outputs, found, strict=True))
        except (TypeError, ValueError, RuntimeError, IndexError, KeyError, AttributeError) as error:
            name, reason = step.outputs[0][0], first_line(error)
            raise RuntimeFailed(f"{self._name}: {step.op} for {name} cannot be computed: {reason}", _HINT) from error


def _load(package: Path) -> tuple[list[_Step], tuple[str, ...]]:
    require("coremltools", "coreml")
    logging.getLogger("coremltools").setLevel(logging.ERROR)  # it tells what is missing off a Mac, at each import
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from coremltools.converters.mil.frontend.milproto.load import load
        from coremltools.proto import Model_pb2
    try:
        spec = Model_pb2.Model()
        spec.ParseFromString((package / MODEL).read_bytes())
        program = load(spec, SPEC_VERSION, str((package / WEIGHTS).parent))
        body = program.functions["main"]
        known: Values = {}
        found = [_step(op, known) for op in body.operations]
        return [step for step in found if step], tuple(var.name for var in body.outputs)
    except Exception as error:  # whatever a damaged program makes of coremltools' reader
        reason = first_line(error)
        raise ArtifactError(f"{package.name} cannot be read: {reason}", _HINT) from error


def _step(op: Any, known: Values) -> _Step | None:  # noqa: ANN401
    """The operation; None for a constant, which goes to `known` by name, compressed weights unpacked."""
    if op.op_type == "const":
        known[op.outputs[0].name] = _constant(op.outputs[0].val)
        return None
    if op.op_type.startswith("constexpr_"):
        known[op.outputs[0].name] = _constant(op.materialized_val_inference())
        return None
    constants: Values = {}
    arguments: dict[str, str | tuple[str, ...]] = {}
    for name, var in op.inputs.items():
        if isinstance(var, list | tuple):
            arguments[name] = tuple(each.name for each in var)
        elif var.name in known:
            constants[name] = known[var.name]
        else:
            arguments[name] = var.name
    outputs = tuple((var.name, tuple(map(int, var.shape)), var.dtype.__name__) for var in op.outputs)
    return _Step(op.op_type, constants, arguments, outputs)


def _constant(value: Any) -> Any:  # noqa: ANN401
    """Float arrays as float32 tensors, all else (numbers, words, axes, sizes) as Python has it."""
    import numpy as np
    import torch

    if isinstance(value, np.ndarray) and value.ndim and np.issubdtype(value.dtype, np.floating):
        return torch.from_numpy(value.astype(np.float32))
    return value.tolist() if isinstance(value, np.ndarray | np.generic) else value


def _tensors(arrays: Mapping[str, Array]) -> Values:
    import torch

    found = {name: torch.from_numpy(array) for name, array in arrays.items()}
    return {name: value.float() if value.is_floating_point() else value.long() for name, value in found.items()}


def _conv(
    x: torch.Tensor,
    weight: torch.Tensor,
    strides: list[int],
    pad: list[int],
    pad_type: str,
    dilations: list[int],
    groups: int,
    bias: torch.Tensor | None = None,
) -> torch.Tensor:
    import torch

    before, after = pad[::2], pad[1::2]
    if pad_type not in ("valid", "custom") or before != after:
        raise ValueError(f"padding {pad_type} {pad}; only equal padding on both sides is known")
    run = torch.conv1d if x.ndim == 3 else torch.conv2d
    return run(x, weight, bias, strides, before if pad_type == "custom" else 0, dilations, groups)


def _layer_norm(x: torch.Tensor, axes: list[int], epsilon: float) -> torch.Tensor:
    centred = x - x.mean(axes, keepdim=True)
    return centred * (centred.square().mean(axes, keepdim=True) + epsilon).rsqrt()


def _batch_norm(
    x: torch.Tensor,
    mean: torch.Tensor,
    variance: torch.Tensor,
    gamma: torch.Tensor,
    beta: torch.Tensor,
    epsilon: float,
) -> torch.Tensor:
    shape = [1, -1, *[1] * (x.ndim - 2)]
    mean, variance, gamma, beta = (each.view(shape) for each in (mean, variance, gamma, beta))
    return (x - mean) * (variance + epsilon).rsqrt() * gamma + beta


def _matmul(x: torch.Tensor, y: torch.Tensor, transpose_x: bool = False, transpose_y: bool = False) -> torch.Tensor:
    return (x.mT if transpose_x else x) @ (y.mT if transpose_y else y)


def _gelu(x: torch.Tensor, mode: str) -> torch.Tensor:
    from torch.nn.functional import gelu

    approximate = {"EXACT": "none", "TANH_APPROXIMATION": "tanh"}
    return gelu(x, approximate=approximate[mode])


def _gather(x: torch.Tensor, indices: torch.Tensor, axis: int, batch_dims: int = 0, **_: bool) -> torch.Tensor:
    if axis or batch_dims:
        raise ValueError(f"axis {axis}; only rows are known")
    return x[indices]


def _pad(x: torch.Tensor, pad: list[int], mode: str, **_: float) -> torch.Tensor:
    from torch.nn.functional import pad as padded

    if mode != "reflect" or any(pad[:-2]):
        raise ValueError(f"{mode} {pad}; only reflection at the last axis is known")
    return padded(x, pad[-2:], mode)


def _slice(
    x: torch.Tensor,
    begin: list[int],
    end: list[int],
    begin_mask: Sequence[bool] = _NOWHERE,
    end_mask: Sequence[bool] = _NOWHERE,
    squeeze_mask: Sequence[bool] = _NOWHERE,
    stride: Sequence[int] = _ONES,
) -> torch.Tensor:
    picked: list[Any] = []
    for axis in range(x.ndim):
        first, last = None if begin_mask[axis] else begin[axis], None if end_mask[axis] else end[axis]
        picked.append(begin[axis] if squeeze_mask[axis] else slice(first, last, stride[axis]))
    return x[tuple(picked)]


def _expand(x: torch.Tensor, axes: list[int]) -> torch.Tensor:
    for axis in axes:
        x = x.unsqueeze(axis)
    return x


def _split(x: torch.Tensor, axis: int, split_sizes: list[int] | None = None, num_splits: int = 1) -> Any:  # noqa: ANN401
    return x.split(split_sizes or x.shape[axis] // num_splits, axis)  # type: ignore[no-untyped-call]


def _cast(x: torch.Tensor, dtype: str) -> torch.Tensor:
    return x.float() if dtype.startswith("fp") else x.long()


def _linear(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    import torch

    return torch.nn.functional.linear(x, weight, bias)


def _concat(values: list[torch.Tensor], axis: int, interleave: bool = False) -> torch.Tensor:
    import torch

    if interleave:
        raise ValueError("interleaving is not known")
    return torch.cat(values, axis)


_OPS: dict[str, Callable[..., Any]] = {
    "add": lambda x, y: x + y,
    "batch_norm": _batch_norm,
    "cast": _cast,
    "clip": lambda x, alpha, beta: x.clamp(alpha, beta),
    "concat": _concat,
    "conv": _conv,
    "expand_dims": _expand,
    "gather": _gather,
    "gelu": _gelu,
    "layer_norm": _layer_norm,
    "linear": _linear,
    "log": lambda x, epsilon: (x + epsilon).log(),
    "matmul": _matmul,
    "maximum": lambda x, y: x.maximum(y),
    "mul": lambda x, y: x * y,
    "pad": _pad,
    "reduce_max": lambda x, axes, keep_dims: x.amax(axes, keep_dims),
    "reduce_mean": lambda x, axes, keep_dims: x.mean(axes, keep_dims),
    "reshape": lambda x, shape: x.reshape(shape),
    "slice_by_index": _slice,
    "softmax": lambda x, axis: x.softmax(axis),
    "split": _split,
    "sub": lambda x, y: x - y,
}
