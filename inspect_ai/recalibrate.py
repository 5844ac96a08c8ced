"""recalibrate: a bundle, scans by it and reviewers' verdicts -> a proposal; accepted, a new bundle.

Never silently. Without a name of who accepts it, the folder holds the proposal alone: what the
threshold and the promise would be, and which verdicts would change. Accepted, the same folder
becomes a bundle: the same graph, which now names the new calibration; the good scores of before and
those that joined; the history of who accepted what; and, image by image, why it joined.

    proposal.json, proposal.png    what would change
    calibration.parquet            good scores of before, and those that join
    audit.parquet                  one row for each image that ever joined, and why
    verdicts.parquet               every decision on these scans' images, also those overruled
    model.onnx, bundle.json        once it is accepted

Which images join, and why all good ones must, is in review/joining.py. They are scored again
through the bundle (batch/again.py), for what a scan does not keep of images it did not flag.
"""

import hashlib
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd

from inspect_ai import steps
from inspect_ai.batch.again import measured
from inspect_ai.bundle import bundle as bundles
from inspect_ai.bundle import thresholds
from inspect_ai.bundle.bundle import SCORES, Bundle, Recalibrated
from inspect_ai.bundle.thresholds import Thresholds
from inspect_ai.calibration.groups import ALL, demand
from inspect_ai.calibration.promise import Promise
from inspect_ai.calibration.rows import PLACES
from inspect_ai.data.conditions import text
from inspect_ai.data.manifest import Report, silent
from inspect_ai.errors import BadSettings, MissingData, OutputInUse, TooFewGoodImages
from inspect_ai.review import joining, verdicts
from inspect_ai.review import proposal as proposals
from inspect_ai.review.joining import Source, Undecided
from inspect_ai.review.proposal import Proposal, draw

PROPOSAL, PICTURE = "proposal.json", "proposal.png"
AUDIT, DECISIONS = "audit.parquet", "verdicts.parquet"
ALONE = "the good images of before are left out"
MORE = "these scans flag more good images than promised: the old good images are of another world"
AUDITED = ["image_id", "image_path", "scan", "verdict", "reviewer", "decided_at", "pred_score"]


@dataclass(frozen=True, slots=True)
class Asked:
    """What to calibrate again, from what.

    Args:
        scans: finished folders.
        verdicts: table of decisions; None where nothing was flagged.
        undecided: what flagged images without a decision count as; None refuses them.
        changed: fields of the promise that are to be other than the bundle's.
        alone: the good images of before are left out: after a real change they are of another
            world.
        root: where the scanned images lie now; None: where they were.
    """

    bundle: Path
    scans: Sequence[Path]
    verdicts: Path | None = None
    undecided: Undecided | None = None
    changed: Mapping[str, object] = field(default_factory=dict)
    alone: bool = False
    root: Path | None = None


def recalibrate(
    asked: Asked, out: Path, accepted_by: str | None = None, report: Report = silent
) -> Proposal:
    """Writes the proposal; with a name of who accepts it, the new bundle.

    Raises:
        BadBundle: the bundle or the proposal was changed.
        MissingData: a scan is not finished or not by this bundle, an image is not decided, or can
            no longer be read as it was.
        TooFewGoodImages, BadFit: the promise cannot be kept; more scans may help.
        OutputInUse: the folder holds something else, or was accepted by another.
    """
    bundle = bundles.read(asked.bundle)
    said = bundle.card.promised.model_dump(mode="json") | dict(asked.changed)
    promise = Promise.checked(said, "the promise")
    if accepted_by is not None and not accepted_by.strip():
        raise BadSettings("--accept needs the name of who accepts, got an empty one. Add it.")
    scans = joining.sources(asked.scans, bundle)
    decided = _decisions(asked.verdicts)
    rows = _joining(asked, bundle, (scans, decided), out)
    # before the folder is taken, so that the advice can be followed
    _demand(_together(asked, bundle, rows[rows["good"]]), promise)
    step = steps.Step("recalibrate", out, _inputs(asked, bundle, scans, promise))
    signed = step.record.get("accepted_by")
    if signed and accepted_by not in (None, signed):
        raise OutputInUse(f"{out} was accepted by {signed} already. Pass another --out.")
    with steps.disk(out):
        if not step.finished:
            fresh = measured(bundle, scans, rows, asked.root, report)
            unknown = joining.unknown(decided, rows)
            _propose(asked, bundle, scans, (rows, fresh), (promise, unknown), out)
            concerned = decided[decided["image_id"].isin(rows["image_id"])]
            concerned.to_parquet(out / DECISIONS, index=False)
            step.finish()
        proposal = proposals.read(out / PROPOSAL)
        if accepted_by and not signed:
            _accept(bundle, proposal, promise, _signature(asked, scans, accepted_by), out)
            step.finish(accepted_by=accepted_by)
    return proposal


