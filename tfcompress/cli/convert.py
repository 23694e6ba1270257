"""`tfcompress convert`: one model to one proven .tflite file, by calibration alone."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, get_args

import yaml
from absl import flags

from tfcompress.cli.common import TerminalReporter, define_model_and_data, define_overrides
from tfcompress.recipe_text import parse_override
from tfcompress.vocabulary.state import NumberFormat


def define_flags(values: flags.FlagValues) -> None:
    """The command's flags."""
    define_model_and_data(values)
    flags.DEFINE_string("out", None, "The .tflite file to write.", flag_values=values, required=True)
    flags.DEFINE_enum("format", "int8", get_args(NumberFormat), "The file's arithmetic.", flag_values=values)
    for side in ("input", "output"):
        flags.DEFINE_enum(
            f"{side}_type",
            None,
            ["int8", "uint8", "int16", "float32"],
            f"Type of the file's {side}s. Default: that of its arithmetic.",
            flag_values=values,
        )
    flags.DEFINE_string("preprocessing", "auto", "What the model is fed, as in a recipe.", flag_values=values)
    flags.DEFINE_bool("preprocessing_in_graph", False, "Let the file take raw values.", flag_values=values)
    flags.DEFINE_bool("allow_float", False, "Report operators left in float instead of failing.", flag_values=values)
    flags.DEFINE_bool("c_array", False, "Also write C source and header beside the file.", flag_values=values)
    define_overrides(values, "conversion.time_limit_s=60")


_IN_CONVERSION = ("input_type", "output_type", "preprocessing_in_graph", "allow_float", "c_array")
_KEYS = {
    "format": "post_training.number_format",
    "preprocessing": "data.preprocessing",
    **{name: f"conversion.{name}" for name in _IN_CONVERSION},
}
"""What the flags say, as `--set` would."""


def run(values: flags.FlagValues) -> int:
    """Convert, prove, write; 2 where a flag and `--set` contradict each other."""
    if contradictions := _contradictions(values):
        print("\n".join(f"tfcompress convert: {line}" for line in contradictions), file=sys.stderr)
        return 2
    from tfcompress.pipeline import convert
    from tfcompress.recipe import load_recipe

    recipe = load_recipe(
        {
            "name": "convert",
            "steps": [{"technique": "post_training", "number_format": values.format}],
            "conversion": {name: values[name].value for name in _IN_CONVERSION},
        },
        [f"data.preprocessing={values.preprocessing}", *values["set"].value],
    )
    with TerminalReporter() as reporter:
        proof = convert(
            values.model,
            values.dataset,
            recipe,
            out=Path(values.out),
            data_dir=values.data_dir,
            seed=values.seed,
            unsafe=values.unsafe,
            reporter=reporter,
        )
    kind = "full integer" if proof.full_integer else f"{len(proof.findings)} operators in float"
    print(f"{values.out}: {Path(values.out).stat().st_size:,} bytes, {proof.operators} operators, {kind}")
    for finding in proof.findings:
        print(f"  {finding}")
    return 0


def _contradictions(values: flags.FlagValues) -> list[str]:
    """The flags that were given and have another value in `--set`."""
    found = []
    for override in values["set"].value:
        path, value = parse_override(override)
        for flag, key in _KEYS.items():
            given = values[flag].value
            if key == ".".join(path) and values[flag].present and value not in (given, _as_yaml(given)):
                came = f"--{flag}={given} and --set={override}"
                found.append(f"a value may be given once. Received: {came}. Remedy: leave one out.")
    return found


def _as_yaml(given: Any) -> Any:
    """What a flag's text is in a recipe, such as a mapping."""
    return yaml.safe_load(given) if isinstance(given, str) else given
