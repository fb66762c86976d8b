"""Parameters and multiply-adds against the published ones."""

import jax
import jax.numpy as jnp
import pytest

from redundancy import config as config_lib
from redundancy.models import make_model
from redundancy.models.flops import multiply_adds
from tests.tiers import soaked


@pytest.mark.parametrize(
    # Parameters: timm's resnetv2_50, _101 and _152 (pre-activation, as here), torchvision's v1 for 18 and 34. Multiply-adds:
    # torchvision's, whose convolutions have the same shapes.
    ("depth", "millions", "billions"),
    [(18, 11.69, 1.81), (34, 21.80, 3.66), (50, 25.55, 4.09), *soaked((101, 44.54, 7.80), (152, 60.19, 11.51))],
)
def test_imagenet_form(depth, millions, billions):
    fields = {"form": "imagenet", "depth": depth, "widths": (64, 128, 256, 512)}
    model = make_model(config_lib.resolve(fields), 1000)
    image = jax.ShapeDtypeStruct((1, 224, 224, 3), jnp.float32)
    params = jax.eval_shape(lambda x: model.init(jax.random.key(0), x, train=False), image)["params"]
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) / 1e6 == pytest.approx(millions, abs=0.006)
    assert multiply_adds(model, (224, 224, 3)) / 1e9 == pytest.approx(billions, abs=0.006)


@pytest.mark.parametrize(("depth", "millions"), [(20, 40.6), (32, 68.9), (56, 125), (110, 253)])
def test_cifar_form(depth, millions):
    # He et al. 2018 ("Soft filter pruning", table 1), with shortcuts that have no parameters; projections add 0.26 M.
    model = make_model(config_lib.resolve({"depth": depth}), 10, platform="cpu")
    assert multiply_adds(model, (32, 32, 3)) / 1e6 == pytest.approx(millions + 0.26, rel=0.005)


def test_layers_and_bottlenecks_have_the_papers_sizes():
    fields = {"form": "imagenet", "depth": 50, "widths": (64, 128, 256, 512), "zero_init_residual": True}
    model = make_model(config_lib.resolve(fields), 10)
    variables = jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.zeros((1, 64, 64, 3)), train=False))
    image = jax.ShapeDtypeStruct((2, 64, 64, 3), jnp.float32)
    logits, layers = jax.eval_shape(lambda v, x: model.apply(v, x, train=False), variables, image)
    assert logits.shape == (2, 10)
    assert {name: layer.shape for name, layer in layers.items()} == {
        "start": (2, 64),
        "middle": (2, 512),
        "end": (2, 2048),
    }


def test_blocks_start_as_the_identity_if_the_config_asks_for_it():
    fields = {"depth": 8, "widths": (4, 4, 8), "zero_init_residual": True, "classifier_init": "zeros"}
    model = make_model(config_lib.resolve(fields), 10)
    params = model.init(jax.random.key(0), jnp.zeros((1, 8, 8, 3)), train=False)["params"]
    assert not params["stage1_block1"]["conv2"]["kernel"].any()
    assert params["stage1_block1"]["conv1"]["kernel"].any()
    assert not params["classifier"]["kernel"].any()