def _inputs(
    asked: Asked, bundle: Bundle, scans: Sequence[Source], promise: Promise
) -> dict[str, object]:
    return {
        "bundle": bundle.hash,
        "scans": [source.name for source in scans],
        "verdicts": _hash(asked.verdicts),
        "undecided": asked.undecided,
        "alone": asked.alone,
        "promise": promise.model_dump(mode="json"),
    }


def _hash(path: Path | None) -> str:
    return steps.sha256(path) if path else ""


def _decisions(path: Path | None) -> pd.DataFrame:
    if path is not None:
        return verdicts.read(path)
    none = pd.DataFrame({name: pd.Series([], dtype="string") for name in verdicts.COLUMNS})
    return none.assign(
        decided_at=pd.Series([], dtype="datetime64[us, UTC]"), decides=pd.Series([], dtype=bool)
    )


def _demand(table: pd.DataFrame, promise: Promise) -> None:
    try:
        demand(table, promise)
    except TooFewGoodImages as error:  # here no split is to be filled up
        said = re.sub(r"Add \w+ to the 'calibrate' split", "Give more scans", str(error))
        raise TooFewGoodImages(said) from None


def _joining(
    asked: Asked, bundle: Bundle, reviewed: tuple[Sequence[Source], pd.DataFrame], out: Path
) -> pd.DataFrame:
    """The rows of the scans, each with whether it counts as good; beside `out`, those to decide."""
    scans, decided = reviewed
    rows = joining.told(scans, decided)
    waiting = joining.open_list(rows)
    if len(waiting) and asked.undecided is None:
        name = hashlib.sha256(",".join(waiting["image_id"]).encode()).hexdigest()[:8]
        path = out.with_name(f"undecided-{name}.csv")
        if not path.exists():  # somebody may have begun to fill it in
            with steps.disk(path.parent):
                waiting.to_csv(path, index=False)
        raise MissingData(
            f"{joining.refusal(rows)} They are listed in {path}: fill it in, add its rows to the "
            "table of --verdicts, and run this again."
        )
    rows["good"] = joining.good(rows, asked.undecided)
    joining.require_new(rows[rows["good"]], _kept(bundle), bundle.card.image.kind)
    return rows


def _kept(bundle: Bundle) -> pd.DataFrame:
    return pd.read_parquet(bundle.folder / SCORES)


def _together(asked: Asked, bundle: Bundle, fresh: pd.DataFrame) -> pd.DataFrame:
    """Good images of before, unless they are left out, and those that join."""
    old = _kept(bundle)
    texts = [c for c in (*bundle.card.groups, *PLACES) if c in old]
    parts = [fresh] if asked.alone else [old, fresh]
    parts = [part.reindex(columns=old.columns) for part in parts]
    return pd.concat([p.assign(**{c: text(p[c]) for c in texts}) for p in parts], ignore_index=True)


def _propose(
    asked: Asked,
    bundle: Bundle,
    scans: Sequence[Source],
    joined: tuple[pd.DataFrame, pd.DataFrame],
    stated: tuple[Promise, list[str]],
    out: Path,
) -> None:
    """Writes the new calibration, the audit, and what they would change."""
    promise, said = stated
    old, (rows, fresh) = _kept(bundle), joined
    new = _together(asked, bundle, fresh)
    found = thresholds.derive(new, promise)
    new.to_parquet(out / SCORES, index=False)
    _audited(bundle, rows).to_parquet(out / AUDIT, index=False)
    proposal = _changes(bundle, found, rows, out)
    notes = [ALONE] * asked.alone + said + joining.notes(rows, scans, bundle)
    if joining.more_than_promised(rows, bundle):
        notes.append(MORE + "; see --alone" * (not asked.alone))
    proposal = proposal.model_copy(update={"alone": asked.alone, "notes": tuple(notes)})
    draw(old["pred_score"].to_numpy(), new["pred_score"].to_numpy(), proposal, out / PICTURE)
    steps.write_json(out / PROPOSAL, proposal.model_dump(mode="json"))


