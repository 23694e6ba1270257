"""The latency of a search's artifacts: timed once for each architecture, and kept."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from tfcompress.convert.architecture import architecture
from tfcompress.convert.flatbuffer import FLOAT_TYPES, Flatbuffer
from tfcompress.evaluate import measure_latency
from tfcompress.run_folder import RunFolder
from tfcompress.vocabulary.errors import RunFolderError
from tfcompress.vocabulary.schema import Schema

LATENCIES_FILE = "latencies.json"
_REFERENCES_FOLDER = "references"


class _Measured(Schema):
    """What was measured of an architecture."""

    ratio: float
    """Time of one inference over the float file's."""
    arithmetic: str
    """TFLite's name of the type that most of its activations have."""


# Two convolutional and two dense int8 files, a wider one of each and their float files, timed in turn, 100 times for
# 0.3 s, while other processes came and went on both of two cores: the standard deviation of the ratio to the float
# file was 9 to 17 %, to the wider int8 file 1.6 to 4.4 %. Medians of three such times had nearly the same, 9 to 17 and
# 1.5 to 4.4 %, for a disturbance lasts longer than that: the budget is therefore spent in one piece.
_Record = TypeAdapter(dict[str, _Measured])


class Latencies:
    """Latency ratios of artifacts to the float file, one thread, XNNPACK.

    What else the machine does slows kernels of integers down more than those of floats. Artifacts are therefore timed
    beside the first one of the same arithmetic, the only one that is timed beside the float file, and its ratio to
    that is multiplied in: how they compare with one another does not depend on what the machine did then.

    Args:
        folder: of the search; gets `latencies.json` and, in `references/`, the first artifact of each arithmetic.
        reference: the float file.
        budget_s: seconds of timing for an artifact.

    Raises:
        RunFolderError: `latencies.json` is damaged.

    Example:
        >>> latencies = Latencies(folder, Path("search/float/float.tflite"), budget_s=3)  # doctest: +SKIP
        >>> latencies.ratio(artifact.read_bytes())  # doctest: +SKIP
        0.31
    """

    def __init__(self, folder: RunFolder, reference: Path, budget_s: float) -> None:
        self._folder = folder
        self._reference = reference
        self._budget_s = budget_s
        self._known = _read(folder.file(LATENCIES_FILE))

    def ratio(self, content: bytes, quiet: Callable[[], AbstractContextManager[None]] = nullcontext) -> float:
        """Time of one inference over the float file's; measured now where none of its architecture has been.

        Args:
            content: the bytes of a .tflite file.
            quiet: gives the context to time in. Defaults to one that does nothing.

        Raises:
            EvaluationError: LiteRT cannot run the file, or crashed. Nothing is kept then.
        """
        file = Flatbuffer(content)
        key = architecture(file)
        if key not in self._known:
            arithmetic = _arithmetic(file)
            with quiet():
                measured = self._measure(content, arithmetic)
            self._keep(key, _Measured(ratio=measured, arithmetic=arithmetic), content)
        return self._known[key].ratio

    def _measure(self, content: bytes, arithmetic: str) -> float:
        first = self._first_of(arithmetic)
        if first is None:
            return self._timed(content, self._reference)
        return first.ratio * self._timed(content, self._reference_of(arithmetic))

    def _timed(self, content: bytes, reference: Path) -> float:
        files = {"reference": reference, "artifact": content}
        return measure_latency(files, budget_s=self._budget_s).ratio_to("reference")["artifact"]

    def _keep(self, key: str, measured: _Measured, content: bytes) -> None:
        # The reference before the record, so that what the record speaks of is there.
        if measured.arithmetic not in FLOAT_TYPES and self._first_of(measured.arithmetic) is None:
            self._folder.write(str(self._reference_of(measured.arithmetic).relative_to(self._folder.path)), content)
        known = self._known | {key: measured}
        self._folder.write(LATENCIES_FILE, _Record.dump_json(known, indent=2) + b"\n")
        self._known = known

    def _first_of(self, arithmetic: str) -> _Measured | None:
        """That of the artifact that others of the same arithmetic are timed beside; none where the float file is it."""
        if arithmetic in FLOAT_TYPES:
            return None
        return next((one for one in self._known.values() if one.arithmetic == arithmetic), None)

    def _reference_of(self, arithmetic: str) -> Path:
        return self._folder.file(f"{_REFERENCES_FOLDER}/{arithmetic.lower()}.tflite")


def _arithmetic(file: Flatbuffer) -> str:
    types = Counter(file.tensors[index].dtype for operator in file.operators for index in operator.outputs)
    return types.most_common(1)[0][0]


def _read(path: Path) -> dict[str, _Measured]:
    if not path.exists():
        return {}
    try:
        return _Record.validate_json(path.read_bytes())
    except ValidationError as error:
        raise RunFolderError(
            f"{path} is damaged: {error.errors()[0]['msg']}. Remedy: remove it, and artifacts are timed again."
        ) from error
