"""The spoilt files: which mutation of which seed is drawn for a number."""

from collections.abc import Iterator

import numpy as np

from fuzzing.bombs import bombs
from fuzzing.mutations import mutations, with_checksums
from fuzzing.seeds import Family


def spoilt_files(family: Family, count: int, seed: int) -> Iterator[tuple[str, bytes]]:
    """Yields what was done and the file: all bombs first, then mutations, up to `count`.

    File n of a family and seed is always the same, whatever the count.
    """
    harmful = bombs(family.name)
    ways = mutations(family.name)
    for number in range(count):
        if number < len(harmful):
            yield f"bomb {number}", harmful[number]
            continue
        rng = np.random.default_rng([seed, number, *family.name.encode()])
        data = family.seeds[int(rng.integers(len(family.seeds)))]
        names = []
        for _ in range(int(rng.choice([1, 1, 1, 2, 4]))):
            mutation = ways[int(rng.integers(len(ways)))]
            data = mutation(data, rng)
            names.append(mutation.__name__)
        if family.name == "PNG" and number % 2:
            data = with_checksums(data)
        yield ", ".join(names), data
