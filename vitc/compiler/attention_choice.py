"""The report's section on attention: for each layer the kernel that serves it, why, and what else there would be."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from vitc.cost import AttentionOption, OpCost, attention_options
from vitc.errors import InputError, InternalError
from vitc.kernels.tiles import choose_tile, kernel_variant
from vitc.lowering.substitution import Match
from vitc.targets import Target


@dataclass(frozen=True)
class AttentionChoice:
    """One attention of the model, batch 1. `kernel` is the variant's name, None where the plugin does not serve it."""

    node: str
    form: str
    kernel: str | None
    why: str
    options: tuple[AttentionOption, ...] = ()


def attention_choices(matches: Sequence[Match], costs: Iterable[OpCost], target: Target) -> tuple[AttentionChoice, ...]:
    """One choice for each match; `costs` are the graph's records, whose attentions stand in the same order."""
    attentions = [cost for cost in costs if cost.kind == "attention"]
    if len(attentions) != len(matches):
        raise InternalError(f"the graph has {len(attentions)} attentions and the ONNX model {len(matches)}")
    return tuple(_choice(m, cost, target) for m, cost in zip(matches, attentions, strict=True))


def _choice(match: Match, cost: OpCost, target: Target) -> AttentionChoice:
    heads, queries, keys, _ = cost.attention_shape
    form = f"{match.form}, {queries} tokens" if queries == keys else f"{match.form}, {queries} × {keys} tokens"
    if match.refusal is not None:
        return AttentionChoice(match.node, form, None, f"no match because {match.refusal}")
    if target.arch is None or target.sm_count is None:
        return AttentionChoice(match.node, form, None, "the CPU engine runs it in standard operators")
    try:
        variant = kernel_variant(match.fields, target.arch)
        best = choose_tile(
            target.arch, target.sm_count, variant.head_dim, variant.input, variant.output, queries, heads
        )
    except InputError as error:
        return AttentionChoice(match.node, form, None, str(error))
    why = best.reason
    if variant.tile != best.tile:
        asked, other = (f"{t.query_rows}×{t.key_rows}" for t in (variant.tile, best.tile))
        why = f"tile {asked} was asked for, the table has {other} ({best.reason})"
    return AttentionChoice(match.node, form, variant.name, why, attention_options(cost, target))


def lines(choices: Sequence[AttentionChoice]) -> list[str]:
    """Layers that differ in nothing but their name share their lines."""
    groups: dict[AttentionChoice, list[str]] = {}
    for choice in choices:
        same = AttentionChoice("", choice.form, choice.kernel, choice.why, choice.options)
        groups.setdefault(same, []).append(choice.node)
    text = []
    for choice, nodes in groups.items():
        names = nodes[0] if len(nodes) == 1 else f"{nodes[0]} … {nodes[-1]}"
        text.append(f"{len(nodes)} × {choice.form}: {names}")
        text.append(f"    plugin, kernel {choice.kernel}: {choice.why}" if choice.kernel else f"    {choice.why}")
        if choice.options:
            text.append(f"    predicted, not measured: {'; '.join(map(_option, choice.options))}")
    return text


def _option(option: AttentionOption) -> str:
    return f"{option.name}: {option.why}" if option.ms is None else f"{option.name} {1e3 * option.ms:.1f} µs"
