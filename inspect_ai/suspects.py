"""suspects: the training images that a detector finds the oddest, for a reviewer to decide.

Scores of images that a weight was fitted on are lower than those of the held-out rest, so what
sticks out is estimated for each by itself. The list is a table of verdicts to fill in.
"""

from pathlib import Path

import pandas as pd

from inspect_ai import feeding, steps
from inspect_ai.calibration import contamination
from inspect_ai.errors import MissingData, OutputInUse
from inspect_ai.review import verdicts
from inspect_ai.train import given, hold_out, kept_manifest, load

PARTS = ("images the model was fitted on", "held-out images")


def listed(
    checkpoint: Path, out: Path, count: int, decided: Path | None, root: Path | None
) -> list[str]:
    """Writes the list; gives what was found, in words.

    Args:
        count: images to list at least; more where more stick out.
        decided: a table of verdicts on some of them.

    Raises:
        OutputInUse: `out` exists: somebody may have begun to fill it in.
        MissingData: no finished checkpoint, or a wrong table of verdicts.
    """
    if out.exists():
        raise OutputInUse(f"{out} exists. Pass another --out: it may be half filled in.")
    said = verdicts.latest(verdicts.read(decided)) if decided else None
    trained, manifest = load(checkpoint), kept_manifest(checkpoint, root)
    if trained.recipe.members:
        raise MissingData(
            f"{checkpoint} is of a fusion, whose members were each trained on images of their own. "
            "Pass the checkpoint of one: it stands in a folder below."
        )
    parts, words = [], list[str]()
    cut = hold_out(manifest.good("train"), trained.recipe)
    for name, rows in zip(PARTS, cut, strict=True):
        scores = feeding.scores(trained.detector, given(trained.recipe, rows, manifest))
        found = contamination.share(scores)
        words.append(f"{name}: {found.words}")
        odd = contamination.suspects(scores, found.share)
        table = rows[["image_id", "image_path", "group"]]
        parts.append(table.assign(pred_score=scores, sticks_out=odd))
    table = pd.concat(parts).sort_values(
        ["sticks_out", "pred_score"], ascending=False, na_position="first", kind="stable"
    )
    if said is not None:
        known = table["image_id"].map(said).fillna("").to_numpy(object)
        words.append(contamination.decided(table["pred_score"].to_numpy(), known).words)
    shown = table.head(max(count, int(table["sticks_out"].sum())))
    with steps.disk(out):
        shown.assign(verdict="", reviewer="", decided_at="").to_csv(out, index=False)
    return words
