"""Signs that a model has collapsed: what it told of itself, in words to act on.

A decoder that does without its code redraws one mean image, whatever it is shown; a codebook of
one code the same. Rules on the expectation still work then, as on a mean image; a code's cost says
nothing.

Source: Burda, Grosse, Salakhutdinov, "Importance weighted autoencoders", ICLR 2016, section 5.2
(active units).
"""

from collections.abc import Mapping

SIGNS = {  # figure: (at most, what it means and what to do)
    "active_units": (
        0.0,
        "posterior collapse: no latent number moves with the image, so every image is redrawn as "
        "the same one. Where good images do differ, lower beta, or set free_bits or warm_up higher",
    ),
    "codes_used": (
        1.0,
        "codebook collapse: one code stands for every patch. Train longer, or ask for fewer codes",
    ),
    "sample_diversity": (
        0.1,
        "mode collapse: samples differ by a tenth of what good images do, or less. Choose another "
        "objective or generator, or a larger weight of the penalty",
    ),
}


def doubts(told: Mapping[str, float]) -> list[str]:
    """What a fitted model's figures warn of; nothing where it is well."""
    return [text for name, (most, text) in SIGNS.items() if told.get(name, most + 1) <= most]
