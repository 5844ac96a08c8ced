"""Rules that are compared on one model (likelihoods.py), each where the model gives what it needs."""

from inspect_ai.scoring.likelihood import NEEDS

BOTH = {"sides": "both"}
TOP, AREA = {"kind": "top", "share": 0.01}, {"kind": "top", "share": 0.005}
DENOISED: dict[str, object] = {"rule": "diffusion"}
INVERTED: dict[str, object] = {"rule": "diffusion", "kind": "inversion"}
LIKELY: dict[str, dict[str, object]] = {
    kind: {"rule": "likelihood", "kind": kind} for kind in ("sum", "typicality", *NEEDS)
}
RULES: dict[str, dict[str, object]] = {
    **LIKELY,
    "thresholded": {"rule": "likelihood", "kind": "thresholded"},
    "sum, both sides": {"rule": "likelihood", **BOTH},
    "standardised, both sides": {**LIKELY["standardised"], **BOTH},
    "ratio, low side": {**LIKELY["ratio"], "sides": "low"},
    "ratio, both sides": {**LIKELY["ratio"], **BOTH},
    "corrected": {"rule": "likelihood", "kind": "corrected"},
    "corrected, both sides": {"rule": "likelihood", "kind": "corrected", **BOTH},
    "corrected by differences": {"rule": "likelihood", "kind": "corrected", "coder": "differences"},
    "conditioned on the level": {"rule": "likelihood", "kind": "conditioned"},
    "conditioned on the level, both sides": {"rule": "likelihood", "kind": "conditioned", **BOTH},
    "conditioned on complexity, both sides": {
        "rule": "likelihood",
        "kind": "conditioned",
        "alike": "complexity",
        "coder": "differences",
        **BOTH,
    },
    "surprise of the oddest cells": {"rule": "likelihood", "pooling": TOP},
    "surprise of the oddest areas": {"rule": "likelihood", "pooling": AREA, "blur": 2.0},
    "standardised, oddest cells": {**LIKELY["standardised"], "pooling": TOP},
    "standardised, oddest areas": {**LIKELY["standardised"], "pooling": AREA, "blur": 2.0},
    "slope, oddest areas": {**LIKELY["slope"], "pooling": AREA, "blur": 2.0},
    "surprise of the oddest area": {"rule": "likelihood", "pooling": {"kind": "max"}, "blur": 2.0},
    "l2": {"rule": "l2", "blur": 1.0},
    "l2, wider": {"rule": "l2", "blur": 2.0},
    "variance": {"rule": "variance", "blur": 2.0},
    "ssim": {"rule": "ssim", "blur": 1.0},
    "gradient": {"rule": "gradient", "blur": 1.0},
    "structure": {"rule": "density", "statistics": ["moran", "walks_4", "walks_12"]},
    "structure and clusters": {
        "rule": "density",
        "statistics": ["moran", "walks_4", "walks_12", "largest_cluster"],
    },
    "gain and walks": {"rule": "density", "statistics": ["gain", "walks_4", "walks_12"]},
    "structure and gain": {
        "rule": "density",
        "statistics": ["moran", "walks_4", "walks_12", "gain"],
    },
    "several, Gaussian": {
        "rule": "density",
        "statistics": ["surprise", "entropy", "moran", "walks_4", "walks_12"],
        "density": "gaussian",
    },
    "ratio, entropy and surprise, Gaussian": {
        "rule": "density",
        "statistics": ["ratio", "entropy", "surprise"],
        "density": "gaussian",
    },
    "residual and features": {"rule": "adversarial"},
    "residual and features, oddest areas": {"rule": "adversarial", "pooling": AREA, "blur": 2.0},
    "features": {"rule": "adversarial", "residual": 0},
    "features, oddest areas": {"rule": "adversarial", "residual": 0, "pooling": AREA, "blur": 2.0},
    "codes": {"rule": "adversarial", "residual": 0, "features": 0, "codes": 1},
    "critic": {"rule": "adversarial", "residual": 0, "features": 0, "unreal": 1},
    "residual, features, codes and critic, Gaussian": {
        "rule": "density",
        "statistics": ["l2", "features", "codes", "unreal"],
        "density": "gaussian",
    },
    "these and the largest residual, Gaussian": {
        "rule": "density",
        "statistics": ["l2", "features", "codes", "unreal", "largest"],
        "density": "gaussian",
    },
    "structure, clusters, features and codes": {
        "rule": "density",
        "statistics": ["moran", "walks_4", "walks_12", "largest_cluster", "features", "codes"],
    },
    "structure, clusters and codes": {
        "rule": "density",
        "statistics": ["moran", "walks_4", "walks_12", "largest_cluster", "codes"],
    },
    "l2, oddest areas": {"rule": "l2", "blur": 2.0, "pooling": AREA},
    "denoising error": DENOISED,
    "denoising error, level that finds most": {**DENOISED, "over": "max"},
    "denoising error of the oddest cells": {**DENOISED, "pooling": TOP},
    "denoising error of the oddest areas": {**DENOISED, "pooling": AREA, "blur": 2.0},
    "denoising error by cell": {**DENOISED, "per": "cell"},
    "denoising error by cell, oddest areas": {
        **DENOISED,
        "per": "cell",
        "pooling": AREA,
        "blur": 2.0,
    },
    "score norm": {"rule": "diffusion", "kind": "pull"},
    "score norm, oddest areas": {
        "rule": "diffusion",
        "kind": "pull",
        "pooling": AREA,
        "blur": 2.0,
    },
    "inversion": INVERTED,
    "inversion, both sides": {**INVERTED, **BOTH},
    "inversion, oddest areas": {**INVERTED, "pooling": AREA, "blur": 2.0},
    "diffusion time": {"rule": "diffusion", "kind": "time"},
    "diffusion time, both sides": {"rule": "diffusion", "kind": "time", **BOTH},
    "denoising, l2 and ssim, Gaussian": {
        "rule": "density",
        "statistics": ["denoising", "l2", "ssim"],
        "density": "gaussian",
    },
    "denoising, l2 and largest": {
        "rule": "density",
        "statistics": ["denoising", "l2", "largest"],
    },
    "denoising, pull, inversion and time, Gaussian": {
        "rule": "density",
        "statistics": ["denoising", "pull", "inversion", "time"],
        "density": "gaussian",
    },
    "structure, clusters and denoising": {
        "rule": "density",
        "statistics": ["moran", "walks_4", "walks_12", "largest_cluster", "denoising"],
    },
    "surprise, roughness and l2, Gaussian": {
        "rule": "density",
        "statistics": ["surprise", "roughness", "l2", "largest"],
        "density": "gaussian",
    },
}
