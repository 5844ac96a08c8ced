"""Every error this package raises on purpose.

* InspectError             a user can mend it; the command line exits with 2
  - BadSettings            a spec or run file has an unknown key or a value out of range
  - UnknownModel           a run file names a model that has no file in models/
  - MissingData            a data root, table or image is not where the spec says
  - BadImages              pixels of the wrong shape, type or range
  - LeakyData              one group or one content would stand in two splits
  - Diverged               a loss is no longer a number
  - Collapsed              an adversarial game has been lost: all samples alike, or a critic that ran off
  - WorseThanPCA           a trained model finds less than PCA does, or than chance
  - TooFewGoodImages       the calibrate split cannot support the asked false-alarm rate
  - BadFit                 a fitted tail of good scores is not to be believed
  - ParityFailed           ONNX Runtime and torch do not give the same verdicts
  - BadBundle              a bundle is incomplete, changed after export, or too new
  - OutputInUse            an output folder holds something else
  - NoSuchDevice           a device was asked for that the session does not have
  - NotInstalled           a command needs an extra that is not installed
  - NoSpace                the disk is full

A message says three things: what was given, what is needed, what to do.
"""


class InspectError(Exception):
    """Base of the tree, so that a caller can write one `except`."""


class BadSettings(InspectError):
    """A spec or run file has an unknown key, a missing key or a value out of range."""


class UnknownModel(InspectError):
    """A run file names a model that does not exist."""


class MissingData(InspectError):
    """A data root, table or image is not where the spec says."""


class BadImages(InspectError):
    """Pixels of the wrong shape, type or range."""


class LeakyData(InspectError):
    """One group or one content would stand in two splits."""


class Diverged(InspectError):
    """A loss is no longer a number."""


class Collapsed(InspectError):
    """An adversarial game has been lost: all samples alike, or a critic that ran off."""


class WorseThanPCA(InspectError):
    """A trained model finds less of planted defects than PCA does, or than chance."""


class TooFewGoodImages(InspectError):
    """Too few good images to promise the false-alarm rate."""


class BadFit(InspectError):
    """A fitted tail of good scores is not to be believed."""


class ParityFailed(InspectError):
    """ONNX Runtime and torch do not give the same verdicts."""


class BadBundle(InspectError):
    """A bundle is incomplete, changed after export, or written by a newer version."""


class OutputInUse(InspectError):
    """An output folder holds something that this command did not write."""


class NoSuchDevice(InspectError):
    """A device was asked for that the session does not have."""


class NotInstalled(InspectError):
    """A command needs an extra that is not installed."""


class NoSpace(InspectError):
    """The disk is full."""
