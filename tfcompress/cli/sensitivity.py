"""`tfcompress sensitivity`: what each layer alone does to the file at each bit-width and sparsity."""

from __future__ import annotations

from absl import flags

from tfcompress.cli.common import TerminalReporter, define_model_and_data, define_recipe, print_table

RESUMES = True
"""Whether the command goes on where it was interrupted."""


def define_flags(values: flags.FlagValues) -> None:
    """The command's flags."""
    define_model_and_data(values)
    define_recipe(values, default="bits_and_sparsity")
    flags.DEFINE_list("bits", ["2", "3", "4", "6", "8"], "Bit-widths of the weights to try.", flag_values=values)
    flags.DEFINE_list("sparsities", ["0.5", "0.7", "0.9"], "Shares of zeros to try.", flag_values=values)
    flags.DEFINE_integer(
        "samples", 500, "Of the validation split, to measure the metric on.", flag_values=values, lower_bound=2
    )
    flags.DEFINE_integer(
        "workers", 1, "Cells at a time; several each have a process.", flag_values=values, lower_bound=1
    )
    flags.DEFINE_string(
        "out",
        None,
        "The analysis's folder. Default: tflite_models/<model>-<dataset>-<recipe>-sensitivity.",
        flag_values=values,
    )


def run(values: flags.FlagValues) -> int:
    """Analyse, and print every cell, the most damaging first; 1 when every cell failed."""
    from tfcompress.tuning.cells import AXES, Cell
    from tfcompress.tuning.sensitivity import PICTURE_FILE, sensitivity

    with TerminalReporter() as reporter:
        found = sensitivity(
            values.model,
            values.dataset,
            values.recipe,
            bits=_numbers("bits", values.bits),
            sparsities=_numbers("sparsities", values.sparsities),
            samples=values.samples,
            workers=values.workers,
            out=values.out,
            overrides=values["set"].value,
            data_dir=values.data_dir,
            seed=values.seed,
            unsafe=values.unsafe,
            reporter=reporter,
        )
    table = found.table

    def row(cell: Cell) -> tuple[str, ...]:
        what = f"{cell.value:g} bits" if cell.axis == "bits" else f"{cell.axis} {cell.value:g}"
        if cell.status == "failed":
            return (cell.layer, what, "", "failed", "", "", "")
        metric = (f"{cell.measured['accuracy']:.4f}", f"{table.added_drop(cell):.2f}") if table.metric else ("", "")
        sizes = (f"{cell.measured[measure]:,.0f}" for measure in ("bytes", "deflated_bytes"))
        return (cell.layer or "all", what, *metric, f"{cell.output_error:.1%}", *sizes)

    tried = [cell for cell in table.by_damage() if cell.value != AXES[cell.axis].neutral]
    header = ("layer", "alone at", "metric", "added drop", "output error", "bytes", "deflated")
    reference = table.reference.model_copy(update={"axis": "bits", "value": AXES["bits"].neutral})
    print_table(
        f"{found.folder}: {table.metric or 'no metric'}, {table.samples} validation samples, the most damaging first",
        header,
        [*map(row, tried), row(reference)],
    )
    for cell in tried:
        if cell.status == "failed":
            print(f"{cell.layer}, {cell.axis} {cell.value:g}: {cell.reason}")
    print(found.folder / PICTURE_FILE)
    return 0 if any(cell.status == "completed" for cell in tried) else 1


def _numbers(flag: str, texts: list[str]) -> list[int | float]:
    """The numbers of a list; raises SearchError for what is none."""
    from tfcompress.vocabulary.errors import SearchError

    try:
        return [float(text) if "." in text else int(text) for text in texts]
    except ValueError:
        raise SearchError(f"--{flag} must be numbers between commas. Received: {','.join(texts)}.") from None
