"""--mode=calibrate: measures which similarity tells classes apart, and keeps it in the index."""

from symm_jax.app.use_flags import Use
from symm_jax.report import figures
from symm_jax.search import Index, thresholds


def calibrate(given: Use) -> list[str]:
    """Writes calibration.json and calibration.png into the index, and prints what was measured.

    Raises:
      InputError: the index is damaged, or has too few pairs of pictures.
    """
    assert given.index is not None
    index = Index(given.index)
    found = thresholds.measure(index)
    fmr, fnmr = thresholds.rates(found.counts)
    levels = {f"1 in {thresholds.LEVELS[name]:,}": level for name, level in found.at.items() if level}
    figures.draw_calibration(index.folder / thresholds.FIGURE, *found.counts, fmr, fnmr, levels)
    thresholds.write(index, found)
    _print(index, found)
    return []


def _print(index: Index, found: thresholds.Calibration) -> None:
    same, different = (int(bins.sum()) for bins in found.counts)
    drawn = f", drawn from {found.labelled:,}" if found.labelled > found.pictures else ""
    print(f"pictures  {found.pictures:,} of {found.classes:,} classes in {index.folder}{drawn}")
    if found.without_class:
        print(f"left out  {found.without_class:,} pictures that are in no class folder")
    print(f"pairs     {same:,} of one class, {different:,} of different classes")
    print("\nFMR      similarity  FNMR")
    for name, level in found.at.items():
        rate = f"{100 * float(name):g} %"
        if level:
            print(f"{rate:<7}  {level.similarity:<10.6f}  {100 * level.fnmr:.2f} %")
        else:
            print(f"{rate:<7}  not measurable: it needs {thresholds.LEVELS[name]:,} pairs of different classes")
    print(f"equal error rate {100 * found.equal_error_rate:.2f} %")
    print(f"\nwritten   {index.folder / thresholds.FILE}, {thresholds.FIGURE}")
