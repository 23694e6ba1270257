"""The failures tfcompress names. Each message states the rule, what came, where, and the remedy."""


class TfcompressError(Exception):
    """Base of every failure with a name: the command line prints its message and exits with 1."""


class RecipeError(TfcompressError):
    """A recipe cannot run as written: unknown key, value out of range, impossible order, broken promise."""


class ModelError(TfcompressError):
    """A model cannot be loaded, or does not fit the data or the recipe."""


class DataError(TfcompressError):
    """A data set cannot be found or read, or its contents do not fit the task."""


class TrainingError(TfcompressError):
    """Training left the numbers: a loss or a weight that is not finite."""


class ConversionError(TfcompressError):
    """The converter refused the model, or left operators in float that were to be integer."""


class EvaluationError(TfcompressError):
    """A .tflite file cannot be read or run."""


class PromiseError(TfcompressError):
    """A fact about weights that a technique promised is not true of the shipped file."""


class RunFolderError(TfcompressError):
    """A run folder cannot be written, or belongs to another run."""


class SearchError(TfcompressError):
    """A search cannot run as asked: an unknown objective, bound or oracle, or records that do not fit it."""


class TrialError(TfcompressError):
    """A trial of a search ended without an artifact; the search goes on."""
