"""What the child processes of a search or an analysis start from: a float model in a folder, and a pickled file."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

from tfcompress.models.loading import clone
from tfcompress.pipeline import train
from tfcompress.preparation import Job, JobOptions
from tfcompress.run_folder import RunFolder
from tfcompress.run_state import write_state
from tfcompress.vocabulary.errors import SearchError

SHARED_FILE = "shared.pickle"
FLOAT_FOLDER = "float"


def keep_float_model(job: Job, model: Any, options: JobOptions, folder: RunFolder) -> Path:
    """The folder with the model that `job` starts from, trained where it comes from the zoo; made where it is not.

    Args:
        job: opened with `model` and `options`.
        model: as the caller named it.
        options: without overrides.
        folder: in which it lies.
    """
    place = folder.file(FLOAT_FOLDER)
    if job.from_zoo:
        train(model, job.data.dataset, job.recipe, out=place, **options)
    else:
        with RunFolder(place, job.identity) as of_model:
            write_state(of_model, job.state.evolve(model=clone(job.state.model)), job.data.preprocessing)
    return place


def keep_shared(shared: Any, folder: RunFolder) -> Path:
    """The file in `folder` that holds `shared` for child processes.

    Raises:
        SearchError: pickle cannot take it.
    """
    try:
        return folder.write(SHARED_FILE, pickle.dumps(shared, protocol=5))
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise SearchError(
            f"Trials run in other processes: what they get must be what pickle can take. {error}. "
            "Remedy: define custom objects at the top level of a module."
        ) from error
