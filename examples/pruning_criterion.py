"""A pruning criterion of one's own: channels whose activations are rarely far from zero go first.

python examples/pruning_criterion.py
"""

import torch

import vitc
from vitc.demo.digits import DigitsViT


@vitc.register_criterion
class Sparsity(vitc.Criterion):
    """Mean square of the feature behind its activation function."""

    name = "sparsity"
    needs = ("activations",)
    kinds = ("mlp", "heads", "v")

    def score(self, layer: vitc.Layer) -> torch.Tensor:
        return layer.second_moment


def main() -> None:
    torch.manual_seed(0)
    model = DigitsViT().eval()
    images = torch.randn(64, 1, 8, 8)  # yours: some hundred preprocessed images
    pruned = vitc.prune(model, 0.35, criterion="sparsity", data=images, example_inputs=images[:2])
    print(pruned.report)


if __name__ == "__main__":
    main()
