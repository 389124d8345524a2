"""Maps of a layer's activations A and derivatives g beside the papers' formulas, place by place, and beside captum."""

from __future__ import annotations

import itertools
import math
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from advex.classifier import Classifier
from advex.errors import InputError
from advex.explainers import CAM, GradCAM, GradCAMPlusPlus, LayerCAM, NormGrad

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # captum's own imports warn
    from captum import attr

SHAPE = (2, 8, 8)
TARGET = torch.tensor([0, 3, 1, 2])
K, H, W = 5, 3, 3
CHANNELS, PLACES = range(K), [(i, j) for i in range(H) for j in range(W)]


@pytest.fixture
def classifier() -> Classifier:
    """Curved behind the layer that is looked at (3, a ReLU), so that the places of a channel differ in their slope."""
    torch.manual_seed(0)
    body = (nn.Conv2d(2, 4, 3), nn.Tanh(), nn.Conv2d(4, K, 2, stride=2), nn.ReLU())
    network: Any = nn.Sequential(*body, nn.Flatten(), nn.Linear(K * H * W, 8), nn.Tanh(), nn.Linear(8, 4))
    network[5].weight.data.mul_(4)
    network[7].weight.data.mul_(8)
    return Classifier(network.double(), mean=0.4, std=0.3).eval()


def inputs() -> Tensor:
    return torch.rand(4, *SHAPE, dtype=torch.float64)


def activations(classifier: Classifier, x: Tensor, c: int) -> tuple[Tensor, Tensor]:
    """A^k_ij and d y^c / d A^k_ij of one input, [K, H, W] each."""
    body, head = classifier.network[:4], classifier.network[4:]  # pyright: ignore
    A = body((x[None] - 0.4) / 0.3).detach().requires_grad_(True)
    head(A)[0, c].backward()
    assert A.grad is not None
    return A.detach()[0], A.grad[0]


def grad_cam_plus_plus(A: Tensor, g: Tensor, S: Callable[[Tensor, Tensor, int, int, int], Any]) -> Tensor:
    """Chattopadhay et al., Eq. 19 for alpha, Eq. 10 for the weight: L_ij = relu(sum_k w_k A^k_ij)."""
    L = torch.zeros(H, W, dtype=torch.float64)
    for k in CHANNELS:
        w = 0.0
        for i, j in PLACES:
            if g[k, i, j] != 0:
                w += g[k, i, j] ** 2 / (2 * g[k, i, j] ** 2 + S(A, g, k, i, j)) * max(g[k, i, j], 0.0)
        L += w * A[k]
    return L.relu()


def of_activations(A: Tensor, g: Tensor, k: int, i: int, j: int) -> Any:
    return sum(A[k, a, b] for a, b in PLACES) * g[k, i, j] ** 3


def of_products(A: Tensor, g: Tensor, k: int, i: int, j: int) -> Any:
    """The frequent error: the derivatives are summed with the activations."""
    return sum(A[k, a, b] * g[k, a, b] ** 3 for a, b in PLACES)


def layer_cam(A: Tensor, g: Tensor) -> Tensor:
    """Jiang et al., Eq. 4-6: relu(sum_k relu(g^k_ij) A^k_ij)."""
    return sum(g[k].relu() * A[k] for k in CHANNELS).relu()  # pyright: ignore[reportAttributeAccessIssue]


def norm_grad(A: Tensor, g: Tensor) -> Tensor:
    """Rebuffi et al., for a virtual 1x1 convolution: the Frobenius norm of the outer product of g_u and A_u."""
    L = torch.zeros(H, W, dtype=torch.float64)
    for i, j in PLACES:
        L[i, j] = math.sqrt(sum((g[a, i, j] * A[b, i, j]) ** 2 for a in CHANNELS for b in CHANNELS))
    return L


def selective(A: Tensor, g: Tensor) -> Tensor:
    """|[A_u * g_u]_+|_2."""
    L = torch.zeros(H, W, dtype=torch.float64)
    for i, j in PLACES:
        L[i, j] = math.sqrt(sum(max(g[k, i, j] * A[k, i, j], 0.0) ** 2 for k in CHANNELS))
    return L


def shown(L: Tensor) -> Tensor:
    return interpolate(L[None, None], size=SHAPE[1:], mode="bilinear", align_corners=False)[0].expand(SHAPE)


@pytest.mark.parametrize(
    ("explain", "formula", "relatives"),
    [
        (
            GradCAMPlusPlus(layer="3"),
            lambda A, g: grad_cam_plus_plus(A, g, of_activations),
            [lambda A, g: grad_cam_plus_plus(A, g, of_products)],
        ),
        (LayerCAM(layer="3"), layer_cam, [lambda A, g: (A * g).sum(dim=0).relu()]),
        (NormGrad(layer="3"), norm_grad, [selective]),
        (NormGrad(layer="3", selective=True), selective, [norm_grad, lambda A, g: (A * g).norm(dim=0)]),
    ],
    ids=["grad_cam_plus_plus", "layer_cam", "norm_grad", "selective"],
)
def test_the_papers_formulas_and_not_their_neighbours(
    explain: Any, formula: Any, relatives: list[Any], classifier: Classifier
) -> None:
    x = inputs()
    made, cam = explain(classifier, x, TARGET), GradCAM(layer="3")(classifier, x, TARGET)
    likeness = []
    for i, c in enumerate(TARGET.tolist()):
        A, g = activations(classifier, x[i], c)
        assert torch.allclose(made.map[i], shown(formula(A, g)), atol=1e-12)
        others = [shown(relative(A, g)) for relative in relatives] + [cam.map[i]]
        likeness.append([torch.cosine_similarity(made.map[i].flatten(), each.flatten(), dim=0) for each in others])
    assert (torch.tensor(likeness).amin(dim=0) < 0.99).all()