def _audited(bundle: Bundle, rows: pd.DataFrame) -> pd.DataFrame:
    """Every image that ever joined: those of before, and these, with what was decided of them."""
    assumed = joining.undecided(rows)
    said = rows["verdict"].fillna("undecided")
    said = said.mask(assumed, said + ", counted as good")
    table = rows.assign(verdict=said)[rows["good"]][AUDITED]
    table.insert(0, "bundle_hash", bundle.hash)
    before = bundle.folder / AUDIT
    parts = [pd.read_parquet(before)] if before.is_file() else []
    return pd.concat([*parts, table], ignore_index=True)


def _changes(bundle: Bundle, found: Thresholds, rows: pd.DataFrame, out: Path) -> Proposal:
    card, fields, good = bundle.card, found.fields(), rows["good"].to_numpy()
    level = found.scores.level(rows)
    now = found.scores.is_anomalous(rows["pred_score"].to_numpy(np.float32), level)
    before = rows["pred_label"].to_numpy(int) == 1
    defect = (rows["verdict"].fillna("") == verdicts.DEFECT).to_numpy(bool)
    return Proposal(
        bundle_hash=bundle.hash,
        hashes={name: steps.sha256(out / name) for name in (SCORES, AUDIT)},
        image_threshold_before=card.image_threshold,
        image_threshold=fields["image_threshold"],
        levels={
            name: (
                known.image_threshold if (known := card.levels.get(name)) else None,
                found.scores.thresholds.get(name),
            )
            for name in dict.fromkeys((*found.scores.thresholds, *card.levels))
            if name != ALL
        },
        images_before=card.calibration_images,
        images=fields["calibration_images"],
        lots_before=bundle.thresholds.effective.lots,
        lots=found.effective.lots,
        promise_before=card.promise,
        promise=fields["promise"],
        scanned=len(rows),
        joined=int(good.sum()),
        false_alarms=int((good & before).sum()),
        left_out=int((~good).sum()),
        undecided=int(joining.undecided(rows).sum()),
        no_longer_flagged=int((before & ~now).sum()),
        newly_flagged=int((~before & now).sum()),
        defects_missed=int((before & ~now & defect).sum()),
    )


def _signature(asked: Asked, scans: Sequence[Source], accepted_by: str) -> dict[str, object]:
    return {
        "accepted_by": accepted_by,
        "accepted_at": steps.now(),
        "verdicts_hash": _hash(asked.verdicts),
        "scans": tuple(source.name for source in scans),
    }


def _accept(
    bundle: Bundle,
    proposal: Proposal,
    promise: Promise,
    signature: Mapping[str, object],
    out: Path,
) -> None:
    """Makes the proposal a bundle; its card comes last."""
    from inspect_ai.parity import annotate  # the workshop's: it rewrites the ONNX file

    part = out / "model.part"
    shutil.copyfile(bundle.model, part)
    annotate(part, {"calibration": proposal.hashes[SCORES]})
    part.replace(out / bundles.MODEL)
    fields = thresholds.derive(pd.read_parquet(out / SCORES), promise).fields()
    same = (
        "alone",
        "joined",
        "left_out",
        "image_threshold_before",
        "image_threshold",
        "promise_before",
    )
    entry = proposal.model_dump(include={*same, "bundle_hash"}) | dict(signature)
    files = (bundles.MODEL, SCORES, AUDIT, DECISIONS)
    card = bundle.card.model_copy(
        update=fields
        | {
            "format": bundles.FORMAT,
            "history": (*bundle.card.history, Recalibrated.checked(entry, "the history")),
            "hashes": {name: steps.sha256(out / name) for name in files},
        }
    )
    steps.write_json(out / bundles.CARD, bundles.bound(card).model_dump(mode="json"))
    bundles.read(out)  # what was written is what a scan will accept
