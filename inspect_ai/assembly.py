"""A recipe becomes an untrained detector: model, rule and image are checked to fit together."""

from collections.abc import Sequence
from pathlib import Path

import torch

from inspect_ai.data import images
from inspect_ai.data.specs import DataSpec, ImageRule
from inspect_ai.errors import BadSettings
from inspect_ai.models.fusion import Config as Fused
from inspect_ai.models.fusion import Fusion
from inspect_ai.preprocess import Preprocess
from inspect_ai.recipe import Recipe
from inspect_ai.scoring.rule import Rule
from inspect_ai.training.detector import Buildable, Conditional, Detector, Model, Single, Staged


def new_detector(recipe: Recipe, spec: DataSpec, root: Path | None) -> Detector:
    """An untrained detector; `root` is where a valid region is read, None leaves it whole.

    Raises:
        BadSettings: model, rule and kind of image do not fit together.
    """
    if recipe.members:
        return fused(recipe, [new_detector(m, spec, root) for m in recipe.members])
    return single(recipe, spec, root)


def fused(recipe: Recipe, members: Sequence[Detector]) -> Fusion:
    """The fusion of its members."""
    config: Fused = recipe.model_config_()
    return config.build(members)


def single(recipe: Recipe, spec: DataSpec, root: Path | None, stage: Model | None = None) -> Single:
    """An untrained detector of one model and one rule.

    Args:
        stage: the trained first stage, where the recipe has one; None makes an untrained one.
    """
    assert recipe.score is not None
    if recipe.first_stage and stage is None:
        stage = single(recipe.first_stage, spec, root).model
    torch.manual_seed(recipe.budget.seed)
    region = _region(spec, root) if root is not None else None
    channels = spec.image.channels
    model = _model(recipe, channels, stage)
    rule = recipe.score.build(channels, recipe.grid)
    _require_fit(recipe, model, rule, spec)
    return Single(Preprocess(recipe.view(spec), region), model, rule)


def _model(recipe: Recipe, channels: int, stage: Model | None) -> Model:
    config: Buildable | Conditional = recipe.model_config_()
    classes = len(recipe.condition.values) if recipe.condition else 0
    if stage is not None:
        on: Staged = config  # type: ignore[assignment]
        return on.build(channels, recipe.grid, classes, stage)
    if not classes:
        return config.build(channels, recipe.grid)
    if not getattr(config, "conditional", False):
        raise BadSettings(
            f"model '{recipe.model['name']}' cannot be told a [condition]. Drop it, or use a "
            "conditional model: bigan, f_anogan, vae, pixelcnn, pixelrnn, diffusion or "
            "latent_diffusion."
        )
    told: Conditional = config  # type: ignore[assignment]
    return told.build(channels, recipe.grid, classes)


def _require_fit(recipe: Recipe, model: Model, rule: Rule, spec: DataSpec) -> None:
    name, said = recipe.model["name"], f"rule = '{recipe.rule}'"
    for what, part in ((f"model '{name}'", model), (said, rule)):
        if part.maps_only and spec.image.kind != "wafer_map":
            raise BadSettings(
                f"{what} needs wafer maps, and the images of '{spec.name}' are pictures. Use "
                "another one; l2, ssim and gradient are rules for pictures."
            )
    if model.native and not (rule.at_dies or rule.any_size) and spec.image.kind == "wafer_map":
        raise BadSettings(
            f"{said} is one of a grid, and model '{name}' sees dies. Use odds, removed, "
            "likelihood (whole, or pooled by max or mean) or a density of statistics of wafer "
            "maps, or a model on the grid."
        )
    if missing := [field for field in rule.needs if field not in model.gives]:
        raise BadSettings(
            f"{said} needs {' and '.join(missing)}, which model '{name}' does not give. Use a "
            "rule on its expectation (l2, density, ...), or another model."
        )


def _region(spec: DataSpec, root: Path) -> torch.Tensor | None:
    """The valid region as its own picture: 1 where pixels count, 0 where not."""
    if spec.image.valid_region is None:
        return None
    mask = images.read(root / spec.image.valid_region, ImageRule()) > 0
    return torch.from_numpy(mask[0]).float()
