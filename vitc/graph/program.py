"""The Program: what flows through the pipeline."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import torch
from torch.fx import Graph, GraphModule, Interpreter

from vitc.calibration.findings import Findings

if TYPE_CHECKING:
    from vitc.calibration.preprocessing import Preprocessing
    from vitc.calibration.samples import Samples
    from vitc.calibration.stream import CalibrationStream
    from vitc.passes.pruning.plan import PrunePlan
    from vitc.targets import Target
    from vitc.task import Task


@dataclass(frozen=True)
class BatchRange:
    """The batch sizes one compilation serves, both ends included."""

    min: int = 1
    max: int = 64


@dataclass(frozen=True)
class DynamicDim:
    """What a size that is not fixed is called outside of the graph, and its range."""

    name: str
    range: BatchRange


@dataclass(frozen=True)
class JournalEntry:
    """What one pass did.

    pass_text: the pass with its options.
    stage:     that of the program behind it.
    created:   operators made.
    erased:    operators taken away.
    changed:   operators that stand where they stood, with another operator, other arguments or another type.
    seconds:   what it took.
    notes:     what it says of itself.
    """

    pass_text: str
    stage: str
    created: int
    erased: int
    changed: int
    seconds: float
    notes: tuple[str, ...] = ()

    @property
    def counts(self) -> str:
        """'+3 −2 ~1': operators created, erased and changed."""
        return f"+{self.created} −{self.erased} ~{self.changed}"


@dataclass(frozen=True)
class Program:
    """An FX graph at a stage, with all that its compilation needs to know.

    module:         a callable GraphModule: at every stage the program runs on the CPU with the user's own inputs.
    stage:          a name of vitc.graph.stages.
    target:         what it is compiled for.
    example_inputs: the flat example tensors, batch at least 2.
    batch:          the batch sizes it serves; None: the example's only.
    fixed_inputs:   arguments of forward that are no tensors, with the values they were captured with.
    dims:           the graph's dynamic sizes by their symbols.
    preprocessing:  from a picture to the input, where it is known.
    task:           what the outputs mean, where it is known.
    calibration:    the user's images, for passes that look at them.
    findings:       what calibration found, so that a build can be repeated without the data.
    samples:        what pruning criteria look at.
    pruning:        what pruning did.
    journal:        what each pass did.
    notes:          what the pass that is running has to say; the journal's entry takes them.
    """

    module: GraphModule
    stage: str
    target: Target
    example_inputs: tuple[torch.Tensor, ...]
    batch: BatchRange | None = None
    fixed_inputs: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))
    dims: Mapping[str, DynamicDim] = field(default_factory=lambda: MappingProxyType({}))
    preprocessing: Preprocessing | None = None
    task: Task | None = None
    calibration: CalibrationStream | None = None
    findings: Findings = field(default_factory=Findings)
    samples: Samples | None = None
    pruning: PrunePlan | None = None
    journal: tuple[JournalEntry, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def graph(self) -> Graph:
        return self.module.graph

    @property
    def ranges(self) -> Mapping[str, float]:
        """0.1's one table of ranges and, as name/peak, of peaks; goes with 0.3. `findings` has them apart."""
        warnings.warn("write program.findings.ranges and .peaks", DeprecationWarning, stacklevel=2)
        return {**self.findings.ranges, **{f"{name}/peak": peak for name, peak in self.findings.peaks.items()}}

    @property
    def pipeline(self) -> str:
        """The passes so far, as text that parses back."""
        return ",".join(entry.pass_text for entry in self.journal)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.module(*args, **kwargs)

    def run(self, *inputs: torch.Tensor) -> list[torch.Tensor]:
        """The output tensors for flat input tensors in the order of `example_inputs`, whatever structure, and whatever
        keywords, the user's model has. Without gradients."""
        with torch.no_grad():
            leaves = Interpreter(self.module).run(*inputs, enable_io_processing=False)
        return [t for t in leaves if isinstance(t, torch.Tensor)]

    def evolve(self, **changes: Any) -> Program:
        """A copy with fields replaced."""
        return dataclasses.replace(self, **changes)

    def calibrated(self, findings: Findings) -> Program:
        """A copy that knows more of what calibration found."""
        return self.evolve(findings=self.findings.with_more(findings))

    def note(self, text: str) -> Program:
        """A copy with one more line for the journal entry of the running pass."""
        return self.evolve(notes=(*self.notes, text))

    def fork(self) -> Program:
        """A copy whose graph may be changed freely; weights are shared, not copied."""
        old = self.module.graph
        new = Graph()
        new.output(new.graph_copy(old, {}))
        output = next(n for n in old.nodes if n.op == "output")
        next(n for n in new.nodes if n.op == "output").meta.update(output.meta)
        new._codegen = old._codegen  # keeps the user's input and output structure
        module = GraphModule(self.module, new, class_name="Program")
        module.eval()
        return self.evolve(module=module)

    def owned(self) -> Program:
        """A copy with weights of its own, all trainable; buffers (masks, tables of positions) are not."""
        fork = self.fork()
        copies: dict[int, torch.nn.Parameter] = {}
        for module in fork.module.modules():
            for name, parameter in module._parameters.items():
                if parameter is not None:
                    copies.setdefault(id(parameter), torch.nn.Parameter(parameter.detach().clone()))
                    module._parameters[name] = copies[id(parameter)]
        return fork

    def parameter_count(self) -> int:
        """Elements of the weights and buffers the graph uses, each tensor once."""
        return sum(t.numel() for t in self._weights())

    def weight_bytes(self) -> int:
        """Bytes of the weights and buffers the graph uses, each tensor once."""
        return sum(t.numel() * t.element_size() for t in self._weights())

    def _weights(self) -> Iterable[torch.Tensor]:
        state = dict(self.module.state_dict()) | dict(self.module.named_buffers())
        used = {str(n.target) for n in self.graph.nodes if n.op == "get_attr"}
        return {t.data_ptr(): t for n, t in state.items() if n in used}.values()