def test_products_of_activation_and_gradient_agree_with_captum(classifier: Classifier) -> None:
    x = inputs()
    layer = classifier.network[3]  # pyright: ignore[reportIndexIssue]
    products: Any = attr.LayerGradientXActivation(classifier, layer).attribute(x, target=TARGET)
    for explain, values in (
        (LayerCAM(layer="3"), products.relu().sum(dim=1)),  # A >= 0
        (NormGrad(layer="3", selective=True), products.relu().norm(dim=1)),
    ):
        theirs = interpolate(values[:, None].detach(), size=SHAPE[1:], mode="bilinear", align_corners=False)
        assert torch.allclose(explain(classifier, x, TARGET).map, theirs.expand_as(x), atol=1e-12)


def test_where_a_channel_is_flat_in_slope_the_second_weight_is_known() -> None:
    """y = sum over places and channels of a_k A^k: g = a_k everywhere, and w_k = HW relu(a_k) / (2 + a_k S_k)."""
    a = torch.tensor([1.5, -2.0, 0.5], dtype=torch.float64)

    class Sums(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.seen = nn.ReLU()

        def forward(self, x: Tensor) -> Tensor:
            value = torch.einsum("k,nkij->n", a, self.seen(x))
            return torch.stack([value, -value], dim=1)

    x = torch.rand(3, 3, 4, 5, dtype=torch.float64)
    made = GradCAMPlusPlus(layer="seen")(Classifier(Sums()).double(), x, torch.zeros(3, dtype=torch.int64))
    w = 20 * a.relu() / (2 + a * x.sum(dim=(2, 3)))
    assert torch.allclose(made.map[:, 0], torch.einsum("nk,nkij->nij", w, x), atol=1e-12)


def averaged(*head: nn.Module) -> Classifier:
    torch.manual_seed(0)
    body = (nn.Conv2d(2, 4, 3), nn.Tanh(), nn.Conv2d(4, K, 2, stride=2))
    return Classifier(nn.Sequential(*body, *head).double(), mean=0.4, std=0.3).eval()


def test_cam_is_the_classs_weights_at_every_place_and_grad_cam_but_for_sign_and_size() -> None:
    """Zhou et al., Eq. 1 and 2: S_c = sum_k w_k^c F_k, F_k the mean of f_k (theirs leaves the bias away)."""
    classifier, x = averaged(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(K, 4)), inputs()
    made, by_gradients = CAM()(classifier, x, TARGET), GradCAM()(classifier, x, TARGET)
    head: Any = classifier.network[5]  # pyright: ignore[reportIndexIssue]
    logits = classifier(x)
    negative = 0
    for i, c in enumerate(TARGET.tolist()):
        f = classifier.network[:3]((x[i][None] - 0.4) / 0.3)[0]  # pyright: ignore
        M = torch.zeros(H, W, dtype=torch.float64)
        for (a, b), k in itertools.product(PLACES, CHANNELS):
            M[a, b] += head.weight[c, k] * f[k, a, b]
        assert torch.allclose(made.map[i], shown(M), atol=1e-12)
        assert torch.allclose(M.mean() + head.bias[c], logits[i, c])
        assert torch.allclose(shown(M.relu()), H * W * by_gradients.map[i], atol=1e-12)
        negative += int((M < 0).sum())
    assert negative > 0, "else the ReLU were not seen"


@pytest.mark.parametrize(
    "head",
    [
        (nn.Flatten(), nn.Linear(K * H * W, 4)),
        (nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(K, 8), nn.Tanh(), nn.Linear(8, 4)),
        (nn.AdaptiveMaxPool2d(1), nn.Flatten(), nn.Linear(K, 4)),
    ],
    ids=["places are weighed", "two layers", "largest"],
)
def test_cam_is_refused_where_the_network_does_not_end_as_it_needs(head: tuple[nn.Module, ...]) -> None:
    with pytest.raises(InputError, match=r"ends in global average pooling and one linear layer.*grad_cam"):
        CAM()(averaged(*head), inputs(), TARGET)


@pytest.mark.parametrize(
    "spec", ["vgg:depth=11,width=2,head=gap", "preact_resnet:depth=8,widths=4-6-8", "resnet:depth=18,width=4"]
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_cam_of_the_networks_that_end_so(spec: str, dtype: torch.dtype) -> None:
    """Where no place speaks against the class, it is Grad-CAM but for a factor."""
    torch.manual_seed(0)
    classifier = Classifier(spec + ",classes=5").to(dtype).eval()
    network: Any = classifier.network
    for weight in (module.weight for module in network.modules() if isinstance(module, nn.Linear)):
        weight.data.abs_()
    x, target = torch.rand(4, 3, 64, 64), torch.tensor([0, 4, 2, 1])
    mine, other = (explain(classifier, x, target).map.float().flatten(1) for explain in (CAM(), GradCAM()))
    assert other.any(dim=1).all()
    assert (torch.cosine_similarity(mine, other, dim=1) > 0.999).all()
