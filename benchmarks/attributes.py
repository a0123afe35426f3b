"""How common each attribute is among CelebA's training faces, and how much commoner among smiling ones.

    python -m benchmarks.attributes --out assets/results/12_attributes.csv

Labels only, no network: what goes together in the data, before anything was trained. Lesson 12 holds it
against what guidance brings along.
"""

from __future__ import annotations

import argparse
import csv
from pathlib import Path

from lessons_lib import data
from lessons_lib.files import atomic_write


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="FILE.csv")
    parser.add_argument("--attribute", default="Smiling", help="what the faces are parted by")
    given = parser.parse_args()
    faces = data.load("celeba", "train")
    yes = faces.labels[:, data.attribute_index(given.attribute)] == 1
    key = given.attribute.lower()
    rows = [
        {
            "attribute": name,
            "faces": len(faces),
            "yes": round(float(column.mean()), 5),
            f"yes_if_{key}": round(float(column[yes].mean()), 5),
            "yes_if_not": round(float(column[~yes].mean()), 5),
        }
        for name, column in zip(faces.class_names, faces.labels.float().T, strict=True)
    ]
    with atomic_write(given.out) as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, rows[0], lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    main()
