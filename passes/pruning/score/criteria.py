"""Which features matter least: one small class for each criterion, each with its source."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import ClassVar, Literal, TypeVar

import torch

from vitc.errors import PassError, unknown
from vitc.passes.pruning.find.groups import Group
from vitc.passes.pruning.score.facts import Facts, Layer
from vitc.passes.pruning.score.removal import alone, removal_order

Need = Literal["activations", "covariance", "gradients"]
Compensation = Literal["none", "mean", "least-squares"]
#: The facts about a program that each way to make up for what goes needs.
COMPENSATION_NEEDS: Mapping[Compensation, set[str]] = {
    "mean": {"activations"},
    "least-squares": {"covariance"},
    "none": set(),
}
C = TypeVar("C", bound="type[Criterion]")

_registry: dict[str, type[Criterion]] = {}


class Criterion:
    """Base of all criteria. The lower its score, the sooner a unit goes.

    A subclass sets `name`, says what it `needs` (nothing: weights only), and has a method `score(layer)` that returns
    one number per feature; a unit's score is the sum over its features. Criteria that look at whole units have
    `score_group`.
    `kinds`: the kinds of groups it can score (None: all). `compensation`: what happens to the weights that stay.
    `comparable`: a score is what removing the unit adds to one figure of the whole model, so units of different
    structures can be compared.
    """

    name: ClassVar[str] = ""
    needs: ClassVar[tuple[Need, ...]] = ()
    kinds: ClassVar[tuple[str, ...] | None] = None
    compensation: ClassVar[Compensation] = "none"
    comparable: ClassVar[bool] = False

    def score(self, layer: Layer) -> torch.Tensor:
        """[out]: how much each of the layer's features matters."""
        raise PassError(
            f"criterion {self.name!r} scores nothing; give its class a method score(self, layer) that returns [out]"
        )

    def prepare(self, facts: Facts) -> None:
        """Called once, before `score_group`."""
        self._per_feature = facts.per_feature(self.score)

    def score_group(self, group: Group, facts: Facts) -> torch.Tensor:
        """[units]: how much each unit of the group matters."""
        return self._per_feature[group.units].sum(1)


def register_criterion(cls: C) -> C:
    """Class decorator: makes a criterion known by its name. Raises PassError without a name, or if it is taken."""
    home = f"{cls.__module__}.{cls.__qualname__}"
    if not cls.name:
        raise PassError(f"{home} has no name; set the class attribute name = 'my-criterion'")
    other = _registry.get(cls.name)
    if other is not None and f"{other.__module__}.{other.__qualname__}" != home:
        raise PassError(
            f"criterion {cls.name!r} is defined twice: in {other.__module__}.{other.__qualname__} and in {home};"
            " rename one"
        )
    _registry[cls.name] = cls
    return cls


def known_criteria() -> dict[str, type[Criterion]]:
    """All criteria by name."""
    return dict(sorted(_registry.items()))


def get_criterion(name: str) -> Criterion:
    """The criterion of that name. PassError lists the known ones and the nearest."""
    if name not in _registry:
        raise PassError(unknown("pruning criterion", name, _registry))
    return _registry[name]()


def data_free() -> Iterable[str]:
    """The names of the criteria that need no data."""
    return (name for name, cls in known_criteria().items() if not cls.needs)


@register_criterion
class L1(Criterion):
    """Σ|w| of the feature's weights (Li et al., Pruning Filters for Efficient ConvNets, arXiv 1608.08710)."""

    name = "l1"

    def score(self, layer: Layer) -> torch.Tensor:
        return layer.weight.abs().sum(1)


@register_criterion
class Taylor(Criterion):
    """Mean of (Σ g·w)²: the squared first-order change of the loss (Molchanov et al., arXiv 1906.10771, eq. 8)."""

    name = "taylor"
    needs = ("gradients",)
    comparable = True

    def score(self, layer: Layer) -> torch.Tensor:
        assert layer.saliency is not None
        return layer.saliency


@register_criterion
class Hessian(Criterion):
    """½ Σ h·w², the second-order change (LeCun et al., Optimal Brain Damage, 1989), with the empirical Fisher, mean g²,
    as the Hessian's diagonal h (Theis et al., arXiv 1801.05787)."""

    name = "hessian"
    needs = ("gradients",)
    comparable = True

    def score(self, layer: Layer) -> torch.Tensor:
        assert layer.squared_gradient is not None
        return 0.5 * (layer.squared_gradient * layer.weight.square()).sum(1)


@register_criterion
class Variance(Criterion):
    """The variance of the feature behind its activation function; what is removed is replaced by its mean, added to the
    next bias (Variance-Based Pruning, arXiv 2507.12988)."""

    name = "variance"
    needs = ("activations",)
    kinds = ("mlp", "heads", "v")
    compensation = "mean"

    def score(self, layer: Layer) -> torch.Tensor:
        assert layer.variance is not None
        return layer.variance


@register_criterion
class GradVariance(Criterion):
    """‖∂L/∂W‖₂ · Var(feature), the criterion of the article this project starts from."""

    name = "grad-variance"
    needs = ("gradients", "activations")
    kinds = ("mlp", "heads", "v")

    def score(self, layer: Layer) -> torch.Tensor:
        assert layer.gradient is not None
        assert layer.variance is not None
        norm: torch.Tensor = layer.gradient.norm(dim=1)
        return norm * layer.variance


@register_criterion
class OptimalBrainSurgeon(Criterion):
    """The error that removing a unit makes in what reads it, after the best update of the weights that stay (Hassibi &
    Stork, Optimal Brain Surgeon, 1993; for layers, H = XᵀX: Dong et al., arXiv 1705.07565; for units and with the mean
    in the next bias: DVBP+OB²C, arXiv 2608.17657). Each output of a reader counts by how much the model's outputs move
    with it (the Gauss–Newton diagonal, output_gradients.py), without which layers could not be compared.

    Units are eliminated in rounds, the covariance being conditioned on what is already gone, so of two equal units one
    stays.
    """

    name = "obs"
    needs = ("covariance",)
    kinds = ("mlp", "heads", "v")
    compensation = "least-squares"
    comparable = True

    def prepare(self, facts: Facts) -> None:
        """Nothing: scores come from each reader's covariance."""

    def score_group(self, group: Group, facts: Facts) -> torch.Tensor:
        scores = torch.zeros(len(group))
        for reader in group.readers:
            scores += (
                removal_order(facts, group, reader) if facts.reader(reader).is_matrix else alone(facts, group, reader)
            )
        return scores


@register_criterion
class QueryKey(Criterion):
    """‖q_d‖·‖k_d‖: the Frobenius norm of the term q_d·k_dᵀ by which a dimension contributes to the attention scores
    (after SNP, arXiv 2404.11630: keep the graph of attention scores)."""

    name = "snp"
    needs = ("activations",)
    kinds = ("qk",)

    def prepare(self, facts: Facts) -> None:
        """Nothing: a dimension is scored by its query and its key together."""

    def score_group(self, group: Group, facts: Facts) -> torch.Tensor:
        return facts.second_moment[group.units].sqrt().float().prod(1)
