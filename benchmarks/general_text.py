"""A table of general texts that people judged, for `evaluate.general_text`: 50 news items, the similarity of all pairs.

M. D. Lee, B. Pincombe, M. Welsh: An Empirical Evaluation of Models of Text Document Similarity, CogSci 2005. The texts
and the judgements, means over readers from 0 to 1, are among the test data that the gensim wheel ships; gensim itself
is neither imported nor needed. Readers agreed among themselves by a correlation of about .6.

    pip install --no-deps gensim==4.4.0
    python benchmarks/general_text.py data/general-text/lee.parquet
"""

import argparse
import importlib.util
import io
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
from pyarrow import parquet

from rayrec.storage import absolute, write_bytes

DOCUMENTS = 50
INSTALL = "pip install --no-deps gensim==4.4.0"


def data_folder() -> Path:
    """Where an installed gensim keeps its test data."""
    spec = importlib.util.find_spec("gensim")
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit(f"the texts come with gensim, which is not installed; {INSTALL}")
    return Path(spec.submodule_search_locations[0]) / "test" / "test_data"


def pairs_of(folder: Path) -> pa.Table:
    """Every pair of different documents once: text_a, text_b, similarity.

    Args:
        folder: holds lee.cor, a document a line in Latin-1, and similarities0-1.txt, judgements above the diagonal.
    """
    texts = (folder / "lee.cor").read_text(encoding="latin-1").splitlines()
    similarity_DD = np.loadtxt(folder / "similarities0-1.txt")
    if len(texts) != DOCUMENTS or similarity_DD.shape != (DOCUMENTS, DOCUMENTS):
        raise SystemExit(
            f"{folder} has {len(texts)} texts and judgements of shape {similarity_DD.shape}; expected {DOCUMENTS} and "
            f"{(DOCUMENTS, DOCUMENTS)}: {INSTALL}"
        )
    a_P, b_P = np.triu_indices(DOCUMENTS, 1)
    text_a, text_b = (pa.array(texts).take(place_P) for place_P in (a_P, b_P))
    return pa.table({"text_a": text_a, "text_b": text_b, "similarity": similarity_DD[a_P, b_P]})


def main() -> None:
    """Writes the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", help="where the table goes, a URI that ends in .parquet")
    out: str = parser.parse_args().out
    if not out.endswith(".parquet"):
        raise SystemExit(f"{out!r}; expected a name that ends in .parquet, by which the table is told")
    table, written = pairs_of(data_folder()), io.BytesIO()
    parquet.write_table(table, written)
    print(json.dumps({"table": absolute(out), "pairs": len(table), **write_bytes(out, written.getvalue())}))


if __name__ == "__main__":
    main()
