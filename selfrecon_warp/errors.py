"""Errors for the person at the keyboard: each message names the file or argument, what was found and the remedy."""


class SelfReconError(Exception):
    """Base of every error the command line reports in one message, without a traceback."""


class CaptureError(SelfReconError):
    """A capture folder is incomplete, unreadable or inconsistent."""


class BodyModelError(SelfReconError):
    """A body model file is missing, unsafe or of the wrong shape."""


class ConfigError(SelfReconError):
    """A configuration file or override is not understood."""


class RunError(SelfReconError):
    """A run folder cannot be written, continued or read."""


class BenchError(SelfReconError):
    """A benchmark cannot be run or its result not be written."""


class MotionError(SelfReconError):
    """A motion file is missing, unsafe or not understood."""


class PrepareError(SelfReconError):
    """What a capture should be made from is missing, unsafe, not understood or does not fit together."""


class ExportError(SelfReconError):
    """An avatar cannot be written in the format asked for."""
